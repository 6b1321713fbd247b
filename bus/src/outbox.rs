//! Events that a transaction decided to publish, and the relay that publishes them.
//!
//! `Tx::stage` adds rows that are written when the transaction commits. The relay publishes the
//! oldest and deletes exactly the rows that it has published; it keeps no position, so rows that
//! commit late are never passed over. Died in between, it publishes them once more, and the log
//! knows each `(source, id)` already.

use std::sync::Arc;
use std::time::Duration;

use schemas::Event;
use sqlx::Row;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::db::{built, sql};
use crate::failure::chain;
use crate::node::{NodeId, RENEW};
use crate::{Db, Log, PublishError, Tx, bulk, duty, metrics, signals};

/// Events published in one round.
const ROUND: i64 = 1_000;
/// How long the relay waits when the log or the database does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it looks without being told: rows that another node left behind.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn insert(tx: &mut Tx, events: &[String]) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(events) {
        let rows = bulk::rows(tx.dialect(), chunk.len(), 1);
        let mut query = built(format!("insert into outbox (event) values {rows}"));
        for event in chunk {
            query = query.bind(event.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Publishes what is staged, on the one node that has this duty: two would mix up the order.
pub(crate) struct Relay {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) node: NodeId,
    pub(crate) stop: CancellationToken,
}

impl Relay {
    pub(crate) async fn run(self) {
        let mut staged = self.db.signals().subscribe(signals::OUTBOX);
        let mut held: Option<Instant> = None;
        loop {
            staged.borrow_and_update();
            let wait = match self.round(&mut held).await {
                Ok(0) => LOOK,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "relaying staged events");
                    PAUSE
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = staged.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&self, held: &mut Option<Instant>) -> Result<usize, RelayError> {
        if held.is_none_or(|at| at.elapsed() >= RENEW) {
            let holds = duty::hold(&self.db, "relay", &self.node).await?;
            *held = holds.then(Instant::now);
        }
        if held.is_none() {
            return Ok(0);
        }
        relay_round(&self.db, self.log.as_ref()).await
    }
}

/// A round of the relay failed; nothing is lost, the next one tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Reading or deleting staged events.
    #[error("reading staged events")]
    Database(#[from] sqlx::Error),
    /// Publishing them.
    #[error("publishing staged events")]
    Publish(#[from] PublishError),
}

/// Publishes the oldest staged events and deletes them; returns how many there were.
///
/// # Errors
/// [`RelayError`].
pub async fn relay_round(db: &Db, log: &dyn Log) -> Result<usize, RelayError> {
    let query = sql("select id, event from outbox order by id limit $1").bind(ROUND);
    let rows = db.fetch_all(query).await?;
    let mut ids = Vec::with_capacity(rows.len());
    let mut batch = Vec::new();
    let mut bytes = 0;
    for row in &rows {
        let text: String = row.get(1);
        if bytes + text.len() > crate::log::PUBLISH_BYTES_MAX / 2 && !batch.is_empty() {
            break;
        }
        bytes += text.len();
        ids.push(row.get::<i64, _>(0));
        match Event::from_json(text.as_bytes()) {
            Ok(event) => batch.push(event),
            // Only an older or newer program could have staged it; it must not hold up the rest.
            Err(error) => {
                tracing::error!(%error, id = row.get::<i64, _>(0), "a staged event is not valid, dropped");
            }
        }
    }
    if ids.is_empty() {
        return Ok(0);
    }
    if !batch.is_empty() {
        log.publish_all(batch).await?;
    }
    let mut tx = db.begin().await?;
    for chunk in bulk::chunks(&ids) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("delete from outbox where id in ({list})"));
        for id in chunk {
            query = query.bind(*id);
        }
        tx.execute(query).await?;
    }
    tx.commit().await?;
    metrics::relayed(ids.len());
    Ok(ids.len())
}
