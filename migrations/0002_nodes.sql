-- Several nodes on one broker.

-- Events that a consumer has had, where the log may hold one twice: a broker forgets what was
-- published after its duplicate window. `event` is a hash of source and id, 16 bytes.
create table inbox (
    queue bigint not null,
    event bytea not null,
    seq bigint not null,
    primary key (queue, event)
) {clustered};
-- Rows come in order of `seq`, and go by it.
create index inbox_seq on inbox {appended} (seq);

-- Where the log began when it was last looked at, to notice events that others have deleted.
alter table log_identity add column first_seq bigint not null default 0;
alter table log_identity add column looked_at_us bigint not null default 0;

-- The consumers that a process has the code of, as a JSON list: it shares only their partitions.
alter table node add column consumers text not null default '[]';
