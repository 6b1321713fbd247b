-- The state database, the same on SQLite and Postgres: text, bigint, bytea; times in microseconds
-- since the epoch; JSON as text. Two words differ and are filled in by the migrator:
--   {identity}   a number that the database gives
--   {clustered}  rows stored in the order of their primary key, where the database can

-- Which version each kind of configuration is at. A cache that sees another number reads anew; it
-- looks inside each batch transaction, so nothing registered earlier is missed.
create table config_version (
    kind text primary key,
    version bigint not null
);
insert into config_version (kind, version) values ('consumer', 1), ('key', 1);

-- Processes that share this database. One that has not been seen for a lease is gone.
create table node (
    id text primary key,
    started_at_us bigint not null,
    seen_at_us bigint not null
);

-- Housekeeping that one node does at a time.
create table duty (
    name text primary key,
    node text not null,
    lease_until_us bigint not null
);

-- Consumers: built in, written in Rust, or registered for a program elsewhere.
create table consumer (
    name text primary key,
    kind text not null check (kind in ('builtin', 'rust', 'pull', 'push')),
    types text not null,
    -- A JSON filter; null when the types alone decide.
    filter text,
    -- Where push consumers are posted to; null for the others.
    url text,
    -- Signs pushes; null when they go unsigned.
    secret text,
    policy text not null,
    state text not null check (state in ('running', 'paused')),
    side_effects text not null check (side_effects in ('none', 'email', 'http')),
    -- The generation that readers see; a rebuild fills the next one beside it.
    generation bigint not null,
    -- Whether its rows are kept per generation, so that it can be rebuilt.
    rebuilds bigint not null check (rebuilds in (0, 1)),
    version bigint not null,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    updated_by text not null
);

-- Cursors. `fence` grows with each change of owner; every batch transaction names the fence it was
-- given, so a node that lost the partition writes nothing.
create table consumer_partition (
    consumer text not null,
    generation bigint not null,
    partition bigint not null,
    cursor_seq bigint not null,
    -- Null while nobody has it.
    node text,
    fence bigint not null,
    lease_until_us bigint not null,
    primary key (consumer, generation, partition)
);

-- From which position on a partition was read with which types and filter. It tells "done" from
-- "never asked for" when events are replayed.
create table consumer_coverage (
    consumer text not null,
    generation bigint not null,
    partition bigint not null,
    from_seq bigint not null,
    types text not null,
    filter text,
    primary key (consumer, generation, partition, from_seq)
);

-- Events done by a replay that no coverage speaks of.
create table consumer_done (
    consumer text not null,
    seq bigint not null,
    primary key (consumer, seq)
) {clustered};

-- The log that the cursors belong to.
create table log_identity (
    one bigint primary key check (one = 1),
    identity text not null
);

-- What rows of work belong to: the unit of pause, limits and fairness.
create table work_queue (
    id {identity},
    kind text not null,
    name text not null,
    -- Attempts, back-off and age, as JSON.
    policy text not null,
    -- Names of rows in work_limit, comma separated, empty when unlimited.
    limits text not null,
    paused bigint not null default 0 check (paused in (0, 1)),
    -- No row is due before: a hint that may be early, never late.
    next_due_us bigint not null,
    -- No lease ends before: a hint that may be early, never late.
    next_expiry_us bigint not null,
    unique (kind, name)
);
-- Finds the queues that have something to do among any number of idle ones.
create index work_queue_due on work_queue (kind, next_due_us);
create index work_queue_expiry on work_queue (next_expiry_us);

-- Limits, shared by every queue that names them, on every node.
create table work_limit (
    name text primary key,
    -- A rate: nanoseconds between two, and how many at once after a pause; null for concurrency.
    interval_ns bigint,
    burst bigint,
    -- The theoretical arrival time of the generic cell rate algorithm (ITU-T I.371).
    arrival_ns bigint not null default 0,
    -- Concurrency: at most so many leased; null for a rate.
    concurrent_max bigint,
    in_flight bigint not null default 0
);

create table work (
    -- A UUIDv7.
    id bytea primary key,
    queue bigint not null,
    state text not null check (state in ('ready', 'leased', 'behind', 'done', 'dead', 'discarded')),
    -- ready: when it may be tried; leased: when the lease ends; behind: when it was put there;
    -- ended: when it is forgotten.
    due_at_us bigint not null,
    attempt bigint not null default 0,
    created_at_us bigint not null,
    -- First and last failure; null while there was none.
    first_failed_at_us bigint,
    last_failed_at_us bigint,
    last_error text,
    -- Rows of one key are tried one after the other; null when order does not matter.
    key text,
    tenant text,
    -- What belongs together: the replay that made the row.
    tag text,
    -- The caller's name for it, unique in its queue while the row is there.
    name text,
    -- The event it is about, or came of; null when there is none.
    seq bigint,
    -- What to do, when it is more than the event; null when the event says it all.
    payload text,
    -- The fencing token of the current lease; null when not leased.
    token bigint,
    -- Which process holds the lease; null for programs outside.
    owner text,
    -- The answer of one that is done; null when there is none.
    output text
) {clustered};
-- Claims: the next rows due of a queue.
create index work_due on work (queue, state, due_at_us);
-- One row per event and queue: what hands an event over twice finds it. Only rows about events.
create unique index work_event on work (queue, seq) where seq is not null;
-- Finds who stands behind whom. Only rows with an order.
create index work_key on work (queue, key, seq) where key is not null;
create unique index work_name on work (queue, name) where name is not null;
create index work_tag on work (tag, state) where tag is not null;

-- Events that a transaction decided to publish.
create table outbox (
    id {identity},
    event text not null
);

-- Which event came of which.
create table lineage (
    cause_id text not null,
    -- Null when the event named only an id.
    cause_source text,
    seq bigint not null,
    primary key (cause_id, seq)
) {clustered};

create table replay (
    id text primary key,
    consumer text not null,
    mode text not null check (mode in ('skip_done', 'force', 'rebuild')),
    types text not null,
    from_seq bigint not null,
    to_seq bigint not null,
    -- Events per second times a thousand; null when not limited.
    rate_milli bigint,
    status text not null
        check (status in ('running', 'paused', 'completed', 'cancelled', 'failed')),
    cursor_seq bigint not null,
    total bigint not null,
    handed bigint not null default 0,
    done bigint not null default 0,
    dead bigint not null default 0,
    skipped bigint not null default 0,
    -- The generation a rebuild fills; null otherwise.
    generation bigint,
    -- Why it failed; null otherwise.
    error text,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    created_by text not null
);
create index replay_status on replay (status);

create table api_key (
    id text primary key,
    name text not null,
    -- SHA-256 of the key, hexadecimal: the key itself is shown once and kept nowhere.
    hash text not null,
    scopes text not null,
    -- Null: any tenant.
    tenant text,
    created_at_us bigint not null,
    created_by text not null,
    -- Null while it holds.
    revoked_at_us bigint,
    constraint api_key_hash_unique unique (hash)
);

-- Events by type and minute of recording, one set of rows per generation.
create table analytics_event_minute (
    generation bigint not null,
    type text not null,
    minute_us bigint not null,
    events bigint not null,
    primary key (generation, type, minute_us)
) {clustered};
