//! Takes transitions: which are legal, and what each changes.

use std::sync::Arc;

use serde_json::Value;

use super::{Cell, Half, State, Status, StepStatus, UndoCell};
use crate::definition::Action;
use crate::transition::{IllegalTransition, Operation, Outcome, Transition};

impl State {
    /// Takes one transition: the one place that says which are legal.
    ///
    /// # Errors
    /// It does not follow from where the saga is; nothing is changed then.
    pub fn apply(&mut self, transition: &Transition, at_us: i64) -> Result<(), IllegalTransition> {
        let step = self.step_of(transition);
        let action = step.as_deref().and_then(|step| self.cells.get(step)).map(|cell| cell.action);
        let undo = step
            .as_deref()
            .and_then(|step| self.cells.get(step))
            .and_then(|cell| cell.undo.as_ref().map(|undo| undo.ended));
        let status = self.status;
        if !is_legal(status, transition, action, undo) {
            return Err(IllegalTransition {
                state: format!("{status:?} (step {action:?}, undo ended {undo:?})").to_lowercase(),
                transition: format!("{transition:?}"),
            });
        }
        self.take(transition, step.as_deref().unwrap_or_default(), at_us);
        let is_stuck = self.set_aside || self.cells.values().any(Cell::is_stuck);
        if self.status == Status::Stuck && !is_stuck {
            (self.status, self.ended_us) = (self.was, None);
        }
        Ok(())
    }

    /// The changes of a legal transition.
    fn take(&mut self, transition: &Transition, step: &str, at_us: i64) {
        use Transition as T;
        match transition {
            T::Started => {}
            T::LockWanted { .. } => (self.lock_wanted, self.lock_queued) = (true, false),
            T::Locked { .. } => {
                self.locks_held += 1;
                self.lock_wanted = false;
            }
            T::Expanded { items, .. } => {
                self.cells
                    .insert(step.to_owned(), Cell { items: Some(*items), ..Cell::new(at_us) });
            }
            T::Skipped { .. } => {
                let cell = self.cells.entry(step.to_owned()).or_insert_with(|| Cell::new(at_us));
                cell.action = StepStatus::Skipped;
                cell.half.end(at_us);
            }
            T::Acting { round, .. } => {
                let cell = self.cells.entry(step.to_owned()).or_insert_with(|| Cell::new(at_us));
                cell.action = StepStatus::Acting;
                cell.half.begin(*round, at_us);
            }
            T::Completed { output, error } => {
                self.error = self.error.take().or_else(|| error.clone());
                self.finish(Status::Completed, Some(output), at_us);
            }
            T::Compensated => self.finish(Status::Compensated, None, at_us),
            T::Cancelled => self.finish(Status::Cancelled, None, at_us),
            T::Abandoned { .. } => self.finish(Status::Abandoned, None, at_us),
            T::Compensating { reason, error, step, .. } => {
                (self.status, self.set_aside) = (Status::Compensating, false);
                self.reason = Some(*reason);
                let told =
                    step.as_ref().map_or_else(|| error.clone(), |step| format!("{step}: {error}"));
                self.error.get_or_insert(told);
                for cell in self.cells.values_mut().filter(|cell| cell.half.stuck) {
                    (cell.half.stuck, cell.given_up) = (false, true);
                }
            }
            T::Kept { signal, body } => self.kept.push_back((signal.clone(), Arc::clone(body))),
            T::SetAside { error } => self.set_aside(error, at_us),
            T::Retried { .. } => self.retry_all(at_us),
            T::Refused { error, .. } => {
                let cell = self.cells.entry(step.to_owned()).or_insert_with(|| Cell::new(at_us));
                cell.action = StepStatus::Refused;
                cell.half.error = Some(error.clone());
                cell.half.end(at_us);
            }
            T::Stuck { operation, error, refused, .. } => {
                self.stick(at_us);
                self.error.get_or_insert_with(|| format!("{step}: {error}"));
                if let Some(cell) = self.cell(step) {
                    cell.stick(*operation, error, *refused, at_us);
                }
            }
            other => {
                let signal = self.find(step).and_then(|(at, _)| {
                    match &self.start.definition.steps[at].action {
                        Action::Signal { name, .. } => Some(name.clone()),
                        _ => None,
                    }
                });
                if let (T::Done { output, .. }, Some(name)) = (other, signal) {
                    let early = self.kept.iter().position(|(n, b)| *n == name && b == output);
                    early.map(|at| self.kept.remove(at));
                }
                let was_ended = self.status.is_ended();
                if let Some(cell) = self.cell(step) {
                    cell.take(other, at_us);
                }
                if matches!(other, T::LateDone { .. }) && was_ended {
                    (self.status, self.ended_us) = (Status::Compensating, None);
                }
            }
        }
    }

