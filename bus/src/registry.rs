//! The consumers that there are: their configuration, as it stands in the database.

use std::fmt;
use std::str::FromStr;

use schemas::{Filter, Patterns, Timestamp};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::db::sql;
use crate::handler::{Kind, Spec};
use crate::partition::PARTITIONS;
use crate::{Db, Policy, Seq, SideEffects, Tx, signals, work};

/// The name of a consumer: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(String);

/// Not the name of a consumer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a name is 1 to 128 of the characters A-Z a-z 0-9 . _ : -")]
pub struct InvalidName;

impl ConsumerName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ConsumerName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<ConsumerName, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
            return Err(InvalidName);
        }
        Ok(ConsumerName(text.to_owned()))
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A consumer as it is configured.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub kind: Kind,
    /// Which events it gets.
    pub types: Patterns,
    /// Which of those.
    pub filter: Option<Filter>,
    /// Where push consumers are posted to.
    pub url: Option<String>,
    /// Signs pushes.
    pub secret: Option<String>,
    /// How events are tried.
    pub policy: Policy,
    /// Whether it stands still.
    pub paused: bool,
    /// What it does beside writing rows.
    pub side_effects: SideEffects,
    /// The generation that readers see.
    pub generation: i64,
    /// Whether it can be rebuilt.
    pub rebuilds: bool,
    /// Grows with each change.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Registration {
    /// The queue of its rows. A new generation has one of its own, so that what failed there does
    /// not mix with what failed before.
    #[must_use]
    pub fn queue_name(&self) -> String {
        queue_name(&self.name, self.generation)
    }
}

/// The queue of a consumer's rows in one generation.
#[must_use]
pub fn queue_name(consumer: &str, generation: i64) -> String {
    if generation == 1 { consumer.to_owned() } else { format!("{consumer}@{generation}") }
}

const COLUMNS: &str = "name, kind, types, filter, url, secret, policy, state, side_effects,
    generation, rebuilds, version, updated_at_us, created_at_us";

/// The version that all consumers' configuration is at.
///
/// # Errors
/// Those of the database.
pub async fn version(tx: &mut Tx) -> Result<i64, sqlx::Error> {
    let row = tx
        .fetch_optional(sql("select version from config_version where kind = 'consumer'"))
        .await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Keeps the configuration of consumers to this transaction: others that want to change it wait.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut Tx) -> Result<(), sqlx::Error> {
    let lock = sql("update config_version set version = version where kind = 'consumer'");
    tx.execute(lock).await.map(|_| ())
}

/// All consumers, by name.
///
/// # Errors
/// Those of the database.
pub async fn list(db: &Db) -> Result<Vec<Registration>, sqlx::Error> {
    let query = crate::db::built(format!("select {COLUMNS} from consumer order by name"));
    db.fetch_all(query).await?.iter().map(read).collect()
}

/// At most `limit` consumers, the newest first; `after` the one that was made then under that name,
/// whether or not it is still there.
///
/// # Errors
/// Those of the database.
pub async fn list_newest_first(
    db: &Db,
    after: Option<(Timestamp, String)>,
    limit: usize,
) -> Result<Vec<Registration>, sqlx::Error> {
    let text = format!(
        "select {COLUMNS} from consumer
         where created_at_us < $1 or (created_at_us = $1 and name > $2)
         order by created_at_us desc, name limit $3"
    );
    let (at, name) = after.map_or((i64::MAX, String::new()), |(at, name)| (at.as_micros(), name));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = crate::db::built(text).bind(at).bind(name).bind(limit);
    db.fetch_all(query).await?.iter().map(read).collect()
}

/// One consumer.
///
/// # Errors
/// Those of the database.
pub async fn find(db: &Db, name: &str) -> Result<Option<Registration>, sqlx::Error> {
    let query = crate::db::built(format!("select {COLUMNS} from consumer where name = $1"));
    db.fetch_optional(query.bind(name.to_owned())).await?.as_ref().map(read).transpose()
}

/// One consumer, inside a transaction.
///
/// # Errors
/// Those of the database.
pub async fn find_in(tx: &mut Tx, name: &str) -> Result<Option<Registration>, sqlx::Error> {
    let query = crate::db::built(format!("select {COLUMNS} from consumer where name = $1"));
    tx.fetch_optional(query.bind(name.to_owned())).await?.as_ref().map(read).transpose()
}

