//! `GET /v1/events`: pages of the log, one event with all that is known of it, and its trace.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::{Extension, Json};
use bus::{Coverage, PAGE_BYTES_MAX, Progress, Read, Recorded, Seq, lineage, registry};
use orchestrator::store::{self, SagaRow};
use schemas::{Event, Pattern, Patterns, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::body::Fields;
use crate::api::deliveries::{self, DeliveryBody};
use crate::api::listing::{Items, Limit, cursor, position};
use crate::api::problem::Problem;
use crate::api::sagas::SagaBody;
use crate::api::{State, dead_letters};
use crate::keys::Principal;

/// Events looked at in one go while filtering.
const LOOK: usize = 1_000;
/// Events looked at for one page; past it the page ends early, with a cursor.
const LOOKED_AT_MAX: usize = 200_000;

/// An event as the log has it.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// Its place in the order of all events.
    #[schema(value_type = i64)]
    pub(crate) seq: Seq,
    /// The CloudEvent.
    #[schema(value_type = Object)]
    pub(crate) event: Event,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) recorded_at: Timestamp,
}

impl From<&Recorded> for EventBody {
    fn from(recorded: &Recorded) -> EventBody {
        let Recorded { seq, recorded_at, event } = recorded;
        EventBody { seq: *seq, event: event.clone(), recorded_at: *recorded_at }
    }
}

/// An event and how far each consumer is with it.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventDetail {
    #[serde(flatten)]
    event: EventBody,
    consumers: Vec<ConsumerProgress>,
}

/// How far one consumer is with one event.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConsumerProgress {
    name: String,
    /// `done`, `waiting`, `retrying` or `dead`.
    state: &'static str,
    attempts: i64,
    last_error: Option<String>,
    /// The id of its dead letter, to redrive it, unless it was thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<String>,
}

/// All that came of an event.
#[derive(Serialize, ToSchema)]
pub(crate) struct TraceBody {
    #[schema(value_type = Vec<Object>)]
    mails: [(); 0],
    deliveries: Vec<DeliveryBody>,
    sagas: Vec<SagaBody>,
    #[schema(value_type = Vec<Object>)]
    tasks: [(); 0],
    events: Vec<EventBody>,
}

/// Events of a trace whose sagas are looked for.
const TRACED_FOR_SAGAS: usize = 100;
/// Deliveries of a trace that are shown.
const DELIVERIES_OF_A_TRACE: i64 = 500;
/// Sagas of one event that are shown.
const SAGAS_OF_AN_EVENT: usize = 100;

/// Which events a page is of.
struct Wanted {
    types: Patterns,
    source: Option<String>,
    subject: Option<String>,
    tenant: Option<Arc<str>>,
    after: Seq,
    until: Seq,
    oldest_first: bool,
    limit: usize,
}

/// List events
///
/// Newest first; with `after`, oldest first from there.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("type" = Option<String>, Query, description = "A type or a pattern"),
        ("source" = Option<String>, Query), ("subject" = Option<String>, Query),
        ("since" = Option<String>, Query, description = "Recorded at or after"),
        ("until" = Option<String>, Query, description = "Recorded before"),
        ("after" = Option<i64>, Query, description = "Oldest first, after this seq"),
        ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, description = "A page", body = Items<EventBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<EventBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let types = query.parsed::<Pattern>("type").map_or_else(Patterns::everything, Patterns::from);
    let after = query.parsed::<Seq>("after");
    let cursor = cursor(&mut query, |text| text.parse::<Seq>().ok());
    let since = position(&mut query, "since", state.log.as_ref()).await?;
    let until = position(&mut query, "until", state.log.as_ref()).await?;
    let mut wanted = Wanted {
        types,
        source: query.text("source"),
        subject: query.text("subject"),
        tenant: principal.tenant,
        after: after.unwrap_or_default().max(since.unwrap_or_default()),
        until: until.unwrap_or(Seq::MAX),
        oldest_first: after.is_some(),
        limit: Limit::of(&mut query).get().into(),
    };
    query.finish()?;
    match cursor {
        Some(cursor) if wanted.oldest_first => wanted.after = wanted.after.max(cursor),
        Some(cursor) => wanted.until = wanted.until.min(cursor.previous()),
        None => {}
    }
    let (events, next) = page(&state, &wanted).await?;
    let items = events.iter().map(|event| EventBody::from(&**event)).collect();
    Ok(Json(Items { items, next: next.map(|seq| seq.to_string()) }))
}