    /// Beside what went wrong first, so that a person sees why it does not go on.
    fn set_aside(&mut self, error: &str, at_us: i64) {
        self.stick(at_us);
        self.set_aside = true;
        self.error = Some(match self.error.take() {
            Some(known) if known.ends_with(error) => known, // Again, after a retry.
            Some(known) => format!("{known}; {error}"),
            None => error.to_owned(),
        });
    }

    fn stick(&mut self, at_us: i64) {
        if self.status != Status::Stuck {
            (self.was, self.status) = (self.status, Status::Stuck);
        }
        self.ended_us = Some(at_us);
    }

    fn finish(&mut self, status: Status, output: Option<&Arc<Value>>, at_us: i64) {
        self.status = status;
        self.output = output.cloned();
        self.ended_us = Some(at_us);
    }

    /// Everything that is stuck, or waits for its next attempt, is due now.
    fn retry_all(&mut self, at_us: i64) {
        let stuck = self.status == Status::Stuck;
        self.set_aside = false;
        for cell in self.cells.values_mut().filter(|cell| cell.items.is_none()) {
            if let Some(undo) = cell.undo.as_mut().filter(|undo| !undo.ended) {
                if undo.half.stuck {
                    let round = undo.half.round + u32::from(undo.half.refused);
                    undo.half.begin(round, at_us);
                    undo.call = None;
                } else if !undo.half.waits {
                    undo.half.due_us = undo.half.due_us.min(at_us);
                }
            } else if cell.half.stuck {
                let refused = cell.action == StepStatus::Refused;
                cell.action = StepStatus::Acting;
                cell.half.begin(cell.half.round + u32::from(refused), at_us);
                cell.call = None;
            } else if cell.action == StepStatus::Acting && !cell.half.waits {
                cell.half.due_us = cell.half.due_us.min(at_us);
            }
        }
        if stuck {
            (self.status, self.ended_us) = (self.was, None);
        }
    }

    /// The step that a transition is about.
    fn step_of(&self, transition: &Transition) -> Option<String> {
        use Transition as T;
        match transition {
            T::Expanded { step, .. }
            | T::Skipped { step }
            | T::Acting { step, .. }
            | T::Waiting { step, .. }
            | T::Later { step, .. }
            | T::Retrying { step, .. }
            | T::Done { step, .. }
            | T::Refused { step, .. }
            | T::Unknown { step, .. }
            | T::Undoing { step, .. }
            | T::Undone { step }
            | T::LateDone { step, .. }
            | T::Stuck { step, .. }
            | T::SkippedByHand { step, .. } => Some(step.clone()),
            T::Started
            | T::LockWanted { .. }
            | T::Locked { .. }
            | T::Kept { .. }
            | T::Compensating { .. }
            | T::SetAside { .. }
            | T::Retried { .. }
            | T::Completed { .. }
            | T::Compensated
            | T::Cancelled
            | T::Abandoned { .. } => None,
        }
    }
}

/// The table of the module's picture: which transitions a saga takes, by where it is, where the
/// step is (`None` before it began), and whether its undo has ended (`None` before that began).
fn is_legal(
    status: Status,
    transition: &Transition,
    action: Option<StepStatus>,
    undo: Option<bool>,
) -> bool {
    use Status::{Abandoned, Compensating, Completed, Running, Stuck};
    use StepStatus as S;
    use Transition as T;
    match (status, transition, action, undo) {
        (Running, T::Started | T::LockWanted { .. } | T::Locked { .. }, None, None)
        | (Compensating, T::Locked { .. }, None, None)
        | (Running, T::Expanded { .. } | T::Skipped { .. }, None, None)
        | (Running, T::Acting { .. }, None | Some(S::Acting), None)
        | (Running, T::Refused { .. }, None, None)
        | (Running | Compensating | Stuck, T::Waiting { .. }, Some(S::Acting), None) => true,
        (
            Running | Compensating | Stuck,
            T::Later { operation, .. } | T::Retrying { operation, .. },
            action,
            undo,
        ) => match operation {
            Operation::Action => action == Some(S::Acting) && undo.is_none(),
            Operation::Probe => action == Some(S::Unknown) && undo.is_none(),
            Operation::Compensation => undo == Some(false),
        },
        (
            Running | Compensating | Stuck,
            T::Done { .. } | T::Refused { .. },
            Some(S::Acting | S::Unknown),
            None,
        )
        | (Running | Compensating | Stuck, T::Unknown { .. }, Some(S::Acting), None)
        | (Running | Compensating | Stuck, T::Kept { .. }, None, None)
        | (Running | Stuck, T::Compensating { .. }, ..)
        | (
            Compensating,
            T::Undoing { .. },
            Some(S::Done | S::Unknown | S::Skipped),
            None | Some(true),
        )
        | (Compensating | Stuck, T::Undone { .. }, _, Some(false)) => true,
        (Running | Completed | Abandoned, T::LateDone { .. }, ..) => false,
        (_, T::LateDone { .. }, Some(S::Unknown), Some(_)) => true,
        (Running | Compensating | Stuck, T::Stuck { operation, .. }, action, undo) => {
            match operation {
                Operation::Compensation => {
                    undo == Some(false) || (undo.is_none() && action.is_some())
                }
                Operation::Action | Operation::Probe => {
                    matches!(action, Some(S::Unknown | S::Refused)) && undo.is_none()
                }
            }
        }
        (Running | Compensating | Stuck, T::Retried { .. } | T::SetAside { .. }, None, None) => {
            true
        }
        (Running | Compensating | Stuck, T::SkippedByHand { operation, .. }, action, undo) => {
            match operation {
                Operation::Compensation => undo == Some(false),
                Operation::Action | Operation::Probe => {
                    undo.is_none() && matches!(action, Some(S::Acting | S::Unknown | S::Refused))
                }
            }
        }
        (Running, T::Completed { .. }, None, None)
        | (Compensating, T::Compensated | T::Cancelled, None, None)
        | (Stuck, T::Abandoned { .. }, None, None) => true,
        _ => false,
    }
}

