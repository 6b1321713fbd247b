//! What follows: pure functions from (definition, journal, input) to the next transitions.
//!
//! No I/O, no clock, no randomness: time and jitter come with the input. [`take`] turns an
//! input into transitions, then `forward` or `backward` walks the definition and adds all that
//! follows from them. What a saga wants from the world is read off its state
//! ([`State::requests`](crate::State::requests)), so that recovery after a crash needs nothing more
//! than the journal.

mod backward;
mod calls;
mod forward;
mod operator;
mod wanted;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::{Action, OnUnknown, Step};
use crate::request::{Answer, Call, RequestId};
use crate::state::{State, Status, StepStatus};
use crate::transition::{IllegalTransition, Operation, Transition};

/// Early signals that one saga keeps.
pub const KEPT_MAX: usize = 100;

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// It begins.
    Start,
    /// Time passed, or it was loaded again.
    Tick,
    /// A request was answered.
    Answer {
        /// Which.
        request: RequestId,
        /// How.
        answer: Answer,
    },
    /// A participant answers through a callback, by the name of the step.
    Callback {
        /// The step.
        step: String,
        /// How.
        answer: Answer,
    },
    /// A signal came.
    Signal {
        /// Its name.
        name: String,
        /// Its body.
        body: Value,
    },
    /// The event that a step waits for came.
    Event {
        /// The step.
        step: String,
        /// The event's data.
        data: Value,
    },
    /// It has the lock that it wanted.
    Locked {
        /// Which.
        lock: String,
    },
    /// A person does something.
    Operator {
        /// What.
        command: Command,
        /// Who.
        by: String,
    },
}

/// What a person can do to a saga.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Undo what was done; it ends cancelled.
    Cancel {
        /// Why, where it was said.
        reason: Option<String>,
    },
    /// Undo what was done; it ends compensated.
    Compensate {
        /// Why.
        reason: String,
    },
    /// Try what is stuck again, and what waits for its next attempt now.
    Retry {
        /// Why, where it was said.
        reason: Option<String>,
    },
    /// Settle a step by hand.
    Skip {
        /// The step.
        step: String,
        /// What counts as its output.
        output: Option<Value>,
        /// Why.
        reason: String,
    },
    /// Give it up.
    Abandon {
        /// Why.
        reason: String,
    },
}

/// The moment of an input.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// In microseconds since the epoch.
    pub at_us: i64,
    /// From 0 to 1, for back-off.
    pub jitter: f64,
}

/// Why an input was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not fit where the saga is.
    #[error("{0}")]
    Conflict(String),
    /// There is no such step.
    #[error("there is no step `{0}`")]
    NoStep(String),
    /// A defect: the planner and the state do not agree.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
}

/// What came of an input.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be written, in this order.
    pub transitions: Vec<Transition>,
    /// Events to be published with them: the step's name and the call.
    pub published: Vec<(RequestId, Arc<Call>)>,
}

/// Plans on a state.
pub struct Planner<'s> {
    state: &'s mut State,
    moment: Moment,
    plan: Plan,
}

/// Takes one input and all that follows from it; the state has moved then.
///
/// # Errors
/// [`Refusal`]; the state has not moved, unless it is a defect.
pub fn take(state: &mut State, input: &Input, moment: Moment) -> Result<Plan, Refusal> {
    let mut planner = Planner { state, moment, plan: Plan::default() };
    planner.input(input)?;
    planner.advance()?;
    Ok(planner.plan)
}

/// Sets a saga aside that cannot be moved: what follows from its next input cannot be written. It is
/// stuck until a person decides; `has_begun` says whether it is on the journal already.
///
/// # Errors
/// [`Refusal`]: it has ended.
pub fn set_aside(
    state: &mut State,
    has_begun: bool,
    error: &str,
    moment: Moment,
) -> Result<Plan, Refusal> {
    let mut planner = Planner { state, moment, plan: Plan::default() };
    if !has_begun {
        planner.emit(Transition::Started)?;
    }
    planner.emit(Transition::SetAside { error: error.to_owned() })?;
    Ok(planner.plan)
}

