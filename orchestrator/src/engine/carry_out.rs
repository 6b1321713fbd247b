//! Carries out what sagas ask for, each request in a task of its own: a lock, a child, a participant.

use serde_json::Value;

use super::{Engine, Message, NewSaga};
use crate::fingerprint::fingerprint;
use crate::lock;
use crate::planner::Input;
use crate::request::{Answer, Call, Request, RequestId};
use crate::state::{State, Status};
use crate::store::SagaRow;
use crate::transition::Operation;

/// Carries out one request in a task of its own; the answer comes back as an input.
pub(super) fn carry_out(engine: Engine, row: SagaRow, request: Request) {
    let fence = engine.fence(&row.id);
    tokio::spawn(async move {
        let id = request.id();
        let shared = engine.shared();
        let now_s = shared.db.clock().now().as_micros() / 1_000_000;
        let input = match request.call.as_ref() {
            Call::Lock(name) => match lock::take(&shared.db, name, &row.id).await {
                Ok(true) => Input::Locked { lock: name.clone() },
                // It stands in the queue, and need not stay in memory for that.
                Ok(false) => Input::Answer { request: id, answer: Answer::Later },
                Err(error) => {
                    tracing::warn!(%error, lock = name, "taking a lock");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    // Asked for again, since nothing has answered it.
                    Input::Answer { request: id, answer: Answer::unclear(error.to_string()) }
                }
            },
            Call::Unfilled(error) => {
                Input::Answer { request: id, answer: Answer::Unfilled(error.clone()) }
            }
            Call::Child { definition, input } => {
                let answer = run_child(&engine, &row, &request, definition, input).await;
                Input::Answer { request: id, answer }
            }
            _ => {
                let started = std::time::Instant::now();
                let answer = shared.participants.carry_out(&row, &request, now_s).await;
                crate::metrics::step(&row.definition, &request, started.elapsed());
                let Some(answer) = answer else { return };
                Input::Answer { request: id, answer }
            }
        };
        let message = Message::Input { saga: row.id, input, reply: None, asked_under: fence };
        let _ = shared.inbox.send(message).await; // The engine may have stopped.
    });
}

/// Starts a child, once; its end comes as an input of its parent.
async fn run_child(
    engine: &Engine,
    row: &SagaRow,
    request: &Request,
    definition: &str,
    input: &Value,
) -> Answer {
    let new = NewSaga {
        definition: definition.to_owned(),
        id: Some(child_id(&row.id, &request.id())),
        input: input.clone(),
        by: format!("saga:{}", row.id),
        parent: Some((row.id.clone(), request.id())),
        traceparent: row.traceparent.clone(),
    };
    match engine.start(new).await {
        Ok((child, false)) if child.status.is_ended() => match engine.read(&child.id).await {
            Ok(Some(told)) => answer_of(&told.state),
            Ok(None) => Answer::unclear("the child is gone"),
            Err(error) => Answer::unclear(error.to_string()),
        },
        Ok(_) => Answer::Later,
        Err(error) => Answer::unclear(error.to_string()),
    }
}

/// The id of a child: the parent's, the step and what else tells the request from others.
pub(super) fn child_id(parent: &str, request: &RequestId) -> String {
    let step = &request.step;
    let id = match (request.operation, request.round) {
        (Operation::Action, 1) => format!("{parent}:{step}"),
        (operation, round) => format!("{parent}:{step}:{}:{round}", operation.as_str()),
    };
    if id.len() <= crate::name::NAME_BYTES_MAX {
        return id;
    }
    format!("child:{:016x}{:016x}", fingerprint(&id, 0), fingerprint(&id, 1))
}

pub(super) fn answer_of(state: &State) -> Answer {
    let error = || state.error.clone().unwrap_or_else(|| state.status.as_str().to_owned());
    match state.status {
        Status::Completed => {
            Answer::Done(state.output.as_ref().map_or(Value::Null, |o| (**o).clone()))
        }
        Status::Compensated | Status::Cancelled => Answer::Refused(error()),
        Status::Abandoned | Status::Running | Status::Compensating | Status::Stuck => {
            Answer::unclear(format!("the child is {}", state.status.as_str()))
        }
    }
}
