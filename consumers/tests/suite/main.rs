//! The consumers that come with Skald, on a real log and database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod count_events;
mod house;
