//! Replays: events of the past, handed to one consumer again; and rebuilds of its generation.
//!
//! A replay is a row with a position. `Replayer` reads the log from there, leaves out what the mode
//! leaves out, and makes rows of work of the rest, in the transaction that moves the position: so
//! it survives a restart without handing anything over twice. The rows end like any other, and the
//! settlement counts them here. A rebuild is a replay whose work is done by a runner of its own.

use std::fmt;
use std::str::FromStr;

use schemas::{Pattern, Patterns, Timestamp};
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::coverage::{Coverage, Progress};
use crate::db::{built, sql};
use crate::registry::{self, Registration};
use crate::work::{self, WorkId};
use crate::{Db, Log, Rate, Read, ReadError, Seq, Tx, bulk, signals};

/// The id of a replay: `rpl_` and a UUIDv7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayId(String);

impl ReplayId {
    fn new() -> ReplayId {
        ReplayId(format!("rpl_{}", Uuid::now_v7().simple()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReplayId {
    type Err = crate::work::InvalidWorkId;

    fn from_str(text: &str) -> Result<ReplayId, Self::Err> {
        crate::work::WorkId::parse("rpl", text).map(|id| ReplayId(id.prefixed("rpl")))
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of the events are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Those that the consumer has not done.
    SkipDone,
    /// All.
    Force,
    /// All, into a new generation that takes over when it has caught up.
    Rebuild,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Mode::SkipDone => "skip_done",
            Mode::Force => "force",
            Mode::Rebuild => "rebuild",
        }
    }
}

/// Where a replay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It hands events over, or waits for their end.
    Running,
    /// It stands still; what was handed over goes on.
    Paused,
    /// Every event was handed over and has ended.
    Completed,
    /// It was ended by a person, or with its consumer.
    Cancelled,
    /// It cannot go on; `error` says why.
    Failed,
}

impl Status {
    fn parse(text: &str) -> Status {
        match text {
            "running" => Status::Running,
            "paused" => Status::Paused,
            "completed" => Status::Completed,
            "cancelled" => Status::Cancelled,
            _ => Status::Failed,
        }
    }

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Completed => "completed",
            Status::Cancelled => "cancelled",
            Status::Failed => "failed",
        }
    }

    /// What a person may do: pause and resume what goes on, cancel what has not ended.
    fn allows(self, to: Status) -> bool {
        matches!(
            (self, to),
            (Status::Running, Status::Paused)
                | (Status::Paused, Status::Running)
                | (Status::Running | Status::Paused, Status::Cancelled)
        )
    }
}

/// A replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// To which consumer.
    pub consumer: String,
    /// Which events.
    pub mode: Mode,
    /// Of which types.
    pub types: Patterns,
    /// From this event on.
    pub from: Seq,
    /// Up to and including this one.
    pub to: Seq,
    /// At most so many a second, times a thousand.
    pub rate_milli: Option<i64>,
    /// Where it stands.
    pub status: Status,
    /// How far the log was looked through.
    pub cursor: Seq,
    /// Events that are meant.
    pub total: i64,
    /// Events handed over.
    pub handed: i64,
    /// Of those, done.
    pub done: i64,
    /// Of those, dead letters.
    pub dead: i64,
    /// Events left out, because they were done or under way.
    pub skipped: i64,
    /// The generation a rebuild fills.
    pub generation: Option<i64>,
    /// What it is to a target that is no consumer; `None` for consumers.
    pub errand: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
}

/// A replay to come.
#[derive(Clone, Debug)]
pub struct NewReplay {
    /// Of which types; the consumer's own when `None`.
    pub types: Option<Pattern>,
    /// From this event on.
    pub from: Seq,
    /// Up to and including this one; the newest when `None`.
    pub to: Option<Seq>,
    /// Which events.
    pub mode: Mode,
    /// At most so many.
    pub rate: Option<Rate>,
}

/// What a replay would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    /// Events that are meant.
    pub total: i64,
    /// Of those, done already.
    pub done_already: i64,
    /// Of those, handed over.
    pub would_send: i64,
}

/// A replay could not be started or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The database.
    #[error("reading or writing replays")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error("reading the log for a replay")]
    Log(#[from] ReadError),
    /// The consumer keeps no generations.
    #[error("this consumer cannot be rebuilt: it keeps no generations")]
    NoGenerations,
    /// There is a rebuild of the consumer already.
    #[error("the consumer is being rebuilt already")]
    RebuildRunning,
}

