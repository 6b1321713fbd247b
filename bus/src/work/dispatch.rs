//! Work that is tried before it has rows.
//!
//! Most of what is handed on is tried once and done. To insert a row, lease it and delete it again
//! is three quarters of what that costs the database. So a consumer may send events out at once: in
//! the transaction that moves its cursor, [`begin_dispatch`] takes places in the limits of their
//! queue and writes one row of `work_dispatch` for the lot; the places, of which one serves many
//! events in turn, are counted in `work_place`. [`end_dispatch`] takes those off whose outcome is
//! written in the same transaction: only what is tried again, takes long, or cannot start soon gets
//! a row of work. When the process dies in between, [`rescue_dispatched`] gives back what had no
//! outcome, and it becomes rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::Row;

use super::id::bind_ids;
use super::limit::{self, Limit};
use super::queue::{self, QueueInfo, lock_queues};
use super::{QueueId, WorkId};
use crate::db::{Query, built, sql};
use crate::{Db, Dialect, NodeId, Seq, Tx, bulk};

/// Events that are to be tried at once.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Where they stand in the log.
    pub(crate) seqs: Vec<Seq>,
    /// Whether this process has places in their queue already: then they may wait for those.
    pub(crate) has_places: bool,
    /// How many of those are free for them.
    pub(crate) free: usize,
}

/// Events of one queue that are tried at once.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// What stands for them in the database.
    pub(crate) id: WorkId,
    /// Their queue.
    pub(crate) queue: QueueId,
    /// How many places were taken for them.
    pub(crate) places: usize,
}

/// Sends out the events of every queue that has places for them, or in which this process has some,
/// and takes up to `most` more; the events of the other queues are the caller's to enqueue. Of a
/// queue that has rows due, at most half of the places that are left are taken; of one that is
/// paused, none.
///
/// The places are taken in this transaction, as a claim takes them, with the queues locked: no
/// two can take the same one. Whoever sends out several times in one transaction locks all the queues
/// with [`lock_queues`] first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn begin_dispatch(
    tx: &mut Tx,
    node: &NodeId,
    wanted: &BTreeMap<QueueId, Wanted>,
    most: usize,
) -> Result<Vec<Dispatch>, sqlx::Error> {
    let queues = open_queues(tx, wanted.keys().map(|queue| queue.0).collect()).await?;
    let names = queues.iter().flat_map(|(queue, _)| queue.limits.clone()).collect();
    let mut limits = limit::load(tx, names).await?;
    let now_us = tx.clock().now().as_micros();
    let mut left = most;
    let mut changed = HashSet::new();
    let mut begun = Vec::new();
    for (queue, is_due) in &queues {
        let Some(wanted) = wanted.get(&QueueId(queue.id)) else { continue };
        let own = queue.limits.iter().filter_map(|name| limits.get(name));
        let allowed = own.map(|limit| limit.allows(now_us)).min().unwrap_or(i64::MAX);
        let allowed = if *is_due { allowed / 2 } else { allowed };
        // Where each start counts, each event needs a place of its own.
        let counts = |name: &String| limits.get(name).is_some_and(|one| one.counts_starts(now_us));
        let paced = queue.limits.iter().any(counts);
        let free = if paced { 0 } else { wanted.free };
        let needed = wanted.seqs.len().saturating_sub(free);
        let places = usize::try_from(allowed).unwrap_or(0).min(needed).min(left);
        let waits = wanted.has_places || places > 0;
        if !waits || paced && places < wanted.seqs.len() {
            continue;
        }
        left -= places;
        for name in queue.limits.iter().filter(|_| places > 0) {
            if let Some(limit) = limits.get_mut(name) {
                limit.take(i64::try_from(places).unwrap_or(0), now_us);
                changed.insert(name.as_str());
            }
        }
        begun.push(Dispatch { id: WorkId::new(), queue: QueueId(queue.id), places });
    }
    let changed: Vec<&Limit> = changed.into_iter().filter_map(|name| limits.get(name)).collect();
    limit::store(tx, &changed).await?;
    insert(tx, node, &begun, wanted).await?;
    Ok(begun)
}

