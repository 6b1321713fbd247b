//! The HTTP API.
//!
//! A request comes in at the `front` and goes through the `gate` (who is it, may they) to the handler
//! of its resource. Bodies are
//! read by `body`, which finds all faults at once; every refusal leaves as a `problem`.

mod again;
mod analytics;
mod auth;
mod bodies;
mod body;
mod consumers;
mod dead_letters;
mod deliveries;
mod description;
pub(crate) mod events;
mod front;
mod gate;
mod health;
mod leases;
mod linger;
mod listing;
pub(crate) mod problem;
mod publish;
mod replays;
mod request_metrics;
mod router;
mod saga_commands;
mod saga_definitions;
pub(crate) mod sagas;
mod state;
mod stream;
mod trace_context;
mod unambiguous;
mod webhook_body;
mod webhooks;

pub use bodies::Bodies;
pub use front::Front;
use router::router;
pub use state::{Access, Shared, State};
