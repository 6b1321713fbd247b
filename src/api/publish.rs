//! `POST /v1/events`: accepts events in every form.

use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bus::Receipt;
use bus::log::PUBLISH_EVENTS_MAX;
use bytes::Bytes;
use schemas::http::{Defaults, Form};
use schemas::{Event, EventId, Faults, Source, Time};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::problem::{Problem, ProblemBody};
use crate::keys::Principal;

/// What is known of an accepted event.
#[derive(ToSchema, Serialize)]
pub(crate) struct ReceiptBody {
    id: String,
    source: String,
    /// Its place in the order of all events; for a duplicate that of the first.
    seq: i64,
    /// Whether `(source, id)` had been accepted before.
    duplicate: bool,
}

impl From<&Receipt> for ReceiptBody {
    fn from(receipt: &Receipt) -> ReceiptBody {
        ReceiptBody {
            id: receipt.id.to_string(),
            source: receipt.source.to_string(),
            seq: receipt.seq.get(),
            duplicate: receipt.duplicate,
        }
    }
}

/// What is known of an accepted batch.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchBody {
    /// One per event, in their order.
    events: Vec<ReceiptBody>,
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
        (status = 202, description = "Accepted and durable", body = ReceiptBody),
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
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (form, mut events) = parse(&state, &headers, &body)?;
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let single = form != Form::Batch;
    let mut faults = Faults::default();
    for (index, event) in events.iter_mut().enumerate() {
        let prefix = if single { String::new() } else { format!("/{index}") };
        if event.kind.is_reserved() {
            faults.push(format!("{prefix}/type"), "types under dev.skald are Skald's own");
        }
        bind_tenant(event, &principal, &prefix, &mut faults);
        if let (Some(parent), None) = (parent, event.traceparent()) {
            *event = event.clone().with_extension("traceparent", parent);
        }
    }
    faults.or(()).map_err(Problem::invalid)?;
    let receipts = state.log.publish_all(events).await?;
    if let (true, [receipt]) = (single, &receipts[..]) {
        return Ok((StatusCode::ACCEPTED, Json(ReceiptBody::from(receipt))).into_response());
    }
    let events = receipts.iter().map(ReceiptBody::from).collect();
    Ok((StatusCode::ACCEPTED, Json(BatchBody { events })).into_response())
}

fn parse(state: &State, headers: &HeaderMap, body: &Bytes) -> Result<(Form, Vec<Event>), Problem> {
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => {
            Some(value.to_str().map_err(|_| Problem::media_type("the content type is not text"))?)
        }
        None => None,
    };
    let has_ce = headers.keys().any(|name| schemas::http::is_ce_header(name.as_str()));
    let form = schemas::http::form(content_type, has_ce)
        .map_err(|error| Problem::media_type(error.to_string()))?;
    let events = match form {
        Form::Batch => schemas::http::batch(body, PUBLISH_EVENTS_MAX)?,
        Form::Structured => vec![schemas::http::structured(body)?],
        Form::Short => vec![schemas::http::short(body, || defaults(state))?],
        Form::Binary => {
            let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            vec![schemas::http::binary(content_type, pairs, body.clone())?]
        }
    };
    Ok((form, events))
}

fn defaults(state: &State) -> Defaults {
    Defaults {
        id: EventId::from_uuid(uuid::Uuid::now_v7()),
        source: Source::from_trusted("/".into()),
        time: Time::from(state.db.clock().now()),
    }
}

/// A key bound to a tenant publishes that tenant's events and no others.
fn bind_tenant(event: &mut Event, principal: &Principal, prefix: &str, faults: &mut Faults) {
    let Some(tenant) = &principal.tenant else { return };
    match event.tenant() {
        None => *event = event.clone().with_extension("tenant", &**tenant),
        Some(named) if named == &**tenant => {}
        Some(_) => faults.push(format!("{prefix}/tenant"), "this key is bound to another tenant"),
    }
}
