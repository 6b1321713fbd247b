//! Deliveries to webhooks: what happened, and sending again.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bus::replay::{Mode, NewReplay};
use bus::work::WorkId;
use bytes::Bytes;
use schemas::{Event, EventId, EventType, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use webhooks::Outbound;
use webhooks::deliveries::{self, Delivery, Listing, PastAttempt, Resent};
use webhooks::replays::Only;
use webhooks::statistics;

use crate::api::State;
use crate::api::body::{Fields, NoBody};
use crate::api::listing::{Items, Limit, cursor};
use crate::api::problem::Problem;
use crate::api::replays::{self, ReplayBody};
use crate::api::webhooks::{DISABLED, find as find_webhook};
use crate::keys::Principal;

/// The prefix of their ids.
pub(crate) const PREFIX: &str = "dlv";
const STATUSES: [&str; 4] = ["pending", "delivered", "failed", "skipped"];

/// One event on its way to one webhook.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryBody {
    id: String,
    webhook: String,
    seq: i64,
    event_id: String,
    r#type: String,
    /// `pending`, `delivered`, `failed` or `skipped`.
    status: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The oldest first.
    attempts: Vec<AttemptBody>,
}

/// One attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct AttemptBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `schedule`, `resend`, `recover`, `test` or `replay`.
    trigger: String,
    /// Null when no response came.
    status_code: Option<i64>,
    duration_ms: i64,
    /// The first 4 KiB.
    response: Option<String>,
    /// Null when it was delivered.
    error: Option<String>,
}

/// List deliveries
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = String, Path), ("status" = Option<String>, Query),
        ("since" = Option<String>, Query), ("limit" = Option<i64>, Query),
        ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page, newest first", body = Items<DeliveryBody>), (status = 404))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<DeliveryBody>>, Problem> {
    let endpoint = find_webhook(&state, &id).await?.id;
    let mut query = Fields::of_query(query.as_deref())?;
    let status = query.text("status");
    if status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
        query.fault("status", "must be pending, delivered, failed or skipped");
    }
    let since = query.parsed::<Timestamp>("since");
    let before = cursor(&mut query, |text| WorkId::parse(PREFIX, text).ok());
    let limit = Limit::of(&mut query);
    query.finish()?;
    let which = Listing { endpoint, status, since, before, limit: limit.and_one() };
    let found = deliveries::list(&state.db, state.log.as_ref(), &which).await?;
    let page = limit.page(found, |last| last.id.prefixed(PREFIX));
    let mut items = Vec::with_capacity(page.items.len());
    for delivery in page.items {
        items.push(describe(&state, delivery).await?);
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Get a delivery
#[utoipa::path(
    get, path = "/v1/deliveries/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "The delivery", body = DeliveryBody), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
) -> Result<Json<DeliveryBody>, Problem> {
    let found = find(&state, &id).await?;
    Ok(Json(describe(&state, found).await?))
}

/// Send again
///
/// Now, with all attempts before it; in place of the next attempt, where one was waiting.
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/resend", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 202, description = "It is due", body = DeliveryBody), (status = 404),
        (status = 409, description = "Its webhook is disabled, it is on its way at this moment, or the event is gone")
    )
)]
pub(crate) async fn resend(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    _: NoBody,
) -> Result<Response, Problem> {
    let found = find(&state, &id).await?;
    let endpoint = find_webhook(&state, found.endpoint.as_str()).await?;
    if endpoint.disabled_reason.is_some() {
        return Err(Problem::conflict(DISABLED));
    }
    let mut tx = state.db.begin().await?;
    let log = state.log.as_ref();
    match deliveries::send_again(&mut tx, log, &endpoint, &found, "resend").await? {
        Resent::Due => tx.commit().await?,
        Resent::OnItsWay => return Err(Problem::conflict("it is on its way at this moment")),
        Resent::EventGone => return Err(Problem::conflict("the event is no longer in the log")),
    }
    let body = describe(&state, find(&state, &id).await?).await?;
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// A recovery.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which `Fields` reads")]
pub(crate) struct RecoverBody {
    /// Events recorded from this time on; or `from_seq`, from this event on.
    since: Option<String>,
    from_seq: Option<i64>,
    /// Up to this time, or up to and including the event `to_seq`; up to the newest when both are absent.
    until: Option<String>,
    to_seq: Option<i64>,
    /// `failed`: given up; `missing`: never attempted; `all`: every event, the delivered ones too;
    /// failed and missing ones where it is absent.
    only: Option<String>,
    /// Such as `500/s`.
    rate: Option<String>,
    dry_run: Option<bool>,
}

/// Recover deliveries
///
/// A replay of what failed, or was missed while the webhook was disabled or before there was one.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/recover", tag = "webhooks", params(("id" = String, Path)),
    request_body = RecoverBody,
    responses(
        (status = 202, description = "Started", body = ReplayBody),
        (status = 200, description = "What it would do, for a dry run", body = Object),
        (status = 404), (status = 409, description = "The webhook is disabled"), (status = 422)
    )
)]
pub(crate) async fn recover(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let endpoint = find_webhook(&state, &id).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let only = fields.parsed::<Only>("only");
    if only == Some(Only::Undelivered) {
        fields.fault("only", "must be failed, missing or all");
    }
    let only = only.unwrap_or(Only::Undelivered);
    let rate = fields.parsed("rate");
    let dry_run = fields.flag("dry_run");
    let (from, to) = replays::read_range(&state, &mut fields).await?;
    fields.finish()?;
    let mode = if only == Only::All { Mode::Force } else { Mode::SkipDone };
    let new = NewReplay { types: None, from, to, mode, rate };
    let errand = ("recover", only);
    replays::start_to_webhook(&state, &endpoint, &new, errand, dry_run, &principal).await
}

