//! Waits for the end of rows.

use std::time::Duration;

use sqlx::Row;

use super::WorkId;
use crate::db::built;
use crate::{Db, bulk, signals};

/// Longest time without looking: rows may end on another node.
const LOOK: Duration = Duration::from_secs(1);

/// How a row ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done; its output, if it had one. A row that left nothing to tell, or was never there, counts
    /// as done without output.
    Done(Option<String>),
    /// A dead letter; its last error.
    Dead(Option<String>),
    /// It has not ended.
    Pending,
}

/// Waits until every one of `ids` has ended, or `timeout` has passed; says how each ended, in their
/// order. It looks when something has ended on this node, and once a second for other nodes.
///
/// # Errors
/// Those of the database.
pub async fn wait(db: &Db, ids: &[WorkId], timeout: Duration) -> Result<Vec<Ending>, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut ended = db.signals().subscribe(signals::OUTCOME);
    loop {
        ended.borrow_and_update();
        let endings = look(db, ids).await?;
        if !endings.contains(&Ending::Pending) {
            return Ok(endings);
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(endings),
            _ = ended.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn look(db: &Db, ids: &[WorkId]) -> Result<Vec<Ending>, sqlx::Error> {
    let mut endings = vec![Ending::Done(None); ids.len()];
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "select id, state, output, last_error from work where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.bytes());
        }
        for row in db.fetch_all(query).await? {
            let id = WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?;
            let ending = match row.get::<String, _>(1).as_str() {
                "done" => Ending::Done(row.get(2)),
                "dead" | "discarded" => Ending::Dead(row.get(3)),
                _ => Ending::Pending,
            };
            for (at, _) in ids.iter().enumerate().filter(|(_, known)| **known == id) {
                endings[at] = ending.clone();
            }
        }
    }
    Ok(endings)
}