/// Those of the queues that are not paused, and whether they have rows due; locked until the
/// transaction ends.
async fn open_queues(tx: &mut Tx, ids: Vec<i64>) -> Result<Vec<(QueueInfo, bool)>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let lock = match tx.dialect() {
        Dialect::Sqlite => "",
        Dialect::Postgres => " order by id for update",
    };
    let mut queues = Vec::with_capacity(ids.len());
    for chunk in bulk::lists(&ids) {
        let mut query = built(format!(
            "select id, name, policy, limits, kind, case when exists (select 1 from work
                 where queue = work_queue.id and state = 'ready' and due_at_us <= $1)
                 then 1 else 0 end
             from work_queue where id in ({}) and paused = 0{lock}",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(now_us);
        for id in chunk {
            query = query.bind(*id);
        }
        for row in tx.fetch_all(query).await? {
            queues.push((QueueInfo::read(&row)?, row.get::<i64, _>(5) == 1));
        }
    }
    Ok(queues)
}

async fn insert(
    tx: &mut Tx,
    node: &NodeId,
    begun: &[Dispatch],
    wanted: &BTreeMap<QueueId, Wanted>,
) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(begun) {
        let mut query = built(format!(
            "insert into work_dispatch (id, queue, node, seqs, legs) values {}",
            bulk::rows(tx.dialect(), chunk.len(), 5)
        ));
        for one in chunk {
            let seqs = wanted.get(&one.queue).map_or(&[][..], |wanted| &wanted.seqs);
            query = query
                .bind(one.id.bytes())
                .bind(one.queue.0)
                .bind(node.as_str().to_owned())
                .bind(serde_json::to_string(seqs).unwrap_or_default())
                .bind(i64::try_from(seqs.len()).unwrap_or(0));
        }
        tx.execute(query).await?;
    }
    let taken: Vec<&Dispatch> = begun.iter().filter(|one| one.places > 0).collect();
    for chunk in bulk::chunks(&taken) {
        let mut query = built(format!(
            "insert into work_place (queue, node, places) values {}
             on conflict (queue, node) do update set places = work_place.places + excluded.places",
            bulk::rows(tx.dialect(), chunk.len(), 3)
        ));
        for one in chunk {
            query = query
                .bind(one.queue.0)
                .bind(node.as_str().to_owned())
                .bind(i64::try_from(one.places).unwrap_or(0));
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Takes so many events off their dispatches, in the transaction that writes what became of them.
/// Returns the dispatches that were still there: of another, somebody has made rows already.
///
/// # Errors
/// Those of the database.
pub(crate) async fn end_dispatch(
    tx: &mut Tx,
    taken: &BTreeMap<WorkId, i64>,
) -> Result<HashSet<WorkId>, sqlx::Error> {
    let mut held = HashSet::with_capacity(taken.len());
    let taken: Vec<(&WorkId, &i64)> = taken.iter().collect();
    for chunk in bulk::lists(&taken) {
        let n = chunk.len();
        let mut query = built(format!(
            "update work_dispatch set legs = legs - v.column2 from {} where id = v.column1
             returning id",
            bulk::table(tx.dialect(), n, 2)
        ));
        for (id, legs) in &chunk {
            query = query.bind(id.bytes()).bind(**legs);
        }
        for row in tx.fetch_all(query).await? {
            held.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?);
        }
        let done = built(format!(
            "delete from work_dispatch where legs <= 0 and id in ({})",
            bulk::list(1, n)
        ));
        tx.execute(bind_ids(done, chunk.iter().map(|(id, _)| *id))).await?;
    }
    tx.wake(crate::signals::OUTCOME);
    Ok(held)
}

/// What a process does with places of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places {
    /// Rows that were inserted under lease have them now.
    pub(crate) moved: i64,
    /// They are free.
    pub(crate) free: i64,
}