/// A test.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which `Fields` reads")]
pub(crate) struct TestBody {
    /// `com.example.test` where it is absent.
    r#type: Option<String>,
}

/// Send a test event
///
/// One signed sample, sent now, once; it is in no log.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/test", tag = "webhooks", params(("id" = String, Path)),
    request_body = TestBody,
    responses((status = 200, description = "The attempt", body = AttemptBody), (status = 404), (status = 422))
)]
pub(crate) async fn test(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<AttemptBody>, Problem> {
    let endpoint = find_webhook(&state, &id).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let kind = fields.parsed::<EventType>("type");
    fields.finish()?;
    let kind = match kind {
        Some(kind) => kind,
        None => "com.example.test".parse().map_err(|_| Problem::internal())?,
    };
    let source = "/skald/webhooks/test".parse().map_err(|_| Problem::internal())?;
    let event = Event::new(kind, source, EventId::from_uuid(Uuid::now_v7()));
    let event = event.with_json(json!({ "test": true })).map_err(|_| Problem::internal())?;
    let (id, now) = (WorkId::new().prefixed(PREFIX), state.db.clock().now());
    let outbound = Outbound::new(Arc::new(endpoint), &state.egress, state.seal.as_ref());
    let made =
        webhooks::attempt(&state.egress, &outbound, &id, (&event, &webhooks::Body::default()), now)
            .await;
    Ok(Json(AttemptBody {
        at: made.at,
        trigger: "test".to_owned(),
        status_code: made.status.map(|status| i64::from(status.as_u16())),
        duration_ms: i64::try_from(made.duration.as_millis()).unwrap_or(i64::MAX),
        response: made.response,
        error: made.error,
    }))
}

/// Statistics of a webhook
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/statistics", tag = "webhooks",
    params(("id" = String, Path), ("window" = Option<String>, Query)),
    responses((status = 200, description = "Attempts by status, and how long they took", body = Object), (status = 404), (status = 422))
)]
pub(crate) async fn statistics(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let endpoint = find_webhook(&state, &id).await?;
    let mut query = Fields::of_query(query.as_deref())?;
    let window = query.text("window").unwrap_or_else(|| "24h".to_owned());
    let hours = match window.as_str() {
        "1h" => 1,
        "24h" => 24,
        "7d" => 7 * 24,
        _ => {
            query.fault("window", "must be 1h, 24h or 7d");
            0
        }
    };
    query.finish()?;
    let span = std::time::Duration::from_hours(hours);
    let found = statistics::read(&state.db, &endpoint.id, span).await?;
    Ok(Json(json!({
        "window": window,
        "attempts": found.attempts(),
        "delivered": found.delivered(),
        "failed": found.attempts() - found.delivered(),
        "by_status": found.by_status.iter().map(|(status, attempts)| {
            let status = if *status == 0 { "none".to_owned() } else { status.to_string() };
            (status, json!(attempts))
        }).collect::<serde_json::Map<_, _>>(),
        "duration_ms": {
            "p50": found.latency_ms(50), "p95": found.latency_ms(95), "p99": found.latency_ms(99),
        },
    })))
}

async fn find(state: &State, id: &str) -> Result<Delivery, Problem> {
    let missing = || Problem::not_found("delivery of this id");
    let id = WorkId::parse(PREFIX, id).map_err(|_| missing())?;
    deliveries::find(&state.db, state.log.as_ref(), id).await?.ok_or_else(missing)
}

pub(crate) async fn describe(state: &State, of: Delivery) -> Result<DeliveryBody, Problem> {
    let attempts = deliveries::attempts(&state.db, of.id).await?;
    Ok(DeliveryBody {
        id: of.id.prefixed(PREFIX),
        webhook: of.endpoint.to_string(),
        seq: of.seq.get(),
        event_id: of.event_id,
        r#type: of.kind,
        status: of.status,
        next_attempt_at: of.next_attempt_at,
        created_at: of.created_at,
        attempts: attempts.into_iter().map(AttemptBody::from).collect(),
    })
}

impl From<PastAttempt> for AttemptBody {
    fn from(of: PastAttempt) -> AttemptBody {
        AttemptBody {
            at: of.at,
            trigger: of.caused_by,
            status_code: of.status_code,
            duration_ms: of.duration_ms,
            response: of.response,
            error: of.error,
        }
    }
}
