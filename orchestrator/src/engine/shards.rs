//! Which sagas are this node's: shards, leased for as long as the node shows that it lives.

use std::collections::BTreeMap;

use bus::{Db, Dialect, NodeId, PARTITIONS, Tx, built, bulk, sql};
use sqlx::Row;

/// Makes the rows of the shards, once.
pub(super) async fn prepare(db: &Db) -> Result<(), sqlx::Error> {
    let there = sql("select count(*) from saga_shard");
    if db.fetch_optional(there).await?.is_some_and(|row| row.get::<i64, _>(0) == PARTITIONS) {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    for shard in 0..PARTITIONS {
        let query = sql("insert into saga_shard (shard, fence) values ($1, 0)
             on conflict do nothing");
        tx.execute(query.bind(shard)).await?;
    }
    tx.commit().await
}

/// Gives up what is more than this node's share, takes what is free; shards and their fences.
///
/// Two nodes cannot both take a shard: the one statement that takes it requires that nobody has it.
pub(super) async fn refresh(db: &Db, node: &NodeId) -> Result<BTreeMap<i64, i64>, sqlx::Error> {
    let held = sql("select shard, fence, node from saga_shard order by shard");
    let all = db.fetch_all(held).await?;
    let nodes = sql("select count(*) from node");
    let nodes: i64 = db.fetch_optional(nodes).await?.map_or(1, |row| row.get(0));
    let share = (PARTITIONS + nodes.max(1) - 1) / nodes.max(1);
    let mut mine = BTreeMap::new();
    let mut free = 0;
    for row in &all {
        match row.get::<Option<String>, _>(2) {
            Some(owner) if owner == node.as_str() => {
                mine.insert(row.get::<i64, _>(0), row.get::<i64, _>(1));
            }
            Some(_) => {}
            None => free += 1,
        }
    }
    let count = i64::try_from(mine.len()).unwrap_or(0);
    if count == share || (count < share && free == 0) {
        return Ok(mine);
    }
    let mut tx = db.begin().await?;
    while i64::try_from(mine.len()).unwrap_or(0) > share {
        let Some((shard, _)) = mine.pop_last() else { break };
        let give = sql("update saga_shard set node = null where shard = $1 and node = $2");
        tx.execute(give.bind(shard).bind(node.as_str().to_owned())).await?;
    }
    if count < share {
        let take = sql("update saga_shard set node = $1, fence = fence + 1
             where node is null and shard in (select shard from saga_shard where node is null
                 order by shard limit $2)
             returning shard, fence")
        .bind(node.as_str().to_owned())
        .bind(share - count);
        let taken = tx.fetch_all(take).await?;
        mine.extend(taken.iter().map(|row| (row.get::<i64, _>(0), row.get::<i64, _>(1))));
    }
    tx.commit().await?;
    Ok(mine)
}

/// Whether these shards are held under these fences, from now until the transaction has ended: a node
/// that has lost one writes nothing.
pub(super) async fn hold(tx: &mut Tx, fences: &BTreeMap<i64, i64>) -> Result<bool, sqlx::Error> {
    if fences.is_empty() {
        return Ok(true);
    }
    let lock = if tx.dialect() == Dialect::Postgres { " for share" } else { "" };
    let mut query = built(format!(
        "select shard, fence from saga_shard where shard in ({}) order by shard{lock}",
        bulk::list(1, fences.len())
    ));
    for shard in fences.keys() {
        query = query.bind(*shard);
    }
    let held = tx.fetch_all(query).await?;
    let held = held.iter().map(|row| (row.get::<i64, _>(0), row.get::<i64, _>(1)));
    Ok(held.eq(fences.iter().map(|(shard, fence)| (*shard, *fence))))
}
