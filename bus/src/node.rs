//! The processes that share a database: who is there, and what happens to what one leaves behind.
//!
//! A node shows every second that it lives. One that has not for a while is gone: another frees
//! its partitions, duties and leases, and all look for their share again. Should it only have been
//! paused, it writes nothing of what it had under way: each batch names its fences, each outcome its
//! lease.
//!
//! Nodes need not be alike: a program with a consumer of its own joins those that run without it. Each
//! says which consumers it has the code of, and has a share in the partitions of those.

use std::sync::Arc;
use std::time::Duration;

use schemas::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::db::sql;
use crate::handler::Handler;
use crate::{Db, Span, Tx, signals, work};

/// How long a node keeps what it has without a sign of life.
pub const LEASE: Duration = Duration::from_secs(8);
/// How often it renews what it has.
pub const RENEW: Duration = Duration::from_secs(2);
/// How often it shows that it lives, and looks who else does.
const BEAT: Duration = Duration::from_secs(1);

/// One process that shares the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId(pub(crate) String);

impl NodeId {
    /// A new process.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> NodeId {
        NodeId(uuid::Uuid::now_v7().simple().to_string())
    }

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A node as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    pub(crate) node: NodeId,
    /// The consumers that it has the code of, as JSON.
    consumers: String,
}

impl Presence {
    pub(crate) fn new(node: NodeId, handlers: &[Arc<dyn Handler>]) -> Presence {
        let names: Vec<&str> = handlers.iter().map(|handler| &*handler.spec().name).collect();
        Presence { node, consumers: serde_json::to_string(&names).unwrap_or_default() }
    }
}

/// How many nodes live that have the code of `consumer`, or all that live without one.
pub(crate) async fn count(tx: &mut Tx, consumer: Option<&str>) -> Result<i64, sqlx::Error> {
    let alive = tx.clock().now().as_micros() - Span(LEASE).micros();
    let nodes = tx.fetch_all(sql("select consumers from node where seen_at_us > $1").bind(alive));
    let has = |row: &AnyRow| {
        let names = serde_json::from_str::<Vec<String>>(&row.get::<String, _>(0));
        consumer.is_none_or(|name| names.is_ok_and(|names| names.iter().any(|one| one == name)))
    };
    Ok(nodes.await?.iter().filter(|row| has(row)).count().try_into().unwrap_or(1))
}

/// Comes in: from now on others leave this node a share.
pub(crate) async fn join(db: &Db, node: &Presence) -> Result<(), sqlx::Error> {
    let newest = db.fetch_optional(sql("select max(seen_at_us) from node")).await?;
    if let Some(seen) = newest.and_then(|row| row.get::<Option<i64>, _>(0)) {
        db.clock().not_before(Timestamp::from_micros(seen));
    }
    show(db, node, false).await?;
    db.signals().notify(signals::CONFIG);
    Ok(())
}

/// Shows that this node lives until `stop`, and frees what nodes that are gone have left behind.
pub(crate) async fn beat(db: Db, node: Presence, stop: CancellationToken) {
    let mut shown = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        // Who has not been able to write could others not either: they are not gone for that.
        let judges = shown.elapsed() < LEASE;
        match show(&db, &node, judges).await {
            Ok(()) => shown = Instant::now(),
            Err(error) => tracing::warn!(error = %chain(&error), "noting that this node lives"),
        }
    }
}

/// Notes that this node lives; one that `judges` also ends those that no longer do.
async fn show(db: &Db, node: &Presence, judges: bool) -> Result<(), sqlx::Error> {
    db.follow_clock().await?;
    let gone = db.clock().now().as_micros() - Span(LEASE).micros();
    if judges {
        end_transactions(db, gone).await?;
    }
    let mut tx = db.begin().await?;
    let now_us = tx.clock().now().as_micros();
    let query = sql("insert into node (id, started_at_us, seen_at_us, consumers, transactions)
         values ($1, $2, $2, $3, $4)
         on conflict (id) do update set seen_at_us = excluded.seen_at_us");
    let query = query.bind(node.node.0.clone()).bind(now_us).bind(node.consumers.clone());
    tx.execute(query.bind(db.transactions().map(str::to_owned))).await?;
    if judges {
        let query = sql("delete from node where seen_at_us < $1 returning id").bind(gone);
        for row in tx.fetch_all(query).await? {
            let id: String = row.get(0);
            tracing::warn!(node = id, "a node is gone, its work is taken over");
            free(&mut tx, &id).await?;
            tx.wake(signals::CONFIG);
            tx.wake(signals::WORK);
        }
    }
    tx.commit().await
}

/// Ends the transactions that nodes not seen since `gone` were paused in: what takes over waits for
/// none of their locks.
async fn end_transactions(db: &Db, gone: i64) -> Result<(), sqlx::Error> {
    let Some(own) = db.transactions() else { return Ok(()) };
    let query = sql("select transactions from node where seen_at_us < $1 and transactions <> $2");
    for row in db.fetch_all(query.bind(gone).bind(own.to_owned())).await? {
        db.end_transactions(&row.get::<String, _>(0)).await?;
    }
    Ok(())
}

/// Goes, and leaves nothing behind that others would wait for.
pub(crate) async fn leave(db: &Db, node: &NodeId) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    tx.execute(sql("delete from node where id = $1").bind(node.0.clone())).await?;
    free(&mut tx, &node.0).await?;
    tx.wake(signals::CONFIG);
    tx.commit().await
}

async fn free(tx: &mut Tx, node: &str) -> Result<(), sqlx::Error> {
    let partitions = sql("update consumer_partition set node = null where node = $1");
    tx.execute(partitions.bind(node.to_owned())).await?;
    tx.execute(sql("delete from duty where node = $1").bind(node.to_owned())).await?;
    let shards = sql("update saga_shard set node = null where node = $1");
    tx.execute(shards.bind(node.to_owned())).await?;
    work::free_owned(tx, Some(node)).await
}

/// Takes back all partitions, duties and leases that processes held. For a start that knows that no
/// other process is running on this database.
pub(crate) async fn free_all(db: &Db) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    tx.execute(sql("delete from node")).await?;
    tx.execute(sql("delete from duty")).await?;
    tx.execute(sql("update consumer_partition set node = null where node is not null")).await?;
    tx.execute(sql("update saga_shard set node = null where node is not null")).await?;
    work::free_owned(&mut tx, None).await?;
    tx.commit().await
}
