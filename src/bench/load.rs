//! The events that are measured with, and logs and databases full of them.

use std::sync::Arc;
use std::time::Duration;

use bus::Log;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use schemas::{Data, Event, EventId, EventType, Source};
use uuid::Uuid;

/// How long consumers know an event again.
pub(super) const INBOX: Duration = Duration::from_secs(7 * 86_400);

/// Bytes of data in each event, in messages of the reference, and in HTTP requests.
pub(super) const DATA_BYTES: usize = 512;
/// Calls under way while a log is filled.
const FILL_CALLS: usize = 4;
/// Events in each of them.
const FILL_EVENTS: u64 = 1_000;

/// JSON of [`DATA_BYTES`].
pub(super) fn data() -> String {
    const FRAME: &str = r#"{"text":""}"#;
    format!(r#"{{"text":"{}"}}"#, "x".repeat(DATA_BYTES - FRAME.len()))
}

/// Makes events, each with an id of its own.
#[derive(Clone)]
pub(super) struct Events {
    template: Event,
}

impl Events {
    pub(super) fn new() -> Events {
        let kind = EventType::from_trusted("bench.measured".into());
        let source = Source::from_trusted("/bench".into());
        let mut template = Event::new(kind, source, EventId::from_uuid(Uuid::nil()));
        template.data = Data::Json(Bytes::from(data()));
        Events { template }
    }

    pub(super) fn one(&self) -> Event {
        Event { id: EventId::from_uuid(Uuid::now_v7()), ..self.template.clone() }
    }

    pub(super) fn many(&self, count: u64) -> Vec<Event> {
        (0..count).map(|_| self.one()).collect()
    }
}

/// Closes a log, which takes until its file is in order.
pub(super) async fn close_log(log: Arc<dyn Log>) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || drop(log)).await?)
}

/// Publishes `count` events.
pub(super) async fn fill(log: &dyn Log, count: u64) -> anyhow::Result<()> {
    let events = Events::new();
    let calls = (0..count).step_by(1_000).map(|first| {
        let batch = events.many(FILL_EVENTS.min(count - first));
        async move { log.publish_all(batch).await.map(|_| ()) }
    });
    stream::iter(calls).buffer_unordered(FILL_CALLS).try_collect::<()>().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_json_of_the_stated_size() {
        assert_eq!(data().len(), DATA_BYTES);
        assert!(Events::new().one().data_as::<serde_json::Value>().is_ok());
    }
}
