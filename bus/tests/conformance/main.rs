//! What every backend promises: the log suite runs on each log, the database suite on each
//! database. A scenario is a function of a [`House`]; a house knows its backends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod broker;
mod consumers;
mod dispatch;
mod house;
mod log;
mod nodes;
mod order;
mod outbox;
mod replay;
mod transfer;
mod work;
