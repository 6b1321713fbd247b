//! Order by key: one row of a key at a time, the others behind it.
//!
//! Who holds the lease of the row in front may work off what stands behind it too, in order and in
//! one transaction: `behind` → tried → `step_up` → settled together. Otherwise a key on which more
//! comes in than rows can be leased one after the other would never be free again.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemas::{Event, Timestamp};
use sha2::{Digest as _, Sha256};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::id::bind_ids;
use super::{Claimed, QueueId, WorkId};
use crate::db::built;
use crate::{Db, Dialect, Seq, Tx, bulk};

/// Bytes up to which a key is kept as it is. It stands in an index, and Postgres takes at most 2,704
/// bytes of a row there; a partition key may have 4,096.
const KEY_BYTES_MAX: usize = 512;

/// The key that rows about `event` are kept in order by: its [partition key](Event::partition_key), or a
/// SHA-256 of one that is long.
#[must_use]
pub fn key_of(event: &Event) -> Cow<'_, str> {
    let key = event.partition_key();
    if key.len() <= KEY_BYTES_MAX {
        return Cow::Borrowed(key);
    }
    Cow::Owned(format!("sha256:{}", BASE64.encode(Sha256::digest(key))))
}

/// Those of `keys` that have a row under way in `queue`. The rows are locked until the transaction
/// ends: whoever ends one of them meanwhile waits, and then sees what was put behind it. Those in
/// front are locked first, as they are by whoever ends one and then takes the next.
pub(crate) async fn busy_keys(
    tx: &mut Tx,
    queue: i64,
    keys: &[&str],
) -> Result<HashSet<String>, sqlx::Error> {
    let mut keys: Vec<&str> = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    let lock = if tx.dialect() == Dialect::Postgres {
        " order by state = 'behind', id for update"
    } else {
        ""
    };
    let mut busy = HashSet::new();
    for chunk in bulk::lists(&keys) {
        let mut query = built(format!(
            "select key from work where queue = $1 and state in ('ready', 'leased', 'behind')
             and key in ({}){lock}",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(queue);
        for key in chunk {
            query = query.bind((*key).to_owned());
        }
        for row in tx.fetch_all(query).await? {
            busy.insert(row.get(0));
        }
    }
    Ok(busy)
}

/// Locks the rows in front of these keys until the transaction ends, before the queues are locked that
/// rows of them will be put into: see [`super::lock_queues`].
///
/// # Errors
/// Those of the database.
pub async fn lock_keys<'a>(
    tx: &mut Tx,
    keys: impl IntoIterator<Item = (QueueId, Cow<'a, str>)>,
) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(()); // There is one writer.
    }
    let keys: Vec<(QueueId, Cow<'_, str>)> = keys.into_iter().collect();
    for chunk in bulk::chunks(&keys) {
        let mut query = built(format!(
            "select 1 from work where state in ('ready', 'leased') and (queue, key) in ({})
             order by id for update",
            bulk::rows(tx.dialect(), chunk.len(), 2)
        ));
        for (queue, key) in chunk {
            query = query.bind(queue.0).bind(key.clone().into_owned());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Sets the next row of each `(queue, key)` free, after the one in front has ended. A key that
/// still has one under way is left alone, so at most one row of a key is ever ready or leased.
pub(super) async fn release(
    tx: &mut Tx,
    keys: &[(i64, String)],
    now_us: i64,
) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let mut hints = Vec::new();
    for chunk in bulk::chunks(keys) {
        let next: Vec<String> = (0..chunk.len())
            .map(|index| {
                let (queue, key) = (2 + index * 2, 3 + index * 2);
                format!(
                    "select id from (select id from work where queue = ${queue} and key = ${key}
                     and state = 'behind' and not exists (select 1 from work o where
                     o.queue = ${queue} and o.key = ${key} and o.state in ('ready', 'leased'))
                     order by seq, id limit 1) n{index}"
                )
            })
            .collect();
        let mut query = built(format!(
            "update work set state = 'ready', due_at_us = $1 where id in ({}) returning queue",
            next.join(" union all ")
        ));
        query = query.bind(now_us);
        for (queue, key) in chunk {
            query = query.bind(*queue).bind(key.clone());
        }
        let freed = tx.fetch_all(query).await?;
        hints.extend(freed.iter().map(|row| (row.get::<i64, _>(0), now_us)));
    }
    Ok(hints)
}

/// What stands behind the rows of one claim, up to `each` behind every one, in order. An edited
/// event may be of another key than its row: none stands behind it here. Nor do rows of queues with
/// limits, which count leases.
pub(crate) async fn behind(
    db: &Db,
    fronts: &[Claimed],
    each: usize,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let fronts: HashMap<(i64, &str), &Claimed> = fronts
        .iter()
        .filter(|front| front.payload.is_none())
        .filter_map(|front| Some(((front.queue.0, front.key.as_deref()?), front)))
        .collect();
    let keys: Vec<(i64, &str)> = fronts.keys().copied().collect();
    let mut rows = Vec::new();
    for chunk in bulk::chunks(&keys) {
        let parts: Vec<String> = (0..chunk.len())
            .map(|index| {
                let (queue, key) = (2 + index * 2, 3 + index * 2);
                format!(
                    "select * from (select id, queue, key, attempt, created_at_us, tag, seq, payload
                     from work where queue = ${queue} and key = ${key} and state = 'behind'
                     and queue in (select id from work_queue where limits = '')
                     order by seq, id limit $1) b{index}"
                )
            })
            .collect();
        let mut query = built(parts.join(" union all "));
        query = query.bind(i64::try_from(each).unwrap_or(i64::MAX));
        for (queue, key) in chunk {
            query = query.bind(*queue).bind((*key).to_owned());
        }
        for row in db.fetch_all(query).await? {
            let (queue, key): (i64, String) = (row.get(1), row.get(2));
            let front = fronts.get(&(queue, key.as_str())).ok_or(sqlx::Error::RowNotFound)?;
            rows.push(read_behind(&row, front)?);
        }
    }
    rows.sort_unstable_by_key(|row| (row.seq, row.id));
    let mut edited: HashSet<Option<String>> = HashSet::new();
    rows.retain(|row| {
        if row.payload.is_some() {
            edited.insert(row.key.clone());
        }
        !edited.contains(&row.key)
    });
    Ok(rows)
}

fn read_behind(row: &AnyRow, front: &Claimed) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        id: WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?,
        attempt: row.get::<i64, _>(3) + 1,
        created_at: Timestamp::from_micros(row.get(4)),
        tag: row.get(5),
        seq: row.get::<Option<i64>, _>(6).map(Seq::new),
        payload: row.get(7),
        ..front.clone()
    })
}

