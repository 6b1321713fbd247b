//! Delivers events to customers' HTTP endpoints: signed, at least once, each endpoint for itself.
//!
//! How one event travels: [`FanOutWebhooks`], a consumer of the log, finds its endpoints in the
//! `index` and writes a row of `deliveries` and one of work for each → `deliver` leases those that
//! are due → `attempt` signs and posts one → `outcome` notes the attempt and what it means:
//! delivered, later, or given up → `health` counts it for or against the endpoint.

mod endpoint;
pub use endpoint::{Endpoint, EndpointId, InvalidEndpointId, Manner, TIMEOUT_MAX, seal_headers};

mod secrets;
pub use secrets::{
    ActiveSecret, InvalidScheme, InvalidSigningSecret, OpenError, PublishedKey, SECRETS_MAX,
    Scheme, SigningSecret, public_keys, seal_secrets,
};

pub mod store;

mod index;

mod fan_out;
pub use fan_out::FanOutWebhooks;

mod attempt;
pub use attempt::{Attempt, attempt};

mod deliver;
pub use deliver::DeliverWebhooks;

mod outcome;

pub mod deliveries;

pub mod replays;
pub use replays::ReplayToWebhooks;

pub mod health;

pub mod statistics;

pub mod events;
