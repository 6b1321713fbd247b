//! Queues: what rows belong to.

use std::collections::BTreeSet;

use sqlx::Row;

use super::NEVER_US;
use super::limit::Limit;
use crate::db::{Query, built, sql};
use crate::{Db, Dialect, Policy, Tx, bulk};

/// The number of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub(crate) i64);

impl QueueId {
    /// The queue that stands under this number in the database.
    #[must_use]
    pub const fn from_number(number: i64) -> QueueId {
        QueueId(number)
    }
}

/// Makes the queue `kind`/`name`, or brings its policy and limits up to date. `shared` names limits
/// that other queues have too.
///
/// # Errors
/// Those of the database.
pub async fn define(
    tx: &mut Tx,
    kind: &str,
    name: &str,
    policy: &Policy,
    shared: &[&str],
) -> Result<QueueId, sqlx::Error> {
    let own = Limit::of_policy(&format!("{kind}/{name}"), policy);
    let mut names: Vec<&str> = own.iter().map(Limit::name).collect();
    names.extend(shared);
    let policy = serde_json::to_string(policy).unwrap_or_else(|_| "{}".into());
    let rows = tx
        .fetch_all(
            sql("insert into work_queue (kind, name, policy, limits, next_due_us, next_expiry_us)
                 values ($1, $2, $3, $4, $5, $5)
                 on conflict (kind, name) do update set policy = excluded.policy,
                     limits = excluded.limits, next_due_us = 0
                 returning id")
            .bind(kind.to_owned())
            .bind(name.to_owned())
            .bind(policy)
            .bind(names.join(","))
            .bind(NEVER_US),
        )
        .await?;
    let queue = QueueId(rows[0].get(0));
    for limit in &own {
        limit.define(tx).await?;
        limit.count_in_flight(tx, queue).await?;
    }
    tx.wake(crate::signals::WORK);
    Ok(queue)
}

/// The queue `kind`/`name`, if there is one.
///
/// # Errors
/// Those of the database.
pub async fn find(db: &Db, kind: &str, name: &str) -> Result<Option<QueueId>, sqlx::Error> {
    Ok(db.fetch_optional(by_name(kind, name)).await?.map(|row| QueueId(row.get(0))))
}

/// The queue `kind`/`name`, if there is one, as `tx` sees it.
///
/// # Errors
/// Those of the database.
pub async fn find_in(tx: &mut Tx, kind: &str, name: &str) -> Result<Option<QueueId>, sqlx::Error> {
    Ok(tx.fetch_optional(by_name(kind, name)).await?.map(|row| QueueId(row.get(0))))
}

fn by_name(kind: &str, name: &str) -> Query {
    sql("select id from work_queue where kind = $1 and name = $2")
        .bind(kind.to_owned())
        .bind(name.to_owned())
}

/// Stops or resumes claims; rows may be put in meanwhile, leases go on.
///
/// # Errors
/// Those of the database.
pub async fn set_paused(tx: &mut Tx, queue: QueueId, paused: bool) -> Result<(), sqlx::Error> {
    let query = sql("update work_queue set paused = $2, next_due_us = 0 where id = $1")
        .bind(queue.0)
        .bind(i64::from(paused));
    tx.execute(query).await?;
    tx.wake(crate::signals::WORK);
    Ok(())
}

/// Deletes the queue with all its rows and its own limits.
///
/// # Errors
/// Those of the database.
pub async fn delete_queue(tx: &mut Tx, kind: &str, name: &str) -> Result<(), sqlx::Error> {
    if let Some(queue) = find_in(tx, kind, name).await? {
        delete_rows(tx, queue).await?;
        tx.execute(sql("delete from work_queue where id = $1").bind(queue.0)).await?;
        // What others had put in before that, who kept the queue locked.
        delete_rows(tx, queue).await?;
    }
    let limits = sql("delete from work_limit where name in ($1, $2)");
    let base = format!("{kind}/{name}");
    tx.execute(limits.bind(Limit::rate_name(&base)).bind(Limit::concurrency_name(&base))).await?;
    Ok(())
}

async fn delete_rows(tx: &mut Tx, queue: QueueId) -> Result<(), sqlx::Error> {
    for text in [
        "delete from work where queue = $1",
        "delete from work_dispatch where queue = $1",
        "delete from work_place where queue = $1",
    ] {
        tx.execute(sql(text).bind(queue.0)).await?;
    }
    Ok(())
}

/// Rows of a queue by state, with the oldest creation time of each: state, rows, microseconds.
///
/// # Errors
/// Those of the database.
pub async fn counts(
    db: &Db,
    queue: QueueId,
) -> Result<Vec<(String, i64, Option<i64>)>, sqlx::Error> {
    let query = sql("select state, case when attempt > 0 then 1 else 0 end, count(*),
            min(created_at_us) from work where queue = $1 group by 1, 2")
    .bind(queue.0);
    let rows = db.fetch_all(query).await?;
    let read = |row: &sqlx::any::AnyRow| {
        let state: String = row.get(0);
        let tried = row.get::<i64, _>(1) == 1;
        let state = if state == "ready" && tried { "retrying".to_owned() } else { state };
        (state, row.get(2), row.get(3))
    };
    Ok(rows.iter().map(read).collect())
}

/// What claims and settlements need to know of a queue.
#[derive(Clone, Debug)]
pub(super) struct QueueInfo {
    pub(super) id: i64,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) limits: Vec<String>,
}

impl QueueInfo {
    /// From a row of `id, name, policy, limits, kind`.
    pub(super) fn read(row: &sqlx::any::AnyRow) -> Result<QueueInfo, sqlx::Error> {
        let policy: String = row.get(2);
        let policy =
            serde_json::from_str(&policy).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let limits: String = row.get(3);
        let limits = limits.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let (kind, name) = (row.get(4), row.get(1));
        Ok(QueueInfo { id: row.get(0), kind, name, policy, limits })
    }

    /// What it is called in metrics: queues of consumers are few; of the other kinds there may be a
    /// hundred thousand, which must not each have a series.
    pub(super) fn label(&self) -> &str {
        let is_consumer = ["consumer", "pull", "push"].contains(&self.kind.as_str());
        if is_consumer { &self.name } else { &self.kind }
    }

    pub(super) async fn load(tx: &mut Tx, ids: &[i64]) -> Result<Vec<QueueInfo>, sqlx::Error> {
        let mut queues = Vec::with_capacity(ids.len());
        for chunk in bulk::lists(ids) {
            let mut query = built(format!(
                "select id, name, policy, limits, kind from work_queue where id in ({})",
                bulk::list(1, chunk.len())
            ));
            for id in chunk {
                query = query.bind(*id);
            }
            for row in tx.fetch_all(query).await? {
                queues.push(QueueInfo::read(&row)?);
            }
        }
        Ok(queues)
    }
}

/// Locks queues until the transaction ends, so that whoever is about to change what is noted of them
/// waits, and makes a claim that is under way on them end first: it does not see the rows of this
/// transaction, and may be about to write that nothing is due.
///
/// That no two transactions wait for each other, everybody keeps to this order: rows of work, then
/// queues by their numbers, all that the transaction will need at once, then limits, then what is of a
/// room. Claims lock queues first, but pass over what is locked and wait for no row.
///
/// # Errors
/// Those of the database.
pub async fn lock_queues(
    tx: &mut Tx,
    queues: impl IntoIterator<Item = QueueId>,
) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(()); // There is one writer.
    }
    let queues: BTreeSet<QueueId> = queues.into_iter().collect();
    lock(tx, &queues.into_iter().collect::<Vec<_>>()).await.map(|_| ())
}