/// Gives up places that `node` holds: those that are free go back into the limits, and claims are
/// told where rows wait for them.
///
/// # Errors
/// Those of the database.
pub(crate) async fn give_up_places(
    tx: &mut Tx,
    node: &NodeId,
    given_up: &BTreeMap<QueueId, Places>,
) -> Result<(), sqlx::Error> {
    lock_queues(tx, given_up.keys().copied()).await?;
    let all: Vec<(&QueueId, &Places)> = given_up.iter().collect();
    let mut freed = BTreeMap::new();
    for chunk in bulk::lists(&all) {
        let n = chunk.len();
        let mut query = built(format!(
            "update work_place set places = places - v.column2
             from {} where queue = v.column1 and node = ${} returning queue",
            bulk::table(tx.dialect(), n, 2),
            1 + 2 * n,
        ));
        for (queue, places) in &chunk {
            query = query.bind(queue.0).bind(places.moved + places.free);
        }
        query = query.bind(node.as_str().to_owned());
        // Of what is not there any more, another process has given the places back.
        for row in tx.fetch_all(query).await? {
            let queue: i64 = row.get(0);
            let free = given_up.get(&QueueId(queue)).map_or(0, |places| places.free);
            freed.insert(queue, free);
        }
    }
    let none = sql("delete from work_place where node = $1 and places <= 0");
    tx.execute(none.bind(node.as_str().to_owned())).await?;
    give_back(tx, &freed).await
}

/// Which of the queues have rows that are due.
pub(crate) async fn are_due(
    tx: &mut Tx,
    queues: impl Iterator<Item = QueueId>,
) -> Result<HashSet<QueueId>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let ids: Vec<i64> = queues.map(|queue| queue.0).collect();
    let mut due = HashSet::new();
    for chunk in bulk::lists(&ids) {
        let mut query = built(format!(
            "select id from work_queue where id in ({}) and exists (select 1 from work
             where queue = work_queue.id and state = 'ready' and due_at_us <= $1)",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(now_us);
        for id in chunk {
            query = query.bind(*id);
        }
        due.extend(tx.fetch_all(query).await?.iter().map(|row| QueueId(row.get(0))));
    }
    Ok(due)
}

/// Puts places back into the limits of their queues, which are locked.
async fn give_back(tx: &mut Tx, freed: &BTreeMap<i64, i64>) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> =
        freed.iter().filter(|(_, places)| **places > 0).map(|(queue, _)| *queue).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut places = HashMap::new();
    for queue in QueueInfo::load(tx, &ids).await? {
        for name in queue.limits {
            *places.entry(name).or_default() += freed.get(&queue.id).copied().unwrap_or(0);
        }
    }
    limit::give_back(tx, &places).await?;
    // A claim that found no place has noted that none of them is to be looked at: not when a row is due
    // now, and not when one will be.
    let hints = first_ready(tx, &ids).await?;
    if hints.is_empty() { Ok(()) } else { queue::hint_due(tx, &hints).await }
}

/// Those of the queues that have rows to be tried, and when the first of each is due.
async fn first_ready(tx: &mut Tx, queues: &[i64]) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let mut first = Vec::new();
    for chunk in bulk::lists(queues) {
        let mut query = built(format!(
            "select id, (select min(due_at_us) from work
                 where queue = work_queue.id and state = 'ready')
             from work_queue where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for queue in chunk {
            query = query.bind(*queue);
        }
        let rows = tx.fetch_all(query).await?;
        first.extend(
            rows.iter().filter_map(|row| Some((row.get(0), row.get::<Option<i64>, _>(1)?))),
        );
    }
    Ok(first)
}

/// Events without an outcome whose process does not try them any more.
#[derive(Clone, Debug)]
pub struct Stranded {
    /// Their queue.
    pub queue: QueueId,
    /// The name of their queue.
    pub name: String,
    /// Where all events of the dispatch stand in the log, those with an outcome included.
    pub seqs: Vec<Seq>,
}

/// Takes over what processes that are gone had sent out, and what `node` itself had and does not
/// know of: `knows` and `holds` tell its dispatches and places. The caller writes rows for the
/// events, in this transaction.
///
/// The statements that delete a dispatch and places tell one caller of them, whoever else looks.
pub(crate) async fn rescue_dispatched(
    tx: &mut Tx,
    node: &NodeId,
    kind: &str,
    knows: impl Fn(WorkId) -> bool,
    holds: impl Fn(QueueId) -> bool,
) -> Result<Vec<Stranded>, sqlx::Error> {
    let mut gone = Vec::new();
    for row in tx.fetch_all(abandoned(node, kind)).await? {
        let id = WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?;
        if !knows(id) {
            gone.push(id);
        }
    }
    let mut stranded = Vec::new();
    for chunk in bulk::lists(&gone) {
        let query = built(format!(
            "delete from work_dispatch where id in ({}) returning queue, seqs,
             (select name from work_queue where id = work_dispatch.queue)",
            bulk::list(1, chunk.len())
        ));
        for row in tx.fetch_all(bind_ids(query, chunk)).await? {
            let seqs = decode(&row.get::<String, _>(1))?;
            if let Some(name) = row.get::<Option<String>, _>(2) {
                stranded.push(Stranded { queue: QueueId(row.get(0)), name, seqs });
            }
        }
    }
    free_places(tx, node, kind, holds).await?;
    Ok(stranded)
}

