//! Dead letters: looked at, tried anew, given up.

use axum::Json;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use bus::Seq;
use bus::dead_letter::{self, DeadLetter, Selection};
use bus::work::{self, QueueId, WorkId};
use bytes::Bytes;
use schemas::{Event, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::{Fields, read_event};
use crate::api::consumers::find;
use crate::api::listing::{Items, Limit, cursor};
use crate::api::problem::Problem;

/// What the ids of dead letters start with.
pub(crate) const PREFIX: &str = "dl";
/// Ids in one call at most.
const IDS_MAX: usize = 1_000;

/// A dead letter.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeadLetterBody {
    id: String,
    #[schema(value_type = Option<i64>)]
    seq: Option<Seq>,
    #[schema(value_type = Option<Object>)]
    event: Option<Box<RawValue>>,
    error: String,
    attempts: i64,
    #[schema(value_type = String, format = DateTime)]
    first_failed_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_failed_at: Timestamp,
}

/// Dead letters that share an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupBody {
    error: String,
    count: i64,
    #[schema(value_type = String, format = DateTime)]
    first_failed_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_failed_at: Timestamp,
}

/// Which dead letters.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct SelectionRequest {
    ids: Option<Vec<String>>,
    /// All, or all whose error contains `error`.
    all: Option<bool>,
    error: Option<String>,
    /// Say how many it would be, and do nothing.
    dry_run: Option<bool>,
    /// One, to be redriven with the `event` given.
    id: Option<String>,
    /// The event as edited; its id and source stay.
    #[schema(value_type = Option<Object>)]
    event: Option<serde_json::Value>,
}

/// How many were redriven.
#[derive(Serialize, ToSchema)]
pub(crate) struct RedrivenBody {
    redriven: i64,
}

/// How many were given up.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedBody {
    deleted: i64,
}

/// List dead letters
#[utoipa::path(
    get, path = "/v1/consumers/{name}/dead-letters", tag = "consumers",
    params(
        ("name" = String, Path),
        ("error" = Option<String>, Query, description = "Part of the error"),
        ("since" = Option<String>, Query, description = "Failed last at or after"),
        ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, description = "A page, newest first", body = Items<DeadLetterBody>), (status = 404))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<DeadLetterBody>>, Problem> {
    let queue = queue(&state, &name).await?;
    let mut query = Fields::of_query(query.as_deref())?;
    let which = selection(&mut query);
    let before = cursor(&mut query, |text| WorkId::parse(PREFIX, text).ok());
    let limit = Limit::of(&mut query);
    query.finish()?;
    let found = dead_letter::list(&state.db, queue, &which, before, limit.get().into()).await?;
    let page = Items::of(found, |last| last.id.prefixed(PREFIX));
    Ok(Json(page.map(describe)))
}

fn selection(query: &mut Fields) -> Selection {
    Selection { error: query.text("error"), since: query.parsed("since"), ids: Vec::new() }
}

fn describe(letter: DeadLetter) -> DeadLetterBody {
    DeadLetterBody {
        id: letter.id.prefixed(PREFIX),
        seq: letter.seq,
        event: letter.event.and_then(|event| RawValue::from_string(event).ok()),
        error: letter.error,
        attempts: letter.attempts,
        first_failed_at: letter.first_failed_at,
        last_failed_at: letter.last_failed_at,
    }
}

/// Group dead letters
///
/// By error, the most frequent first.
#[utoipa::path(
    get, path = "/v1/consumers/{name}/dead-letters/groups", tag = "consumers",
    params(
        ("name" = String, Path),
        ("error" = Option<String>, Query, description = "Part of the error"),
        ("since" = Option<String>, Query, description = "Failed last at or after"),
        ("limit" = Option<i64>, Query), ("cursor" = Option<i64>, Query),
    ),
    responses((status = 200, description = "A page", body = Items<GroupBody>), (status = 404))
)]
pub(crate) async fn groups(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<GroupBody>>, Problem> {
    let queue = queue(&state, &name).await?;
    let mut query = Fields::of_query(query.as_deref())?;
    let which = selection(&mut query);
    let skip = cursor(&mut query, |text| text.parse::<u32>().ok()).unwrap_or(0);
    let limit = Limit::of(&mut query);
    query.finish()?;
    let found = dead_letter::groups(&state.db, queue, &which, limit.and_one(), skip.into()).await?;
    let page = limit.page(found, |_| (i64::from(skip) + i64::from(limit.get())).to_string());
    Ok(Json(page.map(|group| GroupBody {
        error: group.error,
        count: group.count,
        first_failed_at: group.first_failed_at,
        last_failed_at: group.last_failed_at,
    })))
}

/// Redrive dead letters
///
/// They are tried anew, from the first attempt. What fails again is a dead letter again.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/dead-letters/redrive", tag = "consumers",
    params(("name" = String, Path)), request_body = SelectionRequest,
    responses(
        (status = 202, description = "Redriven", body = RedrivenBody),
        (status = 200, description = "With `dry_run`: how many would be", body = RedrivenBody),
        (status = 404), (status = 422)
    )
)]
pub(crate) async fn redrive(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<RedrivenBody>), Problem> {
    let queue = queue(&state, &name).await?;
    let request = read(&headers, &body, true)?;
    let edited = match request.edited {
        Some(event) => Some(check_edit(&state, queue, &request.which, event).await?),
        None => None,
    };
    if request.dry_run {
        let redriven = dead_letter::count(&state.db, queue, &request.which).await?;
        return Ok((StatusCode::OK, Json(RedrivenBody { redriven })));
    }
    let mut redriven = 0;
    loop {
        let mut tx = state.db.begin().await?;
        let some = dead_letter::redrive(&mut tx, queue, &request.which, edited.as_ref()).await?;
        tx.commit().await?;
        redriven += some;
        if some < dead_letter::CHUNK {
            break;
        }
    }
    Ok((StatusCode::ACCEPTED, Json(RedrivenBody { redriven })))
}

