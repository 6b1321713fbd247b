//! `/v1/replays`: events of the past, handed to one consumer again.

use axum::Extension;
use axum::Json;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bus::replay::{self, DryRun, Mode, NewReplay, Replay, ReplayId, Status};
use bus::{Rate, Seq};
use bytes::Bytes;
use schemas::{Pattern, Patterns, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;
use webhooks::Endpoint;
use webhooks::replays::Only;

use crate::api::State;
use crate::api::body::{Fields, NoBody};
use crate::api::consumers::find;
use crate::api::listing::{Items, Limit, cursor, position_at};
use crate::api::problem::Problem;
use crate::api::webhooks::{DISABLED, find as find_webhook};
use crate::keys::Principal;

/// A replay and how far it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayBody {
    id: String,
    /// To which consumer; or, under `webhook`, to which webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    #[schema(value_type = String)]
    mode: Mode,
    /// `running`, `paused`, `completed`, `cancelled` or `failed`.
    #[schema(value_type = String)]
    status: Status,
    #[schema(value_type = Vec<String>)]
    types: Patterns,
    #[schema(value_type = i64)]
    from_seq: Seq,
    #[schema(value_type = i64)]
    to_seq: Seq,
    /// Events that are meant.
    total: i64,
    /// Events that were handed over and have ended, done or dead.
    done: i64,
    /// Of those, dead letters.
    dead: i64,
    /// Events left out: done already, or under way.
    skipped: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Replay> for ReplayBody {
    fn from(replay: Replay) -> ReplayBody {
        let (consumer, webhook) = match replay.errand {
            None => (Some(replay.consumer), None),
            Some(_) => (None, Some(replay.consumer)),
        };
        ReplayBody {
            id: replay.id.to_string(),
            consumer,
            webhook,
            mode: replay.mode,
            status: replay.status,
            types: replay.types,
            from_seq: replay.from,
            to_seq: replay.to,
            total: replay.total,
            done: replay.done + replay.dead,
            dead: replay.dead,
            skipped: replay.skipped,
            error: replay.error,
            created_at: replay.created_at,
            updated_at: replay.updated_at,
        }
    }
}

/// A replay to come.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct ReplayRequest {
    /// To which consumer; or `webhook`, to which webhook.
    consumer: Option<String>,
    webhook: Option<String>,
    /// A type or a pattern; all that the consumer wants when absent.
    r#type: Option<String>,
    /// From this event on; or `since`, a time.
    from_seq: Option<i64>,
    since: Option<String>,
    /// Up to and including this event, or until a time; up to the newest when both are absent.
    to_seq: Option<i64>,
    until: Option<String>,
    /// `skip_done` (default) or `force`.
    mode: Option<String>,
    /// Such as `500/s`.
    rate: Option<String>,
    dry_run: Option<bool>,
}

/// Why a consumer that keeps generations is not forced.
const REBUILT: &str = "it would count again what it has counted; rebuild it instead";

/// What a replay would do.
#[derive(Serialize, ToSchema)]
pub(crate) struct DryRunBody {
    total: i64,
    done_already: i64,
    would_send: i64,
    /// Why the replay would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl DryRunBody {
    fn new(run: &DryRun, refused: Option<String>) -> DryRunBody {
        let DryRun { total, done_already, would_send } = *run;
        DryRunBody { total, done_already, would_send, refused }
    }
}

