//! Work: rows that workers lease, try, and finish, retry later or give up.
//!
//! A row belongs to a queue, the unit of pause, limits and fairness. `insert` puts rows in →
//! `claim` leases those that are due, as the queue's `limit`s allow → the worker tries → `settle`
//! ends each: done, again later, or a dead letter. `rescue` takes back leases that ended without
//! an answer. A lease is fenced by a token; an answer with another token changes nothing.
//!
//! Rows of one `key` are tried one after the other: the first is `ready`, the others stand `behind`
//! it and the next is set free when it has ended. The lease of the first is the lease of its key.
//!
//! What is likely to be done at the first try may be tried before it has a row: see `dispatch`.

mod claim;
mod dispatch;
mod id;
mod insert;
mod key;
mod limit;
mod queue;
mod rescue;
mod settle;
mod wait;

pub use claim::{Claim, Claimed, claim, next_due};
pub(crate) use dispatch::{
    Dispatch, Places, Wanted, any_abandoned, are_due, begin_dispatch, end_dispatch, give_up_places,
    rescue_dispatched,
};
pub use dispatch::{Stranded, all_dispatched, dispatched};
pub use id::{InvalidWorkId, LeaseToken, WorkId};
pub(crate) use insert::insert;
pub use insert::{NewWork, Seized};
pub(crate) use key::{behind, busy_keys, step_up};
pub use key::{key_of, lock_keys};
pub use limit::{Narrowed, SharedLimit, define_limit, narrow, widen};
pub use queue::{QueueId, counts, define, delete_queue, find, find_in, lock_queues, set_paused};
pub use rescue::{free_owned, rescue};
pub use settle::{Extended, Outcome, Settled, Verdict, count_done, extend, settle};
pub use wait::{Ending, wait};

/// A time after every other: what has no due row, or no lease.
pub(crate) const NEVER_US: i64 = i64::MAX;

/// Sets the next row of each key free; see `key`.
pub(crate) async fn release_keys(
    tx: &mut crate::Tx,
    keys: &[(i64, String)],
    now_us: i64,
) -> Result<(), sqlx::Error> {
    let hints = key::release(tx, keys, now_us).await?;
    if !hints.is_empty() {
        queue::hint_due(tx, &hints).await?;
    }
    Ok(())
}

/// Tells claims that rows of `queue` may be due from `due_us` on.
pub(crate) async fn hint(
    tx: &mut crate::Tx,
    queue: QueueId,
    due_us: i64,
) -> Result<(), sqlx::Error> {
    queue::hint_due(tx, &[(queue.0, due_us)]).await
}
