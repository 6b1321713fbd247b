//! The safety net under semantic locks: looks for those that sagas wait for and nobody lets go of.
//!
//! One look at all of them, instead of one of every saga that waits: thousands may wait for one lock.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::lock;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(5);

/// Mends locks until `stop`. Several nodes may: each name is one's at a time.
pub(super) async fn mend(engine: Engine, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match lock::mend(&engine.shared().db).await {
            Ok(0) => {}
            Ok(locks) => tracing::warn!(locks, "handed on locks that nobody let go of"),
            Err(error) => tracing::warn!(%error, "looking for locks that nobody lets go of"),
        }
    }
}
