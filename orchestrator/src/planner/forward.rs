//! Running: begins the steps whose turn it is.

use std::sync::Arc;

use serde_json::Value;

use super::{Planner, Refusal, calls};
use crate::definition::{Action, OnUnknown, Part, Undo};
use crate::request::{Call, RequestId};
use crate::state::{Cell, StepStatus};
use crate::transition::{Operation, Reason, Transition};

impl Planner<'_> {
    pub(super) fn forward(&mut self) -> Result<(), Refusal> {
        if self.stops()? || !self.has_locks()? {
            return Ok(());
        }
        let definition = Arc::clone(&self.state.start.definition);
        let finished = self.sequence(&definition.body)?;
        if self.stops()? || !finished {
            return Ok(());
        }
        let output =
            definition.output.as_ref().map(|output| output.render(&self.state.scope(None)));
        match output.transpose() {
            Ok(output) => {
                let output = Arc::new(output.unwrap_or(Value::Null));
                self.emit(Transition::Completed { output, error: None })
            }
            // All of it is done, and cannot all be undone: it has no output, and says why.
            Err(error) if self.state.is_past_point() || self.stays() => {
                let (output, error) = (Arc::new(Value::Null), Some(format!("output: {error}")));
                self.emit(Transition::Completed { output, error })
            }
            Err(error) => self.compensate(Reason::Refused, None, &format!("output: {error}"), None),
        }
    }

    /// Whether something was done that cannot be undone.
    fn stays(&self) -> bool {
        self.state.start.definition.steps.iter().any(|step| {
            let cell = self.state.cells.get(step.name.as_str());
            matches!(step.undo, Undo::Never(_)) && cell.is_some_and(Cell::counts_as_done)
        })
    }

    pub(super) fn compensate(
        &mut self,
        reason: Reason,
        step: Option<String>,
        error: &str,
        by: Option<String>,
    ) -> Result<(), Refusal> {
        self.emit(Transition::Compensating { reason, step, error: error.to_owned(), by })
    }

    /// Whether something keeps it from going on: a refusal, an unknown outcome, its deadline.
    fn stops(&mut self) -> Result<bool, Refusal> {
        let past = self.state.is_past_point();
        let mut names: Vec<&String> = self.state.cells.keys().collect();
        names.sort_unstable();
        let at_fault = names.into_iter().find_map(|name| {
            let cell = &self.state.cells[name];
            let error = || cell.half.error.clone().unwrap_or_default();
            match cell.action {
                StepStatus::Refused => Some((name.clone(), true, error())),
                StepStatus::Unknown => Some((name.clone(), false, error())),
                _ => None,
            }
        });
        let operation = Operation::Action;
        match at_fault {
            Some((step, refused, error)) if past => {
                self.emit(Transition::Stuck { step, operation, error, refused })?;
                Ok(true)
            }
            Some((step, true, error)) => {
                self.compensate(Reason::Refused, Some(step), &error, None)?;
                Ok(true)
            }
            Some((step, false, error)) => {
                let Some((at, _)) = self.state.find(&step) else { return Ok(true) };
                match &self.state.start.definition.steps[at].on_unknown {
                    OnUnknown::Compensate => {
                        self.compensate(Reason::Unknown, Some(step), &error, None)?;
                    }
                    OnUnknown::Stuck => {
                        let refused = false;
                        self.emit(Transition::Stuck { step, operation, error, refused })?;
                    }
                    // The deadline does not wait for the probe's answer.
                    OnUnknown::Probe(_) => {
                        self.is_overdue(past)?;
                    }
                }
                Ok(true)
            }
            None => self.is_overdue(past),
        }
    }

    /// Compensates when the deadline has passed.
    fn is_overdue(&mut self, past_point: bool) -> Result<bool, Refusal> {
        let over = self.state.deadline_us().is_some_and(|at| at <= self.moment.at_us);
        let overdue = over && !past_point && !self.state.is_at_point();
        if overdue {
            self.compensate(Reason::Deadline, None, "the deadline passed", None)?;
        }
        Ok(overdue)
    }

    fn has_locks(&mut self) -> Result<bool, Refusal> {
        let wanted = match &self.state.locks {
            Ok(locks) => locks.get(self.state.locks_held).cloned(),
            // It has them all: they cannot be filled in any more since a restart.
            Err(_) if !self.state.cells.is_empty() => return Ok(true),
            Err(error) => {
                let error = format!("lock: {error}");
                self.compensate(Reason::Refused, None, &error, None)?;
                return Ok(false);
            }
        };
        let Some(lock) = wanted else { return Ok(true) };
        if !self.state.lock_wanted {
            self.emit(Transition::LockWanted { lock })?;
        }
        Ok(false)
    }

    /// Whether all parts have finished; begins the first that has not.
    fn sequence(&mut self, parts: &[Part]) -> Result<bool, Refusal> {
        for part in parts {
            if !self.part(part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn part(&mut self, part: &Part) -> Result<bool, Refusal> {
        match part {
            Part::Step(at) => self.step(*at),
            Part::Together { members, max_concurrent } => {
                let most = max_concurrent.unwrap_or(members.len());
                let (mut active, mut finished) = (0, 0);
                for member in members {
                    let begun = self.has_begun(member);
                    if !begun && active >= most {
                        continue;
                    }
                    if self.sequence(member)? {
                        finished += 1;
                    } else {
                        active += 1;
                    }
                }
                Ok(finished == members.len())
            }
        }
    }

    fn has_begun(&self, parts: &[Part]) -> bool {
        parts.first().is_some_and(|part| match part {
            Part::Step(at) => {
                let name = &self.state.start.definition.steps[*at].name;
                self.state.cells.contains_key(name.as_str())
            }
            Part::Together { members, .. } => members.iter().any(|member| self.has_begun(member)),
        })
    }

    fn step(&mut self, at: usize) -> Result<bool, Refusal> {
        let definition = Arc::clone(&self.state.start.definition);
        let step = &definition.steps[at];
        let name = step.name.as_str();
        if !self.state.cells.contains_key(name) {
            if let Some(when) = &step.when {
                match when.holds(&self.state.scope(None)) {
                    Ok(true) => {}
                    Ok(false) => {
                        self.emit(Transition::Skipped { step: name.to_owned() })?;
                        return Ok(true);
                    }
                    Err(error) => return self.refuse(name, error.to_string()),
                }
            }
            if step.for_each.is_some() {
                match calls::items(self.state, step) {
                    Ok(items) => {
                        let items = items.len();
                        self.emit(Transition::Expanded { step: name.to_owned(), items })?;
                    }
                    Err(error) => return self.refuse(name, error),
                }
            } else {
                self.begin(name, &step.action)?;
            }
        }
        let Some(cell) = self.state.cells.get(name) else { return Ok(false) };
        match (cell.action, cell.items) {
            (StepStatus::Done | StepStatus::Skipped, _) => Ok(true),
            (_, Some(items)) => self.items(at, items),
            _ => Ok(false),
        }
    }

    fn items(&mut self, at: usize, items: usize) -> Result<bool, Refusal> {
        let definition = Arc::clone(&self.state.start.definition);
        let step = &definition.steps[at];
        let most = step.for_each.as_ref().and_then(|each| each.max_concurrent).unwrap_or(1);
        let mut active = 0;
        let mut outputs = Vec::with_capacity(items);
        for index in 0..items {
            let name = format!("{}.{index}", step.name);
            if !self.state.cells.contains_key(&name) {
                if active >= most {
                    break;
                }
                self.begin(&name, &step.action)?;
            }
            match self.state.cells.get(&name) {
                Some(cell) if matches!(cell.action, StepStatus::Done | StepStatus::Skipped) => {
                    outputs.push(cell.output.as_ref().map_or(Value::Null, |o| (**o).clone()));
                }
                Some(cell) if cell.action == StepStatus::Refused => return Ok(false),
                _ => active += 1,
            }
        }
        if outputs.len() < items {
            return Ok(false);
        }
        let output = Arc::new(Value::Array(outputs));
        self.emit(Transition::Done { step: step.name.to_string(), output })?;
        Ok(true)
    }

    fn refuse(&mut self, name: &str, error: String) -> Result<bool, Refusal> {
        self.emit(Transition::Refused { step: name.to_owned(), error })?;
        Ok(false)
    }

    /// Begins an action: its expressions are filled in before anything is written, so one that
    /// gives nothing is a refusal and not an attempt.
    fn begin(&mut self, name: &str, action: &Action) -> Result<(), Refusal> {
        let call = match calls::call_of(self.state, name, Operation::Action) {
            Ok(call) => Arc::new(call),
            Err(error) => return self.refuse(name, error).map(|_| ()),
        };
        self.emit(Transition::Acting { step: name.to_owned(), round: 1 })?;
        self.act(name, action, call)
    }

    /// What follows from an action that has just begun: what is asked of nobody outside is done or
    /// waits, the rest is a request.
    pub(super) fn act(
        &mut self,
        name: &str,
        action: &Action,
        call: Arc<Call>,
    ) -> Result<(), Refusal> {
        let step = name.to_owned();
        let Some(cell) = self.state.cells.get_mut(name) else { return Ok(()) };
        cell.call = Some(Arc::clone(&call));
        let round = cell.half.round;
        let now = self.moment.at_us;
        let until = |timeout: std::time::Duration| now.saturating_add(bus::Span(timeout).micros());
        match (action, call.as_ref()) {
            (Action::Publish(_), _) => {
                let operation = Operation::Action;
                let request = RequestId { step: step.clone(), operation, round };
                self.plan.published.push((request, call));
                self.emit(Transition::Done { step, output: Arc::new(Value::Null) })
            }
            (Action::Signal { name, timeout }, _) => {
                let early = self.state.kept.iter().find(|(kept, _)| kept == name);
                match early.map(|(_, body)| Arc::clone(body)) {
                    Some(output) => self.emit(Transition::Done { step, output }),
                    None => self.emit(Transition::Waiting { step, until_us: timeout.map(until) }),
                }
            }
            (Action::Event(wait), _) => {
                self.emit(Transition::Waiting { step, until_us: wait.timeout.map(until) })
            }
            (Action::Sleep(_), Call::Sleep(time)) => {
                let until_us = Some(until(*time));
                self.emit(Transition::Waiting { step, until_us })
            }
            _ => Ok(()),
        }
    }

    /// Whether a step has an undo that can be called.
    pub(super) fn can_undo(&self, at: usize) -> bool {
        matches!(self.state.start.definition.steps[at].undo, Undo::Call { .. })
    }
}
