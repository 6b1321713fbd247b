//! The log in one SQLite file, durable by group commit.
//!
//! A publish call goes over a bounded queue to the `writer`, a thread that owns the one writing
//! connection: it takes all that wait (`gather`), inserts them in one transaction and goes on to the
//! next while `sync` brings it to the disk; only then is the call answered. What was just written is
//! kept in memory (`recent`), so consumers at the end of the log read no disk. `reader` serves
//! everything else, `prune` deletes, `checkpoint` moves the write-ahead log into the file without
//! holding up the writer.
//!
//! SQLite is called natively here and not over the shared database handle: the threads own their
//! connections, so no dropped future can leave a transaction behind, and a row costs a third.

mod checkpoint;
mod gather;
mod names;
mod prune;
mod reader;
mod sync;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use schemas::{Event, EventType, Patterns, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument;

use crate::embedded::reader::Readers;
use crate::embedded::sync::{Failed, Syncs};
use crate::embedded::writer::{Command, Publish, QUEUE_MAX};
use crate::log::{Restored, check_size};
use crate::recent::Recent;
use crate::span;
use crate::{
    Clock, Log, LogState, Page, Pruned, PublishError, Read, ReadError, Receipt, Recorded,
    Retention, Seq,
};

/// The log's file in its folder.
const FILE: &str = "log.db";
/// Held locked by the one process that may use the folder.
const LOCK_FILE: &str = "log.lock";

/// Opening failed; the message names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder cannot be made or its lock file not be opened.
    #[error("the data folder {} cannot be used", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// Another process has it.
    #[error("the data folder {} is in use by another skald process", .0.display())]
    InUse(PathBuf),
    /// The file is no log, is damaged, locked, or cannot be written.
    #[error("the log {} cannot be opened; if it is damaged, restore it from a backup", .0.display())]
    File(PathBuf, #[source] rusqlite::Error),
    /// The file cannot be synced to the disk.
    #[error("the log {} cannot be synced to the disk", .0.display())]
    Sync(PathBuf, #[source] std::io::Error),
}

/// The log of the embedded profile.
pub struct EmbeddedLog {
    identity: String,
    commands: mpsc::Sender<Command>,
    recent: Arc<Recent>,
    readers: Readers,
    head: watch::Receiver<Seq>,
    writer: Option<std::thread::JoinHandle<()>>,
    failed: Failed,
    _lock: File,
}

impl EmbeddedLog {
    /// The file of the log in `folder`.
    #[must_use]
    pub fn file_in(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Opens the log in `folder`, making both where they are missing. The clock is moved up to the
    /// last time recorded there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, clock: &Clock) -> Result<EmbeddedLog, OpenError> {
        let lock = lock_folder(folder)?;
        let path = folder.join(FILE);
        let fail = |error| OpenError::File(path.clone(), error);
        let connection = connect(&path).map_err(fail)?;
        let start = start(&connection, clock).map_err(fail)?;

        let recent = Arc::new(Recent::default());
        let (head_sender, head) = watch::channel(start.last);
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let checkpoints = checkpoint::spawn(connect(&path).map_err(fail)?);
        let failed = Arc::new(OnceLock::new());
        let syncs = Syncs::start(&path, Arc::clone(&failed));
        let syncs = syncs.map_err(|error| OpenError::Sync(path.clone(), error))?;
        let writer = writer::Writer::new(
            connection,
            &start,
            clock.clone(),
            Arc::clone(&recent),
            head_sender,
            syncs,
            checkpoints,
        );
        let writer = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| OpenError::Folder(folder.into(), error))?;
        let readers = Readers::new(path);
        let writer = Some(writer);
        Ok(EmbeddedLog {
            identity: start.identity,
            commands,
            recent,
            readers,
            head,
            writer,
            failed,
            _lock: lock,
        })
    }

    async fn delete(&self, seqs: Vec<Seq>, sealed: (i64, Timestamp)) -> Result<u64, ReadError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Delete { seqs, sealed, reply };
        self.commands.send(command).await.map_err(|_| ReadError::Closed)?;
        answer.await.map_err(|_| ReadError::Closed)?.map_err(|error| ReadError::Read(error.into()))
    }
}

