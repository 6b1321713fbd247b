//! Semantic locks: who has which, and who waits, first come first served.
//!
//! A lock is a row; its primary key lets one saga have it. A saga takes its locks in sorted order,
//! so two of them never wait for each other. Letting go hands the lock on in the same transaction
//! and leaves the next one an input that says so.
//!
//! Whoever takes a lock and whoever lets go of it come one after the other: else one reads that it is
//! held, the holder finds nobody waiting, and the first stands in a queue at which nobody looks. On
//! SQLite they do, since there is one writer; on Postgres each is alone with the name until its commit
//! (`alone_with`). The order is always the same, so that no two transactions wait for each other: first
//! the rows of sagas, then the names.

use std::collections::BTreeSet;

use bus::{Db, Dialect, Tx, built, bulk, sql};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::fingerprint::fingerprint;
use crate::planner::Input;
use crate::store;

/// Names that are mended in one transaction.
const MENDED_MAX: i64 = 100;
/// The advisory locks on Postgres that names share. A transaction that lets go of thousands of names
/// needs no more of them than this: the server has room for some thousands in all.
const PLACES: u64 = 1_024;
/// Where they begin among all advisory locks of the database.
const FIRST_PLACE: i64 = 7_310_483_000;

/// Takes `lock` for `saga`, or stands behind those that wait for it; true when it has it.
pub(crate) async fn take(db: &Db, lock: &str, saga: &str) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    // One that has ended meanwhile must not get it: nobody would let it go again. Its row is kept from
    // ending until the commit, and one whose end is being written waits here for that.
    let open = match tx.dialect() {
        Dialect::Sqlite => sql("select 1 from saga where id = $1 and ended_at_us is null"),
        Dialect::Postgres => {
            sql("select 1 from saga where id = $1 and ended_at_us is null for update")
        }
    };
    if tx.fetch_optional(open.bind(saga.to_owned())).await?.is_none() {
        return Ok(false);
    }
    alone_with(&mut tx, [lock]).await?;
    let first = sql("select q.saga from saga_lock_queue q
         join saga s on s.id = q.saga and s.ended_at_us is null
         where q.name = $1 order by q.id limit 1");
    let first = tx.fetch_optional(first.bind(lock.to_owned())).await?;
    let is_next = first.is_none_or(|row| row.get::<String, _>(0) == saga);
    if is_next {
        let query =
            sql("insert into saga_lock (name, saga) values ($1, $2) on conflict do nothing");
        tx.execute(query.bind(lock.to_owned()).bind(saga.to_owned())).await?;
    }
    let holder = sql("select saga from saga_lock where name = $1");
    let holder = tx.fetch_optional(holder.bind(lock.to_owned())).await?;
    let held = holder.is_some_and(|row| row.get::<String, _>(0) == saga);
    let query = match held {
        true => sql("delete from saga_lock_queue where name = $1 and saga = $2"),
        false => {
            sql("insert into saga_lock_queue (name, saga) values ($1, $2) on conflict do nothing")
        }
    };
    tx.execute(query.bind(lock.to_owned()).bind(saga.to_owned())).await?;
    tx.commit().await?;
    Ok(held)
}

/// Lets go of all locks of sagas whose end this transaction has written, and hands each on. Written
/// before: from then on none of them is handed one, or takes one.
pub(crate) async fn release(tx: &mut Tx, sagas: &[String]) -> Result<(), sqlx::Error> {
    if sagas.is_empty() {
        return Ok(());
    }
    let mut queued = Vec::new();
    let mut names = BTreeSet::new();
    for row in listed(tx, "select id, name from saga_lock_queue where saga in", sagas, "").await? {
        queued.push(row.get::<i64, _>(0));
        names.insert(row.get::<String, _>(1));
    }
    let held = listed(tx, "select name from saga_lock where saga in", sagas, "").await?;
    names.extend(held.iter().map(|row| row.get::<String, _>(0)));
    alone_with(tx, names.iter().map(String::as_str)).await?;
    leave_queue(tx, &queued).await?;
    // Read anew: one that waited may have been handed the lock in between.
    let freed = listed(tx, "delete from saga_lock where saga in", sagas, "returning name").await?;
    let freed: Vec<String> = freed.iter().map(|row| row.get(0)).collect();
    hand_on(tx, &freed).await
}