/// Makes a consumer that starts after `start`, with its cursors and its queue.
///
/// # Errors
/// Those of the database; a unique violation when it exists.
pub async fn create(
    tx: &mut Tx,
    new: &Registration,
    start: Seq,
    by: &str,
) -> Result<(), sqlx::Error> {
    // It begins at the version of the whole configuration: no version that a consumer of its name has had
    // comes again.
    touch(tx).await?;
    let version = version(tx).await?;
    let now_us = tx.clock().now().as_micros();
    let query = sql("insert into consumer (name, kind, types, filter, url, secret, policy, state,
            side_effects, generation, rebuilds, version, created_at_us, updated_at_us, updated_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14)")
    .bind(new.name.clone())
    .bind(new.kind.as_str())
    .bind(json(&new.types))
    .bind(new.filter.as_ref().map(json))
    .bind(new.url.clone())
    .bind(new.secret.clone())
    .bind(json(&new.policy))
    .bind(if new.paused { "paused" } else { "running" })
    .bind(new.side_effects.as_str())
    .bind(new.generation)
    .bind(i64::from(new.rebuilds))
    .bind(version)
    .bind(now_us)
    .bind(by.to_owned());
    tx.execute(query).await?;
    add_generation(tx, new, new.generation, start).await
}

/// Adds the cursors, coverage and queue of a generation.
///
/// # Errors
/// Those of the database.
pub async fn add_generation(
    tx: &mut Tx,
    of: &Registration,
    generation: i64,
    start: Seq,
) -> Result<(), sqlx::Error> {
    for partition in 0..PARTITIONS {
        let cursor = sql("insert into consumer_partition (consumer, generation, partition,
                cursor_seq, fence, lease_until_us) values ($1, $2, $3, $4, 0, 0)")
        .bind(of.name.clone())
        .bind(generation)
        .bind(partition)
        .bind(start.get());
        tx.execute(cursor).await?;
    }
    work::define(tx, of.kind.work(), &queue_name(&of.name, generation), &of.policy, &[]).await?;
    Ok(())
}

/// Deletes the cursors, coverage and rows of a generation.
///
/// # Errors
/// Those of the database.
pub async fn drop_generation(
    tx: &mut Tx,
    of: &Registration,
    generation: i64,
) -> Result<(), sqlx::Error> {
    for text in [
        "delete from consumer_partition where consumer = $1 and generation = $2",
        "delete from consumer_coverage where consumer = $1 and generation = $2",
    ] {
        tx.execute(sql(text).bind(of.name.clone()).bind(generation)).await?;
    }
    work::delete_queue(tx, of.kind.work(), &queue_name(&of.name, generation)).await
}

/// The generations there are: the one that serves, and one that is being built.
///
/// # Errors
/// Those of the database.
pub(crate) async fn generations(db: &Db) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let query = sql("select distinct consumer, generation from consumer_partition");
    Ok(db.fetch_all(query).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Writes a changed configuration. Its `version` is that of the row before the change; the answer
/// is whether that was still so.
///
/// # Errors
/// Those of the database.
pub async fn update(tx: &mut Tx, to: &Registration, by: &str) -> Result<bool, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let query =
        sql("update consumer set kind = $3, types = $4, filter = $5, url = $6, secret = $7,
            policy = $8, state = $9, side_effects = $10, rebuilds = $11, version = version + 1,
            updated_at_us = $12, updated_by = $13 where name = $1 and version = $2")
        .bind(to.name.clone())
        .bind(to.version)
        .bind(to.kind.as_str())
        .bind(json(&to.types))
        .bind(to.filter.as_ref().map(json))
        .bind(to.url.clone())
        .bind(to.secret.clone())
        .bind(json(&to.policy))
        .bind(if to.paused { "paused" } else { "running" })
        .bind(to.side_effects.as_str())
        .bind(i64::from(to.rebuilds))
        .bind(now_us)
        .bind(by.to_owned());
    if tx.execute(query).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let queue = work::define(tx, to.kind.work(), &to.queue_name(), &to.policy, &[]).await?;
    work::set_paused(tx, queue, to.paused).await?;
    touch(tx).await?;
    Ok(true)
}

/// Deletes a consumer with everything that belongs to it: positions, rows and dead letters.
///
/// # Errors
/// Those of the database.
pub async fn delete(tx: &mut Tx, of: &Registration) -> Result<(), sqlx::Error> {
    for text in [
        "delete from consumer where name = $1",
        "delete from consumer_partition where consumer = $1",
        "delete from consumer_coverage where consumer = $1",
        "delete from consumer_done where consumer = $1",
        "update replay set status = 'cancelled' where consumer = $1
             and status in ('running', 'paused')",
    ] {
        tx.execute(sql(text).bind(of.name.clone())).await?;
    }
    for generation in 1..=of.generation + 1 {
        work::delete_queue(tx, of.kind.work(), &queue_name(&of.name, generation)).await?;
    }
    touch(tx).await
}

/// Registers a consumer that is part of the program, or brings its row up to date with the code.
///
/// # Errors
/// Those of the database.
pub async fn ensure(db: &Db, spec: &Spec) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    lock(&mut tx).await?; // Nodes that start at once register the same consumers.
    let known = find_in(&mut tx, &spec.name).await?;
    let wanted = Registration {
        name: spec.name.to_string(),
        kind: spec.kind,
        types: spec.types.clone(),
        filter: None,
        url: None,
        secret: None,
        policy: spec.policy.clone(),
        paused: known.as_ref().is_some_and(|known| known.paused),
        side_effects: spec.side_effects,
        generation: known.as_ref().map_or(1, |known| known.generation),
        rebuilds: spec.rebuilds,
        version: known.as_ref().map_or(1, |known| known.version),
        created_at: tx.clock().now(),
        updated_at: tx.clock().now(),
    };
    match known {
        None => create(&mut tx, &wanted, Seq::ZERO, "local").await?,
        Some(known) if same(&known, &wanted) => return Ok(()),
        Some(_) => {
            update(&mut tx, &wanted, "local").await?;
        }
    }
    tx.commit().await
}

