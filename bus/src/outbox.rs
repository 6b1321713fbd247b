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

use crate::chain;
use crate::db::{Query, built};
use crate::node::{NodeId, RENEW};
use crate::{Db, Log, PublishError, Tx, bulk, duty, metrics, signals};

/// Events published in one round.
const ROUND: usize = 1_000;
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
        let mut aside = Aside::default();
        loop {
            staged.borrow_and_update();
            let wait = match self.round(&mut held, &mut aside).await {
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

    async fn round(
        &self,
        held: &mut Option<Instant>,
        aside: &mut Aside,
    ) -> Result<usize, RelayError> {
        if held.is_none_or(|at| at.elapsed() >= RENEW) {
            let holds = duty::hold(&self.db, "relay", &self.node).await?;
            *held = holds.then(Instant::now);
        }
        if held.is_none() {
            return Ok(0);
        }
        relay_round(&self.db, self.log.as_ref(), aside).await
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

/// Staged events that the log will never take, such as one larger than what its broker is set to take.
/// They stay where they are, and are tried again after the next start.
#[derive(Default)]
pub struct Aside(Vec<i64>);

impl Aside {
    /// More than these stop the relay: then it is the broker that needs help.
    const MOST: usize = 1_000;
}

/// Publishes the oldest staged events and deletes them; returns how many there were. One that is too
/// large for the log is set `aside`, so that it holds nobody up.
///
/// # Errors
/// [`RelayError`].
pub async fn relay_round(db: &Db, log: &dyn Log, aside: &mut Aside) -> Result<usize, RelayError> {
    loop {
        let staged = read_oldest(db, aside).await?;
        if staged.is_empty() {
            return Ok(0);
        }
        let valid = staged.iter().filter_map(|(id, event)| Some((*id, event.clone()?)));
        let (ids, events): (Vec<i64>, Vec<Event>) = valid.unzip();
        let published =
            if events.is_empty() { Ok(Vec::new()) } else { log.publish_all(events).await };
        match published {
            Err(PublishError::EventTooLarge { index, bytes }) if aside.0.len() < Aside::MOST => {
                let id = ids[index];
                tracing::error!(
                    id,
                    bytes,
                    "a staged event is larger than the log takes, set aside"
                );
                aside.0.push(id);
            }
            published => {
                published?;
                let ids: Vec<i64> = staged.into_iter().map(|(id, _)| id).collect();
                delete(db, &ids).await?;
                metrics::relayed(ids.len());
                return Ok(ids.len());
            }
        }
    }
}

/// The oldest rows, as many as one call publishes. One without an event is not valid.
async fn read_oldest(db: &Db, aside: &Aside) -> Result<Vec<(i64, Option<Event>)>, sqlx::Error> {
    let but = match aside.0.len() {
        0 => String::new(),
        ids => format!(" where id not in ({})", bulk::list(2, ids)),
    };
    let text = format!("select id, event from outbox{but} order by id limit $1");
    let bind = |query: Query| {
        let query = query.bind(i64::try_from(ROUND).unwrap_or(i64::MAX));
        aside.0.iter().fold(query, |query, id| query.bind(*id))
    };
    let page = db.fetch_page(&text, bind, ROUND, "event").await?;
    let mut staged = Vec::with_capacity(page.items.len());
    for row in page.items {
        let (id, text): (i64, String) = (row.get(0), row.get(1));
        let event = Event::from_json(text.as_bytes());
        // Only an older or newer program could have staged it; it must not hold up the rest.
        let event = event.inspect_err(|error| {
            tracing::error!(%error, id, "a staged event is not valid, dropped");
        });
        staged.push((id, event.ok()));
    }
    Ok(staged)
}

async fn delete(db: &Db, ids: &[i64]) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    for chunk in bulk::chunks(ids) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("delete from outbox where id in ({list})"));
        for id in chunk {
            query = query.bind(*id);
        }
        tx.execute(query).await?;
    }
    tx.commit().await
}
