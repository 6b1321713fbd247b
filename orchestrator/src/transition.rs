//! What can happen to a saga: the entries of its journal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which half of a step is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// What the step does.
    Action,
    /// Its undo.
    Compensation,
    /// The question what became of the action.
    Probe,
}

impl Operation {
    /// As participants see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Action => "action",
            Operation::Compensation => "compensation",
            Operation::Probe => "probe",
        }
    }
}

/// What is known of an action when it is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It may have been done.
    Unknown,
}

impl Outcome {
    /// As participants see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Unknown => "unknown",
        }
    }
}

/// Why a saga compensates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A participant refused, a wait timed out, or an expression could not be filled in.
    Refused,
    /// The outcome of a step stayed unknown.
    Unknown,
    /// The deadline passed.
    Deadline,
    /// A person cancelled it.
    Cancelled,
    /// A person asked for it.
    Asked,
}

/// One entry of the journal. `step` is the name of a step, in a `for_each` with `.` and the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Transition {
    /// It began.
    Started,
    /// It waits for a semantic lock.
    LockWanted {
        /// Its name.
        lock: String,
    },
    /// It has the lock.
    Locked {
        /// Its name.
        lock: String,
    },
    /// A `for_each` has this many items.
    Expanded {
        /// The step.
        step: String,
        /// How many.
        items: usize,
    },
    /// Its `when` did not hold.
    Skipped {
        /// The step.
        step: String,
    },
    /// Its action is about to be asked for.
    Acting {
        /// The step.
        step: String,
        /// Of its idempotency key.
        round: u32,
    },
    /// It waits for a signal, an event, a time or a child.
    Waiting {
        /// The step.
        step: String,
        /// Until when; null for ever.
        until_us: Option<i64>,
    },
    /// The participant answers later, through a callback.
    Later {
        /// The step.
        step: String,
        /// Which half.
        operation: Operation,
        /// Until when.
        until_us: i64,
    },
    /// An attempt had no clear answer; the next one follows.
    Retrying {
        /// The step.
        step: String,
        /// Which half.
        operation: Operation,
        /// The number of the next attempt.
        attempt: u32,
        /// What went wrong.
        error: String,
        /// When the next one is due.
        due_us: i64,
    },
    /// The action was done.
    Done {
        /// The step.
        step: String,
        /// Its answer.
        output: Arc<Value>,
    },
    /// The action was refused: nothing happened there.
    Refused {
        /// The step.
        step: String,
        /// Why.
        error: String,
    },
    /// The attempts are used up without a clear answer.
    Unknown {
        /// The step.
        step: String,
        /// The last error.
        error: String,
    },
    /// A signal came before anything waited for it.
    Kept {
        /// Its name.
        signal: String,
        /// Its body.
        body: Arc<Value>,
    },
    /// What was done is undone from here on.
    Compensating {
        /// Why.
        reason: Reason,
        /// The step at fault, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// What went wrong, or the person's reason.
        error: String,
        /// Who asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Its undo is about to be asked for.
    Undoing {
        /// The step.
        step: String,
        /// Of its idempotency key.
        round: u32,
        /// What is known of the action.
        outcome: Outcome,
    },
    /// It is undone.
    Undone {
        /// The step.
        step: String,
    },
    /// The action was done after all, after its undo had been asked for.
    LateDone {
        /// The step.
        step: String,
        /// Its answer.
        output: Arc<Value>,
    },
    /// A person must decide.
    Stuck {
        /// The step.
        step: String,
        /// Which half.
        operation: Operation,
        /// Why.
        error: String,
        /// Whether the participant refused: another attempt with the same key cannot help.
        refused: bool,
    },
    /// It cannot be moved: what follows cannot be written. A person must decide.
    SetAside {
        /// Why.
        error: String,
    },
    /// An operator had it tried again.
    Retried {
        /// Why, where it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Who.
        by: String,
    },
    /// An operator settled a step by hand.
    SkippedByHand {
        /// The step.
        step: String,
        /// Which half.
        operation: Operation,
        /// What counts as its output.
        output: Option<Arc<Value>>,
        /// Why.
        reason: String,
        /// Who.
        by: String,
    },
    /// It ended: all was done.
    Completed {
        /// What it answers.
        output: Arc<Value>,
        /// Why that is null, where its expression gives nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// It ended: all was undone.
    Compensated,
    /// It ended: all was undone, as a person asked.
    Cancelled,
    /// It ended: a person gave it up.
    Abandoned {
        /// Why.
        reason: String,
        /// Who.
        by: String,
    },
}

/// A transition that its state does not know: two writers, or a defect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a saga that is {state} cannot take the transition {transition}")]
pub struct IllegalTransition {
    /// The state.
    pub state: String,
    /// The transition.
    pub transition: String,
}
