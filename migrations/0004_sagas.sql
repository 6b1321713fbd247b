-- Sagas: definitions, the journal that they are told by, and who works on them.

insert into config_version (kind, version) values ('saga', 1);

-- Definitions as they were written. A version is never changed: running sagas keep theirs.
create table saga_definition (
    name text not null,
    version bigint not null,
    document text not null,
    created_at_us bigint not null,
    created_by text not null,
    primary key (name, version)
);

create table saga (
    id text primary key,
    definition text not null,
    version bigint not null,
    -- Which lease covers it: a hash of its id.
    shard bigint not null,
    status text not null check (status in ('running', 'compensating', 'completed', 'compensated',
        'cancelled', 'stuck', 'abandoned')),
    input text not null,
    created_at_us bigint not null,
    created_by text not null,
    -- Null while it has not ended.
    ended_at_us bigint,
    -- When somebody must look at it: 0 while it is under way, the largest number when only
    -- something from outside can move it.
    wake_at_us bigint not null,
    -- The saga that runs this one as a step, and which request it answers; null for the others.
    parent text,
    parent_request text,
    -- The event that it came of; null when it was started by a call.
    cause_id text,
    cause_source text,
    -- W3C trace context of the start; null when there was none.
    traceparent text
);
-- What is due, and what was under way when its node died. Only what can move by itself.
create index saga_wake on saga (shard, wake_at_us) where wake_at_us < 9223372036854775807;
-- Lists, the newest first.
create index saga_created on saga (created_at_us, id);
-- What has not ended: figures, lists of what is stuck.
create index saga_open on saga (status, created_at_us) where ended_at_us is null;
-- Retention.
create index saga_ended on saga (ended_at_us) where ended_at_us is not null;
-- Finds all that came of an event.
create index saga_cause on saga (cause_id) where cause_id is not null;

-- The journal: all transitions that one commit wrote for one saga are one row. The key is the last
-- guard against two writers: a second one of the same number cannot be.
create table saga_journal (
    saga text not null,
    seq bigint not null,
    at_us bigint not null,
    entries text not null,
    primary key (saga, seq)
) {clustered};

-- Inputs from elsewhere, taken in the transaction that writes what follows from them.
create table saga_input (
    id {identity},
    saga text not null,
    input text not null,
    -- A random name under which the answer is waited for; null when nobody does.
    asked text,
    -- Null until it was taken; then what came of it, as JSON.
    answer text,
    created_at_us bigint not null
);
create index saga_input_saga on saga_input (saga);
create index saga_input_asked on saga_input (asked) where asked is not null;

-- Events that sagas wait for.
create table saga_wait (
    definition text not null,
    version bigint not null,
    step text not null,
    key text not null,
    saga text not null,
    primary key (definition, version, step, key, saga)
) {clustered};
create index saga_wait_saga on saga_wait (saga);

-- Semantic locks, and who waits for them in which order.
create table saga_lock (
    name text primary key,
    saga text not null
);
create index saga_lock_saga on saga_lock (saga);
create table saga_lock_queue (
    id {identity},
    name text not null,
    saga text not null,
    unique (name, saga)
);

-- Leases on shards, held as long as their node shows that it lives. `fence` grows with each change of owner, and every statement that writes to the
-- journal names it.
create table saga_shard (
    shard bigint primary key,
    -- Null while nobody has it.
    node text,
    fence bigint not null
);
