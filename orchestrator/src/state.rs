//! A saga as its journal tells it.
//!
//! ```text
//! saga:  running ─► completed                (running ─► stuck: an unknown outcome)
//!           │  (refused · deadline · cancel · attempts exhausted)
//!           ▼
//!        compensating ─► compensated        (cancelled, when a person asked for it)
//!           │
//!           ▼  an undo that keeps failing, an outcome that stays unknown, or what cannot be written
//!         stuck ─► (retry | skip by an operator) ─► where it was, or abandoned
//!
//! step:  waiting ─► acting ─► done ─► undoing ─► undone
//!                     │ ├─► refused                (nothing to undo)
//!                     │ └─► unknown ─► undoing     (attempts used up without a clear answer)
//!                     └─► skipped
//! ```

mod apply;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::definition::{Action, Definition};
use crate::key::check_key;
use crate::request::Call;
use crate::template::{Absent, Scope, Template, of_json};
use crate::transition::{IllegalTransition, Outcome, Reason, Transition};

/// Where a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It does its steps.
    Running,
    /// It undoes them.
    Compensating,
    /// All done.
    Completed,
    /// All undone.
    Compensated,
    /// All undone, as a person asked.
    Cancelled,
    /// A person must decide.
    Stuck,
    /// Given up by a person.
    Abandoned,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 7] = [
        Status::Running,
        Status::Compensating,
        Status::Completed,
        Status::Compensated,
        Status::Cancelled,
        Status::Stuck,
        Status::Abandoned,
    ];

    /// As it stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Completed => "completed",
            Status::Compensated => "compensated",
            Status::Cancelled => "cancelled",
            Status::Stuck => "stuck",
            Status::Abandoned => "abandoned",
        }
    }

    /// Reads what [`Status::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing follows by itself.
    #[must_use]
    pub fn is_ended(self) -> bool {
        match self {
            Status::Running | Status::Compensating | Status::Stuck => false,
            Status::Completed | Status::Compensated | Status::Cancelled | Status::Abandoned => true,
        }
    }
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Its turn has not come.
    Waiting,
    /// Its action is under way.
    Acting,
    /// Its action was done.
    Done,
    /// Its action was refused.
    Refused,
    /// Nobody knows what became of its action.
    Unknown,
    /// Its `when` did not hold, or a person settled it.
    Skipped,
    /// Its undo is under way.
    Undoing,
    /// It is undone.
    Undone,
}

/// What a saga is of and runs with, unchanging.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its id.
    pub id: String,
    /// Its definition, of the version that it began with.
    pub definition: Arc<Definition>,
    /// Its input.
    pub input: Arc<Value>,
    /// What `env` gives.
    pub env: Arc<BTreeMap<String, String>>,
    /// When it was made.
    pub created_us: i64,
}

/// A saga as its journal tells it.
#[derive(Clone, Debug)]
pub struct State {
    /// What it began with.
    pub start: Start,
    /// Where it is.
    pub status: Status,
    /// Where it was when it became stuck.
    pub(crate) was: Status,
    /// Steps that began, by name.
    pub cells: HashMap<String, Cell>,
    /// Signals that came early.
    pub(crate) kept: VecDeque<(String, Arc<Value>)>,
    /// Locks that it wants, in the order of taking, and how many it has.
    pub(crate) locks: Result<Vec<String>, String>,
    pub(crate) locks_held: usize,
    pub(crate) lock_wanted: bool,
    /// Whether it stands in the queue for it, as far as is known in memory.
    pub(crate) lock_queued: bool,
    /// Whether what follows cannot be written, so that nothing is asked for until a person decides.
    pub(crate) set_aside: bool,
    /// Why it compensates.
    pub(crate) reason: Option<Reason>,
    /// What went wrong first.
    pub error: Option<String>,
    /// What it answers.
    pub output: Option<Arc<Value>>,
    /// When it ended, or became stuck.
    pub ended_us: Option<i64>,
    input: minijinja::Value,
}

/// One step, or one item of a `for_each`, that began.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Where its action is; [`Cell::status`] tells of the undo too.
    pub(crate) action: StepStatus,
    /// Items of a `for_each`; `None` for what acts itself.
    pub items: Option<usize>,
    pub(crate) half: Half,
    /// Its answer.
    pub output: Option<Arc<Value>>,
    /// Its undo, once that began.
    pub undo: Option<UndoCell>,
    /// The action was done after its undo had begun without knowing.
    pub(crate) late: bool,
    /// A person has decided that its outcome stays unknown.
    pub(crate) given_up: bool,
    pub(crate) call: Option<Arc<Call>>,
}