/// Hands on what nobody lets go of any more: locks that sagas wait for although nobody has them, or one
/// that has ended. How many there were; there should be none.
pub(crate) async fn mend(db: &Db) -> Result<usize, sqlx::Error> {
    let query = sql("select distinct q.name from saga_lock_queue q
         join saga w on w.id = q.saga and w.ended_at_us is null
         where not exists (select 1 from saga_lock l
             join saga h on h.id = l.saga and h.ended_at_us is null where l.name = q.name)
         limit $1");
    let names = db.fetch_all(query.bind(MENDED_MAX)).await?;
    let names: Vec<String> = names.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    alone_with(&mut tx, names.iter().map(String::as_str)).await?;
    let is_gone = "and not exists (select 1 from saga h where h.id = saga_lock.saga
         and h.ended_at_us is null)";
    listed(
        &mut tx,
        "delete from saga_lock where name in",
        &names,
        &format!("{is_gone} returning name"),
    )
    .await?;
    let held = listed(&mut tx, "select name from saga_lock where name in", &names, "").await?;
    let held: BTreeSet<String> = held.iter().map(|row| row.get(0)).collect();
    let free: Vec<String> = names.into_iter().filter(|name| !held.contains(name)).collect();
    hand_on(&mut tx, &free).await?;
    tx.commit().await?;
    Ok(free.len())
}

/// Gives each of these locks, which nobody has, to the first that waits for it and has not ended.
async fn hand_on(tx: &mut Tx, names: &[String]) -> Result<(), sqlx::Error> {
    let first = "select id, name, saga from saga_lock_queue where id in (
         select min(q.id) from saga_lock_queue q
         join saga s on s.id = q.saga and s.ended_at_us is null where q.name in";
    let next = listed(tx, first, names, "group by q.name)").await?;
    let next: Vec<(i64, String, String)> =
        next.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    for chunk in bulk::chunks(&next) {
        let rows = bulk::rows(tx.dialect(), chunk.len(), 2);
        let mut query = built(format!("insert into saga_lock (name, saga) values {rows}"));
        for (_, name, saga) in chunk {
            query = query.bind(name.clone()).bind(saga.clone());
        }
        tx.execute(query).await?;
    }
    leave_queue(tx, &next.iter().map(|(id, ..)| *id).collect::<Vec<_>>()).await?;
    let told = next.into_iter().map(|(_, lock, saga)| {
        let input = serde_json::to_string(&Input::Locked { lock }).unwrap_or_default();
        (saga, input, None)
    });
    store::keep(tx, &told.collect::<Vec<_>>()).await
}

async fn leave_queue(tx: &mut Tx, ids: &[i64]) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(ids) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("delete from saga_lock_queue where id in ({list})"));
        for id in chunk {
            query = query.bind(*id);
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Waits until nobody else takes these locks or lets go of them, which lasts until the commit. What is
/// read after that is how it stays.
async fn alone_with(tx: &mut Tx, names: impl IntoIterator<Item = &str>) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let place = |name| (fingerprint(name, 0) % PLACES).cast_signed() + FIRST_PLACE;
    // In order, as everybody takes them.
    let places: Vec<i64> =
        names.into_iter().map(place).collect::<BTreeSet<_>>().into_iter().collect();
    for chunk in bulk::chunks(&places) {
        let rows = bulk::rows(tx.dialect(), chunk.len(), 1);
        let mut query = built(format!(
            "select pg_advisory_xact_lock(v.place) from (values {rows}) as v (place)"
        ));
        for place in chunk {
            query = query.bind(*place);
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Runs a statement on a list of texts, which stands between its two parts.
async fn listed(
    tx: &mut Tx,
    before: &str,
    list: &[String],
    after: &str,
) -> Result<Vec<AnyRow>, sqlx::Error> {
    let mut found = Vec::new();
    for chunk in bulk::chunks(list) {
        let mut query = built(format!("{before} ({}) {after}", bulk::list(1, chunk.len())));
        for text in chunk {
            query = query.bind(text.clone());
        }
        found.extend(tx.fetch_all(query).await?);
    }
    Ok(found)
}