async fn page(
    state: &State,
    wanted: &Wanted,
) -> Result<(Vec<Arc<Recorded>>, Option<Seq>), Problem> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    let (mut after, mut until) = (wanted.after, wanted.until);
    let filtered = wanted.source.is_some() || wanted.subject.is_some() || wanted.tenant.is_some();
    for _ in 0..LOOKED_AT_MAX / LOOK {
        let count = if filtered { LOOK } else { wanted.limit + 1 };
        let read = Read::after(after).until(until).types(wanted.types.clone()).limit(count);
        let page = if wanted.oldest_first {
            state.log.read(read).await?
        } else {
            state.log.read_back(read).await?
        };
        for event in page.events {
            if wanted.matches(&event.event) {
                if found.len() == wanted.limit || bytes >= PAGE_BYTES_MAX {
                    return Ok((found, cursor_after(wanted, event.seq)));
                }
                bytes += event.event.size();
                found.push(event);
            }
        }
        let ended = if wanted.oldest_first {
            after = page.through;
            after >= until || after >= *state.log.head().borrow()
        } else {
            until = page.through.previous();
            page.through <= after
        };
        if ended || until <= after {
            return Ok((found, None));
        }
    }
    let here = if wanted.oldest_first { after } else { until.next() };
    Ok((found, Some(here)))
}

/// The cursor of a page that ends before the event at `seq`.
fn cursor_after(wanted: &Wanted, seq: Seq) -> Option<Seq> {
    Some(if wanted.oldest_first { seq.previous() } else { seq.next() })
}

impl Wanted {
    fn matches(&self, event: &Event) -> bool {
        let same = |wanted: Option<&str>, found: Option<&str>| wanted.is_none() || wanted == found;
        same(self.source.as_deref(), Some(event.source.as_str()))
            && same(self.subject.as_deref(), event.subject.as_deref())
            && same(self.tenant.as_deref(), event.tenant())
    }
}

/// Get an event
///
/// With how far each consumer that it is meant for is with it.
#[utoipa::path(
    get, path = "/v1/events/{seq}", tag = "events", params(("seq" = i64, Path)),
    responses((status = 200, description = "The event", body = EventDetail), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(seq): Path<String>,
) -> Result<Json<EventDetail>, Problem> {
    let recorded = find(&state, &seq).await?;
    let mut consumers = Vec::new();
    for consumer in registry::list(&state.db).await? {
        let name = consumer.name.clone();
        let coverage = Coverage::load(&state.db, consumer).await?;
        let progress = coverage.progress(&state.db, std::slice::from_ref(&recorded)).await?;
        consumers.extend(progress.into_iter().next().and_then(|progress| told(name, progress)));
    }
    Ok(Json(EventDetail { event: EventBody::from(&*recorded), consumers }))
}

fn told(name: String, progress: Progress) -> Option<ConsumerProgress> {
    let mut dead_letter = None;
    let (state, attempts, last_error) = match progress {
        Progress::NotForIt => return None,
        Progress::Done { attempts } => ("done", attempts, None),
        Progress::Waiting => ("waiting", 0, None),
        Progress::Retrying { attempts, error } => ("retrying", attempts, error),
        Progress::Dead { letter, attempts, error } => {
            dead_letter = letter.map(|id| id.prefixed(dead_letters::PREFIX));
            ("dead", attempts, error)
        }
    };
    Some(ConsumerProgress { name, state, attempts, last_error, dead_letter })
}

/// Trace an event
///
/// All that came of it, and of that in turn.
#[utoipa::path(
    get, path = "/v1/events/{seq}/trace", tag = "events", params(("seq" = i64, Path)),
    responses((status = 200, description = "What came of it", body = TraceBody), (status = 404))
)]
pub(crate) async fn trace(
    Extract(state): Extract<State>,
    Path(seq): Path<String>,
) -> Result<Json<TraceBody>, Problem> {
    let root = find(&state, &seq).await?;
    let events = lineage::trace(&state.db, state.log.as_ref(), &root).await?;
    let (mut sagas, mut bytes) = (Vec::new(), 0);
    for event in std::iter::once(&root).chain(&events).take(TRACED_FOR_SAGAS) {
        let cause = Some(event.event.id.to_string());
        let wanted = store::Wanted { cause, limit: SAGAS_OF_AN_EVENT, ..store::Wanted::default() };
        let found = store::list(&state.db, &wanted).await?;
        let source = event.event.source.as_str();
        let same = |row: &SagaRow| row.cause.as_ref().is_some_and(|(_, of)| of == source);
        for saga in found.items.into_iter().filter(same) {
            bytes += saga.input.len();
            sagas.push(SagaBody::from(saga));
        }
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
    }
    let seqs: Vec<Seq> = std::iter::once(&root).chain(&events).map(|event| event.seq).collect();
    let found = webhooks::deliveries::of_events(
        &state.db,
        state.log.as_ref(),
        &seqs,
        DELIVERIES_OF_A_TRACE,
    )
    .await?;
    let mut deliveries = Vec::with_capacity(found.len());
    for delivery in found {
        deliveries.push(deliveries::describe(&state, delivery).await?);
    }
    let events = events.iter().map(|event| EventBody::from(&**event)).collect();
    Ok(Json(TraceBody { mails: [], deliveries, sagas, tasks: [], events }))
}

async fn find(state: &State, seq: &str) -> Result<Arc<Recorded>, Problem> {
    let seq: Seq = seq.parse().map_err(|_| Problem::not_found("event with this seq"))?;
    let found = state.log.get(&[seq]).await?.into_iter().next();
    found.ok_or_else(|| Problem::not_found("event with this seq"))
}
