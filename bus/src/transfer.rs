//! The whole of a log and its database as one file, to move between profiles or to keep.
//!
//! Lines of JSON: a head, every event with its position, every row of every table, and an end with
//! counts and hashes. An import keeps positions, since cursors and rows name them; it needs a log and
//! a database that are empty, and afterwards reads all of it back and compares.

mod events;
mod file;
mod tables;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::{Db, Log, PublishError, ReadError};

pub use file::check;

/// The version of the file's form.
const FORM: u32 = 1;

/// An export or import failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The file.
    #[error("the file")]
    File(#[from] std::io::Error),
    /// A line of the file cannot be read.
    #[error("line {line} of the file")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file is not whole, or not one of ours.
    #[error("the file is no export: {0}")]
    Form(String),
    /// The file was made by another version of the program.
    #[error(
        "the file has the database of version {found}, this program's is {known}: migrate the source first, or use the program that made it"
    )]
    Version {
        /// The newest migration in the file.
        found: i64,
        /// The newest migration here.
        known: i64,
    },
    /// There is something where the import is to go.
    #[error("{0} is not empty: import into a fresh log and a fresh database")]
    NotEmpty(&'static str),
    /// Nodes are running.
    #[error("{0} nodes are running on this database: stop them first")]
    Running(i64),
    /// What was read back is not what the file says.
    #[error("what was imported differs from the file: {0}")]
    Differs(String),
    /// The database.
    #[error("the database")]
    Database(#[from] sqlx::Error),
    /// Reading the log.
    #[error("reading the log")]
    Read(#[from] ReadError),
    /// Writing the log.
    #[error("writing the log")]
    Publish(#[from] PublishError),
}

/// What a file holds, told at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Events in it.
    pub events: u64,
    /// A hash over all events with their positions and times, as hex.
    pub events_hash: String,
    /// Per table: its rows and a hash over them, whatever their order.
    pub tables: BTreeMap<String, TableContents>,
}

/// The rows of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContents {
    /// How many.
    pub rows: u64,
    /// A hash over them, whatever their order, as hex.
    pub hash: String,
}

/// How far an export or import is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is done now.
    pub step: &'static str,
    /// Events or rows done in this step.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
}

/// Writes all of `log` and `db` to `out`. While no node runs: what changes meanwhile is not whole.
///
/// # Errors
/// [`TransferError`].
pub async fn export(
    db: &Db,
    log: &dyn Log,
    out: &mut (dyn Write + Send),
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Contents, TransferError> {
    tables::nobody_runs(db).await?;
    let mut file = file::Writer::new(out);
    let (mut events, head) = events::Reader::open(log).await?;
    file.line(&file::Line::Head {
        form: FORM,
        migration: tables::migration(db).await?,
        log: head,
    })?;
    let mut contents = Contents::default();
    let mut hash = events::EventsHash::default();
    while let Some(page) = events.next(log).await? {
        for recorded in &page {
            hash.add(recorded);
            file.line(&file::Line::Event(events::Stored::of(recorded)))?;
        }
        contents.events += page.len() as u64;
        let total = Some(events.total());
        progress(Progress { step: "events", done: contents.events, total });
    }
    contents.events_hash = hash.hex();
    for table in tables::all(db).await? {
        file.line(&file::Line::Table { table: table.name.clone(), columns: table.columns() })?;
        let mut hash = tables::RowsHash::default();
        tables::read(db, &table, |row| {
            hash.add(&row);
            file.line(&file::Line::Row(row))
        })
        .await?;
        progress(Progress { step: "tables", done: contents.tables.len() as u64 + 1, total: None });
        contents.tables.insert(table.name, hash.contents());
    }
    file.end(&contents)?;
    Ok(contents)
}

/// Puts a file that [`check`] has read into an empty log and an empty database, reads it back and
/// compares.
///
/// # Errors
/// [`TransferError`]; after [`TransferError::Differs`] log and database are not to be used.
pub async fn import(
    db: &Db,
    log: &dyn Log,
    from: &mut (dyn BufRead + Send),
    expected: &Contents,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), TransferError> {
    tables::nobody_runs(db).await?;
    tables::are_empty(db).await?;
    let mut file = file::Reader::new(from);
    let head = file.head()?;
    let known = tables::migration(db).await?;
    if head.migration != known {
        return Err(TransferError::Version { found: head.migration, known });
    }
    if log.state().await?.last > crate::Seq::ZERO {
        return Err(TransferError::NotEmpty("the log"));
    }
    let mut events = events::Restore::new(log, &head.log);
    let mut rows = tables::Insert::new(db).await?;
    let (mut done, total) = (0, Some(expected.events));
    while let Some(line) = file.next()? {
        match line {
            file::Line::Event(stored) => {
                events.add(stored).await?;
                done += 1;
                if done % 1_000 == 0 {
                    progress(Progress { step: "events", done, total });
                }
            }
            file::Line::Table { table, columns } => {
                events.finish().await?;
                rows.table(&table, &columns).await?;
            }
            file::Line::Row(row) => rows.add(&row).await?,
            file::Line::Head { .. } | file::Line::End { .. } => {}
        }
    }
    events.finish().await?;
    rows.finish().await?;
    progress(Progress { step: "comparing", done: 0, total });
    let found = contents(db, log).await?;
    tables::settle(db).await?;
    compare(&found, expected)
}

/// What a log and a database hold.
///
/// # Errors
/// [`TransferError`].
pub async fn contents(db: &Db, log: &dyn Log) -> Result<Contents, TransferError> {
    let mut contents = Contents::default();
    let (mut events, _) = events::Reader::open(log).await?;
    let mut hash = events::EventsHash::default();
    while let Some(page) = events.next(log).await? {
        page.iter().for_each(|recorded| hash.add(recorded));
        contents.events += page.len() as u64;
    }
    contents.events_hash = hash.hex();
    for table in tables::all(db).await? {
        let mut hash = tables::RowsHash::default();
        tables::read(db, &table, |row| {
            hash.add(&row);
            Ok(())
        })
        .await?;
        contents.tables.insert(table.name, hash.contents());
    }
    Ok(contents)
}

fn compare(found: &Contents, expected: &Contents) -> Result<(), TransferError> {
    let differs = |what: String| Err(TransferError::Differs(what));
    if found.events != expected.events {
        return differs(format!("{} events of {}", found.events, expected.events));
    }
    if found.events_hash != expected.events_hash {
        return differs("the hash of the events".to_owned());
    }
    for (table, expected) in &expected.tables {
        let found = found.tables.get(table).cloned().unwrap_or_default();
        if found != *expected {
            return differs(format!("table {table}: {} rows of {}", found.rows, expected.rows));
        }
    }
    Ok(())
}
