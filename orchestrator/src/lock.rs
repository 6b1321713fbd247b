//! Semantic locks: who has which, and who waits, first come first served.
//!
//! A lock is a row; its primary key lets one saga have it. A saga takes its locks in sorted order,
//! so two of them never wait for each other. Letting go hands the lock on in the same transaction
//! and leaves the next one an input that says so.

use bus::{Db, Dialect, Tx, sql};
use sqlx::Row;

use crate::planner::Input;
use crate::store;

/// Takes `lock` for `saga`, or stands behind those that wait for it; true when it has it.
pub(crate) async fn take(db: &Db, lock: &str, saga: &str) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    // One that has ended meanwhile must not get it: nobody would let it go again.
    let open = match tx.dialect() {
        Dialect::Sqlite => sql("select 1 from saga where id = $1 and ended_at_us is null"),
        Dialect::Postgres => {
            sql("select 1 from saga where id = $1 and ended_at_us is null for update")
        }
    };
    if tx.fetch_optional(open.bind(saga.to_owned())).await?.is_none() {
        return Ok(false);
    }
    let first = sql("select saga from saga_lock_queue where name = $1 order by id limit 1");
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
    if held {
        let query = sql("delete from saga_lock_queue where name = $1 and saga = $2");
        tx.execute(query.bind(lock.to_owned()).bind(saga.to_owned())).await?;
    } else {
        let query =
            sql("insert into saga_lock_queue (name, saga) values ($1, $2) on conflict do nothing");
        tx.execute(query.bind(lock.to_owned()).bind(saga.to_owned())).await?;
    }
    tx.commit().await?;
    Ok(held)
}

/// Lets go of all locks of a saga that has ended, and hands each on.
pub(crate) async fn release(tx: &mut Tx, saga: &str) -> Result<(), sqlx::Error> {
    let query = sql("delete from saga_lock_queue where saga = $1");
    tx.execute(query.bind(saga.to_owned())).await?;
    let query = sql("delete from saga_lock where saga = $1 returning name");
    let freed = tx.fetch_all(query.bind(saga.to_owned())).await?;
    for lock in freed.iter().map(|row| row.get::<String, _>(0)) {
        let first = sql("select saga from saga_lock_queue where name = $1 order by id limit 1");
        let Some(next) = tx.fetch_optional(first.bind(lock.clone())).await? else { continue };
        let next: String = next.get(0);
        let query =
            sql("insert into saga_lock (name, saga) values ($1, $2) on conflict do nothing");
        tx.execute(query.bind(lock.clone()).bind(next.clone())).await?;
        let query = sql("delete from saga_lock_queue where name = $1 and saga = $2");
        tx.execute(query.bind(lock.clone()).bind(next.clone())).await?;
        let input = serde_json::to_string(&Input::Locked { lock }).unwrap_or_default();
        store::keep(tx, &[(next, input, None)]).await?;
    }
    Ok(())
}
