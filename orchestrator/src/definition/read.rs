//! Makes a definition of a document.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use schemas::{EventType, Faults, Pattern};

use super::members::{Members, template, told};
use super::{
    Action, Child, Command, Definition, EventWait, ForEach, HttpCall, OnUnknown, Part, Publish,
    Retry, STEPS_MAX, Start, Step, Undo,
};
use crate::document::{Node, Tree};
use crate::name::Name;
use crate::template::Template;

/// Longest deadline of one attempt.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// How long a participant that answered `later` may take, where the step does not say.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const KINDS: [&str; 11] = [
    "post", "put", "patch", "delete", "get", "command", "publish", "wait_for", "sleep", "saga",
    "method",
];
const RESERVED: [&str; 2] = ["definitions", "wait"];

/// What an action stands for, since not every kind can undo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Step,
    Undo,
    Probe,
}

pub(super) fn definition(node: &Node, faults: &mut Faults) -> Option<Definition> {
    let mut members = Members::of(node, "", faults)?;
    let name: Option<Name> = members.parsed("saga", faults);
    if name.is_none() && faults.is_empty() {
        members.fault(faults, "`saga` is missing: the name of the definition");
    }
    if let Some(name) = name.as_ref().filter(|name| RESERVED.contains(&name.as_str())) {
        told(faults, "/saga", node.line, &format!("`{name}` is reserved"));
    }
    let start = start(&mut members, faults);
    let deadline = members.duration("deadline", faults);
    let mut locks = Vec::new();
    if let Some(items) = members.list("lock", faults) {
        for (at, item) in items.iter().enumerate() {
            locks.extend(template(item, &format!("/lock/{at}"), faults));
        }
    }
    let line = members.line_of("events");
    let step_events = match members.text("events", faults) {
        None | Some("sagas") => false,
        Some("steps") => true,
        Some(_) => {
            told(faults, "/events", line, "must be `sagas` or `steps`");
            false
        }
    };
    let mut reader = Reader { steps: Vec::new(), names: HashMap::new(), faults };
    let steps = members.take("steps");
    let body = match steps.map(|node| (&node.tree, node)) {
        Some((Tree::List(items), _)) if !items.is_empty() => reader.sequence(items, "/steps"),
        Some((_, node)) => {
            told(reader.faults, "/steps", node.line, "must be a list with at least one step");
            Vec::new()
        }
        None => {
            members.fault(reader.faults, "`steps` is missing: the list of steps");
            Vec::new()
        }
    };
    let steps = reader.steps;
    if steps.len() > STEPS_MAX {
        members.fault(faults, &format!("there may be at most {STEPS_MAX} steps"));
    }
    let output = members.template("output", faults);
    members.finish(faults);
    Some(Definition {
        name: name?,
        start,
        deadline,
        locks,
        step_events,
        steps,
        body,
        output,
        document: node.to_json(),
    })
}

fn start(members: &mut Members<'_>, faults: &mut Faults) -> Option<Start> {
    let types: Option<Pattern> = members.parsed("start_on", faults);
    let alone = |faults: &mut Faults, members: &Members<'_>, name: &str| {
        if types.is_none() && members.has(name) {
            let line = members.line_of(name);
            let detail = format!("`{name}` is made of the event: it needs `start_on`");
            told(faults, &members.at(name), line, &detail);
        }
    };
    alone(faults, members, "id");
    alone(faults, members, "input");
    let (id, input) = (members.template("id", faults), members.template("input", faults));
    Some(Start { types: types?, id, input })
}

struct Reader<'f> {
    steps: Vec<Step>,
    /// Names of steps, those at fault too, and their lines.
    names: HashMap<Name, usize>,
    faults: &'f mut Faults,
}

