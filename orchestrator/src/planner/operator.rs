//! What a person can do, and when.

use std::sync::Arc;

use super::{Command, Planner, Refusal, calls};
use crate::state::{Status, StepStatus};
use crate::transition::{Operation, Reason, Transition};

impl Planner<'_> {
    pub(super) fn operator(&mut self, command: &Command, by: &str) -> Result<(), Refusal> {
        match command {
            Command::Cancel { reason } => {
                self.stop(Reason::Cancelled, reason.as_deref().unwrap_or("cancelled"), by)
            }
            Command::Compensate { reason } => self.stop(Reason::Asked, reason, by),
            Command::Retry { reason } => self.retry(reason.clone(), by),
            Command::Skip { step, output, reason } => {
                let output = output.clone().map(Arc::new);
                self.skip(step, output, reason, by)
            }
            Command::Abandon { reason } => match self.state.status {
                Status::Stuck => {
                    let (reason, by) = (reason.clone(), by.to_owned());
                    self.emit(Transition::Abandoned { reason, by })
                }
                Status::Abandoned => Ok(()),
                status => Err(conflict(format!(
                    "the saga is {}; only one that is stuck can be abandoned",
                    status.as_str()
                ))),
            },
        }
    }

    fn stop(&mut self, reason: Reason, why: &str, by: &str) -> Result<(), Refusal> {
        let asked =
            if reason == Reason::Cancelled { Status::Cancelled } else { Status::Compensated };
        let stuck_forward = self.state.status == Status::Stuck && self.state.was == Status::Running;
        match self.state.status {
            Status::Compensating => Ok(()),
            status if status == asked => Ok(()),
            Status::Running | Status::Stuck if self.state.is_past_point() => {
                Err(conflict("the saga is past its point of no return".to_owned()))
            }
            Status::Running if self.state.is_at_point() => Err(conflict(
                "the saga is at its point of no return, and its outcome is not known yet"
                    .to_owned(),
            )),
            Status::Running => self.compensate(reason, None, why, Some(by.to_owned())),
            Status::Stuck if stuck_forward => {
                self.compensate(reason, None, why, Some(by.to_owned()))
            }
            Status::Stuck => Err(conflict(
                "the saga is stuck while it compensates: retry, skip or abandon".to_owned(),
            )),
            status => Err(conflict(format!("the saga is {}", status.as_str()))),
        }
    }

    fn retry(&mut self, reason: Option<String>, by: &str) -> Result<(), Refusal> {
        let now = self.moment.at_us;
        let waits = |half: &crate::state::Half| !half.waits && half.due_us > now;
        let any = self.state.cells.values().any(|cell| {
            cell.is_stuck()
                || (cell.action == StepStatus::Acting && cell.items.is_none() && waits(&cell.half))
                || cell.undo.as_ref().is_some_and(|undo| !undo.ended && waits(&undo.half))
        });
        if self.state.status.is_ended() || !(any || self.state.set_aside) {
            let status = self.state.status.as_str();
            return Err(conflict(format!("the saga is {status}; there is nothing to retry")));
        }
        let stuck = self.state.cells.iter().filter(|(_, cell)| cell.is_stuck());
        let mut stuck: Vec<(String, bool)> =
            stuck.map(|(name, cell)| (name.clone(), cell.action == StepStatus::Refused)).collect();
        stuck.sort_unstable();
        self.emit(Transition::Retried { reason, by: by.to_owned() })?;
        for (name, refused) in stuck {
            self.again(name, refused)?;
        }
        Ok(())
    }

    /// Begins anew what was stuck. What still cannot be filled in is where it was: refused before
    /// anybody was asked, or not known.
    fn again(&mut self, step: String, was_refused: bool) -> Result<(), Refusal> {
        let Some((at, _)) = self.state.find(&step) else { return Ok(()) };
        let undoes = self.state.cells.get(&step).is_some_and(|cell| cell.undo.is_some());
        let operation = if undoes { Operation::Compensation } else { Operation::Action };
        let definition = Arc::clone(&self.state.start.definition);
        match calls::call_of(self.state, &step, operation) {
            Ok(call) if undoes => self.undo(&step, Arc::new(call)).map(|_| ()),
            Ok(call) => self.act(&step, &definition.steps[at].action, Arc::new(call)),
            Err(error) if undoes => {
                self.emit(Transition::Stuck { step, operation, error, refused: false })
            }
            Err(error) if was_refused => self.emit(Transition::Refused { step, error }),
            Err(error) => self.unfilled_action(step, &error),
        }
    }

    fn skip(
        &mut self,
        step: &str,
        output: Option<Arc<serde_json::Value>>,
        reason: &str,
        by: &str,
    ) -> Result<(), Refusal> {
        if self.state.find(step).is_none() {
            return Err(Refusal::NoStep(step.to_owned()));
        }
        let cell = self.state.cells.get(step).filter(|cell| cell.items.is_none());
        let operation = match cell.map(|cell| (cell.undo.as_ref(), cell.action)) {
            Some((Some(undo), _)) if !undo.ended => Operation::Compensation,
            // Nothing happened where it was refused: while it compensates, that is settled.
            Some((None, StepStatus::Refused)) if self.state.reason.is_some() => {
                return Err(conflict(format!("the step `{step}` was refused, and is not undone")));
            }
            Some((None, StepStatus::Acting | StepStatus::Unknown | StepStatus::Refused))
                if !self.state.status.is_ended() =>
            {
                Operation::Action
            }
            _ => return Err(conflict(format!("the step `{step}` is not under way"))),
        };
        let (step, reason, by) = (step.to_owned(), reason.to_owned(), by.to_owned());
        self.emit(Transition::SkippedByHand { step, operation, output, reason, by })
    }
}

fn conflict(why: String) -> Refusal {
    Refusal::Conflict(why)
}
