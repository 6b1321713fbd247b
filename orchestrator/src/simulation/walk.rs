//! The exhaustive fault walk: every fault at every step and every undo, one run each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Broken, Fate, Fault, Point, Simulation};
use crate::definition::Definition;
use crate::state::Status;
use crate::transition::Operation;

const FAULTS: [Fault; 6] =
    [Fault::Refuse, Fault::Lost, Fault::Unanswered, Fault::Twice, Fault::Late, Fault::Crash];

/// After this many attempts even a fault that strikes always is over: past the point of no return
/// a step is tried for ever.
const ATTEMPTS_MAX: u32 = 120;

/// How one run ended.
#[derive(Debug)]
pub struct Ending {
    /// The step at which the fault struck; `None` in the run without one, and in those in which a
    /// later step was refused to make everything before it unwind.
    pub step: Option<String>,
    /// Which half.
    pub operation: Operation,
    /// Which fault.
    pub fault: Fault,
    /// Whether it struck every attempt, not the first one only.
    pub always: bool,
    /// How the saga ended, or what broke.
    pub ended: Result<Status, Broken>,
    /// Whether a person had to settle something.
    pub was_stuck: bool,
    /// What went wrong in the saga, if anything did.
    pub error: Option<String>,
}

/// A fault at one place, and a refusal that makes the rest unwind.
struct At<'d> {
    step: &'d str,
    operation: Operation,
    fault: Fault,
    always: bool,
    refused: Option<&'d str>,
    asked: BTreeSet<(String, Operation)>,
    crashed: bool,
}

impl Fate for At<'_> {
    fn fault(&mut self, point: &Point<'_>) -> Fault {
        self.asked.insert((point.step.to_owned(), point.operation));
        let here = point.step == self.step && point.operation == self.operation;
        if here && self.fault == Fault::Crash {
            return if std::mem::replace(&mut self.crashed, true) {
                Fault::None
            } else {
                Fault::Crash
            };
        }
        if here && (point.attempt == 1 || (self.always && point.attempt <= ATTEMPTS_MAX)) {
            return self.fault;
        }
        let refuses = Some(point.step) == self.refused && point.operation == Operation::Action;
        if refuses { Fault::Refuse } else { Fault::None }
    }

    fn dies(&mut self, _committed: bool) -> bool {
        false
    }
}

/// Runs every fault at every step, whose stubs answer with `outputs` where they are named there, and at every undo that the refusal of a later step brings about.
#[must_use]
pub fn walk(
    definition: &Arc<Definition>,
    input: &Value,
    outputs: &BTreeMap<String, Value>,
) -> Vec<Ending> {
    let mut endings = Vec::new();
    let mut run = |step: &str, operation, fault, always, refused: Option<&str>| {
        let asked = BTreeSet::new();
        let mut fate = At { step, operation, fault, always, refused, asked, crashed: false };
        let mut simulation =
            Simulation::new(Arc::clone(definition), input.clone(), true, &mut fate)
                .with_outputs(outputs.clone());
        let ended = simulation.run();
        let stuck = |(_, entry): &(i64, _)| matches!(entry, crate::Transition::Stuck { .. });
        let was_stuck = simulation.journal().iter().any(stuck);
        let error = simulation.error().map(str::to_owned);
        let asked = fate.asked;
        let step = (fault != Fault::None).then(|| step.to_owned());
        endings.push(Ending { step, operation, fault, always, ended, was_stuck, error });
        asked
    };
    let actions = run("", Operation::Action, Fault::None, false, None);
    for (step, operation) in &actions {
        for fault in FAULTS {
            run(step, *operation, fault, false, None);
            if matches!(fault, Fault::Lost | Fault::Unanswered | Fault::Late) {
                run(step, *operation, fault, true, None);
            }
        }
    }
    for (refused, _) in &actions {
        let asked = run("", Operation::Action, Fault::None, false, Some(refused));
        for (step, operation) in asked.iter().filter(|(_, of)| *of == Operation::Compensation) {
            for fault in FAULTS {
                run(step, *operation, fault, false, Some(refused));
                if matches!(fault, Fault::Lost | Fault::Unanswered) {
                    run(step, *operation, fault, true, Some(refused));
                }
            }
        }
    }
    endings
}
