//! Skald: an event platform as a library and as one binary.
//!
//! [`Skald`] runs the platform inside a program, with the program's own consumers beside those that
//! come with it; the binary runs the same. [`config`] says with what, [`server`] starts and stops
//! it, [`api`] answers HTTP, [`cli`] is the command line, [`telemetry`] makes it visible.

mod facade;
pub use facade::{Skald, SkaldError};

pub use bus::{
    BatchConsumer, Consumer, Delivery, DomainEvent, Failure, Permanent, Policy, Rate, Recorded,
    Seq, SideEffects, Span, Tx, sql,
};
pub use orchestrator::{Call, NewSaga, RustSaga, StepError, Steps, Undo, no_undo, step, undo};
pub use schemas::{Event, EventId, EventType, Pattern, Patterns, Source, Timestamp};

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
mod connections;
pub mod keys;
mod pages;
pub mod server;
pub mod telemetry;