impl Reader<'_> {
    fn sequence(&mut self, items: &[Node], path: &str) -> Vec<Part> {
        let each = |(at, item): (usize, &Node)| self.part(item, &format!("{path}/{at}"));
        items.iter().enumerate().filter_map(each).collect()
    }

    fn part(&mut self, node: &Node, path: &str) -> Option<Part> {
        let members = Members::of(node, path, self.faults)?;
        if members.has("together") { self.together(members) } else { self.step(members) }
    }

    fn together(&mut self, mut members: Members<'_>) -> Option<Part> {
        let path = members.at("together");
        let items = members.list("together", self.faults)?;
        let max_concurrent = members.count("max_concurrent", 1_000, self.faults);
        members.finish(self.faults);
        let mut found = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let path = format!("{path}/{at}");
            match &item.tree {
                Tree::List(steps) => found.push(self.sequence(steps, &path)),
                _ => found.extend(self.part(item, &path).map(|part| vec![part])),
            }
        }
        let max_concurrent = max_concurrent.map(|n| n as usize);
        Some(Part::Together { members: found, max_concurrent })
    }

    fn step(&mut self, mut members: Members<'_>) -> Option<Part> {
        let faults = &mut *self.faults;
        let (path, line) = (members.path.clone(), members.line);
        let name: Option<Name> = if members.has("step") {
            members.parsed("step", faults)
        } else {
            members.fault(faults, "`step` is missing: the name of the step (or `together`)");
            members.take("step");
            None
        };
        if let Some(name) = &name
            && let Some(first) = self.names.insert(name.clone(), line)
        {
            let known = if first == 0 { String::new() } else { format!(", first on line {first}") };
            let detail = format!("the name `{name}` is there twice{known}");
            told(faults, &format!("{path}/step"), line, &detail);
        }
        let when = members.template("when", faults);
        let items = members.template("for_each", faults);
        let line_of_limit = members.line_of("max_concurrent");
        let max_concurrent = members.count("max_concurrent", 1_000, faults).map(|n| n as usize);
        if items.is_none() && max_concurrent.is_some() {
            let detail = "`max_concurrent` belongs to `for_each` or `together`";
            told(faults, &members.at("max_concurrent"), line_of_limit, detail);
        }
        let for_each = items.map(|items| ForEach { items, max_concurrent });
        let action = action(&mut members, Place::Step, faults);
        let retry = retry(&mut members, &Retry::ACTION, faults);
        let callback_timeout = members.duration("callback_timeout", faults);
        let point_of_no_return = members.flag("point_of_no_return", faults);
        let undo = undo(&mut members, action.as_ref(), faults);
        let on_unknown =
            on_unknown(&mut members, action.as_ref(), &undo, point_of_no_return, faults);
        members.finish(faults);
        let step = Step {
            name: name?,
            path,
            line,
            when,
            for_each,
            action: action?,
            undo,
            retry,
            on_unknown,
            callback_timeout: callback_timeout.unwrap_or(CALLBACK_TIMEOUT),
            point_of_no_return,
        };
        self.steps.push(step);
        Some(Part::Step(self.steps.len() - 1))
    }
}

