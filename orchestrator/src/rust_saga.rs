//! Sagas written in Rust: a table of methods, each with the method that undoes it.
//!
//! The undo is given the receipt that its own step returned; a wrong or a missing undo does not
//! compile. The table becomes the same definition as YAML does, run by the same engine.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use schemas::Faults;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::definition::Definition;
use crate::document::Node;
use crate::participants::{Invocation, Methods};
use crate::request::Answer;
use crate::transition::Operation;

/// A saga whose steps are methods of this program.
///
/// ```
/// use orchestrator::{Call, RustSaga, StepError, Steps, Undo, no_undo, step, undo};
/// # use std::sync::Arc;
///
/// struct BookTrip;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Charge {
///     id: String,
/// }
///
/// impl BookTrip {
///     async fn charge_card(self: Arc<Self>, trip: Call<String>) -> Result<Charge, StepError> {
///         Ok(Charge { id: format!("{} {}", trip.input, trip.idempotency_key) })
///     }
///     async fn refund_card(self: Arc<Self>, undo: Undo<String, Charge>) -> Result<(), StepError> {
///         println!("giving back {}", undo.receipt.id);
///         Ok(())
///     }
///     async fn send_itinerary(self: Arc<Self>, _: Call<String>) -> Result<(), StepError> {
///         Ok(())
///     }
/// }
///
/// impl RustSaga for BookTrip {
///     type Input = String;
///     const NAME: &'static str = "book-trip";
///
///     fn steps() -> Steps<Self> {
///         Steps::new()
///             .step("charge-card", Self::charge_card, undo(Self::refund_card))
///             .step("send-itinerary", Self::send_itinerary, no_undo("mail cannot be unsent"))
///     }
/// }
/// # assert!(orchestrator::RustMethods::new(BookTrip).is_ok());
/// ```
///
/// An undo that wants another receipt than its step gives does not compile:
///
/// ```compile_fail,E0631
/// # use orchestrator::{Call, RustSaga, StepError, Steps, Undo, undo};
/// # use std::sync::Arc;
/// # struct BookTrip;
/// # impl BookTrip {
/// async fn charge_card(self: Arc<Self>, trip: Call<String>) -> Result<u64, StepError> { Ok(1) }
/// async fn release_seat(self: Arc<Self>, seat: Undo<String, String>) -> Result<(), StepError> {
///     Ok(())
/// }
/// # }
/// # impl RustSaga for BookTrip {
/// #     type Input = String;
/// #     const NAME: &'static str = "book-trip";
/// #     fn steps() -> Steps<Self> {
/// Steps::new().step("charge-card", Self::charge_card, undo(Self::release_seat))
/// #     }
/// # }
/// ```
///
/// Nor does a step whose undo was forgotten:
///
/// ```compile_fail,E0061
/// # use orchestrator::{Call, RustSaga, StepError, Steps};
/// # use std::sync::Arc;
/// # struct BookTrip;
/// # impl BookTrip {
/// async fn charge_card(self: Arc<Self>, trip: Call<String>) -> Result<u64, StepError> { Ok(1) }
/// # }
/// # impl RustSaga for BookTrip {
/// #     type Input = String;
/// #     const NAME: &'static str = "book-trip";
/// #     fn steps() -> Steps<Self> {
/// Steps::new().step("charge-card", Self::charge_card)
/// #     }
/// # }
/// ```
pub trait RustSaga: Send + Sync + Sized + 'static {
    /// What it is started with.
    type Input: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Its name. Durable: running sagas belong to it.
    const NAME: &'static str;

    /// Its steps, in order.
    fn steps() -> Steps<Self>;
}

/// What an action is given.
#[derive(Debug)]
pub struct Call<I> {
    /// The saga's input.
    pub input: I,
    /// The saga's id.
    pub saga: String,
    /// The same over retries and restarts: for effects outside this program.
    pub idempotency_key: String,
    /// Which attempt this is, from 1; for information.
    pub attempt: u32,
}

