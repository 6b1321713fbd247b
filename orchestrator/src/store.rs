//! The rows of sagas: what the engine writes in bulk, what it loads, what is shown.

use std::collections::HashMap;

use bus::{Db, Found, Query, Tx, built, bulk, sql};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::state::Status;
use crate::transition::Transition;

/// `wake_at_us` of what is under way: whoever takes over the shard takes it up.
pub(crate) const UNDER_WAY: i64 = 0;
/// `wake_at_us` of what only something from outside can move.
pub(crate) const NEVER: i64 = i64::MAX;

/// A saga's row.
#[derive(Clone, Debug)]
pub struct SagaRow {
    /// Its id.
    pub id: String,
    /// Its definition and the version that it began with.
    pub definition: String,
    /// See `definition`.
    pub version: i64,
    /// Where it is.
    pub status: Status,
    /// Its input, as JSON.
    pub input: String,
    /// When it was made.
    pub created_us: i64,
    /// Who made it.
    pub created_by: String,
    /// When it ended.
    pub ended_us: Option<i64>,
    /// The saga that runs it as a step, and which request it answers.
    pub parent: Option<(String, String)>,
    /// The event that it came of: id and source.
    pub cause: Option<(String, String)>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    pub(crate) wake_us: i64,
}

const COLUMNS: &str = "id, definition, version, status, input, created_at_us, created_by,
    ended_at_us, parent, parent_request, cause_id, cause_source, traceparent, wake_at_us";

/// The shard of a saga.
pub(crate) fn shard_of(id: &str) -> i64 {
    bus::partition_of_key(id)
}

/// Writes new sagas; the ids of those that were not there yet.
pub(crate) async fn insert(tx: &mut Tx, rows: &[SagaRow]) -> Result<Vec<String>, sqlx::Error> {
    let mut inserted = Vec::with_capacity(rows.len());
    for chunk in bulk::chunks(rows) {
        let mut query = built(format!(
            "insert into saga ({COLUMNS}, shard) values {} on conflict do nothing returning id",
            bulk::rows(tx.dialect(), chunk.len(), 15)
        ));
        for row in chunk {
            let (parent, request) = split(row.parent.as_ref());
            let (cause, source) = split(row.cause.as_ref());
            query = query
                .bind(row.id.clone())
                .bind(row.definition.clone())
                .bind(row.version)
                .bind(row.status.as_str())
                .bind(row.input.clone())
                .bind(row.created_us)
                .bind(row.created_by.clone())
                .bind(row.ended_us)
                .bind(parent)
                .bind(request)
                .bind(cause)
                .bind(source)
                .bind(row.traceparent.clone())
                .bind(row.wake_us)
                .bind(shard_of(&row.id));
        }
        inserted.extend(tx.fetch_all(query).await?.iter().map(|row| row.get::<String, _>(0)));
    }
    Ok(inserted)
}

fn split(pair: Option<&(String, String)>) -> (Option<String>, Option<String>) {
    pair.cloned().unzip()
}

/// One commit's transitions of one saga.
pub(crate) struct Frame {
    pub(crate) saga: String,
    pub(crate) seq: i64,
    pub(crate) entries: String,
}

/// Writes frames to the journal.
pub(crate) async fn append(tx: &mut Tx, frames: &[Frame], at_us: i64) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(frames) {
        let mut query = built(format!(
            "insert into saga_journal (saga, seq, at_us, entries) values {}",
            bulk::rows(tx.dialect(), chunk.len(), 4)
        ));
        for frame in chunk {
            query = query
                .bind(frame.saga.clone())
                .bind(frame.seq)
                .bind(at_us)
                .bind(frame.entries.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Moves sagas that share a status and a time of waking.
pub(crate) async fn mark(
    tx: &mut Tx,
    ids: &[String],
    status: Status,
    wake_us: i64,
    ended_us: Option<i64>,
) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "update saga set status = $1, wake_at_us = $2, ended_at_us = $3 where id in ({})",
            bulk::list(4, chunk.len())
        ));
        query = query.bind(status.as_str()).bind(wake_us).bind(ended_us);
        for id in chunk {
            query = query.bind(id.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Rows by id.
pub(crate) async fn rows(db: &Db, ids: &[String]) -> Result<Vec<SagaRow>, sqlx::Error> {
    let mut found = Vec::with_capacity(ids.len());
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "select {COLUMNS} from saga where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.clone());
        }
        for row in db.fetch_all(query).await? {
            found.push(read(&row)?);
        }
    }
    Ok(found)
}

/// One frame as it is read: its number, its time, its transitions.
pub(crate) type ReadFrame = (i64, i64, Vec<Transition>);

/// How sagas are, by id; those that are there.
pub(crate) async fn statuses(
    db: &Db,
    ids: &[String],
) -> Result<HashMap<String, Status>, sqlx::Error> {
    let mut found = HashMap::with_capacity(ids.len());
    for chunk in bulk::chunks(ids) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("select id, status from saga where id in ({list})"));
        for id in chunk {
            query = query.bind(id.clone());
        }
        for row in db.fetch_all(query).await? {
            found.insert(row.get(0), status_of(row.get(1))?);
        }
    }
    Ok(found)
}

