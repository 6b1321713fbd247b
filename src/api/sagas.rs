//! `/v1/sagas`: started, shown, listed, waited for.

use std::collections::HashSet;
use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use bus::Span;
use bus::work::WorkId;
use bytes::Bytes;
use orchestrator::store::{self, SagaRow, Wanted};
use orchestrator::{Cell, Half, NewSaga, State as Saga, Status, StepStatus, Told};
use schemas::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::{Fields, without_nul};
use crate::api::deliveries::PREFIX as DELIVERY;
use crate::api::leases::WAIT_MAX;
use crate::api::listing::{Items, Limit, cursor};
use crate::api::problem::Problem;
use crate::keys::Principal;

/// Most ids of one wait.
const WAITED_MAX: usize = 1_000;
/// Longest wait of `POST /v1/wait` and `?wait=`.
const SAGA_WAIT_MAX: Span = Span(WAIT_MAX);

/// A saga in a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct SagaBody {
    pub(crate) id: String,
    pub(crate) definition: String,
    pub(crate) version: i64,
    /// `running`, `compensating`, `completed`, `compensated`, `cancelled`, `stuck` or `abandoned`.
    #[schema(value_type = String)]
    pub(crate) status: Status,
    input: Value,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    created_by: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    /// The saga that runs it as a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// The id of the event that it came of.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

impl From<SagaRow> for SagaBody {
    fn from(row: SagaRow) -> SagaBody {
        SagaBody {
            id: row.id,
            definition: row.definition,
            version: row.version,
            status: row.status,
            input: serde_json::from_str(&row.input).unwrap_or_default(),
            created_at: Timestamp::from_micros(row.created_us),
            created_by: row.created_by,
            ended_at: row.ended_us.map(Timestamp::from_micros),
            parent: row.parent.map(|(parent, _)| parent),
            cause: row.cause.map(|(cause, _)| cause),
        }
    }
}

/// A saga with its steps.
#[derive(Serialize, ToSchema)]
pub(crate) struct SagaDetail {
    #[serde(flatten)]
    saga: SagaBody,
    output: Option<Value>,
    /// What went wrong first.
    error: Option<String>,
    steps: Vec<StepBody>,
}

/// A step of a saga.
#[derive(Serialize, ToSchema)]
struct StepBody {
    /// In a `for_each` with `.` and the index.
    name: String,
    /// `waiting`, `acting`, `done`, `refused`, `unknown`, `skipped`, `undoing` or `undone`.
    #[schema(value_type = String)]
    status: StepStatus,
    attempts: u32,
    output: Option<Value>,
    error: Option<String>,
    /// Whether a person must decide.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stuck: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    compensation: Option<CompensationBody>,
}

/// The undo of a step.
#[derive(Serialize, ToSchema)]
struct CompensationBody {
    /// `undoing`, `undone`, `skipped` or `stuck`.
    status: &'static str,
    attempts: u32,
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl From<Told> for SagaDetail {
    fn from(told: Told) -> SagaDetail {
        let state = &told.state;
        let mut steps = Vec::new();
        for step in &state.start.definition.steps {
            let cell = state.cells.get(step.name.as_str());
            steps.push(step_body(step.name.to_string(), cell, &told));
            for index in 0..cell.and_then(|cell| cell.items).unwrap_or(0) {
                let name = format!("{}.{index}", step.name);
                let cell = state.cells.get(&name);
                steps.push(step_body(name, cell, &told));
            }
        }
        SagaDetail {
            output: state.output.as_ref().map(|output| (**output).clone()),
            error: state.error.clone(),
            steps,
            // The journal tells more than the row, which may have moved on since it was read.
            saga: SagaBody { status: state.status, ..SagaBody::from(told.row) },
        }
    }
}

fn step_body(name: String, cell: Option<&Cell>, told: &Told) -> StepBody {
    let Some(cell) = cell else {
        return StepBody {
            name,
            status: StepStatus::Waiting,
            attempts: 0,
            output: None,
            error: None,
            stuck: false,
            started_at: None,
            finished_at: None,
            compensation: None,
        };
    };
    let half = cell.half();
    let status =
        if cell.items.is_some() { of_items(&name, cell, &told.state) } else { cell.status() };
    StepBody {
        status,
        attempts: half.attempts_at(told.read_us),
        output: cell.output.as_ref().map(|output| (**output).clone()),
        error: half.error.clone(),
        stuck: half.stuck,
        started_at: Some(Timestamp::from_micros(half.started_us)),
        finished_at: half.finished_us.map(Timestamp::from_micros),
        compensation: cell.undo.as_ref().map(|undo| {
            let half: &Half = undo.half();
            CompensationBody {
                status: match (undo.skipped, undo.ended, half.stuck) {
                    (true, ..) => "skipped",
                    (_, true, _) => "undone",
                    (_, _, true) => "stuck",
                    _ => "undoing",
                },
                attempts: half.attempts_at(told.read_us),
                error: half.error.clone(),
                started_at: Timestamp::from_micros(half.started_us),
                finished_at: half.finished_us.map(Timestamp::from_micros),
            }
        }),
        name,
    }
}

/// Where a `for_each` is, by its items, once they are undone.
fn of_items(name: &str, cell: &Cell, state: &Saga) -> StepStatus {
    let items = (0..cell.items.unwrap_or(0))
        .filter_map(|index| state.cells.get(&format!("{name}.{index}")).map(Cell::status));
    let items: Vec<StepStatus> = items.collect();
    let order = [StepStatus::Undoing, StepStatus::Refused, StepStatus::Unknown, StepStatus::Undone];
    order.into_iter().find(|status| items.contains(status)).unwrap_or_else(|| cell.status())
}

/// A saga to come.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct StartRequest {
    definition: String,
    /// A new one when absent. The same id, definition and input again are the same saga.
    id: Option<String>,
    input: Option<Value>,
}

