-- Work that is tried before it has rows: events that a consumer handed on in the transaction which
-- moved its cursor. Rows are written when the outcome is known; until then, one of these stands for
-- the events of a batch that went to one queue.
create table work_dispatch (
    -- A UUIDv7.
    id bytea primary key,
    queue bigint not null,
    -- The process that tries them. Once it is gone, others make rows of those without an outcome.
    node text not null,
    -- The positions of the events in the log, as a JSON list.
    seqs text not null,
    -- How many of them have neither an outcome nor a row yet.
    legs bigint not null
);

-- Places in the limits of a queue that a process holds while it tries such events, several of them
-- one after the other on the same place.
create table work_place (
    queue bigint not null,
    node text not null,
    places bigint not null,
    primary key (queue, node)
) {clustered};

-- The version of all endpoints' configuration at which this one last changed: caches read what is
-- newer than what they know.
alter table webhook_endpoint add column changed bigint not null default 0;
create index webhook_endpoint_changed on webhook_endpoint (changed);
