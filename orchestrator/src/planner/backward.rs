//! Compensating: settles what is under way, then undoes what was done, the newest first.

use std::sync::Arc;

use super::{Planner, Refusal, calls};
use crate::definition::{Action, OnUnknown, Part, Undo};
use crate::request::{Call, RequestId};
use crate::state::StepStatus;
use crate::transition::{Operation, Outcome, Reason, Transition};

impl Planner<'_> {
    pub(super) fn backward(&mut self) -> Result<(), Refusal> {
        if !self.settled()? {
            return Ok(());
        }
        let definition = Arc::clone(&self.state.start.definition);
        if !self.undo_sequence(&definition.body)? {
            return Ok(());
        }
        let cancelled = self.state.reason == Some(Reason::Cancelled);
        self.emit(if cancelled { Transition::Cancelled } else { Transition::Compensated })
    }

    /// Whether nothing acts any more. Waits are ended; what had an attempt without a clear answer
    /// counts as unknown; what is on its way is waited for, bounded by its timeout.
    fn settled(&mut self) -> Result<bool, Refusal> {
        let mut names: Vec<String> = self.state.cells.keys().cloned().collect();
        names.sort_unstable();
        let mut settled = true;
        for name in names {
            let Some((at, _)) = self.state.find(&name) else { continue };
            let definition = Arc::clone(&self.state.start.definition);
            let step = &definition.steps[at];
            let Some(cell) = self.state.cells.get(&name).filter(|cell| cell.items.is_none()) else {
                continue;
            };
            match cell.action {
                StepStatus::Acting => match &step.action {
                    Action::Signal { .. } | Action::Event(_) | Action::Sleep(_) => {
                        let error = "the saga compensates".to_owned();
                        self.emit(Transition::Refused { step: name, error })?;
                    }
                    // A child is cancelled and waited for.
                    Action::Child(_) => settled = false,
                    _ => {
                        let under_way = !cell.half.waits && cell.half.due_us <= self.moment.at_us;
                        if under_way || matches!(step.on_unknown, OnUnknown::Stuck) {
                            settled = false;
                        } else {
                            let known = cell.half.error.clone();
                            let error = known.unwrap_or_else(|| "no answer yet".to_owned());
                            self.emit(Transition::Unknown { step: name.clone(), error })?;
                            settled &= self.decided(&name, at)?;
                        }
                    }
                },
                StepStatus::Unknown if cell.undo.is_none() => settled &= self.decided(&name, at)?,
                _ => {}
            }
        }
        Ok(settled)
    }

    /// Whether it is clear what to do about an unknown outcome.
    fn decided(&mut self, name: &str, at: usize) -> Result<bool, Refusal> {
        let Some(cell) = self.state.cells.get(name) else { return Ok(true) };
        if cell.given_up {
            return Ok(true);
        }
        match &self.state.start.definition.steps[at].on_unknown {
            OnUnknown::Compensate => Ok(true),
            OnUnknown::Probe(_) => Ok(false),
            OnUnknown::Stuck => {
                let error = cell.half.error.clone().unwrap_or_default();
                let (step, operation) = (name.to_owned(), Operation::Action);
                self.emit(Transition::Stuck { step, operation, error, refused: false })?;
                Ok(false)
            }
        }
    }

    /// Whether all parts are undone, the last one first; never one before a later one has ended.
    fn undo_sequence(&mut self, parts: &[Part]) -> Result<bool, Refusal> {
        for part in parts.iter().rev() {
            if !self.undo_part(part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn undo_part(&mut self, part: &Part) -> Result<bool, Refusal> {
        match part {
            Part::Step(at) => self.undo_step(*at),
            Part::Together { members, .. } => {
                let mut finished = true;
                for member in members.iter().rev() {
                    finished &= self.undo_sequence(member)?;
                }
                Ok(finished)
            }
        }
    }

    fn undo_step(&mut self, at: usize) -> Result<bool, Refusal> {
        let definition = Arc::clone(&self.state.start.definition);
        let step = &definition.steps[at];
        let Some(cell) = self.state.cells.get(step.name.as_str()) else { return Ok(true) };
        let Some(items) = cell.items else { return self.undo_one(&step.name, at) };
        let most = step.for_each.as_ref().and_then(|each| each.max_concurrent).unwrap_or(1);
        let mut active = 0;
        for index in (0..items).rev() {
            if active >= most {
                break;
            }
            if !self.undo_one(&format!("{}.{index}", step.name), at)? {
                active += 1;
            }
        }
        Ok(active == 0)
    }

    /// Whether one step, or one item, is undone or has nothing to undo; begins it otherwise.
    fn undo_one(&mut self, name: &str, at: usize) -> Result<bool, Refusal> {
        let Some(cell) = self.state.cells.get(name) else { return Ok(true) };
        let outcome = match cell.action {
            _ if cell.counts_as_done() => Outcome::Done,
            StepStatus::Unknown => Outcome::Unknown,
            _ => return Ok(true),
        };
        let round = match &cell.undo {
            None => 1,
            Some(undo) if !undo.ended => return Ok(false),
            // Its undo may have found nothing to do, and the action was done after it.
            Some(undo) if cell.late && undo.outcome == Outcome::Unknown && !undo.skipped => {
                undo.half.round + 1
            }
            Some(_) => return Ok(true),
        };
        if !self.can_undo(at) {
            return Ok(true);
        }
        let method = matches!(
            &self.state.start.definition.steps[at].undo,
            Undo::Call { action: Action::Method, .. }
        );
        if method && outcome == Outcome::Unknown {
            return Ok(true); // There is no receipt, and a person has decided to go on without.
        }
        let step = name.to_owned();
        let call = match calls::call_of(self.state, name, Operation::Compensation) {
            Ok(call) => Arc::new(call),
            Err(error) => {
                let operation = Operation::Compensation;
                self.emit(Transition::Stuck { step, operation, error, refused: false })?;
                return Ok(false);
            }
        };
        self.emit(Transition::Undoing { step, round, outcome })?;
        self.undo(name, call)
    }

    /// What follows from an undo that has just begun; true when it has ended already.
    pub(super) fn undo(&mut self, name: &str, call: Arc<Call>) -> Result<bool, Refusal> {
        let undo = self.state.cells.get_mut(name).and_then(|cell| cell.undo.as_mut());
        let Some(undo) = undo else { return Ok(true) };
        let Call::Publish { .. } = call.as_ref() else {
            undo.call = Some(call);
            return Ok(false);
        };
        let (step, operation, round) = (name.to_owned(), Operation::Compensation, undo.half.round);
        self.plan.published.push((RequestId { step: step.clone(), operation, round }, call));
        self.emit(Transition::Undone { step })?;
        Ok(true)
    }
}
