//! The consumer that turns one event into a delivery for each endpoint that gets it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bus::work::{self, NewWork, WorkId};
use bus::{BatchConsumer, Failure, Recorded, Tx, built, bulk};
use schemas::Patterns;
use sqlx::Row;

use crate::index::{Entry, Index};
use crate::store;

/// Rows gathered before they are written.
const ROWS_MAX: usize = 4_096;

/// Turns one event into a delivery for each endpoint that gets it.
///
/// Endpoints are looked up in memory. Each batch compares the version that was read with the one in
/// its own transaction: what was configured before an event was accepted is seen by it.
#[derive(Default)]
pub struct FanOutWebhooks {
    known: Mutex<Arc<(i64, Index)>>,
}

struct NewDelivery<'a> {
    id: WorkId,
    entry: &'a Entry,
    event: &'a Recorded,
}

impl FanOutWebhooks {
    /// One that has read no endpoints yet.
    #[must_use]
    pub fn new() -> FanOutWebhooks {
        FanOutWebhooks::default()
    }

    async fn index(&self, tx: &mut Tx) -> Result<Arc<(i64, Index)>, sqlx::Error> {
        let version = store::version(tx).await?;
        let known = Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
        if known.0 == version {
            return Ok(known);
        }
        let queues = work::all_queues(tx, store::WORK).await?;
        let entries = store::all(tx).await?.into_iter().filter_map(|endpoint| {
            let queue = *queues.get(endpoint.id.as_str())?;
            Some(Entry { endpoint, queue })
        });
        let read = Arc::new((version, Index::new(entries.collect())));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
        Ok(read)
    }
}

impl BatchConsumer for FanOutWebhooks {
    const NAME: &'static str = "fan-out-webhooks";

    fn types(&self) -> Patterns {
        Patterns::everything()
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let index = self.index(tx).await?;
        let mut rows = Vec::new();
        for event in events {
            for entry in index.1.matches(&event.event) {
                if event.seq > entry.endpoint.from {
                    rows.push(NewDelivery { id: WorkId::new(), entry, event });
                }
            }
            if rows.len() >= ROWS_MAX {
                insert(tx, &rows).await?;
                rows.clear();
            }
        }
        Ok(insert(tx, &rows).await?)
    }
}

/// Writes deliveries, and work for those that are new and whose endpoint is enabled.
async fn insert(tx: &mut Tx, rows: &[NewDelivery<'_>]) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let mut new: HashSet<Vec<u8>> = HashSet::with_capacity(rows.len());
    for chunk in bulk::chunks(rows) {
        let mut query = built(format!(
            "insert into webhook_delivery (id, endpoint, seq, event_id, type, status, caused_by,
                 created_at_us) values {} on conflict (endpoint, seq) do nothing returning id",
            bulk::rows(tx.dialect(), chunk.len(), 8)
        ));
        for row in chunk {
            let status =
                if row.entry.endpoint.disabled_reason.is_some() { "skipped" } else { "pending" };
            query = query
                .bind(row.id.bytes())
                .bind(row.entry.endpoint.id.as_str().to_owned())
                .bind(row.event.seq.get())
                .bind(row.event.event.id.as_str().to_owned())
                .bind(row.event.event.kind.as_str().to_owned())
                .bind(status)
                .bind("schedule")
                .bind(now_us);
        }
        new.extend(tx.fetch_all(query).await?.iter().map(|row| row.get::<Vec<u8>, _>(0)));
    }
    for row in rows {
        if row.entry.endpoint.disabled_reason.is_none() && new.contains(&row.id.bytes()) {
            tx.enqueue(work_for(row.entry, row.id, row.event));
        }
    }
    tx.flush().await
}

fn work_for(entry: &Entry, id: WorkId, event: &Recorded) -> NewWork {
    let ordered = entry.endpoint.manner.ordered;
    NewWork {
        id,
        seq: Some(event.seq),
        key: ordered.then(|| event.event.partition_key().to_owned()),
        tenant: entry.endpoint.tenant.clone(),
        ..NewWork::in_queue(entry.queue)
    }
}