impl Drop for EmbeddedLog {
    /// Lets the writer finish what is queued, so that the file is closed and checkpointed before
    /// the lock is given up.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.commands = closed;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn publish_all(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let bytes = check_size(&events)?;
        let span = span::publish(events.len(), bytes);
        let publish = async {
            let (reply, answer) = oneshot::channel();
            let command = Command::Publish(Publish { events, bytes, reply });
            self.commands.send(command).await.map_err(|_| PublishError::Closed)?;
            match answer.await {
                Ok(Ok(receipts)) => Ok(receipts),
                Ok(Err(error)) => Err(PublishError::Write(Box::new(error))),
                Err(_) => Err(PublishError::Closed),
            }
        };
        publish.instrument(span).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        if let Some(page) = self.recent.read(&read) {
            return Ok(page);
        }
        let head = *self.head.borrow();
        self.readers.run(move |reader| reader.forward(&read, head)).await
    }

    async fn read_back(&self, read: Read) -> Result<Page, ReadError> {
        let head = *self.head.borrow();
        self.readers.run(move |reader| reader.back(&read, head)).await
    }

    async fn get(&self, seqs: &[Seq]) -> Result<Vec<Arc<Recorded>>, ReadError> {
        if let Some(events) = self.recent.get(seqs).into_iter().collect() {
            return Ok(events);
        }
        let seqs = seqs.to_vec();
        self.readers.run(move |reader| reader.rows(&seqs)).await
    }

    async fn count(&self, after: Seq, until: Seq, types: &Patterns) -> Result<u64, ReadError> {
        if after >= *self.head.borrow() {
            return Ok(0);
        }
        let types = types.clone();
        self.readers.run(move |reader| reader.count(after, until, &types)).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Seq, ReadError> {
        let head = *self.head.borrow();
        self.readers.run(move |reader| reader.position_at(at, head)).await
    }

    async fn state(&self) -> Result<LogState, ReadError> {
        if let Some(error) = self.failed.get() {
            let why = format!("syncing the log to the disk failed, a restart is needed: {error}");
            return Err(ReadError::Faulty(why.into()));
        }
        let last = *self.head.borrow();
        let first = self.readers.run(reader::Reader::first).await?.unwrap_or(last.next());
        Ok(LogState { identity: self.identity.clone(), first, last })
    }

    fn head(&self) -> watch::Receiver<Seq> {
        self.head.clone()
    }

    async fn prune(
        &self,
        rules: &[Retention],
        consumed: Seq,
        now: Timestamp,
    ) -> Result<Pruned, ReadError> {
        prune::prune(self, rules, consumed, now).await
    }

    async fn restore(
        &self,
        events: Vec<Recorded>,
        end: Option<Restored>,
    ) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Restore { events, end, reply };
        self.commands.send(command).await.map_err(|_| PublishError::Closed)?;
        let restored = answer.await.map_err(|_| PublishError::Closed)?;
        restored.map_err(|error| PublishError::Write(error.into()))
    }

    async fn pruned_through(&self) -> Result<Vec<(EventType, Timestamp)>, ReadError> {
        self.readers.run(reader::Reader::pruned_through).await
    }
}

fn lock_folder(folder: &Path) -> Result<File, OpenError> {
    let fail = |error| OpenError::Folder(folder.into(), error);
    std::fs::create_dir_all(folder).map_err(fail)?;
    let file = File::create(folder.join(LOCK_FILE)).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(folder.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(fail(error)),
    }
}

/// `synchronous = normal` keeps the file whole, and syncs no commit: that each is durable before it
/// is told of, which is what "accepted" promises, is the business of [`sync`]. Checkpoints are that of
/// [`checkpoint`], so that no commit waits for one.
///
/// The writer's cache is small: `SQLite` goes through all of it at each commit that has split a page
/// of an index, which was 15 % of the writer's time with 8 MB.
fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = normal; pragma wal_autocheckpoint = 0;
         pragma cache_size = -2000; pragma temp_store = memory;",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

struct Start {
    identity: String,
    last: Seq,
    recorded_at: Timestamp,
}

fn start(connection: &Connection, clock: &Clock) -> Result<Start, rusqlite::Error> {
    connection.execute_batch(include_str!("embedded/schema.sql"))?;
    connection.execute(
        "insert or ignore into log (one, identity, last_seq) values (1, ?1, 0)",
        [uuid::Uuid::now_v7().to_string()],
    )?;
    let (identity, pruned): (String, i64) =
        connection.query_row("select identity, last_seq from log", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let newest: Option<(i64, i64)> = connection
        .query_row("select seq, recorded_at_us from event order by seq desc limit 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (last, recorded) = newest.unwrap_or((0, 0));
    let recorded_at = Timestamp::from_micros(recorded);
    clock.not_before(recorded_at);
    Ok(Start { identity, last: Seq::new(last.max(pruned)), recorded_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without `.cargo/config.toml` it works too, and all connections wait for each other.
    #[test]
    fn sqlite_is_built_without_what_connections_would_share() {
        let connection = Connection::open_in_memory().unwrap();
        let mut asked = connection.prepare("pragma compile_options").unwrap();
        let options = asked.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let options: Vec<String> = options.map(Result::unwrap).collect();
        assert!(options.iter().any(|option| option == "DEFAULT_MEMSTATUS=0"), "{options:?}");
        assert!(!options.iter().any(|option| option == "ENABLE_MEMORY_MANAGEMENT"), "{options:?}");
    }
}