/// Events read at once to count them.
const COUNT_PAGE: usize = 2_000;

/// Counts what a replay would do, and does nothing.
///
/// # Errors
/// [`ReplayError`].
pub async fn dry_run(
    db: &Db,
    log: &dyn Log,
    consumer: &Registration,
    new: &NewReplay,
) -> Result<DryRun, ReplayError> {
    let coverage = Coverage::load(db, consumer.clone()).await?;
    let (types, until) = (types(consumer, new), end(log, new));
    let mut result = DryRun::default();
    let mut after = new.from.previous();
    while after < until {
        let read = Read::after(after).until(until).types(types.clone()).limit(COUNT_PAGE);
        let page = log.read(read).await?;
        let events: Vec<_> =
            page.events.into_iter().filter(|event| coverage.wants(&event.event)).collect();
        result.total += i64::try_from(events.len()).unwrap_or(0);
        for progress in coverage.progress(db, &events).await? {
            match choose(new.mode, &progress) {
                Choice::Hand { .. } => result.would_send += 1,
                Choice::Skip => {}
            }
            if matches!(progress, Progress::Done { .. }) {
                result.done_already += 1;
            }
        }
        after = page.through;
    }
    Ok(result)
}

/// Starts a replay to `consumer`.
///
/// # Errors
/// [`ReplayError`].
pub async fn start(
    db: &Db,
    log: &dyn Log,
    consumer: &Registration,
    new: &NewReplay,
    by: &str,
) -> Result<Replay, ReplayError> {
    let (types, until) = (types(consumer, new), end(log, new));
    let total = count(log, consumer, new, &types, until).await?;
    let mut tx = db.begin().await?;
    let generation = match new.mode {
        Mode::Rebuild => Some(next_generation(&mut tx, consumer).await?),
        Mode::SkipDone | Mode::Force => None,
    };
    let to = To { name: &consumer.name, types, total, errand: None };
    let replay = Replay { generation, ..to.replay(new, until, tx.clock().now()) };
    insert(&mut tx, &replay, by).await?;
    tx.wake(signals::REPLAY);
    tx.commit().await?;
    Ok(replay)
}

/// A target of a replay that is no consumer.
#[derive(Clone, Debug)]
pub struct To<'a> {
    /// By which [`ReplayTarget`](crate::ReplayTarget) knows it.
    pub name: &'a str,
    /// Which events it takes.
    pub types: Patterns,
    /// How many events are meant.
    pub total: i64,
    /// What the target has to know of the replay.
    pub errand: Option<&'a str>,
}

