//! Dead letters: events that a consumer gave up, with the error and the ways to put it right.
//!
//! A dead letter is a row of work in the state `dead`. It keeps a copy of its event, so that it
//! outlives the log's retention. Redriven, it is tried anew from the first attempt; deleted, it
//! stays for a while as `discarded`, so that a replay knows it was never done.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::{Event, Timestamp};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::db::{Query, built};
use crate::work::{QueueId, Settled, Verdict, WorkId};
use crate::{Found, Recorded, Seq, Tx, bulk, signals, work};

/// One dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its id.
    pub id: WorkId,
    /// Where its event stands in the log.
    pub seq: Option<Seq>,
    /// Its event, as JSON.
    pub event: Option<String>,
    /// The last error.
    pub error: String,
    /// Attempts made.
    pub attempts: i64,
    /// When it failed first.
    pub first_failed_at: Timestamp,
    /// When it failed last.
    pub last_failed_at: Timestamp,
}

/// Which dead letters of a queue.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these; all when empty.
    pub ids: Vec<WorkId>,
    /// Only those whose error contains this.
    pub error: Option<String>,
    /// Only those that failed last at this time or later.
    pub since: Option<Timestamp>,
}

/// How many dead letters share an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The error.
    pub error: String,
    /// How many.
    pub count: i64,
    /// When the first of them failed first.
    pub first_failed_at: Timestamp,
    /// When the last of them failed last.
    pub last_failed_at: Timestamp,
}

/// Rows changed by one statement; a redrive of very many is done in several transactions.
pub const CHUNK: i64 = 1_000;

/// How long it is remembered that a dead letter was given up: 30 days.
const DISCARDED_KEPT: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

/// A page of dead letters, newest first: up to `limit`, fewer where their events are large. `before` is
/// the id that the page before ended with.
///
/// # Errors
/// Those of the database.
pub async fn list(
    db: &crate::Db,
    queue: QueueId,
    which: &Selection,
    before: Option<WorkId>,
    limit: usize,
) -> Result<Found<DeadLetter>, sqlx::Error> {
    let (condition, binds) = which.condition(2);
    let at = 2 + binds.len();
    let text = format!(
        "select id, seq, payload, coalesce(last_error, ''), attempt,
             coalesce(first_failed_at_us, created_at_us), coalesce(last_failed_at_us, created_at_us)
         from work where queue = $1 and state = 'dead'{condition}{} order by id desc limit ${}",
        if before.is_some() { format!(" and id < ${at}") } else { String::new() },
        at + usize::from(before.is_some())
    );
    let fill = |query: Query| {
        let query = bind(query.bind(queue.0), binds);
        let query = before.into_iter().fold(query, |query, before| query.bind(before.bytes()));
        query.bind(i64::try_from(limit).map_or(i64::MAX, |limit| limit + 1))
    };
    let page = db.fetch_page(&text, fill, limit, "payload").await?;
    let items = page
        .items
        .iter()
        .map(|row| {
            Ok(DeadLetter {
                id: WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?,
                seq: row.get::<Option<i64>, _>(1).map(Seq::new),
                event: row.get(2),
                error: row.get(3),
                attempts: row.get(4),
                first_failed_at: Timestamp::from_micros(row.get(5)),
                last_failed_at: Timestamp::from_micros(row.get(6)),
            })
        })
        .collect::<Result<_, sqlx::Error>>()?;
    Ok(Found { items, more: page.more })
}

/// Selected dead letters by error, the most frequent first: at most `limit` groups, after the first
/// `skip`.
///
/// # Errors
/// Those of the database.
pub async fn groups(
    db: &crate::Db,
    queue: QueueId,
    which: &Selection,
    limit: i64,
    skip: i64,
) -> Result<Vec<Group>, sqlx::Error> {
    let (condition, binds) = which.condition(2);
    let at = 2 + binds.len();
    let text = format!(
        "select coalesce(last_error, ''), count(*), min(first_failed_at_us),
             max(last_failed_at_us) from work where queue = $1 and state = 'dead'{condition}
         group by 1 order by 2 desc, 1 limit ${at} offset ${}",
        at + 1
    );
    let query = bind(built(text).bind(queue.0), binds).bind(limit).bind(skip);
    let rows = db.fetch_all(query).await?;
    let at = |us: Option<i64>| Timestamp::from_micros(us.unwrap_or(0));
    let read = |row: &AnyRow| Group {
        error: row.get(0),
        count: row.get(1),
        first_failed_at: at(row.get(2)),
        last_failed_at: at(row.get(3)),
    };
    Ok(rows.iter().map(read).collect())
}

