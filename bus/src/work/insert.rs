//! Puts rows in.

use std::collections::{BTreeMap, HashSet};

use schemas::Timestamp;

use super::key::busy_keys;
use super::queue::hint_due;
use super::{NEVER_US, QueueId, WorkId};
use crate::db::built;
use crate::{Seq, Tx, bulk};

/// A row to come. `NewWork { seq, ..NewWork::in_queue(queue) }`.
#[derive(Clone, Debug)]
pub struct NewWork {
    /// Its id.
    pub id: WorkId,
    /// Its queue.
    pub queue: QueueId,
    /// When it is due; now when `None`.
    pub due_at: Option<Timestamp>,
    /// Rows of one key are tried one after the other, in order of `seq`.
    pub key: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// What belongs together.
    pub tag: Option<String>,
    /// A name that is unique in the queue: a second row of the name is dropped.
    pub name: Option<String>,
    /// The event it is about; a second row about the event is dropped.
    pub seq: Option<Seq>,
    /// What to do.
    pub payload: Option<String>,
    /// Attempts made already and the error of the last one.
    pub failed: Option<(i64, String)>,
    /// Whether it is a dead letter from the start.
    pub dead: bool,
}

impl NewWork {
    /// A row in `queue`, due now, with nothing else set.
    #[must_use]
    pub fn in_queue(queue: QueueId) -> NewWork {
        NewWork {
            id: WorkId::new(),
            queue,
            due_at: None,
            key: None,
            tenant: None,
            tag: None,
            name: None,
            seq: None,
            payload: None,
            failed: None,
            dead: false,
        }
    }
}

const COLUMNS: usize = 15;

/// Writes all rows, many per statement.
pub(crate) async fn insert(tx: &mut Tx, rows: Vec<NewWork>) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let behind = behind(tx, &rows).await?;
    let mut hints: Vec<(i64, i64)> = Vec::new();
    for row in rows.iter().filter(|row| !row.dead) {
        let due = row.due_at.map_or(now_us, Timestamp::as_micros);
        match hints.last_mut() {
            Some((queue, earliest)) if *queue == row.queue.0 => *earliest = due.min(*earliest),
            _ => hints.push((row.queue.0, due)),
        }
    }
    for chunk in bulk::chunks(&rows) {
        let mut query = built(format!(
            "insert into work (id, queue, state, due_at_us, attempt, created_at_us,
                 first_failed_at_us, last_failed_at_us, last_error, key, tenant, tag, name, seq,
                 payload) values {} on conflict do nothing",
            bulk::rows(tx.dialect(), chunk.len(), COLUMNS)
        ));
        for row in chunk {
            let state = match row {
                row if row.dead => "dead",
                row if behind.contains(&row.id) => "behind",
                _ => "ready",
            };
            let failed_at = row.failed.as_ref().map(|_| now_us);
            let (attempt, error) = row.failed.clone().map_or((0, None), |(n, e)| (n, Some(e)));
            query = query
                .bind(row.id.bytes())
                .bind(row.queue.0)
                .bind(state)
                .bind(if row.dead {
                    NEVER_US
                } else {
                    row.due_at.map_or(now_us, Timestamp::as_micros)
                })
                .bind(attempt)
                .bind(now_us)
                .bind(failed_at)
                .bind(failed_at)
                .bind(error)
                .bind(row.key.clone())
                .bind(row.tenant.clone())
                .bind(row.tag.clone())
                .bind(row.name.clone())
                .bind(row.seq.map(Seq::get))
                .bind(row.payload.clone());
        }
        tx.execute(query).await?;
    }
    hint_due(tx, &hints).await
}

/// Which rows stand behind another of their key: all but the first, and the first too where the
/// key has one under way already.
async fn behind(tx: &mut Tx, rows: &[NewWork]) -> Result<HashSet<WorkId>, sqlx::Error> {
    type Keyed<'a> = Vec<(&'a str, Option<Seq>, WorkId)>;
    let mut by_queue: BTreeMap<QueueId, Keyed<'_>> = BTreeMap::new();
    for row in rows {
        if let (Some(key), false) = (&row.key, row.dead) {
            by_queue.entry(row.queue).or_default().push((key, row.seq, row.id));
        }
    }
    let mut behind = HashSet::new();
    for (queue, mut keyed) in by_queue {
        keyed.sort_unstable();
        let keys: Vec<&str> = keyed.iter().map(|(key, ..)| *key).collect();
        let busy = busy_keys(tx, queue.0, &keys).await?;
        let mut previous = None;
        for (key, _, id) in keyed {
            if previous == Some(key) || busy.contains(key) {
                behind.insert(id);
            }
            previous = Some(key);
        }
    }
    Ok(behind)
}