/// Leases `rows`, which stand behind `fronts`, so that all can be settled before this transaction
/// ends. `false` when a lease of one in front has ended, or a row stands there no more.
pub(crate) async fn step_up(
    tx: &mut Tx,
    fronts: &[Claimed],
    rows: &[WorkId],
) -> Result<bool, sqlx::Error> {
    let Some(front) = fronts.first().filter(|_| !rows.is_empty()) else { return Ok(true) };
    let (token, now_us) = (front.token.get(), tx.clock().now().as_micros());
    let lock = if tx.dialect() == Dialect::Postgres { " order by id for update" } else { "" };
    let mut ids: Vec<WorkId> = fronts.iter().map(|front| front.id).collect();
    ids.sort_unstable();
    let mut held = HashSet::new();
    for chunk in bulk::lists(&ids) {
        let query = built(format!(
            "select id from work where state = 'leased' and token = $1 and due_at_us > $2
             and id in ({}){lock}",
            bulk::list(3, chunk.len())
        ));
        for row in tx.fetch_all(bind_ids(query.bind(token).bind(now_us), chunk)).await? {
            held.insert(row.get::<Vec<u8>, _>(0));
        }
    }
    let mut stepped_up = 0;
    for chunk in bulk::lists(rows) {
        let query = built(format!(
            "update work set state = 'leased', token = $1, due_at_us = $2, attempt = attempt + 1
             where state = 'behind' and id in ({})",
            bulk::list(3, chunk.len())
        ));
        let query = query.bind(token).bind(front.expires_at.as_micros());
        stepped_up += tx.execute(bind_ids(query, chunk)).await?.rows_affected();
    }
    Ok(held.len() == fronts.len() && stepped_up == rows.len() as u64)
}
