//! `POST /v1/events`: accepts events in every form.

use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bus::log::{EVENT_BYTES_MAX, PUBLISH_BYTES_MAX, PUBLISH_EVENTS_MAX};
use bus::{PublishError, Receipt};
use bytes::Bytes;
use schemas::http::{Defaults, Form};
use schemas::{Event, EventId, Faults, Source, Time};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::read_body;
use crate::api::problem::{Problem, ProblemBody};
use crate::keys::Principal;

/// Where events are published.
pub(crate) const PATH: &str = "/v1/events";

/// What is known of an accepted event.
#[derive(ToSchema, Serialize)]
pub(crate) struct ReceiptBody<'a> {
    id: &'a str,
    source: &'a str,
    /// Its place in the order of all events; for a duplicate that of the first.
    seq: i64,
    /// Whether `(source, id)` had been accepted before.
    duplicate: bool,
}

impl<'a> From<&'a Receipt> for ReceiptBody<'a> {
    fn from(receipt: &'a Receipt) -> ReceiptBody<'a> {
        ReceiptBody {
            id: receipt.id.as_str(),
            source: receipt.source.as_str(),
            seq: receipt.seq.get(),
            duplicate: receipt.duplicate,
        }
    }
}

/// What is known of an accepted batch.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchBody<'a> {
    /// One per event, in their order.
    events: Vec<ReceiptBody<'a>>,
}

/// What is known of what was accepted.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer, which is one or the other")]
pub(crate) enum AcceptedBody<'a> {
    /// One event.
    One(ReceiptBody<'a>),
    /// A batch.
    Batch(BatchBody<'a>),
}

/// Publish events
///
/// One event (structured, binary or short form) or a batch, by `Content-Type`. A batch is accepted
/// whole or refused whole. The answer comes when the events are durable.
#[utoipa::path(
    post, path = "/v1/events", tag = "events",
    request_body(content(
        (serde_json::Value = "application/json", example = json!({"type": "com.acme.order.placed", "data": {"order_id": "o-1"}})),
        (serde_json::Value = "application/cloudevents+json"),
        (serde_json::Value = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 202, description = "Accepted and durable: of one event or of a batch", body = AcceptedBody),
        (status = 400, description = "Malformed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "No form has this content type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Not a valid event", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Overloaded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn publish(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, Problem> {
    answer(&state, principal, request).await
}

/// Answers a request to publish that has passed the gate.
pub(crate) async fn answer(
    state: &State,
    principal: Principal,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let body = read_body(body, PUBLISH_BYTES_MAX).await?;
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let parent = parent.filter(|parent| is_traceparent(parent));
    let accept = |event: &mut Event| accept(event, &principal, parent);
    let (form, events) = parse(state, headers, &body, accept)?;
    let single = form != Form::Batch;
    let receipts = state.log.publish_all(events).await;
    let receipts = receipts.map_err(|error| refused(error, single))?;
    if let (true, [receipt]) = (single, &receipts[..]) {
        return Ok((StatusCode::ACCEPTED, Json(ReceiptBody::from(receipt))).into_response());
    }
    let events = receipts.iter().map(ReceiptBody::from).collect();
    Ok((StatusCode::ACCEPTED, Json(BatchBody { events })).into_response())
}

fn refused(error: PublishError, single: bool) -> Problem {
    match &error {
        PublishError::EventTooLarge { bytes, .. } if single => {
            let detail = format!("the event is {bytes} bytes, the limit is {EVENT_BYTES_MAX}");
            Problem::too_large(detail)
        }
        PublishError::EventTooLarge { index, .. } => {
            Problem::too_large(error.to_string()).at(&format!("/{index}"))
        }
        _ => Problem::from(error),
    }
}

fn parse(
    state: &State,
    headers: &HeaderMap,
    body: &Bytes,
    mut accept: impl FnMut(&mut Event) -> Result<(), Faults>,
) -> Result<(Form, Vec<Event>), Problem> {
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => {
            Some(value.to_str().map_err(|_| Problem::media_type("the content type is not text"))?)
        }
        None => None,
    };
    let has_ce = headers.keys().any(|name| schemas::http::is_ce_header(name.as_str()));
    let form = schemas::http::form(content_type, has_ce)
        .map_err(|error| Problem::media_type(error.to_string()))?;
    let mut event = match form {
        Form::Batch => {
            let events = schemas::http::batch_with(body, PUBLISH_EVENTS_MAX, accept)?;
            return Ok((form, events));
        }
        Form::Structured => schemas::http::structured(body)?,
        Form::Short => schemas::http::short(body, || defaults(state))?,
        Form::Binary => {
            let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            schemas::http::binary(content_type, pairs, body.clone())?
        }
    };
    accept(&mut event).map_err(Problem::invalid)?;
    Ok((form, vec![event]))
}

/// What this server asks of an event beside CloudEvents' own rules, and what it adds.
fn accept(event: &mut Event, principal: &Principal, parent: Option<&str>) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if event.kind.is_reserved() {
        faults.push("/type", "types under dev.skald are Skald's own");
    }
    if event.extension("replayed").is_some() {
        faults.push("/replayed", "is put in by Skald, where an event is handed over again");
    }
    // A key bound to a tenant publishes that tenant's events and no others.
    if let Some(tenant) = &principal.tenant {
        match event.tenant() {
            None => *event = event.clone().with_extension("tenant", &**tenant),
            Some(named) if named == &**tenant => {}
            Some(_) => faults.push("/tenant", "this key is bound to another tenant"),
        }
    }
    if let (Some(parent), None) = (parent, event.traceparent()) {
        *event = event.clone().with_extension("traceparent", parent);
    }
    faults.or(())
}

/// The shape of W3C Trace Context, level 1: `00-<32 hex>-<16 hex>-<2 hex>`.
fn is_traceparent(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    hex && lengths.eq([2, 32, 16, 2])
}

fn defaults(state: &State) -> Defaults {
    Defaults {
        id: EventId::from_uuid(uuid::Uuid::now_v7()),
        source: Source::from_trusted("/".into()),
        time: Time::from(state.db.clock().now()),
    }
}
