//! Which log the cursors in the database belong to.

use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use crate::db::sql;
use crate::node::LEASE;
use crate::{Db, Log, LogState, ReadError, Span};

/// How long a server of a broker may take to learn where the log ends: one that was cut off, or leads
/// since a moment ago, may answer with an end that others have passed.
const CATCHING_UP_MAX: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// The log and the database do not belong together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogIdentityError {
    /// The log was replaced: positions in it would name other events.
    #[error(
        "the database belongs to another log ({known}) than the one given ({found}); restore the log that belongs to it, or take this one on with `skald log adopt`"
    )]
    Another {
        /// The log that the database knows.
        known: String,
        /// The log that was given.
        found: String,
    },
    /// The log is older than the cursors: it was restored from before they were written.
    #[error(
        "a consumer has read up to {cursor}, but the log ends at {last}: it has lost events; restore a newer copy, or take it on as it is with `skald log adopt`"
    )]
    Behind {
        /// The furthest cursor.
        cursor: i64,
        /// The end of the log.
        last: i64,
    },
    /// Nodes are running on the database.
    #[error("{0} nodes are running on this database: stop them first")]
    Running(i64),
    /// The database.
    #[error("reading which log the database belongs to")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error("reading the log's identity")]
    Log(#[from] ReadError),
}

/// What taking on a log changed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Adopted {
    /// The log that the database belongs to now.
    pub identity: String,
    /// Whether it is another one than before, which is then read from its beginning.
    pub replaced: bool,
    /// Cursors that were moved.
    pub cursors: u64,
}

/// Makes the log the one that the database belongs to, as it is. Consumers read another log from its
/// beginning, and one that lost its end from there on. Rows of work keep their numbers: those whose
/// event is gone become dead letters when it is their turn. For use while no node runs.
///
/// # Errors
/// [`LogIdentityError`].
pub async fn adopt(db: &Db, log: &dyn Log) -> Result<Adopted, LogIdentityError> {
    let LogState { identity, first, last } = log.state().await?;
    let mut tx = db.begin().await?;
    let alive = tx.clock().now().as_micros() - Span(LEASE).micros();
    let running = sql("select count(*) from node where seen_at_us > $1").bind(alive);
    let running: i64 = tx.fetch_optional(running).await?.map_or(0, |row| row.get(0));
    if running > 0 {
        return Err(LogIdentityError::Running(running));
    }
    let known = tx.fetch_optional(sql("select identity from log_identity")).await?;
    let known: Option<String> = known.map(|row| row.get(0));
    let replaced = known.as_ref().is_some_and(|known| *known != identity);
    let highest = if replaced { first.previous() } else { last };
    let move_back = sql("update consumer_partition set cursor_seq = $1 where cursor_seq > $1");
    let cursors = tx.execute(move_back.bind(highest.get())).await?.rows_affected();
    if replaced {
        for forget in [
            sql("delete from consumer_coverage"),
            sql("delete from consumer_done"),
            sql("delete from lineage"),
            sql("delete from inbox"),
        ] {
            tx.execute(forget).await?;
        }
        let note = sql("update log_identity set identity = $1, first_seq = 0, looked_at_us = 0");
        tx.execute(note.bind(identity.clone())).await?;
    }
    tx.commit().await?;
    Ok(Adopted { identity, replaced, cursors })
}

/// Refuses to run consumers on a log that is not theirs; the first start notes which one is.
pub(crate) async fn check(db: &Db, log: &dyn Log) -> Result<(), LogIdentityError> {
    // Other nodes read on meanwhile: the log is looked at after the cursors.
    let furthest = sql("select max(cursor_seq) from consumer_partition");
    let furthest = db.fetch_optional(furthest).await?;
    let cursor = furthest.and_then(|row| row.get::<Option<i64>, _>(0)).unwrap_or(0);
    let LogState { identity, last, .. } = caught_up(log, cursor).await?;
    let mut tx = db.begin().await?;
    let note =
        sql("insert into log_identity (one, identity) values (1, $1) on conflict do nothing");
    tx.execute(note.bind(identity.clone())).await?;
    let known = tx.fetch_optional(sql("select identity from log_identity")).await?;
    let known: String = known.map_or_else(|| identity.clone(), |row| row.get(0));
    if known != identity {
        return Err(LogIdentityError::Another { known, found: identity });
    }
    if cursor > last.get() {
        return Err(LogIdentityError::Behind { cursor, last: last.get() });
    }
    Ok(tx.commit().await?)
}

/// The state of a log that should reach as far as `cursor`: a broker is asked again if it does not.
async fn caught_up(log: &dyn Log, cursor: i64) -> Result<LogState, ReadError> {
    let begun = Instant::now();
    loop {
        let state = log.state().await?;
        let is_final = !log.is_shared() || begun.elapsed() >= CATCHING_UP_MAX;
        if is_final || state.last.get() >= cursor {
            return Ok(state);
        }
        tokio::time::sleep(LOOK).await;
    }
}
