//! A world in which a saga can be run a million times: a clock that is turned, participants with
//! books, and faults where they are asked for.
//!
//! The planner is the one that runs in production; only what surrounds it is played. A run commits
//! each plan to a journal in memory, may lose the engine before or after, restores it from the
//! journal, and checks after every step what must always hold. `walk` derives an exhaustive set of
//! runs from a definition, the tests draw random ones from a seed.

mod books;
mod walk;

pub use books::{Account, Books};
pub use walk::{Ending, walk};

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::definition::{Action, Definition, Part, Undo};
use crate::planner::{self, Command, Input, Moment};
use crate::request::{Answer, Call, Request, RequestId};
use crate::state::{Start, State, Status, StepStatus};
use crate::transition::{Operation, Transition};

/// Inputs after which a run counts as endless.
const INPUTS_MAX: usize = 20_000;
/// Entries of a journal that are shown when something broke.
const SHOWN: usize = 200;
const LATENCY_US: i64 = 1_000;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing: it is done and answered.
    None,
    /// The participant refuses.
    Refuse,
    /// It never arrives.
    Lost,
    /// It is done, and the answer is lost.
    Unanswered,
    /// It is answered twice.
    Twice,
    /// It arrives, and is answered, long after its time is over.
    Late,
    /// It is done, and the engine dies before it has written the answer.
    Crash,
}

/// Where a fault can strike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point<'r> {
    /// The step.
    pub step: &'r str,
    /// Which half.
    pub operation: Operation,
    /// The attempt.
    pub attempt: u32,
}

/// Decides which faults strike.
pub trait Fate {
    /// What happens to the request at `point`.
    fn fault(&mut self, point: &Point<'_>) -> Fault;
    /// Whether the engine dies now: before a commit, or right after it.
    fn dies(&mut self, committed: bool) -> bool;
    /// From 0 to 1.
    fn jitter(&mut self) -> f64 {
        0.5
    }
    /// Whether a person does something to the saga now.
    fn command(&mut self) -> Option<Command> {
        None
    }
    /// How far the clock jumps ahead before the next input; it never runs back.
    fn jump_us(&mut self) -> i64 {
        0
    }
}

/// What must always hold did not.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n{journal}")]
pub struct Broken {
    /// What.
    pub what: String,
    /// The journal up to there.
    pub journal: String,
}

/// One run.
pub struct Simulation<'f> {
    definition: Arc<Definition>,
    start: Start,
    fate: &'f mut dyn Fate,
    barrier: bool,
    state: Option<State>,
    journal: Vec<(i64, Transition)>,
    in_flight: HashSet<RequestId>,
    queue: BTreeMap<(i64, usize), Input>,
    queued: usize,
    now_us: i64,
    /// What the participants did.
    pub books: Books,
    published: BTreeSet<String>,
    by_hand: BTreeSet<String>,
}

