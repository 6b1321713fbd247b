//! What every handler has at hand.

use std::sync::Arc;

use bus::{Db, Log, Seal};
use egress::Egress;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::bodies::Bodies;
use crate::api::request_metrics::RequestMetrics;
use crate::keys::KeyRing;

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone on this machine, under a loopback name and not from a foreign web page.
    Loopback,
    /// Whoever shows a key.
    Keys,
}

/// What every handler has at hand.
#[derive(Clone)]
pub struct State {
    shared: Arc<Shared>,
    /// What is counted of requests.
    pub(crate) requests: Arc<RequestMetrics>,
}

/// The parts of [`State`].
pub struct Shared {
    /// The state database.
    pub db: Db,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The way out, for checks of URLs.
    pub egress: Egress,
    /// The way to participants of sagas.
    pub participants: Egress,
    /// The sagas.
    pub sagas: orchestrator::Engine,
    /// Who is let in.
    pub access: Access,
    /// The keys.
    pub keys: KeyRing,
    /// The consumers that are part of this program.
    pub parts: Vec<Arc<str>>,
    /// Seals secrets that are stored; without one they are refused.
    pub seal: Option<Seal>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Requests at once.
    pub places: Semaphore,
    /// Streams of events at once: they have places of their own, as they stay.
    pub streams: Arc<Semaphore>,
    /// The room for the bodies of requests.
    pub bodies: Arc<Bodies>,
    /// Longest time of a request, waits that it asks for aside.
    pub timeout: std::time::Duration,
    /// Ends streams and long polls when the server stops.
    pub stop: CancellationToken,
}

impl State {
    /// From its parts.
    #[must_use]
    pub fn new(shared: Shared) -> State {
        State { shared: Arc::new(shared), requests: Arc::default() }
    }
}

impl std::ops::Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}
