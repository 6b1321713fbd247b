//! Fills in the expressions of a step: what its action, its undo or its probe is to do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::definition::{Action, OnUnknown, Retry, Step, Undo};
use crate::key::check_key;
use crate::publication;
use crate::request::Call;
use crate::state::{State, StepStatus};
use crate::template::{Scope, Template};
use crate::transition::{Operation, Outcome};

/// How a half of a step is tried.
pub(super) fn retry_of(step: &Step, operation: Operation) -> &Retry {
    match (operation, &step.undo) {
        (Operation::Compensation, Undo::Call { retry, .. }) => retry,
        _ => &step.retry,
    }
}

/// Whether an operation of a step runs another saga.
pub(super) fn is_child(step: &Step, operation: Operation) -> bool {
    match (operation, &step.undo) {
        (Operation::Compensation, Undo::Call { action, .. }) => matches!(action, Action::Child(_)),
        _ => matches!(step.action, Action::Child(_)),
    }
}

/// What an operation of a step is to do.
///
/// # Errors
/// Which expression gives nothing, and why.
pub(super) fn call_of(state: &State, name: &str, operation: Operation) -> Result<Call, String> {
    let (at, index) = state.find(name).ok_or_else(|| format!("there is no step `{name}`"))?;
    let step = &state.start.definition.steps[at];
    let item = match index {
        Some(index) => Some((index, item(state, step, index)?)),
        None => None,
    };
    let item = item.as_ref().map(|(index, item)| (*index, item));
    let action = match (operation, &step.undo, &step.on_unknown) {
        (Operation::Action, ..) => &step.action,
        (Operation::Compensation, Undo::Call { action, .. }, _) => action,
        (Operation::Probe, _, OnUnknown::Probe(action)) => action,
        _ => return Err(format!("the step `{name}` has none")),
    };
    let cell = state.cells.get(name);
    if let Action::Method = action {
        let receipt = cell.filter(|_| operation == Operation::Compensation);
        let receipt = receipt.and_then(|cell| cell.output.clone());
        return Ok(Call::Method { input: Arc::clone(&state.start.input), receipt });
    }
    let scope = match (operation, cell) {
        (Operation::Compensation, Some(cell)) => {
            let known = cell.action != StepStatus::Unknown || cell.late;
            let outcome = if known { Outcome::Done } else { Outcome::Unknown };
            state.undo_scope(&step.name, cell, outcome, item)
        }
        _ => state.scope(item),
    };
    let call = fill(step, action, &scope)?;
    check(&state.start.id, &call)?;
    Ok(call)
}

/// What no transaction could write is not begun: it would hold up all sagas of the node.
fn check(saga: &str, call: &Call) -> Result<(), String> {
    match call {
        Call::Publish { kind, subject, body } => {
            publication::check(saga, kind, subject.as_deref(), body.as_ref())
        }
        Call::Event(key) => {
            check_key(key).map_err(|error| format!("the `key` of `wait_for` {error}"))
        }
        _ => Ok(()),
    }
}

fn fill(step: &Step, action: &Action, scope: &Scope) -> Result<Call, String> {
    let text = |template: &Template| template.text(scope).map_err(|error| error.to_string());
    let body = |template: &Option<Template>| {
        let rendered = template.as_ref().map(|template| template.render(scope));
        rendered.transpose().map_err(|error| error.to_string())
    };
    Ok(match action {
        Action::Http(call) => {
            let mut headers = Vec::with_capacity(call.headers.len());
            for (name, value) in &call.headers {
                headers.push((name.clone(), text(value)?));
            }
            let (method, url) = (call.method.clone(), text(&call.url)?);
            Call::Http { method, url, headers, body: body(&call.body)? }
        }
        Action::Command(command) => Call::Command {
            participant: command.participant.to_string(),
            subject: command.subject(&step.name),
            body: body(&command.body)?,
        },
        Action::Publish(publish) => Call::Publish {
            kind: publish.kind.clone(),
            subject: publish.subject.as_ref().map(text).transpose()?,
            body: body(&publish.body)?,
        },
        Action::Signal { name, .. } => Call::Signal(name.clone()),
        Action::Event(wait) => Call::Event(text(&wait.key)?),
        Action::Sleep(template) => Call::Sleep(duration(&text(template)?)?),
        Action::Child(child) => Call::Child {
            definition: child.definition.to_string(),
            input: body(&child.input)?.unwrap_or(Value::Null),
        },
        Action::Method => return Err("a method has no expressions".to_owned()),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<bus::Span>().map(|span| span.0).map_err(|error| error.to_string())
}

/// The items of a `for_each`.
pub(super) fn items(state: &State, step: &Step) -> Result<Vec<Value>, String> {
    let Some(each) = &step.for_each else { return Ok(Vec::new()) };
    match each.items.render(&state.scope(None)).map_err(|error| error.to_string())? {
        Value::Array(items) if items.len() <= crate::definition::ITEMS_MAX => Ok(items),
        Value::Array(items) => Err(format!(
            "`for_each` gives {} items, at most {} are allowed",
            items.len(),
            crate::definition::ITEMS_MAX
        )),
        _ => Err("`for_each` must give a list".to_owned()),
    }
}

fn item(state: &State, step: &Step, index: usize) -> Result<Value, String> {
    let items = items(state, step)?;
    items.into_iter().nth(index).ok_or_else(|| format!("there is no item {index}"))
}
