-- The embedded log. One writer; any number of readers.

create table if not exists log (
    one integer primary key check (one = 1),
    identity text not null,
    -- The newest number ever used: pruning may delete the newest rows, their numbers stay used.
    last_seq integer not null
);

-- Sources and types, stored once: rows carry small numbers, which keeps both indexes small. The source
-- of a tenant's events is one of that tenant: behind its name stand a line feed and the tenant.
create table if not exists source (id integer primary key, name text not null unique);
create table if not exists type (
    id integer primary key,
    name text not null unique,
    events integer not null default 0,
    bytes integer not null default 0,
    -- Events recorded before this minute have been pruned; null when none were.
    pruned_through_us integer
);

create table if not exists event (
    seq integer primary key,
    source integer not null references source (id),
    id text not null,
    type integer not null references type (id),
    recorded_at_us integer not null,
    -- The attributes that are neither columns here nor the data, as a JSON object.
    attributes text not null,
    -- 0 none, 1 JSON, 2 text, 3 bytes: `schemas::Data`.
    data_kind integer not null,
    data blob not null
);

-- A duplicate is one event: CloudEvents 1.0, `source` + `id`, and no tenant can take those of another.
create unique index if not exists event_identity on event (source, id);
-- Reads, counts and prunes by type without touching the rows.
create index if not exists event_type on event (type, seq);