/// Start a replay
///
/// Naming the consumer is consent to its side effects.
#[utoipa::path(
    post, path = "/v1/replays", tag = "replays", request_body = ReplayRequest,
    responses(
        (status = 202, description = "Started", body = ReplayBody),
        (status = 200, description = "What it would do", body = DryRunBody),
        (status = 404, description = "No such consumer or webhook"),
        (status = 409, description = "The webhook is disabled, or the consumer is rebuilt and not forced"),
        (status = 422)
    )
)]
pub(crate) async fn start(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_body(&headers, &body)?;
    let name = fields.text("consumer");
    let webhook = fields.text("webhook");
    if name.is_none() && webhook.is_none() {
        fields.fault("consumer", "name the consumer or the webhook; there is no replay to all");
    }
    if name.is_some() && webhook.is_some() {
        fields.fault("webhook", "give consumer or webhook, not both");
    }
    let types: Option<Pattern> = fields.parsed("type");
    let mode = match fields.text("mode").as_deref() {
        None | Some("skip_done") => Mode::SkipDone,
        Some("force") => Mode::Force,
        Some(_) => {
            fields.fault("mode", "must be skip_done or force");
            Mode::SkipDone
        }
    };
    let rate: Option<Rate> = fields.parsed("rate");
    let dry_run = fields.flag("dry_run");
    let (from, to) = read_range(&state, &mut fields).await?;
    fields.finish()?;
    let new = NewReplay { types, from, to, mode, rate };
    if let Some(webhook) = webhook {
        let only = if mode == Mode::Force { Only::All } else { Only::Undelivered };
        let endpoint = find_webhook(&state, &webhook).await?;
        let errand = ("replay", only);
        return start_to_webhook(&state, &endpoint, &new, errand, dry_run, &principal).await;
    }
    let consumer = find(&state, &name.unwrap_or_default()).await?;
    let refused = (consumer.rebuilds && mode == Mode::Force).then(|| REBUILT.to_owned());
    if dry_run {
        let run = replay::dry_run(&state.db, state.log.as_ref(), &consumer, &new).await?;
        return Ok((StatusCode::OK, Json(DryRunBody::new(&run, refused))).into_response());
    }
    if let Some(refused) = refused {
        return Err(Problem::conflict(refused));
    }
    let by = &principal.name;
    let replay = replay::start(&state.db, state.log.as_ref(), &consumer, &new, by).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayBody::from(replay))).into_response())
}

/// Starts a replay to a webhook, or counts what it would do.
pub(crate) async fn start_to_webhook(
    state: &State,
    endpoint: &Endpoint,
    new: &NewReplay,
    errand: (&str, Only),
    dry_run: bool,
    principal: &Principal,
) -> Result<Response, Problem> {
    let (db, log) = (&state.db, state.log.as_ref());
    let refused = endpoint.disabled_reason.is_some().then(|| DISABLED.to_owned());
    if dry_run {
        let run = webhooks::replays::dry_run(db, log, endpoint, new, errand.1).await?;
        return Ok((StatusCode::OK, Json(DryRunBody::new(&run, refused))).into_response());
    }
    if let Some(refused) = refused {
        return Err(Problem::conflict(refused));
    }
    let by = &principal.name;
    let replay = webhooks::replays::start(db, log, endpoint, new, errand, by).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayBody::from(replay))).into_response())
}

/// Which events: from one or a time on, up to one, a time, or the newest.
pub(crate) async fn read_range(
    state: &State,
    fields: &mut Fields,
) -> Result<(Seq, Option<Seq>), Problem> {
    for (one, other) in [("from_seq", "since"), ("to_seq", "until")] {
        if fields.has(one) && fields.has(other) {
            fields.fault(other, format!("give {one} or {other}, not both"));
        }
    }
    let from_seq = fields.number("from_seq", 0, i64::MAX).map(Seq::new);
    let since = fields.parsed::<Timestamp>("since");
    let to_seq = fields.number("to_seq", 0, i64::MAX).map(Seq::new);
    let until = fields.parsed::<Timestamp>("until");
    if !fields.is_faulty() && from_seq.is_none() && since.is_none() {
        fields.fault("since", "give since or from_seq: where the replay starts");
    }
    if since.zip(until).is_some_and(|(since, until)| until < since) {
        fields.fault("until", "must not be before the start");
    }
    let since = position_at(since, state.log.as_ref()).await?.map(Seq::next);
    let until = position_at(until, state.log.as_ref()).await?;
    let from = from_seq.or(since).unwrap_or_default().max(Seq::new(1));
    if !fields.is_faulty() && to_seq.is_some_and(|to| to < from) {
        fields.fault("to_seq", "must not be before the start");
    }
    Ok((from, to_seq.or(until)))
}

