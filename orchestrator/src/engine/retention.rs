//! Deletes sagas that ended long ago, with their journals. One that is stuck has not ended.

use std::time::Duration;

use bus::{NodeId, duty};
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::store;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(30);
/// Sagas of one transaction: their rows hold up the engine for milliseconds.
const AT_ONCE: i64 = 500;

/// Prunes until `stop`, on one node at a time.
pub(super) async fn prune(engine: Engine, node: NodeId, stop: CancellationToken) {
    loop {
        if let Err(error) = prune_all(&engine, &node, &stop).await {
            tracing::warn!(%error, "deleting ended sagas");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Everything that is old enough, so that it keeps up however many end.
async fn prune_all(
    engine: &Engine,
    node: &NodeId,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let shared = engine.shared();
    let kept = bus::Span(shared.retention).micros();
    while !stop.is_cancelled() && duty::hold(&shared.db, "prune-sagas", node).await? {
        let before = shared.db.clock().now().as_micros().saturating_sub(kept);
        let pruned = store::prune(&shared.db, before, AT_ONCE).await?;
        if i64::try_from(pruned).is_ok_and(|pruned| pruned < AT_ONCE) {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}