/// Journals by id, each in order.
pub(crate) async fn journals(
    db: &Db,
    ids: &[String],
) -> Result<HashMap<String, Vec<ReadFrame>>, sqlx::Error> {
    let mut found: HashMap<String, Vec<ReadFrame>> = HashMap::with_capacity(ids.len());
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "select saga, seq, at_us, entries from saga_journal where saga in ({})
             order by saga, seq",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.clone());
        }
        for row in db.fetch_all(query).await? {
            let entries: Vec<Transition> = serde_json::from_str(&row.get::<String, _>(3))
                .map_err(|error| sqlx::Error::Decode(error.into()))?;
            found.entry(row.get(0)).or_default().push((row.get(1), row.get(2), entries));
        }
    }
    Ok(found)
}

/// Which sagas of these shards are due, and were not before `after_us`; `(wake, id)`, oldest first.
pub(crate) async fn due(
    db: &Db,
    shards: &[i64],
    from_us: i64,
    to_us: i64,
    limit: i64,
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    if shards.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = built(format!(
        "select wake_at_us, id from saga where wake_at_us < {NEVER} and wake_at_us >= $1
         and wake_at_us <= $2 and shard in ({}) order by wake_at_us limit $3",
        bulk::list(4, shards.len())
    ));
    query = query.bind(from_us).bind(to_us).bind(limit);
    for shard in shards {
        query = query.bind(*shard);
    }
    Ok(db.fetch_all(query).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What was under way in a shard when its node died, a page after `after`.
pub(crate) async fn under_way(
    db: &Db,
    shard: i64,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, sqlx::Error> {
    let query = sql("select id from saga where wake_at_us < 9223372036854775807
         and wake_at_us = $1 and shard = $2 and id > $3 order by id limit $4")
    .bind(UNDER_WAY)
    .bind(shard)
    .bind(after.to_owned())
    .bind(limit);
    Ok(db.fetch_all(query).await?.iter().map(|row| row.get(0)).collect())
}

/// The first thing that is due after `after_us` in these shards.
pub(crate) async fn next_due(
    db: &Db,
    shards: &[i64],
    after_us: i64,
) -> Result<Option<i64>, sqlx::Error> {
    let mut next: Option<i64> = None;
    for shard in shards {
        let query = sql("select min(wake_at_us) from saga where wake_at_us < 9223372036854775807
             and shard = $1 and wake_at_us > $2")
        .bind(*shard)
        .bind(after_us);
        let due = db.fetch_optional(query).await?.and_then(|row| row.get::<Option<i64>, _>(0));
        next = due.into_iter().chain(next).min();
    }
    Ok(next)
}

/// Sagas to be listed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this definition.
    pub definition: Option<String>,
    /// In this status.
    pub status: Option<Status>,
    /// Made at or after this time.
    pub since_us: Option<i64>,
    /// Made of this event.
    pub cause: Option<String>,
    /// Behind this place: time and id of the last one of the page before.
    pub before: Option<(i64, String)>,
    /// How many at most.
    pub limit: usize,
}

/// A page of sagas, the newest first; fewer than the limit where their inputs are large.
///
/// # Errors
/// Those of the database.
pub async fn list(db: &Db, wanted: &Wanted) -> Result<Found<SagaRow>, sqlx::Error> {
    let mut text = format!("select {COLUMNS} from saga where created_at_us >= $1");
    let mut count = 1;
    let mut place = |clause: &str| {
        let mut clause = clause.to_owned();
        while clause.contains('?') {
            count += 1;
            clause = clause.replacen('?', &format!("${count}"), 1);
        }
        text.push_str(&clause);
    };
    if wanted.definition.is_some() {
        place(" and definition = ?");
    }
    if wanted.status.is_some() {
        place(" and status = ?");
    }
    if wanted.cause.is_some() {
        place(" and cause_id = ?");
    }
    if wanted.before.is_some() {
        place(" and (created_at_us < ? or (created_at_us = ? and id < ?))");
    }
    place(" order by created_at_us desc, id desc limit ?");
    let bind = |query: Query| {
        let mut query = query.bind(wanted.since_us.unwrap_or(0));
        if let Some(definition) = &wanted.definition {
            query = query.bind(definition.clone());
        }
        if let Some(status) = wanted.status {
            query = query.bind(status.as_str());
        }
        if let Some(cause) = &wanted.cause {
            query = query.bind(cause.clone());
        }
        if let Some((at, id)) = &wanted.before {
            query = query.bind(*at).bind(*at).bind(id.clone());
        }
        query.bind(i64::try_from(wanted.limit).map_or(i64::MAX, |limit| limit + 1))
    };
    let page = db.fetch_page(&text, bind, wanted.limit, "input").await?;
    let items = page.items.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Found { items, more: page.more })
}

/// Deletes sagas that ended before `before_us`, with their journals; how many there were.
pub(crate) async fn prune(db: &Db, before_us: i64, limit: i64) -> Result<usize, sqlx::Error> {
    let query = sql("select id from saga where ended_at_us is not null and ended_at_us < $1
         order by ended_at_us limit $2");
    let found = db.fetch_all(query.bind(before_us).bind(limit)).await?;
    let ids: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    let mut tx = db.begin().await?;
    for chunk in bulk::chunks(&ids) {
        for (table, column) in [("saga_journal", "saga"), ("saga_input", "saga"), ("saga", "id")] {
            let list = bulk::list(1, chunk.len());
            let mut query = built(format!("delete from {table} where {column} in ({list})"));
            for id in chunk {
                query = query.bind(id.clone());
            }
            tx.execute(query).await?;
        }
    }
    tx.commit().await?;
    Ok(ids.len())
}

/// How many there are by status, of those that have not ended, and when the oldest was made.
///
/// # Errors
/// Those of the database.
pub async fn open(db: &Db) -> Result<Vec<(String, i64, i64)>, sqlx::Error> {
    let query = sql("select status, count(*), min(created_at_us) from saga
         where ended_at_us is null group by status");
    Ok(db.fetch_all(query).await?.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect())
}

fn status_of(text: &str) -> Result<Status, sqlx::Error> {
    Status::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("no status: {text}").into()))
}

fn read(row: &AnyRow) -> Result<SagaRow, sqlx::Error> {
    Ok(SagaRow {
        id: row.get(0),
        definition: row.get(1),
        version: row.get(2),
        status: status_of(row.get(3))?,
        input: row.get(4),
        created_us: row.get(5),
        created_by: row.get(6),
        ended_us: row.get(7),
        parent: row.get::<Option<String>, _>(8).zip(row.get(9)),
        cause: row.get::<Option<String>, _>(10).zip(row.get(11)),
        traceparent: row.get(12),
        wake_us: row.get(13),
    })
}

/// An input that is kept in the database.
pub(crate) struct Kept {
    pub(crate) id: i64,
    pub(crate) saga: String,
    pub(crate) input: String,
    pub(crate) asked: bool,
}

/// Inputs of sagas of these shards, the oldest first.
pub(crate) async fn inputs(db: &Db, shards: &[i64], limit: i64) -> Result<Vec<Kept>, sqlx::Error> {
    if shards.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = built(format!(
        "select i.id, i.saga, i.input, i.asked from saga_input i
         left join saga s on s.id = i.saga
         where i.answer is null and (s.id is null or s.shard in ({})) order by i.id limit $1",
        bulk::list(2, shards.len())
    ));
    query = query.bind(limit);
    for shard in shards {
        query = query.bind(*shard);
    }
    let read = |row: &AnyRow| Kept {
        id: row.get(0),
        saga: row.get(1),
        input: row.get(2),
        asked: row.get::<Option<String>, _>(3).is_some(),
    };
    Ok(db.fetch_all(query).await?.iter().map(read).collect())
}

/// Keeps inputs for sagas: `(saga, input, asked)`.
pub(crate) async fn keep(
    tx: &mut Tx,
    inputs: &[(String, String, Option<String>)],
) -> Result<(), sqlx::Error> {
    let now = tx.clock().now().as_micros();
    for chunk in bulk::chunks(inputs) {
        let mut query = built(format!(
            "insert into saga_input (saga, input, asked, created_at_us) values {}",
            bulk::rows(tx.dialect(), chunk.len(), 4)
        ));
        for (saga, input, asked) in chunk {
            query = query.bind(saga.clone()).bind(input.clone()).bind(asked.clone()).bind(now);
        }
        tx.execute(query).await?;
    }
    tx.wake(bus::signals::SAGA);
    Ok(())
}

/// Notes that inputs were taken: those whose answer is waited for get it, the others go.
pub(crate) async fn taken(tx: &mut Tx, kept: &[(i64, Option<String>)]) -> Result<(), sqlx::Error> {
    let gone: Vec<i64> = kept.iter().filter(|(_, answer)| answer.is_none()).map(|k| k.0).collect();
    for chunk in bulk::chunks(&gone) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("delete from saga_input where id in ({list})"));
        for id in chunk {
            query = query.bind(*id);
        }
        tx.execute(query).await?;
    }
    for (id, answer) in kept.iter().filter(|(_, answer)| answer.is_some()) {
        let query = sql("update saga_input set answer = $1 where id = $2");
        tx.execute(query.bind(answer.clone()).bind(*id)).await?;
    }
    Ok(())
}

/// Inputs that were set aside with their sagas are to be taken again. They are those that have an
/// answer which nobody waits for.
pub(crate) async fn take_up_inputs(tx: &mut Tx, sagas: &[String]) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(sagas) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!(
            "update saga_input set answer = null
             where asked is null and answer is not null and saga in ({list})"
        ));
        for saga in chunk {
            query = query.bind(saga.clone());
        }
        tx.execute(query).await?;
        tx.wake(bus::signals::SAGA);
    }
    Ok(())
}

