//! What the engine asks of participants, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::transition::{Operation, Outcome};

/// One call that a saga wants made now.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The step, in a `for_each` with `.` and the index.
    pub step: String,
    /// Which half.
    pub operation: Operation,
    /// Grows only when an operator retries what was refused, or an undo must be sent again.
    pub round: u32,
    /// For information.
    pub attempt: u32,
    /// What is known of the action; for compensations.
    pub outcome: Option<Outcome>,
    /// What to do.
    pub call: Arc<Call>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Request {
    /// The same over retries, restarts and nodes.
    #[must_use]
    pub fn idempotency_key(&self, saga: &str) -> String {
        format!("{saga}/{}/{}/{}", self.step, self.operation.as_str(), self.round)
    }

    /// What tells it from other requests of the saga.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId { step: self.step.clone(), operation: self.operation, round: self.round }
    }
}

/// A request of a saga, whatever the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// The step.
    pub step: String,
    /// Which half.
    pub operation: Operation,
    /// The round.
    pub round: u32,
}

/// What to do, with every expression filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Call a URL.
    Http {
        /// How.
        method: Method,
        /// Where.
        url: String,
        /// Headers of the definition.
        headers: Vec<(String, String)>,
        /// The JSON body.
        body: Option<Value>,
    },
    /// Send a command over NATS.
    Command {
        /// To whom.
        participant: String,
        /// The subject of the message.
        subject: String,
        /// The JSON body.
        body: Option<Value>,
    },
    /// Publish an event, with the transition itself.
    Publish {
        /// Its type.
        kind: String,
        /// Its subject.
        subject: Option<String>,
        /// Its data.
        body: Option<Value>,
    },
    /// Wait for a signal.
    Signal(String),
    /// Wait for an event with this key.
    Event(String),
    /// Wait.
    Sleep(Duration),
    /// Run another saga.
    Child {
        /// Its definition.
        definition: String,
        /// Its input.
        input: Value,
    },
    /// Call a method of this program.
    Method {
        /// The saga's input.
        input: Arc<Value>,
        /// What the step's own action answered; for undos.
        receipt: Option<Arc<Value>>,
    },
    /// Take a semantic lock.
    Lock(String),
    /// Nothing can be asked for: an expression gives nothing any more, for this reason.
    Unfilled(String),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done, with its output.
    Done(Value),
    /// Refused, for good.
    Refused(String),
    /// No clear answer.
    Unclear {
        /// What went wrong.
        error: String,
        /// How long the participant asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer comes through a callback.
    Later,
    /// Nobody was asked: an expression of the request gives nothing, for this reason.
    Unfilled(String),
}

impl Answer {
    /// No clear answer, for this reason.
    #[must_use]
    pub fn unclear(error: impl Into<String>) -> Answer {
        Answer::Unclear { error: error.into(), retry_after: None }
    }
}
