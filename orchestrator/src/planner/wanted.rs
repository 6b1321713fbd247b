//! What a saga wants from the world, read off its state: requests that are due and the time of the
//! next thing to do. After a crash this is all of recovery.

use std::sync::Arc;

use super::calls;
use crate::definition::{Action, OnUnknown};
use crate::request::{Call, Request};
use crate::state::{Cell, Half, State, Status, StepStatus};
use crate::transition::{Operation, Outcome};

impl State {
    /// The requests that are due at `now_us` and have not been answered. Asking twice for the same
    /// one is for the caller to avoid.
    #[must_use]
    pub fn requests(&mut self, now_us: i64) -> Vec<Request> {
        let mut found = Vec::new();
        if self.status.is_ended() || self.set_aside {
            return found;
        }
        if self.status == Status::Running && !self.lock_queued {
            found.extend(self.lock_request());
        }
        let mut names: Vec<String> = self.cells.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            let Some(operation) = self.due(&name, now_us) else { continue };
            found.extend(self.request(&name, operation));
        }
        found
    }

    /// When it must be looked at again without anything happening to it; `None` for never.
    #[must_use]
    pub fn wake_us(&self, now_us: i64) -> Option<i64> {
        if self.status.is_ended() || self.set_aside {
            return None;
        }
        let deadline = self.deadline_us().filter(|_| self.waits_for_deadline());
        let of = |half: &Half| match half.waits {
            true => half.until_us.filter(|until| *until != i64::MAX),
            false => Some(half.due_us).filter(|due| *due > now_us),
        };
        let cells = self.cells.values().filter_map(|cell| match active(cell) {
            Some(Operation::Compensation) => cell.undo.as_ref().and_then(|undo| of(&undo.half)),
            Some(_) => of(&cell.half),
            None => None,
        });
        cells.chain(deadline).min()
    }

    /// The events that it waits for: the step and the key, `None` when that cannot be filled in any
    /// more.
    #[must_use]
    pub fn event_waits(&self) -> Vec<(String, Option<String>)> {
        let waits = |cell: &&Cell| cell.action == StepStatus::Acting && cell.half.waits;
        let mut found = Vec::new();
        for (name, cell) in self.cells.iter().filter(|(_, cell)| waits(cell)) {
            let Some((at, _)) = self.find(name) else { continue };
            if matches!(self.start.definition.steps[at].action, Action::Event(_)) {
                let call = match &cell.call {
                    Some(call) => Ok(Arc::clone(call)),
                    None => calls::call_of(self, name, Operation::Action).map(Arc::new),
                };
                let key = match call.as_deref() {
                    Ok(Call::Event(key)) => Some(key.clone()),
                    _ => None,
                };
                found.push((name.clone(), key));
            }
        }
        found
    }

    /// Locks that it holds or waits for.
    #[must_use]
    pub fn uses_locks(&self) -> bool {
        !self.start.definition.locks.is_empty()
    }

    fn waits_for_deadline(&self) -> bool {
        self.status == Status::Running && !self.is_past_point() && !self.is_at_point()
    }

    /// The lock that it wants next, and has not.
    pub(super) fn lock_request(&self) -> Option<Request> {
        if !self.lock_wanted {
            return None;
        }
        let lock = self.locks.as_ref().ok()?.get(self.locks_held)?;
        Some(Request {
            step: format!("lock:{lock}"),
            operation: Operation::Action,
            round: 1,
            attempt: 1,
            outcome: None,
            call: Arc::new(Call::Lock(lock.clone())),
            timeout: std::time::Duration::from_secs(10),
        })
    }

    /// Which half of a step wants a request now.
    fn due(&self, name: &str, now_us: i64) -> Option<Operation> {
        let cell = self.cells.get(name)?;
        let operation = active(cell)?;
        let half = match (operation, &cell.undo) {
            (Operation::Compensation, Some(undo)) => &undo.half,
            _ => &cell.half,
        };
        if half.stuck || half.waits || half.due_us > now_us {
            return None;
        }
        let (at, _) = self.find(name)?;
        let probes = matches!(self.start.definition.steps[at].on_unknown, OnUnknown::Probe(_));
        (operation != Operation::Probe || probes).then_some(operation)
    }

    fn request(&mut self, name: &str, operation: Operation) -> Option<Request> {
        let known = self.cells.get(name).and_then(|cell| match (operation, &cell.undo) {
            (Operation::Compensation, Some(undo)) => undo.call.clone(),
            (Operation::Action, _) => cell.call.clone(),
            _ => None,
        });
        // After a crash. What cannot be filled in any more, since the environment has changed, is a
        // request too: the engine answers it, so that it is never waited for.
        let filled = || calls::call_of(self, name, operation).unwrap_or_else(Call::Unfilled);
        let call = known.unwrap_or_else(|| Arc::new(filled()));
        let (at, _) = self.find(name)?;
        let definition = Arc::clone(&self.start.definition);
        let cell = self.cells.get_mut(name)?;
        let (half, outcome) = match (operation, &mut cell.undo) {
            (Operation::Compensation, Some(undo)) => {
                undo.call = Some(Arc::clone(&call));
                (&undo.half, Some(undo.outcome))
            }
            _ => {
                if operation == Operation::Action {
                    cell.call = Some(Arc::clone(&call));
                }
                (&cell.half, None::<Outcome>)
            }
        };
        let timeout = calls::retry_of(&definition.steps[at], operation).timeout;
        let (round, attempt) = (half.round, half.attempt);
        Some(Request { step: name.to_owned(), operation, round, attempt, outcome, call, timeout })
    }
}

/// Which half of a step is under way.
fn active(cell: &Cell) -> Option<Operation> {
    match (&cell.undo, cell.action) {
        _ if cell.items.is_some() => None,
        (Some(undo), _) if !undo.ended => Some(Operation::Compensation),
        (Some(_), _) => None,
        (None, StepStatus::Acting) => Some(Operation::Action),
        (None, StepStatus::Unknown) if !cell.given_up => Some(Operation::Probe),
        (None, _) => None,
    }
}