impl To<'_> {
    fn replay(self, new: &NewReplay, until: Seq, now: Timestamp) -> Replay {
        Replay {
            id: ReplayId::new(),
            consumer: self.name.to_owned(),
            mode: new.mode,
            types: self.types,
            from: new.from,
            to: until,
            rate_milli: new.rate.as_ref().map(Rate::per_second_milli),
            status: Status::Running,
            cursor: new.from.previous(),
            total: self.total,
            handed: 0,
            done: 0,
            dead: 0,
            skipped: 0,
            generation: None,
            errand: self.errand.map(str::to_owned),
            error: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Starts a replay to a target that is no consumer.
///
/// # Errors
/// [`ReplayError`].
pub async fn start_to(
    db: &Db,
    log: &dyn Log,
    to: To<'_>,
    new: &NewReplay,
    by: &str,
) -> Result<Replay, ReplayError> {
    let until = end(log, new);
    let mut tx = db.begin().await?;
    let replay = to.replay(new, until, tx.clock().now());
    insert(&mut tx, &replay, by).await?;
    tx.wake(signals::REPLAY);
    tx.commit().await?;
    Ok(replay)
}

async fn next_generation(tx: &mut Tx, consumer: &Registration) -> Result<i64, ReplayError> {
    let open = sql("select id from replay where consumer = $1 and mode = 'rebuild'
         and status in ('running', 'paused')");
    if tx.fetch_optional(open.bind(consumer.name.clone())).await?.is_some() {
        return Err(ReplayError::RebuildRunning);
    }
    let next = consumer.generation + 1;
    registry::drop_generation(tx, consumer, next).await?; // Left over from a cancelled rebuild.
    registry::add_generation(tx, consumer, next, Seq::ZERO).await?;
    registry::touch(tx).await?;
    Ok(next)
}

async fn count(
    log: &dyn Log,
    consumer: &Registration,
    new: &NewReplay,
    types: &Patterns,
    until: Seq,
) -> Result<i64, ReplayError> {
    let mut after = new.from.previous();
    if new.types.is_none() && consumer.filter.is_none() {
        return Ok(i64::try_from(log.count(after, until, types).await?).unwrap_or(i64::MAX));
    }
    let mut total = 0;
    while after < until {
        let read = Read::after(after).until(until).types(types.clone()).limit(COUNT_PAGE);
        let page = log.read(read).await?;
        let meant = page.events.iter().filter(|event| wants(consumer, &event.event)).count();
        total += i64::try_from(meant).unwrap_or(0);
        after = page.through;
    }
    Ok(total)
}

fn wants(consumer: &Registration, event: &schemas::Event) -> bool {
    consumer.types.matches(&event.kind)
        && consumer.filter.as_ref().is_none_or(|filter| filter.matches(event))
}

fn types(consumer: &Registration, new: &NewReplay) -> Patterns {
    new.types.clone().map_or_else(|| consumer.types.clone(), Patterns::from)
}

/// The last event that is meant: the newest, or an earlier one that was named.
pub fn end(log: &dyn Log, new: &NewReplay) -> Seq {
    let head = *log.head().borrow();
    new.to.map_or(head, |to| to.min(head))
}

/// Whether an event is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It is; `revive` when a row about it is there already, ended.
    Hand { revive: bool },
    /// It is not: done, or under way anyway.
    Skip,
}

pub(crate) fn choose(mode: Mode, progress: &Progress) -> Choice {
    match (mode, progress) {
        (_, Progress::Waiting | Progress::Retrying { .. }) | (Mode::Rebuild, _) => Choice::Skip,
        (Mode::SkipDone, Progress::Done { .. }) => Choice::Skip,
        (_, Progress::Dead { .. } | Progress::Done { .. } | Progress::NotForIt) => {
            Choice::Hand { revive: true }
        }
    }
}

const COLUMNS: &str = "id, consumer, mode, types, from_seq, to_seq, rate_milli, status, cursor_seq,
    total, handed, done, dead, skipped, generation, error, created_at_us, updated_at_us, errand";

async fn insert(tx: &mut Tx, replay: &Replay, by: &str) -> Result<(), sqlx::Error> {
    let query =
        built(format!("insert into replay ({COLUMNS}, created_by) values ({})", bulk::list(1, 20)))
            .bind(replay.id.0.clone())
            .bind(replay.consumer.clone())
            .bind(replay.mode.as_str())
            .bind(registry::json(&replay.types))
            .bind(replay.from.get())
            .bind(replay.to.get())
            .bind(replay.rate_milli)
            .bind(replay.status.as_str())
            .bind(replay.cursor.get())
            .bind(replay.total)
            .bind(replay.handed)
            .bind(replay.done)
            .bind(replay.dead)
            .bind(replay.skipped)
            .bind(replay.generation)
            .bind(replay.error.clone())
            .bind(replay.created_at.as_micros())
            .bind(replay.updated_at.as_micros())
            .bind(replay.errand.clone())
            .bind(by.to_owned());
    tx.execute(query).await.map(|_| ())
}

/// One replay.
///
/// # Errors
/// Those of the database.
pub async fn find(db: &Db, id: &ReplayId) -> Result<Option<Replay>, sqlx::Error> {
    let query = built(format!("select {COLUMNS} from replay where id = $1")).bind(id.0.clone());
    db.fetch_optional(query).await?.as_ref().map(read).transpose()
}

/// Replays, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(
    db: &Db,
    before: Option<&ReplayId>,
    limit: i64,
) -> Result<Vec<Replay>, sqlx::Error> {
    let before = before.map_or_else(|| "s".to_owned(), |id| id.0.clone()); // after every `rpl_…`
    let text = format!("select {COLUMNS} from replay where id < $1 order by id desc limit $2");
    db.fetch_all(built(text).bind(before).bind(limit)).await?.iter().map(read).collect()
}

/// Those that are running.
pub(crate) async fn running(db: &Db) -> Result<Vec<Replay>, sqlx::Error> {
    let text = format!("select {COLUMNS} from replay where status = 'running' order by id");
    db.fetch_all(built(text)).await?.iter().map(read).collect()
}

/// Pauses, resumes or cancels a replay; `None` when it is not in a state that allows it.
///
/// # Errors
/// Those of the database.
pub async fn change(db: &Db, id: &ReplayId, to: Status) -> Result<Option<Replay>, sqlx::Error> {
    let mut tx = db.begin().await?;
    let changed = change_in(&mut tx, id, to).await?;
    tx.commit().await?;
    Ok(changed.map(|(replay, _)| replay))
}

/// The same in a transaction, with the rows that were taken back: handed over and not begun.
///
/// # Errors
/// Those of the database.
pub async fn change_in(
    tx: &mut Tx,
    id: &ReplayId,
    to: Status,
) -> Result<Option<(Replay, Vec<WorkId>)>, sqlx::Error> {
    let text = format!("select {COLUMNS} from replay where id = $1");
    let row = tx.fetch_optional(built(text).bind(id.0.clone())).await?;
    let Some(replay) = row.as_ref().map(read).transpose()? else { return Ok(None) };
    if !replay.status.allows(to) {
        return Ok(None);
    }
    let now = tx.clock().now();
    let query = sql("update replay set status = $2, updated_at_us = $3 where id = $1")
        .bind(id.0.clone())
        .bind(to.as_str())
        .bind(now.as_micros());
    tx.execute(query).await?;
    let mut taken_back = Vec::new();
    if to == Status::Cancelled {
        // What was handed over and not begun is taken back; it was never done.
        let query = sql("delete from work where tag = $1 and state in ('ready', 'behind')
             and attempt = 0 returning queue, key, id");
        let taken = tx.fetch_all(query.bind(id.0.clone())).await?;
        for row in &taken {
            taken_back.push(WorkId::from_bytes(&row.get::<Vec<u8>, _>(2))?);
        }
        let key = |row: &AnyRow| Some((row.get(0), row.get::<Option<String>, _>(1)?));
        let mut keys: Vec<(i64, String)> = taken.iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        work::release_keys(tx, &keys, now.as_micros()).await?;
        if let (Some(generation), Some(consumer)) =
            (replay.generation, registry::find_in(tx, &replay.consumer).await?)
        {
            registry::drop_generation(tx, &consumer, generation).await?;
            registry::touch(tx).await?;
        }
    }
    tx.wake(signals::REPLAY);
    Ok(Some((Replay { status: to, updated_at: now, ..replay }, taken_back)))
}

/// How rows of one replay ended, in one settlement.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    done: Vec<Seq>,
    dead: i64,
}

impl Ended {
    pub(crate) fn count(&mut self, done: bool, seq: Option<Seq>) {
        if done {
            self.done.extend(seq);
        } else {
            self.dead += 1;
        }
    }
}

/// Counts ended rows of the replay `id`, and notes which events are done, for the next replay.
pub(crate) async fn progress(tx: &mut Tx, id: &str, ended: Ended) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let query = sql("update replay set done = done + $2, dead = dead + $3, updated_at_us = $4
         where id = $1 returning consumer")
    .bind(id.to_owned())
    .bind(i64::try_from(ended.done.len()).unwrap_or(0))
    .bind(ended.dead)
    .bind(now_us);
    let Some(row) = tx.fetch_optional(query).await? else { return Ok(()) };
    let consumer: String = row.get(0);
    tx.wake(signals::REPLAY);
    if registry::find_in(tx, &consumer).await?.is_none() {
        return Ok(()); // It went to something else, which notes itself what it has done.
    }
    for chunk in bulk::chunks(&ended.done) {
        let mut query = built(format!(
            "insert into consumer_done (consumer, seq) values {} on conflict do nothing",
            bulk::rows(tx.dialect(), chunk.len(), 2)
        ));
        for seq in chunk {
            query = query.bind(consumer.clone()).bind(seq.get());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

fn read(row: &AnyRow) -> Result<Replay, sqlx::Error> {
    let types: String = row.get(3);
    let types = serde_json::from_str(&types).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Replay {
        id: ReplayId(row.get(0)),
        consumer: row.get(1),
        mode: match row.get::<String, _>(2).as_str() {
            "skip_done" => Mode::SkipDone,
            "force" => Mode::Force,
            _ => Mode::Rebuild,
        },
        types,
        from: Seq::new(row.get(4)),
        to: Seq::new(row.get(5)),
        rate_milli: row.get(6),
        status: Status::parse(&row.get::<String, _>(7)),
        cursor: Seq::new(row.get(8)),
        total: row.get(9),
        handed: row.get(10),
        done: row.get(11),
        dead: row.get(12),
        skipped: row.get(13),
        generation: row.get(14),
        error: row.get(15),
        created_at: Timestamp::from_micros(row.get(16)),
        updated_at: Timestamp::from_micros(row.get(17)),
        errand: row.get(18),
    })
}