impl<'f> Simulation<'f> {
    /// A run of `definition`, whose participants have the barrier or only remember their keys.
    #[must_use]
    pub fn new(
        definition: Arc<Definition>,
        input: Value,
        barrier: bool,
        fate: &'f mut dyn Fate,
    ) -> Simulation<'f> {
        let env = definition.env().into_iter().map(|name| (name, "http://stub".to_owned()));
        let start = Start {
            id: "walk".to_owned(),
            definition: Arc::clone(&definition),
            input: Arc::new(input),
            env: Arc::new(env.collect()),
            created_us: 1,
        };
        Simulation {
            definition,
            start,
            fate,
            barrier,
            state: None,
            journal: Vec::new(),
            in_flight: HashSet::new(),
            queue: BTreeMap::new(),
            queued: 0,
            now_us: 1,
            books: Books::default(),
            published: BTreeSet::new(),
            by_hand: BTreeSet::new(),
        }
    }

    /// Steps that are named here answer with these outputs, all others with their own name as `id`;
    /// signals and events with nothing.
    #[must_use]
    pub fn with_outputs(mut self, outputs: BTreeMap<String, Value>) -> Simulation<'f> {
        self.books.outputs = outputs;
        self
    }

    /// What went wrong, if anything did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.state.as_ref()?.error.as_deref()
    }

    /// Runs it to its end, a person settling what is stuck.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn run(&mut self) -> Result<Status, Broken> {
        self.input(Input::Start)?;
        for _ in 0..INPUTS_MAX {
            let status = self.state().map_or(Status::Running, |state| state.status);
            if status == Status::Stuck && self.queue.is_empty() {
                self.settle_by_hand()?;
                continue;
            }
            let wake = self.state().and_then(|state| state.wake_us(self.now_us));
            let next = self.queue.keys().next().copied();
            match (next, wake) {
                (Some(key), wake) if wake.is_none_or(|wake| key.0 <= wake) => {
                    self.now_us = self.now_us.max(key.0);
                    if let Some(input) = self.queue.remove(&key) {
                        self.input(input)?;
                    }
                }
                (_, Some(wake)) => {
                    self.now_us = self.now_us.max(wake) + 1;
                    self.input(Input::Tick)?;
                }
                (_, None) if status.is_ended() => {
                    self.check_end()?;
                    return Ok(status);
                }
                (_, None) => return Err(self.broken(format!("{status:?} and nothing follows"))),
            }
        }
        Err(self.broken("it does not end".to_owned()))
    }

    /// Its journal.
    #[must_use]
    pub fn journal(&self) -> &[(i64, Transition)] {
        &self.journal
    }

    fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    fn broken(&self, what: String) -> Broken {
        use std::fmt::Write as _;
        let mut journal = String::new();
        for (at, transition) in self.journal.iter().take(SHOWN) {
            let _ = writeln!(journal, "{at:>12} {transition:?}");
        }
        let _ = write!(journal, "{:?}", self.books);
        Broken { what, journal }
    }

    /// One input, as the engine takes it: plan, commit, ask.
    fn input(&mut self, input: Input) -> Result<(), Broken> {
        let is_start = matches!(input, Input::Start);
        if is_start && !self.journal.is_empty() {
            return Ok(());
        }
        if !is_start && self.journal.is_empty() {
            self.input(Input::Start)?; // Whatever comes first finds a saga that has begun.
        }
        if self.state.is_none() {
            self.restore()?;
        }
        self.now_us += self.fate.jump_us();
        let moment = Moment { at_us: self.now_us, jitter: self.fate.jitter() };
        let Some(mut state) = self.state.take() else { return Ok(()) };
        let plan = match planner::take(&mut state, &input, moment) {
            Ok(plan) => plan,
            Err(planner::Refusal::Illegal(error)) => return Err(self.broken(error.to_string())),
            Err(_) => {
                self.state = Some(state);
                return self.ask(); // Time has passed all the same.
            }
        };
        if self.fate.dies(false) {
            // Nothing was written: who waits for it asks again.
            if matches!(
                input,
                Input::Start | Input::Signal { .. } | Input::Locked { .. } | Input::Event { .. }
            ) {
                self.send(input, LATENCY_US);
            }
            return self.restart();
        }
        for transition in plan.transitions {
            self.check_transition(&transition)?;
            self.journal.push((self.now_us, transition));
        }
        for (request, _) in plan.published {
            if !self.published.insert(request.idempotency("walk")) {
                return Err(self.broken(format!("published twice: {request:?}")));
            }
        }
        if let Input::Answer { request, .. } = &input {
            self.in_flight.remove(request);
        }
        self.state = Some(state);
        if self.fate.dies(true) {
            return self.restart();
        }
        if let Some(command) = self.fate.command() {
            let by = "somebody".to_owned();
            self.send(Input::Operator { command, by }, 1);
        }
        self.ask()
    }

    fn restart(&mut self) -> Result<(), Broken> {
        self.state = None;
        self.in_flight.clear();
        self.restore()?;
        self.ask()
    }

    fn restore(&mut self) -> Result<(), Broken> {
        let journal = self.journal.iter().map(|(at, transition)| (*at, transition));
        match State::of_journal(self.start.clone(), journal) {
            Ok(state) => self.state = Some(state),
            Err(error) => return Err(self.broken(error.to_string())),
        }
        Ok(())
    }

    fn send(&mut self, input: Input, after_us: i64) {
        self.queued += 1;
        self.queue.insert((self.now_us + after_us, self.queued), input);
    }

    /// Makes the requests that are due, and those of the waits that somebody outside answers.
    fn ask(&mut self) -> Result<(), Broken> {
        let now = self.now_us;
        let Some(state) = &mut self.state else { return Ok(()) };
        if state.cells.is_empty() && self.journal.is_empty() {
            return Ok(());
        }
        for request in state.requests(now) {
            if self.in_flight.insert(request.id()) && self.carry_out(&request) {
                return self.restart();
            }
        }
        let Some(state) = &self.state else { return Ok(()) };
        let mut waits = Vec::new();
        for step in &self.definition.steps {
            let cell = state.cells.get(step.name.as_str());
            let waiting = cell.is_some_and(|c| c.action == StepStatus::Acting && c.half().waits);
            let step_name = step.name.to_string();
            let asked =
                RequestId { step: step_name.clone(), operation: Operation::Action, round: 0 };
            if waiting && self.in_flight.insert(asked) {
                let given = self.books.outputs.get(&step_name).cloned();
                let body = given.unwrap_or_else(|| json!({}));
                match &step.action {
                    Action::Signal { name, .. } => {
                        waits.push(Input::Signal { name: name.clone(), body });
                    }
                    Action::Event(_) => waits.push(Input::Event { step: step_name, data: body }),
                    _ => {}
                }
            }
        }
        for input in waits {
            let Input::Signal { .. } = &input else {
                self.send(input, LATENCY_US);
                continue;
            };
            let name = match &input {
                Input::Signal { name, .. } => name.clone(),
                _ => String::new(),
            };
            let point = Point { step: &name, operation: Operation::Action, attempt: 1 };
            match self.fate.fault(&point) {
                Fault::Lost | Fault::Refuse | Fault::Unanswered => {}
                Fault::Twice => {
                    self.send(input.clone(), LATENCY_US);
                    self.send(input, LATENCY_US * 2);
                }
                Fault::None | Fault::Late | Fault::Crash => self.send(input, LATENCY_US),
            }
        }
        Ok(())
    }

    /// What becomes of one request; true when the engine dies of it.
    fn carry_out(&mut self, request: &Request) -> bool {
        if let Call::Lock(lock) = request.call.as_ref() {
            self.send(Input::Locked { lock: lock.clone() }, LATENCY_US);
            return false;
        }
        if let Call::Unfilled(error) = request.call.as_ref() {
            let answer = Answer::Unfilled(error.clone());
            self.send(Input::Answer { request: request.id(), answer }, LATENCY_US);
            return false;
        }
        let point =
            Point { step: &request.step, operation: request.operation, attempt: request.attempt };
        let fault = self.fate.fault(&point);
        let input = |answer| Input::Answer { request: request.id(), answer };
        let timeout_us = bus::Span(request.timeout).micros();
        let timed_out = || input(Answer::unclear("timed out"));
        match fault {
            Fault::Refuse => {
                let answer = self.books.refuse(request);
                self.send(input(answer), LATENCY_US);
            }
            Fault::Lost => self.send(timed_out(), timeout_us),
            Fault::Late => {
                self.send(timed_out(), timeout_us);
                let answer = self.books.carry_out(request, self.barrier);
                self.send(input(answer), timeout_us * 4);
            }
            Fault::Unanswered => {
                self.books.carry_out(request, self.barrier);
                self.send(timed_out(), timeout_us);
            }
            Fault::Twice => {
                let answer = self.books.carry_out(request, self.barrier);
                self.send(input(answer.clone()), LATENCY_US);
                self.send(input(answer), LATENCY_US * 3);
            }
            Fault::None => {
                let answer = self.books.carry_out(request, self.barrier);
                self.send(input(answer), LATENCY_US);
            }
            Fault::Crash => {
                self.books.carry_out(request, self.barrier);
                return true;
            }
        }
        false
    }

    /// A person retries once, and then settles by hand what is still stuck.
    fn settle_by_hand(&mut self) -> Result<(), Broken> {
        let Some(state) = &self.state else { return self.restore() };
        let mut stuck: Vec<(String, bool)> = state
            .cells
            .iter()
            .filter(|(_, cell)| cell.is_stuck())
            .map(|(name, cell)| (name.clone(), cell.undo.is_some()))
            .collect();
        stuck.sort_unstable();
        let retried = self.journal.iter().filter(|(_, t)| matches!(t, Transition::Retried { .. }));
        let by = "somebody".to_owned();
        let Some((step, undoing)) = stuck.into_iter().next() else {
            return Err(self.broken("stuck, and nothing is".to_owned()));
        };
        if retried.count() == 0 {
            return self.input(Input::Operator { command: Command::Retry { reason: None }, by });
        }
        self.by_hand.insert(step.clone());
        let output = (!undoing).then(|| json!({}));
        let reason = "settled by hand".to_owned();
        self.input(Input::Operator { command: Command::Skip { step, output, reason }, by })
    }

    /// Never a step undone that was not done or unknown; never an undo before a later step's undo
    /// has ended.
    fn check_transition(&self, transition: &Transition) -> Result<(), Broken> {
        let Transition::Undoing { step, .. } = transition else { return Ok(()) };
        let happened = |name: &str| {
            self.journal.iter().any(|(_, entry)| match entry {
                Transition::Done { step, .. }
                | Transition::Unknown { step, .. }
                | Transition::SkippedByHand { step, .. } => step == name,
                _ => false,
            })
        };
        if !happened(step) {
            return Err(self.broken(format!("{step} is undone and was not done")));
        }
        let again = self.journal.iter().any(|(_, t)| matches!(t, Transition::LateDone { .. }));
        let order = order(&self.definition.body);
        let at = |name: &str| self.definition.step(name.split('.').next().unwrap_or(name));
        let Some(own) = self.definition.step(step).or_else(|| at(step)) else { return Ok(()) };
        for (index, later) in self.definition.steps.iter().enumerate() {
            let follows = order.contains(&(own, index));
            let undoes = matches!(later.undo, Undo::Call { .. });
            let under_way = self.state_of(&later.name) == Some(false);
            if follows && undoes && under_way && !again {
                let what = format!("{step} is undone before {}", later.name);
                return Err(self.broken(what));
            }
        }
        Ok(())
    }

    /// Whether the undo of a step, or of all its items, has ended; `None` when it never began.
    fn state_of(&self, name: &str) -> Option<bool> {
        let mut ended = None;
        for (_, transition) in &self.journal {
            match transition {
                Transition::Undoing { step, .. } if step.split('.').next() == Some(name) => {
                    ended = Some(false);
                }
                Transition::Undone { step } | Transition::SkippedByHand { step, .. }
                    if step.split('.').next() == Some(name) && ended.is_some() =>
                {
                    ended = Some(true);
                }
                _ => {}
            }
        }
        ended
    }

    /// At the end the books balance: what is done was done once, what is undone left nothing.
    fn check_end(&self) -> Result<(), Broken> {
        let Some(state) = &self.state else { return Ok(()) };
        for (name, cell) in state.cells.iter().filter(|(_, cell)| cell.items.is_none()) {
            let Some((at, _)) = state.find(name) else { continue };
            let step = &self.definition.steps[at];
            let remote = matches!(
                step.action,
                Action::Http(_) | Action::Command(_) | Action::Child(_) | Action::Method
            );
            if !remote || self.by_hand.contains(name) {
                continue;
            }
            let effect = self.books.effect(name);
            let expected = match cell.status() {
                StepStatus::Done => 1,
                StepStatus::Refused | StepStatus::Undone | StepStatus::Waiting => 0,
                StepStatus::Skipped | StepStatus::Unknown => continue,
                other @ (StepStatus::Acting | StepStatus::Undoing) => {
                    return Err(self.broken(format!("it ended and {name} is {other:?}")));
                }
            };
            if effect != expected {
                let what = format!("{name} is {:?} and its effect is {effect}", cell.status());
                return Err(self.broken(what));
            }
            let kept = cell.status() == StepStatus::Done && matches!(step.undo, Undo::Call { .. });
            if kept && state.status != Status::Completed {
                return Err(self.broken(format!("{name} is still done")));
            }
        }
        Ok(())
    }
}

impl RequestId {
    fn idempotency(&self, saga: &str) -> String {
        format!("{saga}/{}/{}/{}", self.step, self.operation.as_str(), self.round)
    }
}

/// Pairs of steps of which the second runs after the first.
fn order(body: &[Part]) -> BTreeSet<(usize, usize)> {
    fn steps(part: &Part, found: &mut Vec<usize>) {
        match part {
            Part::Step(at) => found.push(*at),
            Part::Together { members, .. } => {
                members.iter().flatten().for_each(|part| steps(part, found));
            }
        }
    }
    let mut found = BTreeSet::new();
    let of = |part: &Part| {
        let mut inside = Vec::new();
        steps(part, &mut inside);
        inside
    };
    for (at, part) in body.iter().enumerate() {
        for first in of(part) {
            for later in body[at + 1..].iter().flat_map(of) {
                found.insert((first, later));
            }
        }
        if let Part::Together { members, .. } = part {
            for member in members {
                found.extend(order(member));
            }
        }
    }
    found
}
