//! Moves committed pages of the state database from SQLite's write-ahead log into its file, beside the
//! writer: what a commit that has to do it waits for, everybody waits for who writes after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::AnyPool;
use tokio::sync::mpsc;

/// Statements committed between two checkpoints, at least: about a thousand pages, for statements of
/// one row.
const STATEMENTS: usize = 256;
/// Between two checkpoints, at least.
const BREATH: Duration = Duration::from_millis(100);

/// The writer's side. Checkpoints end with the last clone.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    statements: Arc<AtomicUsize>,
    wake: mpsc::Sender<()>,
}

impl Checkpoints {
    /// Starts to make them, on a connection of `readers`.
    pub(crate) fn start(readers: AnyPool) -> Checkpoints {
        let (wake, mut requests) = mpsc::channel(1);
        tokio::spawn(async move {
            while requests.recv().await.is_some() {
                // It waits for nobody: what a reader still looks at stays for the next one.
                match sqlx::query("pragma wal_checkpoint(passive)").execute(&readers).await {
                    Ok(_) => {}
                    Err(sqlx::Error::PoolClosed) => return,
                    Err(error) => tracing::warn!(%error, "checkpointing the state"),
                }
                tokio::time::sleep(BREATH).await;
            }
        });
        Checkpoints { statements: Arc::default(), wake }
    }

    /// Notes that so many statements were committed.
    pub(crate) fn committed(&self, statements: usize) {
        let before = self.statements.fetch_add(statements, Ordering::Relaxed);
        if before + statements >= STATEMENTS {
            self.statements.store(0, Ordering::Relaxed);
            let _ = self.wake.try_send(());
        }
    }
}