fn same(known: &Registration, wanted: &Registration) -> bool {
    known.kind == wanted.kind
        && known.types == wanted.types
        && known.policy == wanted.policy
        && known.side_effects == wanted.side_effects
        && known.rebuilds == wanted.rebuilds
}

/// Tells every cache, on every node, to look anew.
pub(crate) async fn touch(tx: &mut Tx) -> Result<(), sqlx::Error> {
    tx.execute(sql("update config_version set version = version + 1 where kind = 'consumer'"))
        .await?;
    tx.wake(signals::CONFIG);
    Ok(())
}

/// How far a consumer has read the log, in the generation that serves.
///
/// # Errors
/// Those of the database.
pub async fn position(db: &Db, of: &Registration) -> Result<Seq, sqlx::Error> {
    let query = sql("select min(cursor_seq) from consumer_partition
         where consumer = $1 and generation = $2")
    .bind(of.name.clone())
    .bind(of.generation);
    let lowest: Option<i64> = db.fetch_optional(query).await?.and_then(|row| row.get(0));
    Ok(Seq::new(lowest.unwrap_or(0)))
}

/// The lowest position that some consumer has not passed, rebuilds included.
///
/// # Errors
/// Those of the database.
pub async fn consumed(db: &Db) -> Result<Option<Seq>, sqlx::Error> {
    let cursors = db.fetch_optional(sql("select min(cursor_seq) from consumer_partition")).await?;
    let open = db
        .fetch_optional(sql("select min(seq) from work where seq is not null
             and state in ('ready', 'leased', 'behind')"))
        .await?;
    let cursor: Option<i64> = cursors.and_then(|row| row.get(0));
    let open: Option<i64> = open.and_then(|row| row.get(0));
    let lowest = cursor.into_iter().chain(open.map(|seq| seq - 1)).min();
    Ok(lowest.map(Seq::new))
}

fn read(row: &AnyRow) -> Result<Registration, sqlx::Error> {
    let text = |column: usize| row.get::<String, _>(column);
    let state: String = row.get(7);
    Ok(Registration {
        name: row.get(0),
        kind: match text(1).as_str() {
            "builtin" => Kind::Builtin,
            "rust" => Kind::Rust,
            "pull" => Kind::Pull,
            _ => Kind::Push,
        },
        types: decode(&text(2))?,
        filter: row.get::<Option<String>, _>(3).map(|filter| decode(&filter)).transpose()?,
        url: row.get(4),
        secret: row.get(5),
        policy: decode(&text(6))?,
        paused: state == "paused",
        side_effects: match text(8).as_str() {
            "email" => SideEffects::Email,
            "http" => SideEffects::Http,
            _ => SideEffects::None,
        },
        generation: row.get(9),
        rebuilds: row.get::<i64, _>(10) == 1,
        version: row.get(11),
        updated_at: Timestamp::from_micros(row.get(12)),
        created_at: Timestamp::from_micros(row.get(13)),
    })
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
