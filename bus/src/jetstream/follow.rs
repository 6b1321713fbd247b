//! Follows the stream live, so that consumers that keep up read from memory, and watches that it
//! stays the stream it was.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::message::{RestoredThrough, recorded};
use super::publish::seq;
use super::scan;
use crate::log::BoxError;
use crate::recent::Recent;
use crate::{Recorded, Seq};

/// Messages the server may send ahead.
const AHEAD: usize = 4_096;
/// How often the server shows that it is there; after two that did not come the consumer is made
/// again.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Wait before the consumer is made again; doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the stream is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Looks in a row that must show an end before what was seen: replicas may lag for a moment.
const LOOKS: u32 = 3;

/// Reads on from the head for as long as the node lives.
pub(super) struct Follower {
    pub(super) stream: Stream<()>,
    pub(super) recent: Arc<Recent>,
    pub(super) restored: RestoredThrough,
    pub(super) head: watch::Sender<Seq>,
    pub(super) fault: Fault,
    pub(super) stop: CancellationToken,
}

impl Follower {
    pub(super) async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let before = *self.head.borrow();
            let ended = tokio::select! {
                () = self.stop.cancelled() => return,
                ended = self.follow() => ended,
            };
            if *self.head.borrow() > before {
                pause = PAUSE_MIN;
            }
            if let Err(error) = ended {
                tracing::debug!(%error, "following the log again");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One consumer, until it fails or a message is missing.
    async fn follow(&self) -> Result<(), BoxError> {
        let from = self.head.borrow().next();
        let consumer = scan::consumer(&self.stream, from, vec![super::subjects::ALL.to_owned()]);
        let consumer = consumer.await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(AHEAD)
            .heartbeat(HEARTBEAT)
            .expires(Duration::from_secs(30))
            .messages()
            .await?
            .ready_chunks(512);
        let mut delivered = 0;
        while let Some(chunk) = messages.next().await {
            if self.fault.get().is_some() {
                return Ok(());
            }
            let mut events = Vec::with_capacity(chunk.len());
            let mut broken = None;
            for message in chunk {
                let message = match message {
                    Ok(message) => message,
                    Err(error) => {
                        broken = Some(BoxError::from(error));
                        break;
                    }
                };
                let info = message.info()?;
                if info.consumer_sequence != delivered + 1 {
                    broken = Some("a message is missing".into());
                    break;
                }
                delivered = info.consumer_sequence;
                let (at, taken) =
                    (seq(info.stream_sequence), info.published.unix_timestamp_nanos());
                let message = message.message;
                let bytes = message.length;
                let event = recorded(
                    at,
                    self.restored.recorded_at(at, taken, message.headers.as_ref()),
                    &message.subject,
                    message.headers.as_ref(),
                    &message.payload,
                );
                events.push((Arc::new(event), bytes));
            }
            self.extend(events);
            if let Some(error) = broken {
                return Err(error);
            }
        }
        Ok(())
    }

    fn extend(&self, events: Vec<(Arc<Recorded>, usize)>) {
        let Some(last) = events.last().map(|(event, _)| event.seq) else { return };
        self.recent.extend(events);
        self.head.send_replace(last);
    }
}

/// Notes a fault when the stream is gone, was made again, or ends before what was seen of it.
pub(super) async fn watch(
    context: Context,
    name: String,
    identity: String,
    head: watch::Receiver<Seq>,
    fault: Fault,
    stop: CancellationToken,
) {
    let mut short = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let seen = *head.borrow();
        match context.get_stream(&name).await {
            Ok(stream) => {
                let info = stream.cached_info();
                if super::identity(info) != identity {
                    fault.set(&format!("the stream {name} was deleted and made again"));
                }
                let last = seq(info.state.last_sequence);
                short = if last < seen { short + 1 } else { 0 };
                if short >= LOOKS {
                    fault.set(&format!(
                        "the stream {name} ends at {last} and had reached {seen}: it has lost events"
                    ));
                }
            }
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    short += 1;
                    if short >= LOOKS {
                        fault.set(&format!("the stream {name} was deleted"));
                    }
                }
                _ => tracing::debug!(%error, "looking at the log's stream"),
            },
        }
    }
}
