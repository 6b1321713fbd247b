//! What a saga is: steps with their undos, as data.
//!
//! `members` reads a document part by part and gathers every fault with its place → `read` makes a
//! [`Definition`] of it → `check` finds what is well written and still cannot work: a step that
//! reads one which may not have run, something that cannot be undone before something that can
//! refuse.

mod check;
mod members;
mod read;

pub use members::told;

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use schemas::{Faults, Pattern};
use serde_json::Value;

use crate::document::Node;
use crate::name::Name;
use crate::template::Template;

/// Steps of one definition at most.
pub const STEPS_MAX: usize = 500;
/// Items of one `for_each` at most.
pub const ITEMS_MAX: usize = 1_000;

/// A saga as it is written: a value that can be printed, drawn, checked and compared.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: Name,
    /// Which events start one.
    pub start: Option<Start>,
    /// How long it may run before it compensates.
    pub deadline: Option<Duration>,
    /// Semantic locks, held from its start to its end.
    pub locks: Vec<Template>,
    /// Whether its steps are events too.
    pub step_events: bool,
    /// Every step, in the order of writing.
    pub steps: Vec<Step>,
    /// How they follow each other.
    pub body: Vec<Part>,
    /// What the saga answers when it is completed.
    pub output: Option<Template>,
    document: Value,
}

/// How a saga starts from an event.
#[derive(Debug)]
pub struct Start {
    /// Which types.
    pub types: Pattern,
    /// The saga's id; it is prefixed with the definition's name. Without it, one made of the event.
    pub id: Option<Template>,
    /// Its input; the event's data without it.
    pub input: Option<Template>,
}

/// A part of a sequence.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// One step, by its place in [`Definition::steps`].
    Step(usize),
    /// Sequences that run at once.
    Together {
        /// Each of them.
        members: Vec<Vec<Part>>,
        /// How many at once.
        max_concurrent: Option<usize>,
    },
}

/// One step: an action and how it is undone.
#[derive(Debug)]
pub struct Step {
    /// Its name, unique in the definition.
    pub name: Name,
    /// Where it stands in the document.
    pub path: String,
    /// The line, 0 without a source.
    pub line: usize,
    /// Runs only if this holds.
    pub when: Option<Template>,
    /// Runs once for each of these.
    pub for_each: Option<ForEach>,
    /// What it does.
    pub action: Action,
    /// How it is undone.
    pub undo: Undo,
    /// How the action is tried.
    pub retry: Retry,
    /// What follows when no attempt had a clear answer.
    pub on_unknown: OnUnknown,
    /// How long a participant that answered `later` may take.
    pub callback_timeout: Duration,
    /// After it nothing is undone.
    pub point_of_no_return: bool,
}

/// A step for each of several items.
#[derive(Debug)]
pub struct ForEach {
    /// Gives the list.
    pub items: Template,
    /// How many at once; one after the other when absent.
    pub max_concurrent: Option<usize>,
}

/// What a step, an undo or a probe does.
#[derive(Debug)]
pub enum Action {
    /// Calls a URL.
    Http(HttpCall),
    /// Sends a command to a participant on NATS.
    Command(Command),
    /// Publishes an event.
    Publish(Publish),
    /// Waits for a signal.
    Signal {
        /// Its name.
        name: String,
        /// How long.
        timeout: Option<Duration>,
    },
    /// Waits for an event.
    Event(EventWait),
    /// Waits.
    Sleep(Template),
    /// Runs another saga to its end.
    Child(Child),
    /// Calls a method of this program.
    Method,
}

/// A call of a URL.
#[derive(Debug)]
pub struct HttpCall {
    /// How.
    pub method: Method,
    /// Where.
    pub url: Template,
    /// Headers beside those that every participant sees.
    pub headers: Vec<(String, Template)>,
    /// The JSON body.
    pub body: Option<Template>,
}

/// A command on NATS.
#[derive(Debug)]
pub struct Command {
    /// Who.
    pub participant: Name,
    /// The command's name; the step's when absent.
    pub alias: Option<Name>,
    /// The JSON body.
    pub body: Option<Template>,
}

/// An event to be published.
#[derive(Debug)]
pub struct Publish {
    /// Its type.
    pub kind: String,
    /// Its subject.
    pub subject: Option<Template>,
    /// Its data.
    pub body: Option<Template>,
}

/// A wait for an event with a key.
#[derive(Debug)]
pub struct EventWait {
    /// Which types.
    pub types: Pattern,
    /// The key that is waited for.
    pub key: Template,
    /// What the event's key is; `partitionkey`, else `subject`, when absent.
    pub of: Option<Template>,
    /// How long.
    pub timeout: Option<Duration>,
}

/// Another saga.
#[derive(Debug)]
pub struct Child {
    /// Of which definition.
    pub definition: Name,
    /// Its input.
    pub input: Option<Template>,
}

/// How a step is undone.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few, and nearly all are calls")]
pub enum Undo {
    /// By a call.
    Call {
        /// Which.
        action: Action,
        /// How it is tried; past its attempts the saga is stuck.
        retry: Retry,
    },
    /// It cannot be, for this reason.
    Never(String),
    /// There is nothing to undo: it only waits.
    Nothing,
}

/// How something is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts, the first included.
    pub attempts_max: u32,
    /// Wait after the first failure; each further one doubles it.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
}

