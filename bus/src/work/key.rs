//! Order by key: one row of a key at a time, the others behind it.

use std::collections::HashSet;

use sqlx::Row;

use crate::db::built;
use crate::{Dialect, Tx, bulk};

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