/// List replays
#[utoipa::path(
    get, path = "/v1/replays", tag = "replays",
    params(("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page, newest first", body = Items<ReplayBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<ReplayBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let before = cursor(&mut query, |text| text.parse::<ReplayId>().ok());
    let limit = Limit::of(&mut query);
    query.finish()?;
    let found = replay::list(&state.db, before.as_ref(), limit.and_one()).await?;
    let page = limit.page(found, |last| last.id.to_string());
    Ok(Json(page.map(ReplayBody::from)))
}

/// Get a replay
#[utoipa::path(
    get, path = "/v1/replays/{id}", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, description = "The replay", body = ReplayBody), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
) -> Result<Json<ReplayBody>, Problem> {
    let missing = || Problem::not_found("replay of this id");
    let id: ReplayId = id.parse().map_err(|_| missing())?;
    let replay = replay::find(&state.db, &id).await?.ok_or_else(missing)?;
    Ok(Json(ReplayBody::from(replay)))
}

/// Pause a replay
#[utoipa::path(
    post, path = "/v1/replays/{id}/pause", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, description = "Paused", body = ReplayBody), (status = 404), (status = 409))
)]
pub(crate) async fn pause(
    state: Extract<State>,
    id: Path<String>,
    _: NoBody,
) -> Result<Json<ReplayBody>, Problem> {
    change(state, id, Status::Paused).await
}

/// Resume a replay
#[utoipa::path(
    post, path = "/v1/replays/{id}/resume", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, description = "Running", body = ReplayBody), (status = 404), (status = 409))
)]
pub(crate) async fn resume(
    state: Extract<State>,
    id: Path<String>,
    _: NoBody,
) -> Result<Json<ReplayBody>, Problem> {
    change(state, id, Status::Running).await
}

/// Cancel a replay
///
/// What was handed over and not begun is taken back.
#[utoipa::path(
    post, path = "/v1/replays/{id}/cancel", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, description = "Cancelled", body = ReplayBody), (status = 404), (status = 409))
)]
pub(crate) async fn cancel(
    state: Extract<State>,
    id: Path<String>,
    _: NoBody,
) -> Result<Json<ReplayBody>, Problem> {
    change(state, id, Status::Cancelled).await
}

async fn change(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    to: Status,
) -> Result<Json<ReplayBody>, Problem> {
    let missing = || Problem::not_found("replay of this id");
    let id: ReplayId = id.parse().map_err(|_| missing())?;
    let known = replay::find(&state.db, &id).await?.ok_or_else(missing)?;
    if known.status == to {
        return Ok(Json(ReplayBody::from(known)));
    }
    let mut tx = state.db.begin().await?;
    let Some((replay, taken_back)) = replay::change_in(&mut tx, &id, to).await? else {
        drop(tx);
        // Somebody else may have done the same meanwhile.
        let known = replay::find(&state.db, &id).await?.ok_or_else(missing)?;
        if known.status == to {
            return Ok(Json(ReplayBody::from(known)));
        }
        return Err(Problem::conflict(format!("the replay is {}", known.status.as_str())));
    };
    webhooks::replays::take_back(&mut tx, &taken_back).await?;
    tx.commit().await?;
    Ok(Json(ReplayBody::from(replay)))
}

/// Rebuild a consumer
///
/// Its rows are built anew from the log, in a new generation beside the old one, which takes over
/// when it has caught up. Progress is that of a replay.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/rebuild", tag = "consumers", params(("name" = String, Path)),
    responses((status = 202, description = "Started", body = ReplayBody), (status = 404), (status = 409))
)]
pub(crate) async fn rebuild(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    _: NoBody,
) -> Result<(StatusCode, Json<ReplayBody>), Problem> {
    let consumer = find(&state, &name).await?;
    if !consumer.rebuilds {
        return Err(Problem::from(replay::ReplayError::NoGenerations));
    }
    let new =
        NewReplay { types: None, from: Seq::new(1), to: None, mode: Mode::Rebuild, rate: None };
    let by = &principal.name;
    let replay = replay::start(&state.db, state.log.as_ref(), &consumer, &new, by).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayBody::from(replay))))
}