/// The undo of a step.
#[derive(Clone, Debug)]
pub struct UndoCell {
    /// Whether it ended.
    pub ended: bool,
    /// Whether a person settled it.
    pub skipped: bool,
    pub(crate) outcome: Outcome,
    pub(crate) half: Half,
    pub(crate) call: Option<Arc<Call>>,
}

/// How far an action or an undo is with its attempts.
#[derive(Clone, Debug, Default)]
pub struct Half {
    /// Of the idempotency key.
    pub round: u32,
    /// The attempt that is under way or was the last.
    pub attempt: u32,
    /// Attempts over all rounds, with the one that is waited for.
    attempts: u32,
    /// When the attempt is due.
    pub(crate) due_us: i64,
    /// Until when something else is waited for: a callback, a signal, a time.
    pub(crate) until_us: Option<i64>,
    /// Whether something else is waited for.
    pub waits: bool,
    /// Whether a person must decide.
    pub stuck: bool,
    pub(crate) refused: bool,
    /// The last error.
    pub error: Option<String>,
    /// When it began.
    pub started_us: i64,
    /// When it ended.
    pub finished_us: Option<i64>,
}

impl Half {
    fn begin(&mut self, round: u32, at_us: i64) {
        if self.started_us == 0 {
            self.started_us = at_us;
        }
        self.round = round;
        self.attempt = 1;
        self.attempts += 1;
        self.due_us = at_us;
        (self.until_us, self.waits, self.stuck, self.refused) = (None, false, false, false);
        self.finished_us = None;
    }

    /// Attempts over all rounds that were made by `now_us`.
    #[must_use]
    pub fn attempts_at(&self, now_us: i64) -> u32 {
        self.attempts.saturating_sub(u32::from(self.due_us > now_us))
    }

    /// Whatever comes, the attempt that is waited for is not made.
    fn rest(&mut self, at_us: i64) {
        self.attempts = self.attempts_at(at_us);
        self.due_us = self.due_us.min(at_us);
    }

    fn end(&mut self, at_us: i64) {
        self.rest(at_us);
        self.finished_us = Some(at_us);
        (self.until_us, self.waits, self.stuck) = (None, false, false);
    }

    fn retry(&mut self, attempt: u32, error: &str, due_us: i64) {
        self.attempt = attempt;
        self.attempts += 1;
        self.error = Some(error.to_owned());
        self.due_us = due_us;
        (self.until_us, self.waits) = (None, false);
    }
}

impl Cell {
    fn new(at_us: i64) -> Cell {
        Cell {
            action: StepStatus::Acting,
            items: None,
            half: Half { round: 1, started_us: at_us, ..Half::default() },
            output: None,
            undo: None,
            late: false,
            given_up: false,
            call: None,
        }
    }

    /// Where the step is.
    #[must_use]
    pub fn status(&self) -> StepStatus {
        match &self.undo {
            Some(undo) if !undo.ended => StepStatus::Undoing,
            Some(_) => StepStatus::Undone,
            None => self.action,
        }
    }

    /// How far its action is.
    #[must_use]
    pub fn half(&self) -> &Half {
        &self.half
    }

    /// Whether its action was done, by a participant or by hand.
    pub(crate) fn counts_as_done(&self) -> bool {
        match self.action {
            StepStatus::Done => true,
            StepStatus::Skipped => self.output.is_some(),
            StepStatus::Unknown => self.late,
            _ => false,
        }
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.half.stuck || self.undo.as_ref().is_some_and(|undo| undo.half.stuck)
    }
}

impl UndoCell {
    /// How far it is.
    #[must_use]
    pub fn half(&self) -> &Half {
        &self.half
    }
}

impl State {
    /// A saga that has not begun.
    #[must_use]
    pub fn new(start: Start) -> State {
        let input = if needs_scope(&start.definition) {
            of_json(&start.input)
        } else {
            minijinja::Value::UNDEFINED
        };
        let mut state = State {
            start,
            status: Status::Running,
            was: Status::Running,
            cells: HashMap::new(),
            kept: VecDeque::new(),
            locks: Ok(Vec::new()),
            locks_held: 0,
            lock_wanted: false,
            lock_queued: false,
            set_aside: false,
            reason: None,
            error: None,
            output: None,
            ended_us: None,
            input,
        };
        state.locks = state.read_locks();
        state
    }

    /// A saga as its journal tells it.
    ///
    /// # Errors
    /// The journal is not one of this definition.
    pub fn of_journal<'j>(
        start: Start,
        journal: impl IntoIterator<Item = (i64, &'j Transition)>,
    ) -> Result<State, IllegalTransition> {
        let mut state = State::new(start);
        for (at_us, transition) in journal {
            state.apply(transition, at_us)?;
        }
        Ok(state)
    }

