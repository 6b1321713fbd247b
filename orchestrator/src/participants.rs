//! Who carries out what sagas ask for: over HTTP, over NATS, or in this program.
//!
//! `http` makes a request of a step and reads the answer off the response; `nats` sends a command,
//! whose answer comes over a stream; a [`Methods`] is a saga written in Rust. Calls at once are bounded for each participant, so one that hangs holds up
//! nobody else.

mod http;
pub(crate) mod nats;
mod seen;

pub use nats::Nats;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use egress::Egress;
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::request::{Answer, Call, Request};
use crate::store::SagaRow;
use crate::template::{VALUE_BYTES_MAX, check_value};
use crate::transition::Operation;

/// Calls at once to one participant of this node.
const CONCURRENT_MAX: usize = 128;
/// Calls at once of methods of one definition.
const METHODS_MAX: usize = 2_048;

/// The methods of a saga written in Rust.
#[async_trait]
pub trait Methods: Send + Sync + 'static {
    /// The definition that they belong to, as it is registered.
    fn document(&self) -> Value;

    /// Carries out one half of a step.
    async fn call(&self, invocation: Invocation) -> Answer;
}

/// One call of a method.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The saga's id.
    pub saga: String,
    /// The step.
    pub step: String,
    /// Which half.
    pub operation: Operation,
    /// The same over retries and restarts.
    pub idempotency_key: String,
    /// For information.
    pub attempt: u32,
    /// The saga's input.
    pub input: Arc<Value>,
    /// What the step's action answered; for undos.
    pub receipt: Option<Arc<Value>>,
}

/// Everybody who can be asked.
#[derive(Clone)]
pub struct Participants {
    egress: Egress,
    nats: Option<Nats>,
    methods: Arc<HashMap<String, Arc<dyn Methods>>>,
    places: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Participants {
    /// Those over HTTP, and these methods by the name of their definition.
    #[must_use]
    pub fn new(egress: Egress, methods: HashMap<String, Arc<dyn Methods>>) -> Participants {
        let egress = egress.with_response_bytes_max(VALUE_BYTES_MAX);
        let (methods, places) = (Arc::new(methods), Arc::default());
        Participants { egress, nats: None, methods, places }
    }

    /// And those on NATS.
    #[must_use]
    pub fn with_nats(self, nats: Option<Nats>) -> Participants {
        Participants { nats, ..self }
    }

    pub(crate) fn nats(&self) -> Option<&Nats> {
        self.nats.as_ref()
    }

    /// Carries out a request, when there is a place for it, within its time; `None` when the answer
    /// has come another way.
    pub(crate) async fn carry_out(
        &self,
        saga: &SagaRow,
        request: &Request,
        now_s: i64,
    ) -> Option<Answer> {
        let place = self.places_of(saga, &request.call);
        let Ok(_place) = place.acquire_owned().await else { return None };
        let call = AssertUnwindSafe(self.call(saga, request, now_s)).catch_unwind();
        let answer = match tokio::time::timeout(request.timeout, call).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => Answer::unclear("the participant panicked"),
            Err(_) => Answer::unclear(format!("no answer within {}", bus::Span(request.timeout))),
        };
        Some(match answer {
            Answer::Done(output) => answer_with(output),
            answer => answer,
        })
    }

    async fn call(&self, saga: &SagaRow, request: &Request, now_s: i64) -> Option<Answer> {
        Some(match request.call.as_ref() {
            Call::Http { method, url, headers, body } => {
                let call = http::HttpRequest { method, url, headers, body: body.as_ref() };
                http::send(&self.egress, saga, request, call, now_s).await
            }
            Call::Method { input, receipt } => {
                let Some(methods) = self.methods.get(&saga.definition) else {
                    let detail = format!("this program has no saga `{}`", saga.definition);
                    return Some(Answer::unclear(detail));
                };
                let invocation = Invocation {
                    saga: saga.id.clone(),
                    step: request.step.clone(),
                    operation: request.operation,
                    idempotency_key: request.idempotency_key(&saga.id),
                    attempt: request.attempt,
                    input: Arc::clone(input),
                    receipt: receipt.clone(),
                };
                methods.call(invocation).await
            }
            Call::Command { subject, body, .. } => {
                let Some(nats) = &self.nats else {
                    return Some(Answer::unclear("this server has no NATS"));
                };
                match nats.send(saga, request, subject, body.as_ref()).await {
                    Ok(()) => return None,
                    Err(error) => Answer::unclear(error),
                }
            }
            other => Answer::unclear(format!("nobody carries out {other:?}")),
        })
    }

    fn places_of(&self, saga: &SagaRow, call: &Call) -> Arc<Semaphore> {
        let (name, most) = match call {
            Call::Http { url, .. } => {
                let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
                (format!("http:{}", host.unwrap_or_default()), CONCURRENT_MAX)
            }
            Call::Command { participant, .. } => (format!("nats:{participant}"), CONCURRENT_MAX),
            _ => (format!("rust:{}", saga.definition), METHODS_MAX),
        };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Hosts come from expressions: those that nobody uses are forgotten.
        if places.len() > 10_000 {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(places.entry(name).or_insert_with(|| Arc::new(Semaphore::new(most))))
    }
}

/// The answer of a participant that is done; an output that cannot be kept is no clear one.
pub(crate) fn answer_with(output: Value) -> Answer {
    match check_value(&output) {
        Ok(()) => Answer::Done(output),
        Err(error) => Answer::unclear(format!("the output {error}")),
    }
}

/// An answer that asks to be left alone for a while.
pub(crate) fn unclear_for(error: String, retry_after: Option<Duration>) -> Answer {
    Answer::Unclear { error, retry_after }
}