/// Locks queues that are given in order: how many of them there are.
async fn lock(tx: &mut Tx, queues: &[QueueId]) -> Result<usize, sqlx::Error> {
    let mut locked = 0;
    for chunk in bulk::lists(queues) {
        let mut query = built(format!(
            "select 1 from work_queue where id in ({}) order by id for update",
            bulk::list(1, chunk.len())
        ));
        for queue in &chunk {
            query = query.bind(queue.0);
        }
        locked += tx.fetch_all(query).await?.len();
    }
    Ok(locked)
}

/// Tells claims that rows of these queues may be due from `due` on: `(queue, due)`.
pub(super) async fn hint_due(tx: &mut Tx, hints: &[(i64, i64)]) -> Result<(), sqlx::Error> {
    let mut earliest = std::collections::BTreeMap::new();
    for (queue, due) in hints {
        let known = earliest.entry(*queue).or_insert(*due);
        *known = (*known).min(*due);
    }
    let hints: Vec<(i64, i64)> = earliest.into_iter().collect();
    let queues: Vec<QueueId> = hints.iter().map(|(queue, _)| QueueId(*queue)).collect();
    if tx.dialect() == Dialect::Postgres && lock(tx, &queues).await? < queues.len() {
        // Rows that are put into a queue while it is deleted would be nobody's.
        tx.yield_to_another();
        return Err(sqlx::Error::RowNotFound);
    }
    for chunk in bulk::lists(&hints) {
        let mut query = built(format!(
            "update work_queue set next_due_us = v.column2
             from {} where id = v.column1 and next_due_us > v.column2",
            bulk::table(tx.dialect(), chunk.len(), 2),
        ));
        for (queue, due) in &chunk {
            query = query.bind(*queue).bind(*due);
        }
        tx.execute(query).await?;
    }
    tx.wake(crate::signals::WORK);
    Ok(())
}

/// Tells who looks after leases that one in these queues may end at `until`.
pub(super) async fn hint_expiry(
    tx: &mut Tx,
    mut queues: Vec<i64>,
    until: i64,
) -> Result<(), sqlx::Error> {
    queues.sort_unstable();
    queues.dedup();
    for chunk in bulk::lists(&queues) {
        let mut query = built(format!(
            "update work_queue set next_expiry_us = $1 where next_expiry_us > $1 and id in ({})",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(until);
        for id in chunk {
            query = query.bind(*id);
        }
        tx.execute(query).await?;
    }
    Ok(())
}