impl Planner<'_> {
    fn emit(&mut self, transition: Transition) -> Result<(), Refusal> {
        self.state.apply(&transition, self.moment.at_us)?;
        self.plan.transitions.push(transition);
        Ok(())
    }

    fn input(&mut self, input: &Input) -> Result<(), Refusal> {
        match input {
            Input::Start => self.emit(Transition::Started),
            Input::Tick => self.tick(),
            Input::Answer { request, answer } => self.answer(request, answer),
            Input::Callback { step, answer } => self.callback(step, answer),
            Input::Signal { name, body } => self.signal(name, body),
            Input::Event { step, data } => self.event(step, data),
            Input::Locked { lock } => {
                let wanted =
                    self.state.locks.as_ref().ok().and_then(|l| l.get(self.state.locks_held));
                if self.state.lock_wanted && wanted == Some(lock) && !self.state.status.is_ended() {
                    self.emit(Transition::Locked { lock: lock.clone() })?;
                }
                Ok(())
            }
            Input::Operator { command, by } => self.operator(command, by),
        }
    }

    fn advance(&mut self) -> Result<(), Refusal> {
        loop {
            let before = self.state.status;
            match before {
                Status::Running => self.forward()?,
                Status::Compensating => self.backward()?,
                Status::Completed
                | Status::Compensated
                | Status::Cancelled
                | Status::Stuck
                | Status::Abandoned => return Ok(()),
            }
            if self.state.status == before {
                return Ok(());
            }
        }
    }

    /// Waits that are over.
    fn tick(&mut self) -> Result<(), Refusal> {
        let now = self.moment.at_us;
        let over = |until: Option<i64>| until.is_some_and(|until| until <= now);
        let mut names: Vec<String> = self.state.cells.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            let Some(cell) = self.state.cells.get(&name) else { continue };
            if let Some(undo) = cell.undo.as_ref().filter(|undo| !undo.ended) {
                if undo.half.waits && over(undo.half.until_us) {
                    let answer = Answer::unclear("no answer came in time");
                    self.compensation_answer(&name, undo.half.round, &answer)?;
                }
            } else if cell.action == StepStatus::Acting
                && cell.half.waits
                && over(cell.half.until_us)
            {
                self.wait_over(&name)?;
            }
        }
        Ok(())
    }

    fn wait_over(&mut self, name: &str) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(name) else { return Ok(()) };
        let step = name.to_owned();
        match &self.state.start.definition.steps[at].action {
            Action::Sleep(_) => self.emit(Transition::Done { step, output: Arc::new(Value::Null) }),
            Action::Signal { .. } | Action::Event(_) => {
                self.emit(Transition::Refused { step, error: "it timed out".to_owned() })
            }
            Action::Http(_)
            | Action::Command(_)
            | Action::Publish(_)
            | Action::Child(_)
            | Action::Method => {
                self.emit(Transition::Unknown { step, error: "no answer came in time".to_owned() })
            }
        }
    }

    fn answer(&mut self, request: &RequestId, answer: &Answer) -> Result<(), Refusal> {
        match request.operation {
            Operation::Action => self.action_answer(&request.step, request.round, answer),
            Operation::Compensation => {
                self.compensation_answer(&request.step, request.round, answer)
            }
            Operation::Probe => self.probe_answer(&request.step, answer),
        }
    }

    /// An answer to an action. Any definite answer to any attempt of a key settles it; nothing
    /// changes it then.
    fn action_answer(&mut self, name: &str, round: u32, answer: &Answer) -> Result<(), Refusal> {
        let Some(cell) = self.state.cells.get(name) else {
            self.lock_answer(name, answer);
            return Ok(());
        };
        if cell.half.round != round || self.state.status == Status::Abandoned {
            return Ok(());
        }
        let step = name.to_owned();
        match (cell.action, &cell.undo, answer) {
            (StepStatus::Acting | StepStatus::Unknown, None, Answer::Done(output)) => {
                self.emit(Transition::Done { step, output: Arc::new(output.clone()) })
            }
            (StepStatus::Acting | StepStatus::Unknown, None, Answer::Refused(error)) => {
                self.emit(Transition::Refused { step, error: error.clone() })
            }
            (StepStatus::Acting, None, Answer::Unclear { error, retry_after })
                if !cell.half.waits =>
            {
                self.unclear_action(name, error, *retry_after)
            }
            // A child that was abandoned: a person gave up knowing.
            (StepStatus::Acting, None, Answer::Unclear { error, .. }) => {
                let child = self.state.find(name).is_some_and(|(at, _)| {
                    calls::is_child(&self.state.start.definition.steps[at], Operation::Action)
                });
                if child {
                    self.emit(Transition::Unknown { step, error: error.clone() })
                } else {
                    Ok(())
                }
            }
            (StepStatus::Acting, None, Answer::Later) if !cell.half.waits => {
                self.later(name, Operation::Action)
            }
            (StepStatus::Acting, None, Answer::Unfilled(error)) if !cell.half.waits => {
                self.unfilled_action(step, error)
            }
            (StepStatus::Unknown, Some(_), Answer::Done(output))
                if !cell.late && !self.state.status.is_done_for_good() =>
            {
                self.emit(Transition::LateDone { step, output: Arc::new(output.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// It stands behind others that want a lock, and is told when it has it. That is in memory alone:
    /// whoever loads it anew asks once more, which changes nothing.
    fn lock_answer(&mut self, name: &str, answer: &Answer) {
        let wanted = self.state.lock_request().is_some_and(|wanted| wanted.step == name);
        self.state.lock_queued |= wanted && *answer == Answer::Later;
    }

    /// An attempt before may have been done, so its outcome is unknown. Trying again cannot help, and
    /// a variable that is missing is no reason to undo: a person decides.
    fn unfilled_action(&mut self, step: String, error: &str) -> Result<(), Refusal> {
        let (error, operation) = (error.to_owned(), Operation::Action);
        self.emit(Transition::Unknown { step: step.clone(), error: error.clone() })?;
        if self.state.reason.is_some() {
            return Ok(()); // It compensates: what is unknown is settled there.
        }
        self.emit(Transition::Stuck { step, operation, error, refused: false })
    }

    fn unclear_action(
        &mut self,
        name: &str,
        error: &str,
        retry_after: Option<std::time::Duration>,
    ) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(name) else { return Ok(()) };
        let definition = Arc::clone(&self.state.start.definition);
        let step = &definition.steps[at];
        let attempt = self.state.cells.get(name).map_or(1, |cell| cell.half.attempt);
        // While it compensates, what can be undone without an answer is not tried again.
        let gives_up = self.state.status == Status::Compensating
            && !matches!(step.on_unknown, OnUnknown::Stuck);
        let is_last = attempt >= step.retry.attempts_max && !self.state.is_past_point();
        if gives_up || is_last {
            return self.emit(Transition::Unknown { step: name.into(), error: error.into() });
        }
        let retrying = self.retrying(name, Operation::Action, attempt, step, error, retry_after);
        self.emit(retrying)
    }

    fn retrying(
        &self,
        name: &str,
        operation: Operation,
        attempt: u32,
        step: &Step,
        error: &str,
        retry_after: Option<std::time::Duration>,
    ) -> Transition {
        let retry = calls::retry_of(step, operation);
        let wait = retry.backoff(attempt, self.moment.jitter);
        let wait = retry_after.map_or(wait, |after| after.max(wait));
        let due_us = self.moment.at_us.saturating_add(bus::Span(wait).micros());
        let (step, error) = (name.to_owned(), error.to_owned());
        Transition::Retrying { step, operation, attempt: attempt + 1, error, due_us }
    }

    fn later(&mut self, name: &str, operation: Operation) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(name) else { return Ok(()) };
        let step = &self.state.start.definition.steps[at];
        let until_us = match calls::is_child(step, operation) {
            true => i64::MAX, // A child ends by itself, however long it takes.
            false => self.moment.at_us.saturating_add(bus::Span(step.callback_timeout).micros()),
        };
        self.emit(Transition::Later { step: name.to_owned(), operation, until_us })
    }

    fn compensation_answer(
        &mut self,
        name: &str,
        round: u32,
        answer: &Answer,
    ) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(name) else { return Ok(()) };
        let undo = self.state.cells.get(name).and_then(|cell| cell.undo.as_ref());
        let Some(undo) = undo.filter(|undo| !undo.ended && undo.half.round == round) else {
            return Ok(());
        };
        let (step, attempt) = (name.to_owned(), undo.half.attempt);
        let operation = Operation::Compensation;
        match answer {
            Answer::Done(_) => self.emit(Transition::Undone { step }),
            Answer::Refused(error) => self.emit(Transition::Stuck {
                step,
                operation,
                error: error.clone(),
                refused: true,
            }),
            Answer::Later => self.later(name, operation),
            Answer::Unclear { .. } | Answer::Unfilled(_) if undo.half.stuck => Ok(()),
            Answer::Unfilled(error) => {
                let error = error.clone();
                self.emit(Transition::Stuck { step, operation, error, refused: false })
            }
            Answer::Unclear { error, retry_after } => {
                let definition = Arc::clone(&self.state.start.definition);
                let known = &definition.steps[at];
                if attempt >= calls::retry_of(known, operation).attempts_max {
                    let error = error.clone();
                    return self.emit(Transition::Stuck { step, operation, error, refused: false });
                }
                let retrying = self.retrying(name, operation, attempt, known, error, *retry_after);
                self.emit(retrying)
            }
        }
    }

    fn probe_answer(&mut self, name: &str, answer: &Answer) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(name) else { return Ok(()) };
        let Some(cell) = self.state.cells.get(name) else { return Ok(()) };
        if cell.action != StepStatus::Unknown || cell.undo.is_some() {
            return Ok(());
        }
        let (step, attempt) = (name.to_owned(), cell.half.attempt);
        let operation = Operation::Probe;
        match answer {
            Answer::Done(output) => {
                self.emit(Transition::Done { step, output: Arc::new(output.clone()) })
            }
            Answer::Refused(error) => self.emit(Transition::Refused { step, error: error.clone() }),
            Answer::Later => self.later(name, operation),
            Answer::Unclear { .. } | Answer::Unfilled(_) if cell.half.stuck => Ok(()),
            Answer::Unfilled(error) => {
                let error = error.clone();
                self.emit(Transition::Stuck { step, operation, error, refused: false })
            }
            Answer::Unclear { error, retry_after } => {
                let definition = Arc::clone(&self.state.start.definition);
                let known = &definition.steps[at];
                if attempt >= calls::retry_of(known, operation).attempts_max {
                    let error = error.clone();
                    return self.emit(Transition::Stuck { step, operation, error, refused: false });
                }
                let retrying = self.retrying(name, operation, attempt, known, error, *retry_after);
                self.emit(retrying)
            }
        }
    }

    /// A callback settles the half of the step that is under way.
    fn callback(&mut self, step: &str, answer: &Answer) -> Result<(), Refusal> {
        if self.state.find(step).is_none() {
            return Err(Refusal::NoStep(step.to_owned()));
        }
        let Some(cell) = self.state.cells.get(step).filter(|cell| cell.items.is_none()) else {
            return Err(Refusal::Conflict(format!("the step `{step}` has not begun")));
        };
        match &cell.undo {
            Some(undo) if !undo.ended && undo.half.waits => {
                let round = undo.half.round;
                self.compensation_answer(step, round, answer)
            }
            _ => {
                let round = cell.half.round;
                self.action_answer(step, round, answer)
            }
        }
    }

    fn signal(&mut self, name: &str, body: &Value) -> Result<(), Refusal> {
        if self.state.status.is_ended() {
            let status = self.state.status.as_str();
            return Err(Refusal::Conflict(format!("the saga is {status}")));
        }
        let steps = &self.state.start.definition.steps;
        let waiting = self.state.cells.iter().filter_map(|(step, cell)| {
            let place = self.state.find(step)?;
            let wants = matches!(&steps[place.0].action, Action::Signal { name: wanted, .. } if wanted == name);
            let waits = cell.action == StepStatus::Acting && cell.half.waits;
            (wants && waits).then_some((cell.half.started_us, place, step))
        });
        let body = Arc::new(body.clone());
        // The one that has waited longest.
        match waiting.min().map(|(.., step)| step.clone()) {
            Some(step) => self.emit(Transition::Done { step, output: body }),
            None if self.state.kept.len() >= KEPT_MAX => {
                Err(Refusal::Conflict(format!("{KEPT_MAX} signals are kept already")))
            }
            None => self.emit(Transition::Kept { signal: name.to_owned(), body }),
        }
    }

    fn event(&mut self, step: &str, data: &Value) -> Result<(), Refusal> {
        let waits =
            |cell: &crate::state::Cell| cell.action == StepStatus::Acting && cell.half.waits;
        if self.state.cells.get(step).is_some_and(waits) && self.state.status == Status::Running {
            let output = Arc::new(data.clone());
            self.emit(Transition::Done { step: step.to_owned(), output })?;
        }
        Ok(())
    }
}

impl Status {
    /// Whether a late answer cannot open it again.
    fn is_done_for_good(self) -> bool {
        matches!(self, Status::Completed | Status::Abandoned | Status::Running)
    }
}