fn action(members: &mut Members<'_>, place: Place, faults: &mut Faults) -> Option<Action> {
    let kinds: Vec<&'static str> = KINDS.into_iter().filter(|kind| members.has(kind)).collect();
    members.knows(&KINDS);
    let [kind] = kinds[..] else {
        let detail = if kinds.is_empty() {
            format!("says nothing to do: one of {} is missing", KINDS.join(", "))
        } else {
            format!("does several things at once: {}", kinds.join(", "))
        };
        members.fault(faults, &detail);
        for kind in kinds {
            members.take(kind);
        }
        return None;
    };
    let line = members.line_of(kind);
    let waits = matches!(kind, "wait_for" | "sleep");
    if (place == Place::Undo && waits)
        || (place == Place::Probe && (waits || matches!(kind, "publish" | "saga" | "method")))
    {
        told(faults, &members.at(kind), line, &format!("`{kind}` cannot stand here"));
        members.take(kind);
        return None;
    }
    Some(match kind {
        "command" => Action::Command(Command {
            participant: members.parsed("command", faults)?,
            alias: members.parsed("as", faults),
            body: members.template("body", faults),
        }),
        "publish" => {
            let kind: EventType = members.parsed("publish", faults)?;
            if kind.as_str().starts_with("dev.skald.") {
                let detail = "types under `dev.skald.` are Skald's own";
                told(faults, &members.at("publish"), line, detail);
            }
            let subject = members.template("subject", faults);
            let body = members.template("body", faults);
            Action::Publish(Publish { kind: kind.as_str().to_owned(), subject, body })
        }
        "wait_for" => wait_for(members, faults)?,
        "sleep" => {
            let template = members.template("sleep", faults)?;
            if let Some(constant) = template.constant()
                && let Err(error) = constant.as_str().unwrap_or_default().parse::<bus::Span>()
            {
                told(faults, &members.at("sleep"), line, &error.to_string());
            }
            Action::Sleep(template)
        }
        "saga" => Action::Child(Child {
            definition: members.parsed("saga", faults)?,
            input: members.template("input", faults),
        }),
        "method" => {
            members.flag("method", faults);
            Action::Method
        }
        verb => {
            let url = members.template(verb, faults);
            let headers = headers(members, faults);
            let body = members.template("body", faults);
            let method = match verb {
                "put" => Method::PUT,
                "patch" => Method::PATCH,
                "delete" => Method::DELETE,
                "get" => Method::GET,
                _ => Method::POST,
            };
            let url = url?;
            if let Template::Constant(value) = &url {
                let text = value.as_str().unwrap_or_default();
                if !text.starts_with("http://") && !text.starts_with("https://") {
                    let detail = "must be a URL that begins with http:// or https://";
                    told(faults, &members.at(verb), line, detail);
                }
            }
            Action::Http(HttpCall { method, url, headers, body })
        }
    })
}

fn headers(members: &mut Members<'_>, faults: &mut Faults) -> Vec<(String, Template)> {
    let path = members.at("headers");
    let Some(node) = members.take("headers") else { return Vec::new() };
    let Tree::Map(entries) = &node.tree else {
        told(faults, &path, node.line, "must be a mapping of names to values");
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in entries {
        let path = format!("{path}/{}", crate::document::escape(name));
        let own = name.to_ascii_lowercase();
        if own.parse::<HeaderName>().is_err() {
            told(faults, &path, value.line, "is no name of a header");
        } else if own.starts_with("skald-") || own == "idempotency-key" {
            told(faults, &path, value.line, "is set by Skald");
        } else if egress::is_reserved_header(&own) {
            told(faults, &path, value.line, "is reserved");
        } else if let Some(text) = template(value, &path, faults) {
            let constant = text.constant().and_then(serde_json::Value::as_str);
            if constant.is_some_and(|value| HeaderValue::from_str(value).is_err()) {
                told(faults, &path, value.line, "is no value of a header");
            }
            found.push((own, text));
        }
    }
    found
}

fn wait_for(members: &mut Members<'_>, faults: &mut Faults) -> Option<Action> {
    let path = members.at("wait_for");
    let node = members.take("wait_for")?;
    let mut inner = Members::of(node, &path, faults)?;
    let timeout = inner.duration("timeout", faults);
    let action = match (inner.has("signal"), inner.has("event")) {
        (true, false) => {
            let name: Option<Name> = inner.parsed("signal", faults);
            name.map(|name| Action::Signal { name: name.to_string(), timeout })
        }
        (false, true) => {
            let types: Option<Pattern> = inner.parsed("event", faults);
            let key = inner.template("key", faults);
            if key.is_none() {
                inner.fault(faults, "`key` is missing: which event is meant");
            }
            let of = inner.template("of", faults);
            types.zip(key).map(|(types, key)| Action::Event(EventWait { types, key, of, timeout }))
        }
        _ => {
            inner.fault(faults, "must name one of `signal` and `event`");
            inner.take("signal");
            inner.take("event");
            None
        }
    };
    inner.finish(faults);
    action
}

fn retry(members: &mut Members<'_>, default: &Retry, faults: &mut Faults) -> Retry {
    let mut found = default.clone();
    let line = members.line_of("timeout");
    if let Some(timeout) = members.duration("timeout", faults) {
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            told(faults, &members.at("timeout"), line, "must be from 1ms to 10m");
        }
        found.timeout = timeout;
    }
    let path = members.at("retry");
    let Some(mut inner) = members.take("retry").and_then(|node| Members::of(node, &path, faults))
    else {
        return found;
    };
    attempts(&mut inner, &mut found, faults);
    inner.finish(faults);
    found
}

