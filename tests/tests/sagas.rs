//! Sagas between processes: commands and answers over NATS, and two nodes whose participants are
//! processes too, all of them killed at random.

mod away;
mod commands;
mod keys;
mod killed;
mod locks;
mod orders;
