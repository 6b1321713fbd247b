//! What has to be done from time to time: leases taken back, old rows and old events deleted.

use std::sync::Arc;
use std::time::Duration;

use schemas::Event;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assignment::NodeId;
use crate::db::sql;
use crate::failure::chain;
use crate::pull::{LeaseError, keep_events};
use crate::{Db, Log, Pruned, ReadError, Retention, Seq, duty, metrics, registry, work};

/// How often leases that have ended are looked for.
const RESCUE: Duration = Duration::from_millis(250);
/// How often old rows and events are deleted.
const PRUNE: Duration = Duration::from_secs(60);

pub(crate) struct Housekeeping {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) node: NodeId,
    pub(crate) retention: Vec<Retention>,
    pub(crate) stop: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum HouseError {
    #[error("housekeeping in the database")]
    Database(#[from] sqlx::Error),
    #[error("pruning the log")]
    Log(#[from] ReadError),
    #[error("taking back leases")]
    Lease(#[from] LeaseError),
}

impl Housekeeping {
    pub(crate) async fn run(self) {
        let mut pruned: Option<Instant> = None;
        loop {
            if let Err(error) = self.rescue().await {
                tracing::warn!(error = %chain(&error), "taking back leases that ended");
            }
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE) {
                if let Err(error) = self.prune().await {
                    tracing::warn!(error = %chain(&error), "deleting what is old");
                }
                pruned = Some(Instant::now());
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RESCUE) => {}
            }
        }
    }

    async fn rescue(&self) -> Result<(), HouseError> {
        while self.db.fetch_optional(any_expired(&self.db)).await?.is_some() {
            let mut tx = self.db.begin().await?;
            let settled = work::rescue(&mut tx).await?;
            keep_events(&mut tx, self.log.as_ref(), &settled).await?;
            tx.commit().await?;
            if settled.is_empty() {
                break; // Another node has the queues in hand.
            }
        }
        Ok(())
    }

    async fn prune(&self) -> Result<(), HouseError> {
        if !duty::hold(&self.db, "prune", &self.node).await? {
            return Ok(());
        }
        self.forget_ended().await?;
        self.forget_done_before(self.log.state().await?.first).await?;
        if self.retention.is_empty() {
            return Ok(());
        }
        let consumed = registry::consumed(&self.db).await?.unwrap_or(*self.log.head().borrow());
        let now = self.db.clock().now();
        let pruned = self.log.prune(&self.retention, consumed, now).await?;
        metrics::pruned(&pruned);
        if pruned.held_back > 0 {
            tracing::warn!(events = pruned.held_back, "a lagging consumer holds back old events");
        }
        if let Some(missed) = pruned.missed_through {
            self.tell_missed(missed, &pruned).await?;
        }
        Ok(())
    }

    /// Rows that ended a while ago.
    async fn forget_ended(&self) -> Result<(), sqlx::Error> {
        let mut tx = self.db.begin().await?;
        for state in ["done", "discarded"] {
            let query = sql("delete from work where state = $1 and due_at_us < $2
                 and queue in (select id from work_queue)")
            .bind(state)
            .bind(tx.clock().now().as_micros());
            tx.execute(query).await?;
        }
        tx.commit().await
    }

    /// Which events a replay has done, of those that are gone from the log.
    async fn forget_done_before(&self, first: Seq) -> Result<(), sqlx::Error> {
        let mut tx = self.db.begin().await?;
        let query = sql("delete from consumer_done where seq < $1").bind(first.get());
        tx.execute(query).await?;
        tx.commit().await
    }

    /// Events went by size that a consumer had not had: nothing is dropped in silence.
    async fn tell_missed(&self, through: Seq, pruned: &Pruned) -> Result<(), sqlx::Error> {
        tracing::error!(%through, "events were deleted by size before every consumer had them");
        let (Ok(kind), Ok(source)) = ("dev.skald.log.missed".parse(), "/skald/log".parse()) else {
            return Ok(());
        };
        let id = schemas::EventId::from_uuid(uuid::Uuid::now_v7());
        let data = serde_json::json!({ "through_seq": through, "deleted": pruned.events });
        let event = Event::new(kind, source, id).with_json(data);
        let mut tx = self.db.begin().await?;
        if let Ok(event) = event
            && let Err(error) = tx.stage(&event)
        {
            tracing::error!(error = %chain(&error), "staging the event that tells of it");
        }
        tx.commit().await
    }
}

fn any_expired(db: &Db) -> crate::db::Query {
    sql("select 1 from work_queue where next_expiry_us <= $1 limit 1")
        .bind(db.clock().now().as_micros())
}