/// Start a saga
#[utoipa::path(
    post, path = "/v1/sagas", tag = "sagas", request_body = StartRequest,
    responses(
        (status = 201, description = "Started", body = SagaBody),
        (status = 200, description = "It was there already", body = SagaBody),
        (status = 409, description = "The id belongs to another one"), (status = 422)
    )
)]
pub(crate) async fn start(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<SagaBody>), Problem> {
    let mut fields = Fields::of_body(&headers, &body)?;
    let definition = fields.text("definition");
    let definition = fields.require("definition", definition);
    let id: Option<orchestrator::Name> = fields.parsed("id");
    if id.as_ref().is_some_and(|id| ["definitions", "wait"].contains(&id.as_str())) {
        fields.fault("id", "is reserved");
    }
    let input = fields.value("input").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    fields.finish()?;
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let new = NewSaga {
        definition: definition.unwrap_or_default(),
        id: id.map(|id| id.to_string()),
        input,
        by: principal.name.to_string(),
        parent: None,
        traceparent: traceparent.filter(|text| text.len() == 55).map(str::to_owned),
    };
    let (row, is_new) = state.sagas.start(new).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(SagaBody::from(row))))
}

/// Get a saga
///
/// With `wait` it answers as soon as the saga has ended or is stuck, or after the wait.
#[utoipa::path(
    get, path = "/v1/sagas/{id}", tag = "sagas",
    params(("id" = String, Path), ("wait" = Option<String>, Query)),
    responses((status = 200, description = "The saga", body = SagaDetail), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<SagaDetail>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let wait = query.parsed::<Span>("wait");
    if wait.is_some_and(|wait| wait > SAGA_WAIT_MAX) {
        query.fault("wait", format!("must be at most {SAGA_WAIT_MAX}"));
    }
    query.finish()?;
    if let Some(wait) = wait {
        find(&state, &id).await?;
        tokio::select! {
            waited = state.sagas.wait(std::slice::from_ref(&id), wait.0) => {
                waited?;
            }
            () = state.stop.cancelled() => {}
        }
    }
    Ok(Json(SagaDetail::from(find(&state, &id).await?)))
}

pub(crate) async fn find(state: &State, id: &str) -> Result<Told, Problem> {
    let found = state.sagas.read(id).await?;
    found.ok_or_else(|| Problem::not_found(&format!("saga `{id}`")))
}

/// Get a saga's journal
///
/// Every transition with its time.
#[utoipa::path(
    get, path = "/v1/sagas/{id}/journal", tag = "sagas", params(("id" = String, Path)),
    responses((status = 200, description = "Every transition, oldest first", body = Items<Value>), (status = 404))
)]
pub(crate) async fn journal(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
) -> Result<Json<Items<Value>>, Problem> {
    let told = find(&state, &id).await?;
    let mut items = Vec::new();
    for (seq, at_us, transitions) in told.journal {
        for transition in transitions {
            let mut entry = serde_json::to_value(&transition).unwrap_or_default();
            if let Some(entry) = entry.as_object_mut() {
                for name in ["until_us", "due_us"] {
                    if let Some(Value::Number(at)) = entry.remove(name) {
                        let at = Timestamp::from_micros(at.as_i64().unwrap_or_default());
                        let name = name.replace("_us", "_at");
                        entry.insert(name, at.to_string().into());
                    }
                }
                entry.insert("seq".to_owned(), seq.into());
                entry.insert("at".to_owned(), Timestamp::from_micros(at_us).to_string().into());
            }
            items.push(entry);
        }
    }
    Ok(Json(Items::all(items)))
}

