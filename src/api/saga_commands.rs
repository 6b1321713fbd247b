//! What people and participants do to a saga that runs: cancel, retry, skip, signal, complete.

use axum::Extension;
use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::HeaderMap;
use bytes::Bytes;
use orchestrator::planner::{Command, Input};
use orchestrator::template::{InvalidValue, check_value};
use orchestrator::{Answer, InvalidName, Name};
use serde_json::Value;

use crate::api::State;
use crate::api::body::{Fields, read_json};
use crate::api::problem::Problem;
use crate::api::sagas::{SagaDetail, find};
use crate::keys::Principal;

type Answered = Result<Json<SagaDetail>, Problem>;

async fn take(state: &State, id: &str, input: Input) -> Answered {
    state.sagas.input(id, input).await?;
    Ok(Json(SagaDetail::from(find(state, id).await?)))
}

async fn command(state: &State, id: &str, command: Command, by: &Principal) -> Answered {
    take(state, id, Input::Operator { command, by: by.name.to_string() }).await
}

/// The reason of a body that must have one.
fn reason(fields: &mut Fields) -> String {
    let reason = fields.text("reason");
    if reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
        fields.fault("reason", "must not be empty");
    }
    fields.require("reason", reason).unwrap_or_default()
}

/// Cancel a saga
///
/// What was done is undone; it ends `cancelled`. Past the point of no return: 409.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/cancel", tag = "sagas", params(("id" = String, Path)),
    request_body = Value,
    responses((status = 200, description = "It compensates", body = SagaDetail), (status = 404), (status = 409))
)]
pub(crate) async fn cancel(
    Extract(state): Extract<State>,
    Extension(by): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let reason = fields.text("reason");
    fields.finish()?;
    command(&state, &id, Command::Cancel { reason }, &by).await
}

/// Retry a saga
///
/// What is stuck is tried again now, and so is what waits for its next attempt.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/retry", tag = "sagas", params(("id" = String, Path)),
    request_body = Value,
    responses((status = 200, description = "It goes on", body = SagaDetail), (status = 404), (status = 409))
)]
pub(crate) async fn retry(
    Extract(state): Extract<State>,
    Extension(by): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let reason = fields.text("reason");
    fields.finish()?;
    command(&state, &id, Command::Retry { reason }, &by).await
}

/// Skip a step
///
/// A person settles the step, or its undo, by hand; with an output it counts as done with it.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/skip", tag = "sagas", params(("id" = String, Path)),
    request_body = Value,
    responses((status = 200, description = "It goes on", body = SagaDetail), (status = 404), (status = 409), (status = 422))
)]
pub(crate) async fn skip(
    Extract(state): Extract<State>,
    Extension(by): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let step = fields.text("step");
    let step = fields.require("step", step).unwrap_or_default();
    let output = fields.value("output").map(sized).transpose()?;
    let reason = reason(&mut fields);
    fields.finish()?;
    command(&state, &id, Command::Skip { step, output, reason }, &by).await
}

/// Compensate a saga
///
/// As `cancel`, with a reason; it ends `compensated`.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/compensate", tag = "sagas", params(("id" = String, Path)),
    request_body = Value,
    responses((status = 200, description = "It compensates", body = SagaDetail), (status = 404), (status = 409), (status = 422))
)]
pub(crate) async fn compensate(
    Extract(state): Extract<State>,
    Extension(by): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let reason = reason(&mut fields);
    fields.finish()?;
    command(&state, &id, Command::Compensate { reason }, &by).await
}

/// Abandon a saga
///
/// Only one that is stuck. What is done stays done, what is undone stays undone.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/abandon", tag = "sagas", params(("id" = String, Path)),
    request_body = Value,
    responses((status = 200, description = "It has ended", body = SagaDetail), (status = 404), (status = 409), (status = 422))
)]
pub(crate) async fn abandon(
    Extract(state): Extract<State>,
    Extension(by): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let reason = reason(&mut fields);
    fields.finish()?;
    command(&state, &id, Command::Abandon { reason }, &by).await
}

/// Send a signal
///
/// The body is what the waiting step answers with. A signal that comes early is kept.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/signals/{name}", tag = "sagas",
    params(("id" = String, Path), ("name" = String, Path)), request_body = Value,
    responses((status = 200, description = "Taken, or kept", body = SagaDetail), (status = 404), (status = 409))
)]
pub(crate) async fn signal(
    Extract(state): Extract<State>,
    Path((id, name)): Path<(String, String)>,
    body: Bytes,
) -> Answered {
    let name: Name = name
        .parse()
        .map_err(|error: InvalidName| Problem::fault("", format!("the signal's name: {error}")))?;
    let body = json(&body)?;
    take(&state, &id, Input::Signal { name: name.to_string(), body }).await
}

/// Complete a step
///
/// The answer of a participant that said `later`.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/steps/{step}/complete", tag = "sagas",
    params(("id" = String, Path), ("step" = String, Path)), request_body = Value,
    responses((status = 200, description = "Taken, or settled already", body = SagaDetail), (status = 404), (status = 409))
)]
pub(crate) async fn complete(
    Extract(state): Extract<State>,
    Path((id, step)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let output = sized(fields.value("output").unwrap_or_default())?;
    fields.finish()?;
    take(&state, &id, Input::Callback { step, answer: Answer::Done(output) }).await
}

/// Refuse a step
///
/// The refusal of a participant that said `later`.
#[utoipa::path(
    post, path = "/v1/sagas/{id}/steps/{step}/refuse", tag = "sagas",
    params(("id" = String, Path), ("step" = String, Path)), request_body = Value,
    responses((status = 200, description = "Taken, or settled already", body = SagaDetail), (status = 404), (status = 409))
)]
pub(crate) async fn refuse(
    Extract(state): Extract<State>,
    Path((id, step)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let mut fields = Fields::of_body(&headers, &body)?;
    let error = match fields.value("error") {
        None => "refused".to_owned(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    };
    fields.finish()?;
    take(&state, &id, Input::Callback { step, answer: Answer::Refused(error) }).await
}

/// A body of any JSON; none is an empty object.
fn json(body: &Bytes) -> Result<Value, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    sized(read_json(body)?)
}

/// What a step is to answer with.
fn sized(value: Value) -> Result<Value, Problem> {
    match check_value(&value) {
        Ok(()) => Ok(value),
        Err(error @ InvalidValue::TooLarge) => Err(Problem::too_large(format!("it {error}"))),
        Err(error @ InvalidValue::TooDeep) => Err(Problem::fault("", error.to_string())),
    }
}