/// Give dead letters up
#[utoipa::path(
    delete, path = "/v1/consumers/{name}/dead-letters", tag = "consumers",
    params(("name" = String, Path)), request_body = SelectionRequest,
    responses((status = 200, description = "Given up", body = DeletedBody), (status = 404), (status = 422))
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<DeletedBody>, Problem> {
    let queue = queue(&state, &name).await?;
    let request = read(&headers, &body, false)?;
    if request.dry_run {
        let deleted = dead_letter::count(&state.db, queue, &request.which).await?;
        return Ok(Json(DeletedBody { deleted }));
    }
    let mut deleted = 0;
    loop {
        let mut tx = state.db.begin().await?;
        let some = dead_letter::discard(&mut tx, queue, &request.which).await?;
        tx.commit().await?;
        deleted += some;
        if some < dead_letter::CHUNK {
            break;
        }
    }
    Ok(Json(DeletedBody { deleted }))
}

struct Request {
    which: Selection,
    dry_run: bool,
    edited: Option<Event>,
}

fn read(headers: &HeaderMap, body: &Bytes, edits: bool) -> Result<Request, Problem> {
    let mut fields = Fields::of_body(headers, body)?;
    let mut ids = fields.list("ids", IDS_MAX, |item| {
        let text = item.as_str().ok_or("must be a string")?;
        WorkId::parse(PREFIX, text).map_err(|error| error.to_string())
    });
    let all = fields.flag("all");
    let error = fields.text("error");
    let dry_run = fields.flag("dry_run");
    let mut edited = None;
    if edits && (fields.has("id") || fields.has("event")) {
        if ids.is_some() {
            fields.fault("ids", "goes without id");
        }
        let id = fields.text("id").and_then(|text| {
            WorkId::parse(PREFIX, &text).map_err(|error| fields.fault("id", error.to_string())).ok()
        });
        ids = fields.require("id", id).map(|id| vec![id]);
        edited = read_event(&mut fields, body);
        if edited.as_ref().is_some_and(|event| event.kind.is_reserved()) {
            fields.fault("event/type", "types under dev.skald are Skald's own");
        }
    }
    if !fields.is_faulty() && ids.is_some() == all {
        fields.fault_of_all("give either ids, or all with true");
    }
    if error.is_some() && !all {
        fields.fault("error", "goes with all");
    }
    fields.finish()?;
    let which = Selection { ids: ids.unwrap_or_default(), error, since: None };
    Ok(Request { which, dry_run, edited })
}

/// An edited event stays the event that it was: by its id and source.
async fn check_edit(
    state: &State,
    queue: QueueId,
    which: &Selection,
    event: Event,
) -> Result<Event, Problem> {
    let letter = dead_letter::list(&state.db, queue, which, None, 1).await?.items.pop();
    let letter = letter.ok_or_else(|| Problem::not_found("dead letter of this id"))?;
    let known = letter.event.and_then(|text| Event::from_json(text.as_bytes()).ok());
    if known.is_some_and(|known| known.id != event.id || known.source != event.source) {
        return Err(Problem::fault("/event", "must keep the event's id and source"));
    }
    Ok(event)
}

async fn queue(state: &State, name: &str) -> Result<QueueId, Problem> {
    let consumer = find(state, name).await?;
    let queue = work::find(&state.db, consumer.kind.work(), &consumer.queue_name()).await?;
    queue.ok_or_else(|| Problem::not_found("queue of this consumer"))
}
