-- The first attempt of a delivery that was posted before it had a row: with most of them there is
-- nothing else to write. Null where it had one; then all attempts are in webhook_attempt.
alter table webhook_delivery add column first_at_us bigint;
alter table webhook_delivery add column first_status_code bigint;
alter table webhook_delivery add column first_duration_ms bigint;
alter table webhook_delivery add column first_response text;
alter table webhook_delivery add column first_error text;
