//! Which log the cursors in the database belong to.

use sqlx::Row;

use crate::db::sql;
use crate::{Db, Log, LogState, ReadError};

/// The log and the database do not belong together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogIdentityError {
    /// The log was replaced: positions in it would name other events.
    #[error(
        "the database belongs to another log ({known}) than the one given ({found}); restore the log that belongs to it, or start with a fresh database and replay"
    )]
    Another {
        /// The log that the database knows.
        known: String,
        /// The log that was given.
        found: String,
    },
    /// The log is older than the cursors: it was restored from before they were written.
    #[error(
        "a consumer has read up to {cursor}, but the log ends at {last}: it has lost events; restore a newer copy"
    )]
    Behind {
        /// The furthest cursor.
        cursor: i64,
        /// The end of the log.
        last: i64,
    },
    /// The database.
    #[error("reading which log the database belongs to")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error("reading the log's identity")]
    Log(#[from] ReadError),
}

/// Refuses to run consumers on a log that is not theirs; the first start notes which one is.
pub(crate) async fn check(db: &Db, log: &dyn Log) -> Result<(), LogIdentityError> {
    let LogState { identity, last, .. } = log.state().await?;
    let mut tx = db.begin().await?;
    let note =
        sql("insert into log_identity (one, identity) values (1, $1) on conflict do nothing");
    tx.execute(note.bind(identity.clone())).await?;
    let known = tx.fetch_optional(sql("select identity from log_identity")).await?;
    let known: String = known.map_or_else(|| identity.clone(), |row| row.get(0));
    if known != identity {
        return Err(LogIdentityError::Another { known, found: identity });
    }
    let furthest = tx.fetch_optional(sql("select max(cursor_seq) from consumer_partition")).await?;
    let cursor = furthest.and_then(|row| row.get::<Option<i64>, _>(0)).unwrap_or(0);
    if cursor > last.get() {
        return Err(LogIdentityError::Behind { cursor, last: last.get() });
    }
    Ok(tx.commit().await?)
}