/// An event that a saga waits for.
pub(crate) struct EventWait {
    pub(crate) definition: String,
    pub(crate) version: i64,
    pub(crate) step: String,
    pub(crate) key: String,
    pub(crate) saga: String,
}

/// Says what these sagas wait for now, instead of what they waited for before.
pub(crate) async fn wait_for_events(
    tx: &mut Tx,
    sagas: &[String],
    waits: &[EventWait],
) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(sagas) {
        let list = bulk::list(1, chunk.len());
        let mut query = built(format!("delete from saga_wait where saga in ({list})"));
        for saga in chunk {
            query = query.bind(saga.clone());
        }
        tx.execute(query).await?;
    }
    for chunk in bulk::chunks(waits) {
        let mut query = built(format!(
            "insert into saga_wait (definition, version, step, key, saga) values {}
             on conflict do nothing",
            bulk::rows(tx.dialect(), chunk.len(), 5)
        ));
        for wait in chunk {
            query = query
                .bind(wait.definition.clone())
                .bind(wait.version)
                .bind(wait.step.clone())
                .bind(wait.key.clone())
                .bind(wait.saga.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Whether any saga waits for an event.
pub(crate) async fn any_waits(db: &Db) -> Result<bool, sqlx::Error> {
    Ok(db.fetch_optional(sql("select 1 from saga_wait limit 1")).await?.is_some())
}

/// The steps, with definition and version, at which sagas wait for events. One look at the index for
/// each, however many sagas wait there: a `distinct` would read them all.
pub(crate) async fn steps_that_wait(
    tx: &mut Tx,
) -> Result<Vec<(String, i64, String)>, sqlx::Error> {
    let mut found: Vec<(String, i64, String)> = Vec::new();
    loop {
        let (definition, version, step) = found.last().cloned().unwrap_or_default();
        let query = sql("select definition, version, step from saga_wait
             where (definition, version, step) > ($1, $2, $3)
             order by definition, version, step limit 1")
        .bind(definition)
        .bind(version)
        .bind(step);
        let Some(row) = tx.fetch_optional(query).await? else { return Ok(found) };
        found.push((row.get(0), row.get(1), row.get(2)));
    }
}
