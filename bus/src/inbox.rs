//! Which events a consumer has had, where the log may hold one twice.
//!
//! A broker knows a message id again for some minutes only; an event that is published again after
//! that stands in the log once more, with another position. Each consumer notes what it has had in the
//! transaction of its effects, and passes over what it finds noted.

use std::collections::{HashMap, HashSet};

use schemas::Event;
use sha2::{Digest as _, Sha256};
use sqlx::Row;

use crate::db::{built, sql};
use crate::handler::Item;
use crate::work::QueueId;
use crate::{Db, Seq, Tx, bulk};

/// Rows deleted in one transaction.
const CHUNK: i64 = 10_000;

/// 128 bits of SHA-256 over source, id and tenant: enough that no two events meet by chance or on purpose.
fn key(event: &Event) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(event.source.as_str());
    hash.update([0]); // in none of the three
    hash.update(event.id.as_str());
    if let Some(tenant) = event.tenant() {
        hash.update([0]);
        hash.update(tenant);
    }
    hash.finalize()[..16].to_vec()
}

/// Notes `items` for the consumer that `queue` belongs to; answers which of them it has had before,
/// at another position.
pub(crate) async fn note(
    tx: &mut Tx,
    queue: QueueId,
    items: &[Item],
) -> Result<HashSet<Seq>, sqlx::Error> {
    let mut repeated = HashSet::new();
    let mut first: HashMap<Vec<u8>, Seq> = HashMap::with_capacity(items.len());
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let (key, seq) = (key(&item.recorded.event), item.recorded.seq);
        if first.contains_key(&key) {
            repeated.insert(seq);
        } else {
            first.insert(key.clone(), seq);
            rows.push((key, seq));
        }
    }
    for chunk in bulk::chunks(&rows) {
        let mut query = built(format!(
            "insert into inbox (queue, event, seq) values {} on conflict do nothing",
            bulk::rows(tx.dialect(), chunk.len(), 3)
        ));
        for (key, seq) in chunk {
            query = query.bind(queue.0).bind(key.clone()).bind(seq.get());
        }
        if tx.execute(query).await?.rows_affected() < chunk.len() as u64 {
            repeated.extend(known(tx, queue, chunk).await?);
        }
    }
    Ok(repeated)
}

/// Those of `rows` that stand in the inbox with another position.
async fn known(
    tx: &mut Tx,
    queue: QueueId,
    rows: &[(Vec<u8>, Seq)],
) -> Result<Vec<Seq>, sqlx::Error> {
    let mut query = built(format!(
        "select event, seq from inbox where queue = $1 and event in ({})",
        bulk::list(2, rows.len())
    ))
    .bind(queue.0);
    for (key, _) in rows {
        query = query.bind(key.clone());
    }
    let noted: HashMap<Vec<u8>, i64> =
        tx.fetch_all(query).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let differs = |(key, seq): &&(Vec<u8>, Seq)| noted.get(key).is_some_and(|at| *at != seq.get());
    Ok(rows.iter().filter(differs).map(|(_, seq)| *seq).collect())
}

/// Forgets what stands up to `through`.
pub(crate) async fn forget(db: &Db, through: Seq) -> Result<(), sqlx::Error> {
    let mut low = match db.fetch_optional(sql("select min(seq) from inbox")).await? {
        Some(row) => row.get::<Option<i64>, _>(0).unwrap_or(i64::MAX),
        None => return Ok(()),
    };
    while low <= through.get() {
        let high = low.saturating_add(CHUNK).min(through.get());
        let mut tx = db.begin().await?;
        tx.execute(sql("delete from inbox where seq <= $1").bind(high)).await?;
        tx.commit().await?;
        low = high + 1;
    }
    Ok(())
}