/// How many dead letters are selected.
///
/// # Errors
/// Those of the database.
pub async fn count(db: &crate::Db, queue: QueueId, which: &Selection) -> Result<i64, sqlx::Error> {
    let (condition, binds) = which.condition(2);
    let text = format!("select count(*) from work where queue = $1 and state = 'dead'{condition}");
    let row = db.fetch_optional(bind(built(text).bind(queue.0), binds)).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Sets up to [`CHUNK`] selected dead letters to be tried anew; returns how many. `edited` takes the
/// place of the event of a single one.
///
/// # Errors
/// Those of the database.
pub async fn redrive(
    tx: &mut Tx,
    queue: QueueId,
    which: &Selection,
    edited: Option<&Event>,
) -> Result<i64, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let (condition, binds) = which.condition(4);
    let edited = edited.and_then(|event| String::from_utf8(event.to_json()).ok());
    // A replay that made the row has counted it as dead: it no longer belongs to it.
    // Rows with an order go behind what is under way of their key, and the first is set free below.
    let text = format!(
        "update work set state = case when key is null then 'ready' else 'behind' end,
             due_at_us = $2, attempt = 0, payload = coalesce($3, payload), tag = null
         where queue = $1 and state = 'dead' and id in (select id from work where queue = $1
             and state = 'dead'{condition} order by id limit {CHUNK})
         returning key"
    );
    let query = built(text).bind(queue.0).bind(now_us).bind(edited);
    let rows = tx.fetch_all(bind(query, binds)).await?;
    let mut keys: Vec<(i64, String)> = rows
        .iter()
        .filter_map(|row| row.get::<Option<String>, _>(0))
        .map(|key| (queue.0, key))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    // Whoever ends what is in front has ended, or waits and then sees what stands behind it now.
    let names: Vec<&str> = keys.iter().map(|(_, key)| key.as_str()).collect();
    work::busy_keys(tx, queue.0, &names).await?;
    work::release_keys(tx, &keys, now_us).await?;
    work::hint(tx, queue, now_us).await?;
    tx.wake(signals::WORK);
    Ok(i64::try_from(rows.len()).unwrap_or(0))
}

/// Gives up to [`CHUNK`] selected dead letters up for good; returns how many.
///
/// # Errors
/// Those of the database.
pub async fn discard(tx: &mut Tx, queue: QueueId, which: &Selection) -> Result<i64, sqlx::Error> {
    let forget_us = tx.clock().now().as_micros() + crate::Span(DISCARDED_KEPT).micros();
    let (condition, binds) = which.condition(3);
    let text = format!(
        "update work set state = 'discarded', payload = null, due_at_us = $2
         where queue = $1 and state = 'dead' and id in (select id from work where queue = $1
             and state = 'dead'{condition} order by id limit {CHUNK})"
    );
    let query = built(text).bind(queue.0).bind(forget_us);
    let changed = tx.execute(bind(query, binds)).await?.rows_affected();
    Ok(i64::try_from(changed).unwrap_or(0))
}

/// Keeps the events of those in `settled` that have just become dead letters.
///
/// # Errors
/// Those of the database.
pub(crate) async fn keep(
    tx: &mut Tx,
    settled: &[Settled],
    events: &[Arc<Recorded>],
) -> Result<(), sqlx::Error> {
    let events: HashMap<Seq, &Arc<Recorded>> =
        events.iter().map(|event| (event.seq, event)).collect();
    let died: Vec<(WorkId, String)> = settled
        .iter()
        .filter(|row| row.verdict == Verdict::Dead)
        .filter_map(|row| {
            let event = events.get(&row.seq?)?;
            Some((row.id, String::from_utf8(event.event.to_json()).ok()?))
        })
        .collect();
    for chunk in bulk::chunks(&died) {
        let mut query = built(format!(
            "update work set payload = coalesce(payload, v.column2) from {} where id = v.column1",
            bulk::table(tx.dialect(), chunk.len(), 2)
        ));
        for (id, event) in chunk {
            query = query.bind(id.bytes()).bind(event.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

enum Bind {
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

fn bind(query: Query, binds: Vec<Bind>) -> Query {
    binds.into_iter().fold(query, |query, bind| match bind {
        Bind::Text(text) => query.bind(text),
        Bind::Number(number) => query.bind(number),
        Bind::Bytes(bytes) => query.bind(bytes),
    })
}

impl Selection {
    /// ` and …` with placeholders from `$first` on, and what to bind to them.
    fn condition(&self, first: usize) -> (String, Vec<Bind>) {
        let (mut text, mut binds) = (String::new(), Vec::new());
        if let Some(error) = &self.error {
            // The same on every database, which `like` is not: whether it has this in it, as written.
            let at = first + binds.len();
            text.push_str(&format!(" and replace(last_error, ${at}, '') <> last_error"));
            binds.push(Bind::Text(error.clone()));
        }
        if let Some(since) = self.since {
            text.push_str(&format!(" and last_failed_at_us >= ${}", first + binds.len()));
            binds.push(Bind::Number(since.as_micros()));
        }
        if !self.ids.is_empty() {
            let list = bulk::list(first + binds.len(), self.ids.len());
            text.push_str(&format!(" and id in ({list})"));
            binds.extend(self.ids.iter().map(|id| Bind::Bytes(id.bytes())));
        }
        (text, binds)
    }
}
