//! Syncs what was committed, beside the writer.
//!
//! A commit writes to the write-ahead log and does not wait for the disk. What is to happen once it
//! is durable is handed to a thread that syncs the file once for all that waits, and then does it, in
//! order. Meanwhile the writer is at the next commit.
//!
//! A sync that failed is not tried again: the system may have dropped the pages, and the next sync
//! would say that all is well (Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020). Nothing is accepted from then on; a start reads what the disk has.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// Why a sync failed.
pub(super) type SyncError = Arc<io::Error>;

/// What is to be done once all that was committed before is durable, or cannot be any more.
pub(super) type Then = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

/// Set for good when a sync has failed.
pub(super) type Failed = Arc<OnceLock<SyncError>>;

/// The writer's side. Dropped, it waits until all has been done.
pub(super) struct Syncs {
    file: Arc<WalFile>,
    pending: Arc<Pending>,
    queue: Option<SyncSender<Then>>,
    thread: Option<JoinHandle<()>>,
}

/// The file that commits write to.
struct WalFile {
    file: File,
    failed: Failed,
}

/// How much was handed over and is not done yet.
#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    none: Condvar,
}

impl Pending {
    fn add(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn done(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.none.notify_one();
        }
    }

    fn is_none(&self) -> bool {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) == 0
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl WalFile {
    fn sync(&self) -> Result<(), SyncError> {
        if let Some(error) = self.failed.get() {
            return Err(Arc::clone(error));
        }
        self.file.sync_data().map_err(|error| {
            tracing::error!(%error, "syncing the log failed, nothing is accepted until a restart");
            Arc::clone(self.failed.get_or_init(|| Arc::new(error)))
        })
    }
}

impl Syncs {
    /// For the database at `path`, which is open and has been read. What stands there is durable
    /// when this returns.
    pub(super) fn start(path: &Path, failed: Failed) -> io::Result<Syncs> {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        let file = File::options().read(true).write(true).open(PathBuf::from(name))?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?; // The file may be new there.
        }
        let file = Arc::new(WalFile { file, failed });
        let pending = Arc::new(Pending::default());
        // One waits while another is synced: the writer is at most two commits ahead.
        let (queue, waiting) = mpsc::sync_channel(1);
        let (its_file, its_pending) = (Arc::clone(&file), Arc::clone(&pending));
        let thread = std::thread::Builder::new()
            .name("log-sync".into())
            .spawn(move || run(&its_file, &waiting, &its_pending))?;
        Ok(Syncs { file, pending, queue: Some(queue), thread: Some(thread) })
    }

    /// Does `then` after the next sync. With `now` that happens here, if nothing is under way: who
    /// has nothing else to do saves the way to the thread.
    pub(super) fn then(&self, now: bool, then: Then) {
        if now && self.pending.is_none() {
            return then(self.file.sync());
        }
        self.pending.add();
        if let Some(queue) = &self.queue {
            let _ = queue.send(then);
        }
    }

    /// Waits until no sync is under way.
    pub(super) fn wait(&self) {
        self.pending.wait();
    }

    /// The error of a sync that failed.
    pub(super) fn failed(&self) -> Option<SyncError> {
        self.file.failed.get().cloned()
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(file: &WalFile, waiting: &Receiver<Then>, pending: &Pending) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<Then> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let synced = file.sync();
        for then in all {
            then(synced.clone());
            pending.done();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_done_in_order_after_a_sync() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        std::fs::write(folder.path().join("log.db-wal"), "").unwrap();
        let syncs = Syncs::start(&path, Failed::default()).unwrap();
        let (told, answers) = mpsc::channel();
        for n in 0..100 {
            let told = told.clone();
            syncs.then(n % 3 == 0, Box::new(move |synced| told.send((n, synced.is_ok())).unwrap()));
        }
        drop(syncs);
        drop(told);
        assert!(answers.iter().eq((0..100).map(|n| (n, true))));
    }

    #[test]
    fn after_a_sync_that_failed_none_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        std::fs::write(folder.path().join("log.db-wal"), "").unwrap();
        let failed = Failed::default();
        let syncs = Syncs::start(&path, Arc::clone(&failed)).unwrap();
        failed.set(Arc::new(io::Error::other("a broken disk"))).unwrap();
        let (told, answers) = mpsc::channel();
        for now in [true, false] {
            let told = told.clone();
            syncs.then(now, Box::new(move |synced| told.send(synced.is_err()).unwrap()));
        }
        assert!(syncs.failed().is_some());
        drop(syncs);
        drop(told);
        assert!(answers.iter().eq([true, true]));
    }
}
