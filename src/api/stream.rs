//! `GET /v1/events/stream`: events as they are recorded, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State as Extract};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use bus::{Seq, tail};
use futures::{Stream, StreamExt};
use schemas::{Pattern, Patterns};

use crate::api::State;
use crate::api::body::Fields;
use crate::api::events::EventBody;
use crate::api::problem::{Problem, ProblemBody};
use crate::keys::Principal;

/// A comment is sent when nothing else was for this long, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Stream events
///
/// Server-sent events, live; the id of each is its seq. Resumes after `Last-Event-ID`, or after
/// `after`.
#[utoipa::path(
    get, path = "/v1/events/stream", tag = "events",
    params(
        ("type" = Option<String>, Query, description = "A type or a pattern"),
        ("after" = Option<i64>, Query, description = "Start after this seq"),
        ("Last-Event-ID" = Option<i64>, Header),
    ),
    responses(
        (status = 200, description = "Events", content_type = "text/event-stream"),
        (status = 429, description = "Too many streams at once", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stream(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let types = query.parsed::<Pattern>("type").map_or_else(Patterns::everything, Patterns::from);
    let after = query.parsed::<Seq>("after");
    query.finish()?;
    let resumed = match headers.get("last-event-id").map(|value| value.to_str()) {
        Some(Ok(text)) if !text.is_empty() => {
            let seq = text.parse::<Seq>();
            Some(seq.map_err(|error| Problem::malformed(format!("Last-Event-ID: {error}")))?)
        }
        _ => None,
    };
    let place =
        Arc::clone(&state.streams).try_acquire_owned().map_err(|_| Problem::overloaded())?;
    let head = *state.log.head().borrow();
    let from = resumed.or(after).unwrap_or(head);
    if from > head {
        let detail = format!("{from} is ahead of the log, which ends at {head}");
        return Err(Problem::fault(if resumed.is_some() { "" } else { "/after" }, detail));
    }
    let stop = state.stop.clone();
    let tenant = principal.tenant.clone();
    let log = Arc::clone(&state.log);
    let revoked = async move { state.keys.revoked(&principal).await };
    let events = tail(log, from, types)
        .take_until(stop.cancelled_owned())
        .take_until(Box::pin(revoked))
        .take_while(|event| std::future::ready(event.is_ok()))
        .filter_map(move |event| {
            let event = event
                .ok()
                .filter(|event| tenant.is_none() || event.event.tenant() == tenant.as_deref());
            std::future::ready(event)
        })
        .map(move |event| {
            let _held = &place;
            let message = Message::default().id(event.seq.to_string());
            let body = serde_json::to_string(&EventBody::from(&*event)).unwrap_or_default();
            // Data is kept as it came; raw line ends in JSON are white space, and end a field here.
            let body = body.replace(['\n', '\r'], " ");
            Ok(message.data(body))
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