impl Retry {
    /// Of actions: 8 attempts, 200 ms to 30 s apart, 10 s each.
    pub const ACTION: Retry = Retry {
        attempts_max: 8,
        backoff_min: Duration::from_millis(200),
        backoff_max: Duration::from_secs(30),
        timeout: Duration::from_secs(10),
    };
    /// Of undos: 20 attempts, 200 ms to 60 s apart, 10 s each.
    pub const UNDO: Retry =
        Retry { attempts_max: 20, backoff_max: Duration::from_secs(60), ..Retry::ACTION };

    /// The wait before the attempt after `attempt`, which counts from 1; ±20 % by `jitter`, from 0
    /// to 1, so that what failed together does not come back together.
    #[must_use]
    pub fn backoff(&self, attempt: u32, jitter: f64) -> Duration {
        let exact = self.backoff_min.as_secs_f64() * f64::from(attempt.min(40) - 1).exp2();
        let bounded = exact.min(self.backoff_max.as_secs_f64());
        Duration::from_secs_f64(bounded * (0.8 + 0.4 * jitter))
    }
}

/// What follows when the attempts of an action are used up without a clear answer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few")]
pub enum OnUnknown {
    /// It is undone too.
    Compensate,
    /// The participant is asked what became of it.
    Probe(Action),
    /// A person decides.
    Stuck,
}

impl Definition {
    /// Reads YAML.
    ///
    /// # Errors
    /// Everything that is wrong with it, with line and path.
    pub fn of_yaml(source: &str) -> Result<Definition, Faults> {
        Definition::of_node(&Node::of_yaml(source)?)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of_json(source: &str) -> Result<Definition, Faults> {
        Definition::of_node(&Node::of_json(source)?)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of_node(node: &Node) -> Result<Definition, Faults> {
        Definition::checked(node, |_, _| {})
    }

    /// Reads a document that has to please `more` too, which is given what could be read of it.
    ///
    /// # Errors
    /// Everything that is wrong with it, and what `more` adds, in the order of the lines.
    pub fn checked(
        node: &Node,
        more: impl FnOnce(&Definition, &mut Faults),
    ) -> Result<Definition, Faults> {
        let mut faults = Faults::default();
        let definition = read::definition(node, &mut faults);
        if let Some(definition) = &definition {
            check::check(definition, &mut faults);
            more(definition, &mut faults);
        }
        faults.0.sort_by_key(line_of);
        match definition {
            Some(definition) => faults.or(definition),
            None => Err(faults),
        }
    }

    /// As it was written, without lines.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// A step by its name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| *step.name == *name)
    }

    /// The variables of the environment that it reads.
    #[must_use]
    pub fn env(&self) -> BTreeSet<String> {
        let templates = check::templates(self);
        let references = templates.iter().flat_map(|(.., template)| template.references());
        references.flat_map(|references| references.env).collect()
    }

    /// Where templates stand that read `name` of the environment: path and line.
    #[must_use]
    pub fn env_read_at(&self, name: &str) -> Vec<(String, usize)> {
        let reads = |template: &Template| {
            template.references().iter().any(|found| found.env.iter().any(|env| env == name))
        };
        let templates = check::templates(self);
        templates
            .iter()
            .filter(|(.., template)| reads(template))
            .map(|(path, line, _)| (path.clone(), *line))
            .collect()
    }

    /// Every action, undo and probe: its step, where it stands and what it does.
    pub fn actions(&self) -> impl Iterator<Item = (&Step, String, &Action)> {
        let of = |step| Step::actions(step).map(move |(path, action)| (step, path, action));
        self.steps.iter().flat_map(of)
    }

    /// Whether a step waits for an event.
    #[must_use]
    pub fn waits_for_events(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Event(_)))
    }

    /// The step after which nothing is undone.
    #[must_use]
    pub fn point_of_no_return(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.point_of_no_return)
    }
}

impl Command {
    /// The subject that it is sent to, by the step called so.
    #[must_use]
    pub fn subject(&self, step: &Name) -> String {
        format!("commands.{}.{}", self.participant, self.alias.as_ref().unwrap_or(step))
    }
}

impl Step {
    /// Its action, its undo and its probe, and where each stands.
    pub fn actions(&self) -> impl Iterator<Item = (String, &Action)> {
        let at = |part: &str| format!("{}{part}", self.path);
        let undo = match &self.undo {
            Undo::Call { action, .. } => Some((at("/undo"), action)),
            Undo::Never(_) | Undo::Nothing => None,
        };
        let probe = match &self.on_unknown {
            OnUnknown::Probe(action) => Some((at("/on_unknown/probe"), action)),
            OnUnknown::Compensate | OnUnknown::Stuck => None,
        };
        std::iter::once((at(""), &self.action)).chain(undo).chain(probe)
    }

    /// Whether its action can be refused.
    #[must_use]
    pub fn can_refuse(&self) -> bool {
        match &self.action {
            Action::Http(_) | Action::Command(_) | Action::Child(_) | Action::Method => true,
            Action::Signal { timeout, .. } => timeout.is_some(),
            Action::Event(wait) => wait.timeout.is_some(),
            Action::Publish(_) | Action::Sleep(_) => false,
        }
    }
}

/// The line that a fault tells of, for their order.
fn line_of(fault: &schemas::Fault) -> usize {
    let number = fault.detail.strip_prefix("line ").and_then(|rest| rest.split(':').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
