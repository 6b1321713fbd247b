//! Skald's own events about webhooks: `dev.skald.webhook.endpoint.…`.

use bus::Tx;
use schemas::{Event, EventId};
use serde_json::Value;

/// Publishes `dev.skald.webhook.endpoint.<what>` if, and only if, `tx` commits.
pub fn stage(tx: &mut Tx, what: &str, data: Value) {
    let kind = format!("dev.skald.webhook.endpoint.{what}").parse();
    let (Ok(kind), Ok(source)) = (kind, "/skald/webhooks".parse()) else { return };
    let id = EventId::from_uuid(uuid::Uuid::now_v7());
    let staged = Event::new(kind, source, id).with_json(data).map(|event| tx.stage(&event));
    if !matches!(staged, Ok(Ok(()))) {
        tracing::error!(what, "an event about a webhook could not be staged");
    }
}