impl Cell {
    fn stick(&mut self, operation: Operation, error: &str, refused: bool, at_us: i64) {
        let half = match operation {
            Operation::Compensation => {
                let outcome = if self.action == StepStatus::Unknown {
                    Outcome::Unknown
                } else {
                    Outcome::Done
                };
                let undo = self.undo.get_or_insert_with(|| UndoCell::new(outcome, at_us));
                &mut undo.half
            }
            Operation::Action | Operation::Probe => &mut self.half,
        };
        half.error = Some(error.to_owned());
        (half.stuck, half.refused, half.waits) = (true, refused, false);
    }

    fn take(&mut self, transition: &Transition, at_us: i64) {
        use Transition as T;
        match transition {
            T::Waiting { until_us, .. } => {
                (self.half.waits, self.half.until_us) = (true, *until_us);
            }
            T::Later { operation, until_us, .. } => {
                let half = self.half_of(*operation);
                half.rest(at_us);
                (half.waits, half.until_us) = (true, Some(*until_us));
            }
            T::Retrying { operation, attempt, error, due_us, .. } => {
                self.half_of(*operation).retry(*attempt, error, *due_us);
            }
            T::Done { output, .. } => {
                self.action = StepStatus::Done;
                self.output = Some(Arc::clone(output));
                self.half.end(at_us);
                self.call = None;
            }
            T::Unknown { error, .. } => {
                self.action = StepStatus::Unknown;
                self.half.error = Some(error.clone());
                self.half.end(at_us);
                // Of the probe, where there is one.
                (self.half.attempt, self.half.due_us) = (1, at_us);
                self.call = None;
            }
            T::Undoing { round, outcome, .. } => {
                let undo = self.undo.get_or_insert_with(|| UndoCell::new(*outcome, at_us));
                (undo.ended, undo.outcome, undo.call) = (false, *outcome, None);
                undo.half.begin(*round, at_us);
            }
            T::Undone { .. } => {
                if let Some(undo) = &mut self.undo {
                    undo.ended = true;
                    undo.half.end(at_us);
                    undo.call = None;
                }
            }
            T::LateDone { output, .. } => {
                self.late = true;
                self.output = Some(Arc::clone(output));
            }
            T::SkippedByHand { operation: Operation::Compensation, .. } => {
                if let Some(undo) = &mut self.undo {
                    (undo.ended, undo.skipped) = (true, true);
                    undo.half.end(at_us);
                }
            }
            T::SkippedByHand { output, .. } => {
                self.action = StepStatus::Skipped;
                self.output.clone_from(output);
                self.half.end(at_us);
            }
            _ => {}
        }
    }

    pub(crate) fn half_of(&mut self, operation: Operation) -> &mut Half {
        match (operation, &mut self.undo) {
            (Operation::Compensation, Some(undo)) => &mut undo.half,
            _ => &mut self.half,
        }
    }
}

impl UndoCell {
    fn new(outcome: Outcome, at_us: i64) -> UndoCell {
        let half = Half { round: 1, started_us: at_us, ..Half::default() };
        UndoCell { ended: false, skipped: false, outcome, half, call: None }
    }
}