    fn read_locks(&self) -> Result<Vec<String>, String> {
        let scope = self.scope(None);
        let locks = self.start.definition.locks.iter();
        let text = |lock: &Template| {
            let lock = lock.text(&scope).map_err(|error| error.to_string())?;
            check_key(&lock).map_err(|error| format!("its name {error}"))?;
            Ok::<String, String>(lock)
        };
        let mut locks = locks.map(text).collect::<Result<Vec<_>, _>>()?;
        locks.sort_unstable();
        locks.dedup();
        Ok(locks)
    }

    /// When it must have ended by itself.
    #[must_use]
    pub fn deadline_us(&self) -> Option<i64> {
        let deadline = bus::Span(self.start.definition.deadline?).micros();
        Some(self.start.created_us.saturating_add(deadline))
    }

    /// Whether nothing is undone any more.
    #[must_use]
    pub fn is_past_point(&self) -> bool {
        self.point()
            .is_some_and(|cell| matches!(cell.action, StepStatus::Done | StepStatus::Skipped))
    }

    /// Whether the point of no return is under way, or its outcome is not known.
    pub(crate) fn is_at_point(&self) -> bool {
        self.point()
            .is_some_and(|cell| matches!(cell.action, StepStatus::Acting | StepStatus::Unknown))
    }

    fn point(&self) -> Option<&Cell> {
        let definition = &self.start.definition;
        let step = &definition.steps[definition.point_of_no_return()?];
        self.cells.get(step.name.as_str())
    }

    /// What the expressions of a step can read; `item` in a `for_each`.
    pub(crate) fn scope(&self, item: Option<(usize, &Value)>) -> Scope {
        let start = &self.start;
        let saga = minijinja::Value::from_pairs([
            ("id", start.id.as_str()),
            ("definition", start.definition.name.as_str()),
        ]);
        let env = start.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut steps: BTreeMap<&str, minijinja::Value> = BTreeMap::new();
        for step in &start.definition.steps {
            if let Some(cell) = self.cells.get(step.name.as_str()) {
                steps.insert(&step.name, readable(cell));
            }
        }
        let steps = minijinja::Value::from_pairs(steps);
        let mut scope = Scope::default()
            .with("input", self.input.clone())
            .with("saga", saga)
            .with("env", minijinja::Value::from_pairs(env))
            .with("steps", steps);
        if let Some((index, item)) = item {
            scope = scope.with("item", of_json(item)).with("index", index.into());
        }
        scope
    }

    /// The scope of an undo: the output of its own step is null when nobody knows what became of it.
    pub(crate) fn undo_scope(
        &self,
        step: &str,
        cell: &Cell,
        outcome: Outcome,
        item: Option<(usize, &Value)>,
    ) -> Scope {
        let own = match (outcome, &cell.output) {
            (Outcome::Done, Some(output)) => of_json(output),
            _ => Absent::value(),
        };
        let own = minijinja::Value::from_pairs([("output", own)]);
        let mut steps: BTreeMap<&str, minijinja::Value> = BTreeMap::new();
        for other in &self.start.definition.steps {
            if let Some(cell) = self.cells.get(other.name.as_str()) {
                steps.insert(&other.name, readable(cell));
            }
        }
        steps.insert(step, own);
        self.scope(item).with("steps", minijinja::Value::from_pairs(steps))
    }

    /// The place in the definition of a step or of an item of it, and the item's index.
    #[must_use]
    pub fn find(&self, step: &str) -> Option<(usize, Option<usize>)> {
        let definition = &self.start.definition;
        if let Some(at) = definition.step(step) {
            return Some((at, None));
        }
        let (name, index) = step.rsplit_once('.')?;
        let at = definition.step(name)?;
        Some((at, Some(index.parse().ok()?)))
    }

    fn cell(&mut self, step: &str) -> Option<&mut Cell> {
        self.cells.get_mut(step)
    }
}
/// A step as expressions see it.
fn readable(cell: &Cell) -> minijinja::Value {
    let output = match (&cell.output, cell.action) {
        (Some(output), _) => of_json(output),
        (None, StepStatus::Skipped) => Absent::value(),
        (None, _) => return minijinja::Value::from_pairs::<_, &str, &str>([]),
    };
    minijinja::Value::from_pairs([("output", output)])
}

fn needs_scope(definition: &Definition) -> bool {
    let methods = definition.steps.iter().all(|step| matches!(step.action, Action::Method));
    !methods || !definition.locks.is_empty() || definition.output.is_some()
}
