//! What has to be done from time to time: leases taken back, old rows and old events deleted.

use std::sync::Arc;
use std::time::Duration;

use schemas::{Event, EventId, EventType, Source, Timestamp};
use serde_json::json;
use sqlx::Row;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::db::sql;
use crate::node::NodeId;
use crate::pull::{LeaseError, keep_events};
use crate::{
    Db, Log, Pruned, ReadError, Retention, Seq, Span, duty, inbox, metrics, registry, work,
};

/// How often leases that have ended are looked for.
const RESCUE: Duration = Duration::from_millis(250);
/// How often old rows and events are deleted.
const PRUNE: Duration = Duration::from_secs(60);

pub(crate) struct Housekeeping {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) node: NodeId,
    pub(crate) retention: Vec<Retention>,
    /// How long consumers know an event again on a log that may hold it twice.
    pub(crate) inbox: Duration,
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
        let mut told = false;
        loop {
            let fault = self.log.fault();
            metrics::log_fault(fault.is_some());
            if let Some(why) = fault.filter(|_| !told) {
                told = self.tell_fault(&why).await.is_ok();
            }
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
        let first = self.log.state().await?.first;
        self.forget_done_before(first).await?;
        if self.log.is_shared() {
            self.look_for_gap(first).await?;
            let age = Span(self.inbox).micros();
            let since = Timestamp::from_micros(self.db.clock().now().as_micros() - age);
            inbox::forget(&self.db, self.log.position_at(since).await?).await?;
        }
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

    /// Notices that the log begins later than it did, past a cursor: somebody else than [`Log::prune`]
    /// deleted events, or a limit of the broker's stream did.
    async fn look_for_gap(&self, first: Seq) -> Result<(), HouseError> {
        let mut tx = self.db.begin().await?;
        let row =
            tx.fetch_optional(sql("select first_seq, looked_at_us from log_identity")).await?;
        let Some(row) = row else { return Ok(()) };
        let (known, looked_at): (i64, i64) = (row.get(0), row.get(1));
        let query = sql("select distinct p.consumer from consumer_partition p
             join consumer c on c.name = p.consumer
             where p.cursor_seq < $1 and c.created_at_us < $2")
        .bind(first.get() - 1)
        .bind(looked_at);
        let lagging: Vec<String> =
            tx.fetch_all(query).await?.iter().map(|row| row.get(0)).collect();
        if looked_at > 0 && first.get() > known && !lagging.is_empty() {
            let through = first.previous();
            tracing::error!(%through, consumers = lagging.join(", "), "events were deleted from the log before these consumers had them");
            let data = json!({ "through_seq": through, "consumers": lagging });
            stage(&mut tx, "dev.skald.log.missed", data);
        }
        let now_us = tx.clock().now().as_micros();
        let note = sql("update log_identity set first_seq = $1, looked_at_us = $2");
        tx.execute(note.bind(first.get()).bind(now_us)).await?;
        Ok(tx.commit().await?)
    }

    /// Events went by size that a consumer had not had: nothing is dropped in silence.
    async fn tell_missed(&self, through: Seq, pruned: &Pruned) -> Result<(), sqlx::Error> {
        tracing::error!(%through, "events were deleted by size before every consumer had them");
        let mut tx = self.db.begin().await?;
        // What is told here is not told again by the next look.
        let known = sql("update log_identity set first_seq = $1 where first_seq < $1");
        tx.execute(known.bind(self.log.state().await.map_or(0, |log| log.first.get()))).await?;
        let data = json!({ "through_seq": through, "deleted": pruned.events });
        stage(&mut tx, "dev.skald.log.missed", data);
        tx.commit().await
    }

    /// The event is published when the log is taken on as it is.
    async fn tell_fault(&self, why: &str) -> Result<(), sqlx::Error> {
        let mut tx = self.db.begin().await?;
        stage(&mut tx, "dev.skald.log.replaced", json!({ "reason": why }));
        tx.commit().await
    }
}

fn stage(tx: &mut crate::Tx, kind: &'static str, data: serde_json::Value) {
    let event = Event::new(
        EventType::from_trusted(kind.into()),
        Source::from_trusted("/skald/log".into()),
        EventId::from_uuid(uuid::Uuid::now_v7()),
    );
    if let Ok(event) = event.with_json(data)
        && let Err(error) = tx.stage(&event)
    {
        tracing::error!(error = %chain(&error), "staging the event that tells of it");
    }
}

fn any_expired(db: &Db) -> crate::db::Query {
    sql("select 1 from work_queue where next_expiry_us <= $1 limit 1")
        .bind(db.clock().now().as_micros())
}
