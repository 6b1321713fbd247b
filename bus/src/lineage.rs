//! What came of what: the cause that events carry, and the index that finds them by it.
//!
//! An event published by a consumer, or by anything else here, names its cause in the extensions
//! `causationid` and `causationsource`, and the first of the chain in `correlationid`
//! (CloudEvents *correlation* extension). The built-in consumer [`IndexLineage`] notes them, so
//! [`trace`] can walk from an event to all that came of it.

use std::sync::Arc;

use schemas::{Event, Patterns};
use sqlx::Row;

use crate::db::{built, sql};
use crate::log::PAGE_BYTES_MAX;
use crate::{BatchConsumer, Db, Failure, Log, ReadError, Recorded, Seq, Tx, bulk};

/// The extension that names the source of the causing event; `causationid` names its id.
pub const CAUSATION_SOURCE: &str = "causationsource";
/// Events that one trace shows at most.
pub const TRACE_EVENTS_MAX: usize = 1_000;
/// Events of a trace that are read together.
const READ_AT_ONCE: usize = 64;

/// `event` with `cause` as its cause; what it says of its cause already is kept.
#[must_use]
pub fn caused_by(mut event: Event, cause: &Event) -> Event {
    if event.causationid().is_some() {
        return event;
    }
    let first = cause.correlationid().unwrap_or(cause.id.as_str()).to_owned();
    event = event
        .with_extension("causationid", cause.id.as_str())
        .with_extension(CAUSATION_SOURCE, cause.source.as_str());
    if event.correlationid().is_none() {
        event = event.with_extension("correlationid", first.as_str());
    }
    match (event.extension("traceparent"), cause.traceparent()) {
        (None, Some(parent)) => event.with_extension("traceparent", parent),
        _ => event,
    }
}

/// Notes which event came of which.
pub struct IndexLineage;

impl BatchConsumer for IndexLineage {
    const NAME: &'static str = "index-lineage";
    const LINGER: std::time::Duration = std::time::Duration::from_millis(20);

    fn types(&self) -> Patterns {
        Patterns::everything()
    }

    async fn is_concerned(&self, events: &[Arc<Recorded>], _: &Db) -> Result<bool, sqlx::Error> {
        Ok(events.iter().any(|event| event.event.causationid().is_some()))
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let caused: Vec<&Arc<Recorded>> =
            events.iter().filter(|event| event.event.causationid().is_some()).collect();
        for chunk in bulk::chunks(&caused) {
            let mut query = built(format!(
                "insert into lineage (cause_id, cause_source, seq) values {} on conflict do nothing",
                bulk::rows(tx.dialect(), chunk.len(), 3)
            ));
            for event in chunk {
                let source = event.event.extension(CAUSATION_SOURCE);
                query = query
                    .bind(event.event.causationid().unwrap_or_default().to_owned())
                    .bind(source.and_then(|value| value.as_str()).map(str::to_owned))
                    .bind(event.seq.get());
            }
            tx.execute(query).await?;
        }
        Ok(())
    }
}

/// Reading a trace failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The database.
    #[error("reading what came of an event")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error("reading the events of a trace")]
    Log(#[from] ReadError),
}

/// All events that came of `root`, those that came of them, and so on, in order of the log; at
/// most [`TRACE_EVENTS_MAX`], or [`PAGE_BYTES_MAX`] of them.
///
/// # Errors
/// [`TraceError`].
pub async fn trace(
    db: &Db,
    log: &dyn Log,
    root: &Recorded,
) -> Result<Vec<Arc<Recorded>>, TraceError> {
    let mut found: Vec<Arc<Recorded>> = Vec::new();
    let mut next = vec![(root.event.id.clone(), root.event.source.clone())];
    let mut bytes = 0;
    while found.len() < TRACE_EVENTS_MAX
        && bytes < PAGE_BYTES_MAX
        && let Some((id, source)) = next.pop()
    {
        // What came of it may stand before it: producers overtake each other.
        let query = sql("select seq from lineage where cause_id = $1
             and (cause_source is null or cause_source = $2) order by seq limit $3")
        .bind(id.as_str().to_owned())
        .bind(source.as_str().to_owned())
        .bind(i64::try_from(TRACE_EVENTS_MAX).unwrap_or(i64::MAX));
        let seqs: Vec<Seq> =
            db.fetch_all(query).await?.iter().map(|row| Seq::new(row.get(0))).collect();
        for seqs in seqs.chunks(READ_AT_ONCE) {
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
            for event in log.get(seqs).await? {
                let is_new =
                    event.seq != root.seq && found.iter().all(|known| known.seq != event.seq);
                if is_new && found.len() < TRACE_EVENTS_MAX {
                    bytes += event.event.size();
                    next.push((event.event.id.clone(), event.event.source.clone()));
                    found.push(event);
                }
            }
        }
    }
    found.sort_unstable_by_key(|event| event.seq);
    Ok(found)
}
