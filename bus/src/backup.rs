//! A copy of the embedded profile's files, taken while it runs, and put back.
//!
//! Each file is copied inside one read transaction of SQLite (`vacuum into`), so it is the file of one
//! moment, without what a writer has begun. The state is copied before the log: the log then holds
//! everything that the copied cursors have passed, and what it holds beyond is consumed after a
//! restore as if it had just come. `backup.json` is written last and names every file with its size
//! and SHA-256; without it, or with other files than it names, nothing is put back.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What tells of the other files.
const MANIFEST: &str = "backup.json";
/// The names in a backup, whatever the files are called where they come from.
const STATE: &str = "state.db";
const LOG: &str = "log.db";
const KEY: &str = "encryption.key";
/// The version of the backup's form.
const FORM: u32 = 1;

/// Where the files are that are copied, or go when they are put back.
#[derive(Clone, Debug)]
pub struct Places {
    /// The state database's file.
    pub state: PathBuf,
    /// The log's file.
    pub log: PathBuf,
    /// The key of stored secrets that `dev` makes, which need not be there.
    pub key: PathBuf,
}

/// What a backup holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Backup {
    form: u32,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Events in the log.
    pub events: i64,
    /// The newest of them.
    pub last_seq: i64,
    /// The files.
    pub files: Vec<Copied>,
}

/// A file of a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Its name in the backup.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A backup could not be taken or put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// SQLite.
    #[error("copying {}", .0.display())]
    Copy(PathBuf, #[source] rusqlite::Error),
    /// There is something where the files are to go.
    #[error("{} is there already: nothing is overwritten", .0.display())]
    There(PathBuf),
    /// The folder holds no backup, or not all of it.
    #[error("{} is no whole backup: {}", .0.display(), .1)]
    NotWhole(PathBuf, String),
}

/// Copies the files into `folder`, which is made, or must be empty. They may be in use.
///
/// # Errors
/// [`BackupError`]; what was copied until then stays, without a manifest.
pub fn take(from: &Places, folder: &Path, now: Timestamp) -> Result<Backup, BackupError> {
    fs::create_dir_all(folder).map_err(|error| BackupError::File(folder.to_owned(), error))?;
    let mut there = fs::read_dir(folder).map_err(|error| of(folder, error))?;
    if let Some(Ok(entry)) = there.next() {
        return Err(BackupError::There(entry.path()));
    }
    let mut files =
        vec![copy_database(&from.state, folder, STATE)?, copy_database(&from.log, folder, LOG)?];
    if from.key.exists() {
        let to = folder.join(KEY);
        fs::copy(&from.key, &to).map_err(|error| of(&from.key, error))?;
        files.push(sealed(folder, KEY)?);
    }
    let (events, last_seq) = extent(&folder.join(LOG))?;
    let backup = Backup { form: FORM, taken_at: now, events, last_seq, files };
    let manifest = folder.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&backup).unwrap_or_default();
    fs::write(&manifest, text).map_err(|error| of(&manifest, error))?;
    sync(&manifest)?;
    sync(folder)?;
    Ok(backup)
}

/// Puts the files of a backup where they belong, after all of them were found to be what the manifest
/// says. Nothing may be there yet.
///
/// # Errors
/// [`BackupError`].
pub fn put_back(folder: &Path, to: &Places) -> Result<Backup, BackupError> {
    let backup = check(folder)?;
    let target = |name: &str| match name {
        STATE => &to.state,
        LOG => &to.log,
        _ => &to.key,
    };
    for file in &backup.files {
        // A write-ahead log that was left behind would be taken for the new file's.
        for target in ["", "-wal", "-shm"].map(|end| with_end(target(&file.name), end)) {
            if target.exists() {
                return Err(BackupError::There(target));
            }
        }
    }
    for file in &backup.files {
        let target = target(&file.name);
        let parent = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| of(parent, error))?;
        // Under its own name only when it is whole.
        let unfinished = target.with_added_extension("part");
        let source = folder.join(&file.name);
        fs::copy(&source, &unfinished).map_err(|error| of(&source, error))?;
        sync(&unfinished)?;
        fs::rename(&unfinished, target).map_err(|error| of(target, error))?;
        sync(parent)?;
    }
    Ok(backup)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The manifest of a backup whose files are all as it says.
fn check(folder: &Path) -> Result<Backup, BackupError> {
    let not_whole = |why: String| BackupError::NotWhole(folder.to_owned(), why);
    let text = fs::read(folder.join(MANIFEST));
    let text = text.map_err(|error| not_whole(format!("{MANIFEST}: {error}")))?;
    let backup: Backup =
        serde_json::from_slice(&text).map_err(|error| not_whole(format!("{MANIFEST}: {error}")))?;
    if backup.form != FORM {
        return Err(not_whole(format!("its form {} is not known here", backup.form)));
    }
    for name in [STATE, LOG] {
        if !backup.files.iter().any(|file| file.name == name) {
            return Err(not_whole(format!("{MANIFEST} does not name {name}")));
        }
    }
    for file in &backup.files {
        if ![STATE, LOG, KEY].contains(&file.name.as_str()) {
            return Err(not_whole(format!("{MANIFEST} names a file that is unknown here")));
        }
        let found = sealed(folder, &file.name)?;
        if found != *file {
            return Err(not_whole(format!("{} is not the file that was taken", file.name)));
        }
    }
    Ok(backup)
}

fn copy_database(from: &Path, folder: &Path, name: &str) -> Result<Copied, BackupError> {
    let to = folder.join(name);
    let copied = || {
        let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.busy_timeout(std::time::Duration::from_secs(30))?;
        source.execute("vacuum into ?1", [to.to_string_lossy()])?;
        let copy = Connection::open_with_flags(&to, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        copy.query_row("pragma quick_check(1)", [], |row| row.get::<_, String>(0))
    };
    match copied() {
        Ok(verdict) if verdict == "ok" => sync(&to)?,
        Ok(verdict) => return Err(BackupError::NotWhole(to, verdict)),
        Err(error) => return Err(BackupError::Copy(from.to_owned(), error)),
    }
    sealed(folder, name)
}

/// Events in a copied log, and the newest.
fn extent(log: &Path) -> Result<(i64, i64), BackupError> {
    let asked = || {
        let log = Connection::open_with_flags(log, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let events = log.query_row("select count(*) from event", [], |row| row.get(0))?;
        let last =
            log.query_row("select coalesce(max(seq), 0) from event", [], |row| row.get(0))?;
        Ok((events, last))
    };
    asked().map_err(|error| BackupError::Copy(log.to_owned(), error))
}

/// Size and hash of a file.
fn sealed(folder: &Path, name: &str) -> Result<Copied, BackupError> {
    let path = folder.join(name);
    let hashed = || {
        let (mut file, mut hash, mut bytes) = (File::open(&path)?, Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => {
                    hash.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Copied { name: name.to_owned(), bytes, sha256 })
    };
    hashed().map_err(|error| of(&path, error))
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| of(path, error))
}

fn of(path: &Path, error: std::io::Error) -> BackupError {
    BackupError::File(path.to_owned(), error)
}