fn attempts(members: &mut Members<'_>, found: &mut Retry, faults: &mut Faults) {
    found.attempts_max = members.count("attempts_max", 100, faults).unwrap_or(found.attempts_max);
    let least = members.duration("backoff_min", faults);
    let most = members.duration("backoff_max", faults);
    found.backoff_min = least.unwrap_or(found.backoff_min);
    found.backoff_max = most.unwrap_or(found.backoff_max.max(found.backoff_min));
    if found.backoff_min > found.backoff_max {
        members.fault(faults, "`backoff_min` must not exceed `backoff_max`");
    }
}

fn undo(members: &mut Members<'_>, action: Option<&Action>, faults: &mut Faults) -> Undo {
    let waits = matches!(action, Some(Action::Signal { .. } | Action::Event(_) | Action::Sleep(_)));
    if members.has("undo") && members.has("no_undo") {
        members.fault(faults, "has both `undo` and `no_undo`");
    }
    let path = members.at("undo");
    let never = members.text("no_undo", faults);
    if let Some(node) = members.take("undo") {
        if matches!(action, Some(Action::Method)) && matches!(node.tree, Tree::Plain(_)) {
            return Undo::Call { action: Action::Method, retry: Retry::UNDO };
        }
        let Some(mut inner) = Members::of(node, &path, faults) else { return Undo::Nothing };
        if waits {
            inner.fault(faults, "a step that only waits has nothing to undo");
        }
        let action = self::action(&mut inner, Place::Undo, faults);
        let mut retry = retry(&mut inner, &Retry::UNDO, faults);
        attempts(&mut inner, &mut retry, faults);
        inner.finish(faults);
        return action.map_or(Undo::Nothing, |action| Undo::Call { action, retry });
    }
    match (never, waits) {
        (Some(reason), _) => Undo::Never(reason.to_owned()),
        (None, true) => Undo::Nothing,
        (None, false) => {
            if action.is_some() {
                members.fault(
                    faults,
                    "`undo` is missing; or say why there is none: `no_undo: <reason>`",
                );
            }
            Undo::Nothing
        }
    }
}

fn on_unknown(
    members: &mut Members<'_>,
    action: Option<&Action>,
    undo: &Undo,
    point_of_no_return: bool,
    faults: &mut Faults,
) -> OnUnknown {
    let remote = matches!(action, Some(Action::Http(_) | Action::Command(_) | Action::Child(_)));
    let default = if remote && matches!(undo, Undo::Call { .. }) && !point_of_no_return {
        OnUnknown::Compensate
    } else {
        OnUnknown::Stuck
    };
    let path = members.at("on_unknown");
    let Some(node) = members.take("on_unknown") else { return default };
    match &node.tree {
        Tree::Text(word) if word == "stuck" => OnUnknown::Stuck,
        Tree::Text(word) if word == "compensate" => {
            if !matches!(undo, Undo::Call { .. }) {
                told(faults, &path, node.line, "`compensate` needs an `undo`");
            } else if !remote {
                let detail =
                    "`compensate` needs a participant that can be undone without its output";
                told(faults, &path, node.line, detail);
            }
            OnUnknown::Compensate
        }
        Tree::Map(entries) if entries.len() == 1 && entries[0].0 == "probe" => {
            let path = format!("{path}/probe");
            let Some(mut inner) = Members::of(&entries[0].1, &path, faults) else { return default };
            let action = self::action(&mut inner, Place::Probe, faults);
            inner.finish(faults);
            action.map_or(default, OnUnknown::Probe)
        }
        _ => {
            told(faults, &path, node.line, "must be `compensate`, `stuck` or `{probe: {post: …}}`");
            default
        }
    }
}
