//! Moves committed pages from the write-ahead log into the file, beside the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use rusqlite::Connection;

/// Pages (4 KiB) in the write-ahead log past which the writer itself starts it anew: 64 MiB. Passive
/// checkpoints never hold the writer up, but under constant load they never reach the end either;
/// right after one, what is left for the writer to move is little.
const PAGES_MAX: i64 = 16_384;

/// The writer's side.
pub(super) struct Checkpoints {
    wake: SyncSender<()>,
    overdue: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Asks for a checkpoint soon.
    pub(super) fn request(&self) {
        let _ = self.wake.try_send(());
    }

    /// Whether the writer must start the write-ahead log anew now.
    pub(super) fn take_overdue(&self) -> bool {
        self.overdue.swap(false, Ordering::Relaxed)
    }
}

/// Starts the thread; it ends with the returned handle.
pub(super) fn spawn(connection: Connection) -> Checkpoints {
    let (wake, requests) = mpsc::sync_channel(1);
    let overdue = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&overdue);
    let _ = std::thread::Builder::new()
        .name("log-checkpoint".into())
        .spawn(move || run(&connection, &requests, &flag));
    Checkpoints { wake, overdue }
}

fn run(connection: &Connection, requests: &Receiver<()>, overdue: &AtomicBool) {
    while requests.recv().is_ok() {
        let pages: Result<i64, _> =
            connection.query_row("pragma wal_checkpoint(passive)", [], |row| row.get(1));
        match pages {
            Ok(pages) => overdue.store(pages > PAGES_MAX, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "checkpointing the log"),
        }
    }
}
