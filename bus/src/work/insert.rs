//! Puts rows in.

use std::collections::{BTreeMap, HashSet};

use schemas::Timestamp;

use super::key::busy_keys;
use super::queue::{hint_due, hint_expiry};
use super::{LeaseToken, NEVER_US, QueueId, WorkId};
use crate::db::{Query, built};
use crate::failure::kept;
use crate::{Dialect, NodeId, Seq, Tx, bulk};

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
    /// The lease under which its first attempt is being made already.
    pub leased: Option<Seized>,
}

/// The lease of a row that is being tried when it is inserted.
#[derive(Clone, Debug)]
pub struct Seized {
    /// Proof of the lease.
    pub token: LeaseToken,
    /// When it ends.
    pub until: Timestamp,
    /// Which process holds it.
    owner: String,
}

impl Seized {
    /// A lease of `node` until then.
    #[must_use]
    pub fn new(node: &NodeId, until: Timestamp) -> Seized {
        Seized { token: LeaseToken::draw(), until, owner: node.as_str().to_owned() }
    }
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
            leased: None,
        }
    }
}

/// Writes all rows, many per statement. Most have only what every row has, and a value that is null
/// costs as much as any other.
pub(crate) async fn insert(tx: &mut Tx, rows: Vec<NewWork>) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let behind = behind(tx, &rows).await?;
    let (plain, others): (Vec<&NewWork>, Vec<&NewWork>) =
        rows.iter().partition(|row| row.is_plain());
    let dialect = tx.dialect();
    let write_plain = |chunk: &[&NewWork]| {
        let query = insert_of(dialect, "", chunk.len(), 8);
        chunk.iter().fold(query, |query, row| row.bind(query, &behind, now_us))
    };
    tx.execute_each(bulk::large_chunks(&plain).map(write_plain)).await?;
    let more = ", attempt, first_failed_at_us, last_failed_at_us, last_error, tag, name, payload,
        token, owner";
    let write = |chunk: &[&NewWork]| {
        let query = insert_of(dialect, more, chunk.len(), 17);
        let bind = |query, row: &&NewWork| row.bind_more(row.bind(query, &behind, now_us), now_us);
        chunk.iter().fold(query, bind)
    };
    tx.execute_each(bulk::large_chunks(&others).map(write)).await?;
    hint(tx, &rows, now_us).await
}

fn insert_of(dialect: Dialect, more: &str, rows: usize, columns: usize) -> Query {
    built(format!(
        "insert into work (id, queue, state, due_at_us, created_at_us, key, tenant, seq{more})
         values {} on conflict do nothing",
        bulk::rows(dialect, rows, columns)
    ))
}

impl NewWork {
    /// Whether it has nothing that most rows have not.
    fn is_plain(&self) -> bool {
        let named = self.tag.is_some() || self.name.is_some() || self.payload.is_some();
        !named && self.failed.is_none() && self.leased.is_none()
    }

    fn bind(&self, query: Query, behind: &HashSet<WorkId>, now_us: i64) -> Query {
        let state = match self {
            row if row.dead => "dead",
            row if row.leased.is_some() => "leased",
            row if behind.contains(&row.id) => "behind",
            _ => "ready",
        };
        query
            .bind(self.id.bytes())
            .bind(self.queue.0)
            .bind(state)
            .bind(self.due_us(now_us))
            .bind(now_us)
            .bind(self.key.clone())
            .bind(self.tenant.clone())
            .bind(self.seq.map(Seq::get))
    }

    fn bind_more(&self, query: Query, now_us: i64) -> Query {
        let failed_at = self.failed.as_ref().map(|_| now_us);
        let (attempt, error) = match (&self.failed, &self.leased) {
            (Some((attempts, error)), _) => (*attempts, Some(kept(error))),
            (None, leased) => (i64::from(leased.is_some()), None),
        };
        query
            .bind(attempt)
            .bind(failed_at)
            .bind(failed_at)
            .bind(error)
            .bind(self.tag.clone())
            .bind(self.name.clone())
            .bind(self.payload.clone())
            .bind(self.leased.as_ref().map(|lease| lease.token.get()))
            .bind(self.leased.as_ref().map(|lease| lease.owner.clone()))
    }

    fn due_us(&self, now_us: i64) -> i64 {
        match &self.leased {
            _ if self.dead => NEVER_US,
            Some(lease) => lease.until.as_micros(),
            None => self.due_at.map_or(now_us, Timestamp::as_micros),
        }
    }
}

/// Tells claims when rows are due, and who looks after leases when some end.
async fn hint(tx: &mut Tx, rows: &[NewWork], now_us: i64) -> Result<(), sqlx::Error> {
    let mut due: BTreeMap<i64, i64> = BTreeMap::new();
    let mut ends: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.dead) {
        let at = row.due_us(now_us);
        if row.leased.is_some() {
            ends.entry(at).or_default().push(row.queue.0);
        } else {
            due.entry(row.queue.0).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
    }
    if !due.is_empty() {
        hint_due(tx, &due.into_iter().collect::<Vec<_>>()).await?;
    }
    if let Some((first, _)) = ends.first_key_value() {
        let first = *first;
        hint_expiry(tx, ends.into_values().flatten().collect(), first).await?;
    }
    Ok(())
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