/// What an undo is given.
#[derive(Debug)]
pub struct Undo<I, R> {
    /// The saga's input.
    pub input: I,
    /// What the step's own action returned.
    pub receipt: R,
    /// The saga's id.
    pub saga: String,
    /// The same over retries and restarts.
    pub idempotency_key: String,
    /// Which attempt this is, from 1; for information.
    pub attempt: u32,
}

/// Why a step did not do what it should. `?` on any error means that nobody knows: it is tried again
/// with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// No, for good, and nothing happened.
    Refused(String),
    /// No clear answer.
    Unclear(String),
}

impl StepError {
    /// No, for good, and nothing happened.
    #[must_use]
    pub fn refused(why: impl Into<String>) -> StepError {
        StepError::Refused(why.into())
    }
}

impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> StepError {
        StepError::Unclear(error.to_string())
    }
}

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Function<S> = Arc<dyn Fn(Arc<S>, Invocation) -> Answering + Send + Sync>;

/// One step of the table.
pub struct Step<S> {
    name: &'static str,
    action: Function<S>,
    undo: Option<Function<S>>,
    reason: Option<&'static str>,
}

/// The table.
pub struct Steps<S> {
    parts: Vec<Value>,
    steps: Vec<Step<S>>,
}

/// How a step with the receipt `R` is undone: made by [`undo`] or [`no_undo`].
pub trait Undoes<S: RustSaga, R> {
    /// The function, or the reason why there is none.
    fn into_parts(self) -> (Option<Function<S>>, Option<&'static str>);
}

/// Undone by a method.
pub struct ByMethod<F>(F);

/// Not undone.
pub struct Never(&'static str);

/// The step is undone by `method`, which is given its receipt.
pub fn undo<F>(method: F) -> ByMethod<F> {
    ByMethod(method)
}

/// The step cannot be undone, for this reason.
#[must_use]
pub fn no_undo(reason: &'static str) -> Never {
    Never(reason)
}

impl<S: RustSaga, R> Undoes<S, R> for Never {
    fn into_parts(self) -> (Option<Function<S>>, Option<&'static str>) {
        (None, Some(self.0))
    }
}

impl<S, R, F, T> Undoes<S, R> for ByMethod<F>
where
    S: RustSaga,
    R: DeserializeOwned + Send + 'static,
    F: Fn(Arc<S>, Undo<S::Input, R>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<(), StepError>> + Send + 'static,
{
    fn into_parts(self) -> (Option<Function<S>>, Option<&'static str>) {
        let method = Arc::new(self.0);
        let function = move |saga: Arc<S>, invocation: Invocation| -> Answering {
            let method = Arc::clone(&method);
            Box::pin(async move {
                let input = serde_json::from_value((*invocation.input).clone());
                let receipt = invocation.receipt.as_deref().cloned().unwrap_or_default();
                let undo = match (input, serde_json::from_value(receipt)) {
                    (Ok(input), Ok(receipt)) => Undo {
                        input,
                        receipt,
                        saga: invocation.saga,
                        idempotency_key: invocation.idempotency_key,
                        attempt: invocation.attempt,
                    },
                    (Err(error), _) | (_, Err(error)) => {
                        return Answer::Refused(format!("of another version: {error}"));
                    }
                };
                answer(method(saga, undo).await)
            })
        };
        (Some(Arc::new(function)), None)
    }
}

/// One step, for [`Steps::together`].
pub fn step<S, R, A, T, U>(name: &'static str, action: A, undo: U) -> Step<S>
where
    S: RustSaga,
    R: Serialize + 'static,
    A: Fn(Arc<S>, Call<S::Input>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<R, StepError>> + Send + 'static,
    U: Undoes<S, R>,
{
    let action = Arc::new(action);
    let function = move |saga: Arc<S>, invocation: Invocation| -> Answering {
        let action = Arc::clone(&action);
        Box::pin(async move {
            let call = match serde_json::from_value((*invocation.input).clone()) {
                Ok(input) => Call {
                    input,
                    saga: invocation.saga,
                    idempotency_key: invocation.idempotency_key,
                    attempt: invocation.attempt,
                },
                Err(error) => return Answer::Refused(format!("the input: {error}")),
            };
            answer(action(saga, call).await)
        })
    };
    let (undo, reason) = undo.into_parts();
    Step { name, action: Arc::new(function), undo, reason }
}

fn answer<R: Serialize>(result: Result<R, StepError>) -> Answer {
    match result {
        Ok(receipt) => match serde_json::to_value(receipt) {
            Ok(output) => Answer::Done(output),
            Err(error) => Answer::unclear(format!("the receipt: {error}")),
        },
        Err(StepError::Refused(why)) => Answer::Refused(why),
        Err(StepError::Unclear(why)) => Answer::unclear(why),
    }
}

impl<S: RustSaga> Steps<S> {
    /// An empty table.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a table is always filled")]
    pub fn new() -> Steps<S> {
        Steps { parts: Vec::new(), steps: Vec::new() }
    }

    /// A step after the others: its action and how it is undone.
    #[must_use]
    pub fn step<R, A, T, U>(mut self, name: &'static str, action: A, undo: U) -> Steps<S>
    where
        R: Serialize + 'static,
        A: Fn(Arc<S>, Call<S::Input>) -> T + Send + Sync + 'static,
        T: Future<Output = Result<R, StepError>> + Send + 'static,
        U: Undoes<S, R>,
    {
        let step = step(name, action, undo);
        self.parts.push(step.document());
        self.steps.push(step);
        self
    }

    /// Steps that run at once.
    #[must_use]
    pub fn together(mut self, steps: impl IntoIterator<Item = Step<S>>) -> Steps<S> {
        let steps: Vec<Step<S>> = steps.into_iter().collect();
        let documents: Vec<Value> = steps.iter().map(Step::document).collect();
        self.parts.push(json!({ "together": documents }));
        self.steps.extend(steps);
        self
    }
}

impl<S> Step<S> {
    fn document(&self) -> Value {
        match self.reason {
            Some(reason) => json!({"step": self.name, "method": true, "no_undo": reason}),
            None => json!({"step": self.name, "method": true, "undo": true}),
        }
    }
}

/// A saga in Rust with its methods by the names of their steps.
pub struct RustMethods<S> {
    saga: Arc<S>,
    definition: Definition,
    steps: HashMap<&'static str, Step<S>>,
}

impl<S: RustSaga> RustMethods<S> {
    /// The definition that the table says, and its methods.
    ///
    /// # Errors
    /// What is wrong with the table: what the compiler cannot see, such as a name there twice.
    pub fn new(saga: S) -> Result<RustMethods<S>, Faults> {
        RustMethods::shared(Arc::new(saga))
    }

    /// The same, of a saga that others hold too.
    ///
    /// # Errors
    /// As [`RustMethods::new`].
    pub fn shared(saga: Arc<S>) -> Result<RustMethods<S>, Faults> {
        let Steps { parts, steps } = S::steps();
        let document = json!({"saga": S::NAME, "steps": parts});
        let definition = Definition::of_node(&Node::of_value(&document))?;
        let steps = steps.into_iter().map(|step| (step.name, step)).collect();
        Ok(RustMethods { saga, definition, steps })
    }

    /// Its definition.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }
}

#[async_trait]
impl<S: RustSaga> Methods for RustMethods<S> {
    fn document(&self) -> Value {
        self.definition.document().clone()
    }

    async fn call(&self, invocation: Invocation) -> Answer {
        let step = self.steps.get(invocation.step.as_str());
        let function = match (step, invocation.operation) {
            (Some(step), Operation::Action) => Some(Arc::clone(&step.action)),
            (Some(step), Operation::Compensation) => step.undo.clone(),
            _ => None,
        };
        match function {
            Some(function) => function(Arc::clone(&self.saga), invocation).await,
            None => Answer::unclear(format!("there is no method for {}", invocation.step)),
        }
    }
}