async fn free_places(
    tx: &mut Tx,
    node: &NodeId,
    kind: &str,
    holds: impl Fn(QueueId) -> bool,
) -> Result<(), sqlx::Error> {
    let rows = tx.fetch_all(abandoned_places(node, kind)).await?;
    let left: Vec<(i64, String)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .filter(|(queue, _)| !holds(QueueId(*queue)))
        .collect();
    lock_queues(tx, left.iter().map(|(queue, _)| QueueId(*queue))).await?;
    let mut freed = BTreeMap::new();
    for (queue, of) in left {
        let query = sql("delete from work_place where queue = $1 and node = $2 returning places");
        for row in tx.fetch_all(query.bind(queue).bind(of)).await? {
            *freed.entry(queue).or_default() += row.get::<i64, _>(0);
        }
    }
    give_back(tx, &freed).await
}

/// Whether [`rescue_dispatched`] may have something to do, without taking a lock.
pub(crate) async fn any_abandoned(
    db: &Db,
    node: &NodeId,
    kind: &str,
    knows: impl Fn(WorkId) -> bool,
    holds: impl Fn(QueueId) -> bool,
) -> Result<bool, sqlx::Error> {
    for row in db.fetch_all(abandoned(node, kind)).await? {
        if !knows(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?) {
            return Ok(true);
        }
    }
    let places = db.fetch_all(abandoned_places(node, kind)).await?;
    Ok(places.iter().any(|row| !holds(QueueId(row.get(0)))))
}

/// Dispatches of `kind` that are `node`'s own, or of a process that is gone.
fn abandoned(node: &NodeId, kind: &str) -> Query {
    sql("select d.id from work_dispatch d join work_queue q on q.id = d.queue and q.kind = $2
         where d.node = $1 or d.node not in (select id from node)")
    .bind(node.as_str().to_owned())
    .bind(kind.to_owned())
}

fn abandoned_places(node: &NodeId, kind: &str) -> Query {
    sql("select p.queue, p.node from work_place p join work_queue q on q.id = p.queue
             and q.kind = $2
         where p.node = $1 or p.node not in (select id from node)")
    .bind(node.as_str().to_owned())
    .bind(kind.to_owned())
}

/// The events of `queue` that are under way without rows.
///
/// # Errors
/// Those of the database.
pub async fn dispatched(tx: &mut Tx, queue: QueueId) -> Result<HashSet<Seq>, sqlx::Error> {
    let query = sql("select seqs from work_dispatch where queue = $1").bind(queue.0);
    let mut seqs = HashSet::new();
    for row in tx.fetch_all(query).await? {
        seqs.extend(decode(&row.get::<String, _>(0))?);
    }
    Ok(seqs)
}

/// The events of all queues of `kind`, or of the one of this name, that are under way without rows, by
/// the name of their queue. Some may have got their rows.
///
/// # Errors
/// Those of the database.
pub async fn all_dispatched(
    db: &Db,
    kind: &str,
    name: Option<&str>,
) -> Result<Vec<(String, Vec<Seq>)>, sqlx::Error> {
    let text = "select q.name, d.seqs from work_dispatch d join work_queue q on q.id = d.queue
        where q.kind = $1";
    let query = match name {
        Some(name) => {
            built(format!("{text} and q.name = $2")).bind(kind.to_owned()).bind(name.to_owned())
        }
        None => sql(text).bind(kind.to_owned()),
    };
    let rows = db.fetch_all(query).await?;
    rows.iter().map(|row| Ok((row.get(0), decode(&row.get::<String, _>(1))?))).collect()
}

fn decode(seqs: &str) -> Result<Vec<Seq>, sqlx::Error> {
    serde_json::from_str(seqs).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
