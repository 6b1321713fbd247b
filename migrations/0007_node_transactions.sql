-- The name that a node's transactions have at the database server (`application_name`): once the node
-- is gone, those that it was paused in are ended, with their locks. Null where it has none.
alter table node add column transactions text;
