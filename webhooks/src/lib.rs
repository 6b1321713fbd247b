//! Delivers events to customers' HTTP endpoints: signed, at least once, each endpoint for itself.
//!
//! How one event travels: [`FanOutWebhooks`], a consumer of the log, finds its endpoints in the
//! `index` and hands it over to `deliver` → `attempt` signs and posts it → `outcome` writes the
//! delivery, the attempt and what it means: delivered, later, or given up → `health` counts it for
//! or against the endpoint. What cannot start at once is a row of `deliveries` and one of work
//! from the start, which `deliver` leases when it is due.

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

mod outbound;
pub use outbound::Outbound;

mod attempt;
pub use attempt::{Attempt, Body, attempt};

mod deliver;
pub use deliver::{DeliverWebhooks, DirectLane};

mod abandoned;

mod outcome;

mod new_delivery;

mod on_their_way;

pub mod deliveries;

pub mod replays;
pub use replays::ReplayToWebhooks;

pub mod health;

pub mod statistics;

pub mod events;
