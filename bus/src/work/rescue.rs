//! Takes back leases that ended without an answer.

use std::collections::HashMap;

use sqlx::Row;

use super::queue::{QueueInfo, lock_queues};
use super::settle::{Leased, Plan};
use super::{NEVER_US, Outcome, QueueId, Settled, Verdict, WorkId};
use crate::db::{built, sql};
use crate::{Dialect, Tx};

/// Queues looked at by one call.
const QUEUES_MAX: i64 = 64;
/// Rows taken back per queue by one call.
const ROWS_MAX: i64 = 500;

/// Takes back up to a few thousand leases that have ended: each was an attempt, and is tried again
/// at once, or is a dead letter after the last one. Returns those that it changed; with an empty
/// answer nothing is left to do.
///
/// # Errors
/// Those of the database.
pub async fn rescue(tx: &mut Tx) -> Result<Vec<Settled>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let postgres = tx.dialect() == Dialect::Postgres;
    let due =
        sql("select id, name, policy, limits, kind from work_queue where next_expiry_us <= $1
         order by next_expiry_us limit $2");
    let queues = tx.fetch_all(due.bind(now_us).bind(QUEUES_MAX)).await?;
    let mut plan = Plan::default();
    let mut settled = Vec::new();
    let outcome = Outcome::Failed {
        error: "the lease ended without an answer".to_owned(),
        permanent: false,
        delay: Some(std::time::Duration::ZERO),
    };
    let mut looked_at = Vec::new();
    for row in &queues {
        let queue = QueueInfo::read(row)?;
        for (id, leased) in expired(tx, queue.id, now_us, postgres).await? {
            let verdict = plan.add(id, &leased, &queue, &outcome, now_us);
            let seq = leased.seq().filter(|_| verdict == Verdict::Dead);
            settled.push(Settled { id, verdict, seq, queue: Some(QueueId(leased.queue())) });
        }
        looked_at.push(QueueId(queue.id));
    }
    // A claim under way ends first, and what it leased is seen.
    lock_queues(tx, looked_at.iter().copied()).await?;
    plan.execute(tx, now_us).await?;
    for queue in looked_at {
        note_next_expiry(tx, queue.0).await?;
    }
    Ok(settled)
}

/// Ends every lease held by `owner`, or by any process (not by a program outside) where none is
/// named, so that [`rescue`] takes it back now. For owners that are known to be gone.
///
/// # Errors
/// Those of the database.
pub async fn free_owned(tx: &mut Tx, owner: Option<&str>) -> Result<(), sqlx::Error> {
    let whose = if owner.is_some() { "owner = $2" } else { "owner is not null" };
    let mut leased = built(format!(
        "update work set due_at_us = 0 where state = 'leased' and {whose}
         and queue in (select id from work_queue where next_expiry_us < $1)"
    ))
    .bind(NEVER_US);
    if let Some(owner) = owner {
        leased = leased.bind(owner.to_owned());
    }
    if tx.execute(leased).await?.rows_affected() > 0 {
        tx.execute(
            sql("update work_queue set next_expiry_us = 0 where next_expiry_us < $1")
                .bind(NEVER_US),
        )
        .await?;
    }
    Ok(())
}

async fn expired(
    tx: &mut Tx,
    queue: i64,
    now_us: i64,
    lock: bool,
) -> Result<HashMap<WorkId, Leased>, sqlx::Error> {
    let lock = if lock { " for update skip locked" } else { "" };
    let query = built(format!(
        "select {} from work where queue = $1 and state = 'leased' and due_at_us <= $2
         order by due_at_us limit $3{lock}",
        Leased::COLUMNS
    ));
    let mut rows = HashMap::new();
    for row in tx.fetch_all(query.bind(queue).bind(now_us).bind(ROWS_MAX)).await? {
        rows.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?, Leased::read(&row));
    }
    Ok(rows)
}

async fn note_next_expiry(tx: &mut Tx, queue: i64) -> Result<(), sqlx::Error> {
    let query = sql("update work_queue set next_expiry_us = coalesce((select min(due_at_us)
             from work where queue = $1 and state = 'leased'), $2) where id = $1")
    .bind(queue)
    .bind(NEVER_US);
    tx.execute(query).await.map(|_| ())
}