/// List sagas
#[utoipa::path(
    get, path = "/v1/sagas", tag = "sagas",
    params(
        ("definition" = Option<String>, Query), ("status" = Option<String>, Query),
        ("since" = Option<String>, Query), ("limit" = Option<i64>, Query),
        ("cursor" = Option<String>, Query)
    ),
    responses((status = 200, description = "A page, newest first", body = Items<SagaBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<SagaBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let definition = query.text("definition");
    let status = query.text("status").and_then(|text| {
        let known = Status::parse(&text);
        if known.is_none() {
            let all = Status::ALL.map(Status::as_str).join(", ");
            query.fault("status", format!("must be one of {all}"));
        }
        known
    });
    let since = query.parsed::<Timestamp>("since");
    let before = cursor(&mut query, |text| {
        let (at, id) = text.split_once('~')?;
        Some((at.parse().ok()?, id.to_owned()))
    });
    let limit = Limit::of(&mut query);
    query.finish()?;
    let since_us = since.map(Timestamp::as_micros);
    let limit = limit.get().into();
    let wanted = Wanted { definition, status, since_us, cause: None, before, limit };
    let found = store::list(state.sagas.db(), &wanted).await?;
    let page = Items::of(found, |last| format!("{}~{}", last.created_us, last.id));
    Ok(Json(page.map(SagaBody::from)))
}

/// What to wait for.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct WaitRequest {
    ids: Vec<String>,
    /// At most 60 s; 20 s when absent.
    timeout: Option<String>,
}

/// What has not ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct WaitBody {
    pending: Vec<String>,
}

/// Wait for ends
///
/// Until all of them have ended or are stuck, or the timeout is over. A saga that is not known has not
/// ended: an event may still start it. A delivery that is not known has.
#[utoipa::path(
    post, path = "/v1/wait", tag = "sagas", request_body = WaitRequest,
    responses((status = 200, description = "Those that have not ended", body = WaitBody), (status = 422))
)]
pub(crate) async fn wait(
    Extract(state): Extract<State>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<WaitBody>, Problem> {
    wait_for(&state, &headers, &body).await
}

/// Wait for sagas
///
/// The same as `/v1/wait`.
#[utoipa::path(
    post, path = "/v1/sagas/wait", tag = "sagas", request_body = WaitRequest,
    responses((status = 200, description = "Those that have not ended", body = WaitBody), (status = 422))
)]
pub(crate) async fn wait_for_sagas(
    Extract(state): Extract<State>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<WaitBody>, Problem> {
    wait_for(&state, &headers, &body).await
}

async fn wait_for(
    state: &State,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Json<WaitBody>, Problem> {
    let mut fields = Fields::of_body(headers, body)?;
    let ids = fields.list("ids", WAITED_MAX, |value| match value {
        Value::String(id) => without_nul(id),
        _ => Err("must be a string".to_owned()),
    });
    let ids = fields.require("ids", ids);
    let timeout = fields.parsed::<Span>("timeout");
    if timeout.is_some_and(|timeout| timeout > SAGA_WAIT_MAX) {
        fields.fault("timeout", format!("must be at most {SAGA_WAIT_MAX}"));
    }
    fields.finish()?;
    let timeout = timeout.map_or(Duration::from_secs(20), |timeout| timeout.0);
    let ids = ids.unwrap_or_default();
    let (deliveries, sagas) = split(&ids);
    let waits = async {
        let log = state.log.as_ref();
        let all = webhooks::deliveries::wait(&state.db, log, &deliveries, timeout);
        let (sagas, deliveries) = tokio::join!(state.sagas.wait(&sagas, timeout), all);
        let deliveries = deliveries?.into_iter().map(|id| id.prefixed(DELIVERY));
        Ok::<HashSet<String>, Problem>(sagas?.into_iter().chain(deliveries).collect())
    };
    let waited = tokio::select! {
        waited = waits => waited?,
        () = state.stop.cancelled() => return Err(Problem::unavailable("the server stops")),
    };
    Ok(Json(WaitBody { pending: ids.into_iter().filter(|id| waited.contains(id)).collect() }))
}

/// The ids of deliveries, and the others.
fn split(ids: &[String]) -> (Vec<WorkId>, Vec<String>) {
    let mut deliveries = Vec::new();
    let mut others = Vec::new();
    for id in ids {
        match WorkId::parse(DELIVERY, id) {
            Ok(id) => deliveries.push(id),
            Err(_) => others.push(id.clone()),
        }
    }
    (deliveries, others)
}
