-- Webhooks: endpoints of customers, what is delivered to them, and each attempt at it.

insert into config_version (kind, version) values ('webhook', 1);

create table webhook_endpoint (
    id text primary key,
    url text not null,
    types text not null,
    -- A JSON filter; null when the types alone decide.
    filter text,
    -- Null when the owner gave none.
    description text,
    -- Gets the events of this tenant only; null: the events of none.
    tenant text,
    -- Headers of the owner, as JSON, sealed; null when there are none.
    headers text,
    -- The secrets that sign, as JSON with their ends, sealed.
    secrets text not null,
    -- The public keys of those that have one, as JSON with their ends; null when none has.
    public_keys text,
    -- Timeout, limits, order and the waits between attempts, as JSON.
    manner text not null,
    -- Whatever the owner keeps with it, as JSON; null when nothing.
    metadata text,
    state text not null check (state in ('enabled', 'disabled')),
    -- Why it is disabled; null while it is enabled.
    disabled_reason text,
    -- Since when every attempt failed; null when the last one did not.
    failing_since_us bigint,
    -- Attempts that failed one after the other.
    failures bigint not null default 0,
    -- Nothing is sent before: it asked for a pause, or failed too often; null when neither.
    held_until_us bigint,
    -- Which warning on the way to being disabled was the last: 0, 50 or 75 percent.
    warned_percent bigint not null default 0,
    -- Events up to here were accepted before the endpoint was made.
    from_seq bigint not null,
    version bigint not null,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    updated_by text not null
);
-- Lists, the newest first, and how many a tenant has.
create index webhook_endpoint_tenant on webhook_endpoint (tenant, id);

-- The public keys, which anybody may ask for.
create index webhook_endpoint_public on webhook_endpoint (id) where public_keys is not null;

create table webhook_delivery (
    -- That of its row of work, while there is one. A UUIDv7.
    id bytea primary key,
    endpoint text not null,
    seq bigint not null,
    event_id text not null,
    type text not null,
    status text not null check (status in ('pending', 'delivered', 'failed', 'skipped')),
    -- Why the next attempt is made.
    caused_by text not null
        check (caused_by in ('schedule', 'resend', 'recover', 'replay')),
    created_at_us bigint not null
) {clustered};
-- One event is delivered to one endpoint once, whatever hands it over again; and what came of an event.
create unique index webhook_delivery_event on webhook_delivery (seq, endpoint);
-- Retention, and deliveries that are given up.
create index webhook_delivery_age on webhook_delivery (created_at_us);
-- Lists of an endpoint by status.
create index webhook_delivery_status on webhook_delivery (endpoint, status, id);

create table webhook_attempt (
    id {identity},
    delivery bytea not null,
    at_us bigint not null,
    caused_by text not null
        check (caused_by in ('schedule', 'resend', 'recover', 'replay')),
    -- Null when no response came.
    status_code bigint,
    duration_ms bigint not null,
    -- The first 4 KiB of the response; null when there was none.
    response text,
    -- Null when it was delivered.
    error text
);
-- The attempts of one delivery, in order.
create index webhook_attempt_delivery on webhook_attempt (delivery, id);

-- Attempts by minute, status and duration: what statistics are made of.
create table webhook_minute (
    endpoint text not null,
    minute_us bigint not null,
    -- 0 when no response came.
    status_code bigint not null,
    -- Durations from 2 to the power of this less one, up to 2 to the power of this, milliseconds.
    duration_log2 bigint not null,
    attempts bigint not null,
    primary key (endpoint, minute_us, status_code, duration_log2)
) {clustered};

-- What a replay is to a target that is no consumer, such as the recovery of what failed; null to
-- consumers.
alter table replay add column errand text;

-- Concurrency that is less for a while: nothing starts before, then so many at once; null when as
-- many as ever.
alter table work_limit add column closed_until_us bigint not null default 0;
alter table work_limit add column narrowed_max bigint;
