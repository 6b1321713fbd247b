//! Publishing with acknowledgements in flight, over the loss of a server or a leader.
//!
//! A single event is a message whose id is its `(source, id)`: sent again until the stream has it, it
//! stands there once. Several events of one call are an atomic batch (ADR-50): all of them, next to
//! each other in their order, or none. A batch with an event that the broker knows already is
//! refused as a whole; its events are then published one by one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use schemas::Event;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::fault::Fault;
use super::message::outgoing;
use crate::log::BoxError;
use crate::{PublishError, Receipt, Seq};

/// How long a publish is tried while there is a server to talk to: an election takes up to 9 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is tried while there is none: long enough to be past one that does not greet.
const PATIENCE_CUT_OFF: Duration = Duration::from_secs(3);
/// Waits between attempts: ADR-22 has 250 ms for a leader that is not there.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Atomic batches of this process at once; a server takes 50 for one stream.
const BATCHES_MAX: usize = 12;
/// Messages of one call in flight, where they are published one by one.
const WINDOW: usize = 256;
/// How long one attempt at a batch waits for its acknowledgement.
const BATCH_TIMEOUT: Duration = Duration::from_secs(6);
/// The broker's code for a batch that holds a message it knows.
const BATCH_HAS_DUPLICATE: u64 = 10_201;

pub(super) struct Publisher {
    client: Client,
    context: Context,
    stream: String,
    /// The highest position acknowledged; a new event that is sent after that and acknowledged below
    /// it means that the stream is another one.
    highest: AtomicI64,
    fault: Fault,
    batches: Semaphore,
}

/// One attempt did not bring an acknowledgement.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error(transparent)]
    Single(#[from] async_nats::jetstream::context::PublishError),
    #[error(transparent)]
    Request(#[from] async_nats::RequestError),
    #[error(transparent)]
    Send(#[from] async_nats::PublishError),
    #[error("{description} ({err_code})")]
    Refused { err_code: u64, description: String },
    #[error("the answer cannot be read")]
    Answer(#[from] serde_json::Error),
    #[error("there is no connection to a server")]
    CutOff,
    #[error("no acknowledgement in time")]
    Late,
}

/// What the broker answers to the last message of a batch.
#[derive(Deserialize)]
struct BatchAnswer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    error: Option<BrokerError>,
}

#[derive(Deserialize)]
struct BrokerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Publisher {
    pub(super) fn new(context: Context, stream: String, last: Seq, fault: Fault) -> Publisher {
        let highest = AtomicI64::new(last.get());
        let (client, batches) = (context.client(), Semaphore::new(BATCHES_MAX));
        Publisher { client, context, stream, highest, fault, batches }
    }

    pub(super) async fn publish(&self, events: &[Event]) -> Result<Vec<Receipt>, PublishError> {
        self.fault.check_publish()?;
        let receipts = match events {
            [] => Vec::new(),
            [event] => vec![self.one(0, event).await?],
            events => self.batch(events).await?,
        };
        crate::metrics::published(receipts.iter());
        Ok(receipts)
    }

    async fn one(&self, index: usize, event: &Event) -> Result<Receipt, PublishError> {
        let before = self.highest();
        let ack = self.persevere(|| self.try_one(index, event)).await?;
        if ack.stream != self.stream {
            let why = format!("another stream, {}, takes the subject of the log", ack.stream);
            return Err(PublishError::Write(why.into()));
        }
        let seq = seq(ack.sequence);
        self.check_order(seq, before, ack.duplicate)?;
        Ok(receipt(event, seq, ack.duplicate))
    }

    async fn try_one(
        &self,
        index: usize,
        event: &Event,
    ) -> Result<PublishAck, Result<Attempt, PublishError>> {
        use async_nats::jetstream::context::PublishErrorKind;
        if self.is_cut_off() {
            return Err(Ok(Attempt::CutOff));
        }
        let message = outgoing(event);
        let publish = PublishMessage::build().payload(message.payload).headers(message.headers);
        let sent = self.context.send_publish(message.subject, publish).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        acknowledged.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Err(PublishError::EventTooLarge { index, bytes: event.size() })
            }
            _ => Ok(error.into()),
        })
    }

    async fn batch(&self, events: &[Event]) -> Result<Vec<Receipt>, PublishError> {
        let before = self.highest();
        let taken = {
            let _place = self.batches.acquire().await.map_err(|_| PublishError::Closed)?;
            self.persevere(|| self.try_batch(events)).await?
        };
        let Some(last) = taken else { return self.each(events).await };
        let first = last.get() - i64::try_from(events.len()).unwrap_or(i64::MAX) + 1;
        self.check_order(Seq::new(first), before, false)?;
        Ok(events
            .iter()
            .zip(first..)
            .map(|(event, n)| receipt(event, Seq::new(n), false))
            .collect())
    }

    /// The position of the batch's last event; `None` when the broker knows one of them already.
    async fn try_batch(
        &self,
        events: &[Event],
    ) -> Result<Option<Seq>, Result<Attempt, PublishError>> {
        if self.is_cut_off() {
            return Err(Ok(Attempt::CutOff));
        }
        let client = &self.client;
        let most = client.max_payload();
        let id = uuid::Uuid::now_v7().simple().to_string();
        let mut answer = None;
        for (index, event) in events.iter().enumerate() {
            let mut message = outgoing(event);
            if message.payload.len() + 1_024 > most {
                return Err(Err(PublishError::EventTooLarge { index, bytes: event.size() }));
            }
            message.headers.insert("Nats-Batch-Id", id.as_str());
            message.headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            if index + 1 < events.len() {
                let sent =
                    client.publish_with_headers(message.subject, message.headers, message.payload);
                sent.await.map_err(|error| Ok(error.into()))?;
            } else {
                message.headers.insert("Nats-Batch-Commit", "1");
                let request = async_nats::Request::new()
                    .headers(message.headers)
                    .payload(message.payload)
                    .timeout(Some(BATCH_TIMEOUT));
                let answered = client.send_request(message.subject, request).await;
                answer = Some(answered.map_err(|error| Ok(error.into()))?);
            }
        }
        let payload = answer.map(|message| message.payload).unwrap_or_default();
        let answer: BatchAnswer =
            serde_json::from_slice(&payload).map_err(|error| Ok(error.into()))?;
        match answer.error {
            Some(error) if error.err_code == BATCH_HAS_DUPLICATE => Ok(None),
            Some(BrokerError { err_code, description }) => {
                Err(Ok(Attempt::Refused { err_code, description }))
            }
            None if answer.count == events.len() as u64 => Ok(Some(seq(answer.seq))),
            None => Err(Ok(Attempt::Late)),
        }
    }

    /// One message after the other, many in flight.
    async fn each(&self, events: &[Event]) -> Result<Vec<Receipt>, PublishError> {
        let all: Vec<_> = events
            .iter()
            .enumerate()
            .map(|(index, event)| self.one(index, event).boxed())
            .collect();
        futures::stream::iter(all).buffered(WINDOW).try_collect().await
    }

    /// Tries until there is an answer, it is certain that there will be none, or patience ends.
    async fn persevere<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, PublishError>
    where
        F: Future<Output = Result<T, Result<Attempt, PublishError>>>,
    {
        let mut patience = Patience::new(Instant::now());
        let mut pause = PAUSE_MIN;
        loop {
            let error = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(Err(certain)) => return Err(certain),
                Err(Ok(error)) => error,
            };
            self.fault.check_publish()?;
            if patience.ends(Instant::now() + pause, self.is_cut_off()) {
                return Err(PublishError::Write(BoxError::from(error)));
            }
            tracing::debug!(%error, "publishing again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn highest(&self) -> Seq {
        Seq::new(self.highest.load(Ordering::Relaxed))
    }

    fn is_cut_off(&self) -> bool {
        self.client.connection_state() != State::Connected
    }

    /// A new event stands after everything that was there before it was sent.
    fn check_order(&self, seq: Seq, before: Seq, duplicate: bool) -> Result<(), PublishError> {
        if duplicate || seq > before {
            self.highest.fetch_max(seq.get(), Ordering::Relaxed);
            return Ok(());
        }
        self.fault.set(&format!(
            "the stream {} gave a new event the number {seq}, and had given out {before} before: it was made again or has lost events",
            self.stream
        ));
        self.fault.check_publish()
    }
}

/// How long one publish has been tried.
struct Patience {
    started: Instant,
    /// Since when each attempt found no server to talk to.
    cut_off: Option<Instant>,
}

impl Patience {
    fn new(now: Instant) -> Patience {
        Patience { started: now, cut_off: None }
    }

    /// Whether there is to be no attempt at `next`, after one that `is_cut_off`, or is not.
    fn ends(&mut self, next: Instant, is_cut_off: bool) -> bool {
        let late = next > self.started + PATIENCE;
        if !is_cut_off {
            self.cut_off = None;
            return late;
        }
        late || next > *self.cut_off.get_or_insert(next) + PATIENCE_CUT_OFF
    }
}

fn receipt(event: &Event, seq: Seq, duplicate: bool) -> Receipt {
    Receipt { id: event.id.clone(), source: event.source.clone(), seq, duplicate }
}

/// A stream's sequence number as a position.
pub(super) fn seq(sequence: u64) -> Seq {
    Seq::new(i64::try_from(sequence).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_that_waited_long_still_outlasts_a_change_of_servers() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut patience = Patience::new(start);
        assert!(!patience.ends(second(6), false));
        assert!(!patience.ends(second(8), true), "only now it is cut off");
        assert!(!patience.ends(second(11), true));
        assert!(!patience.ends(second(12), false), "another server has it");
        assert!(!patience.ends(second(14), true));
        assert!(patience.ends(second(18), true), "no server for 4 s");
    }

    #[test]
    fn a_publish_is_given_up_at_last() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(!patience.ends(start + PATIENCE, false));
        assert!(patience.ends(start + PATIENCE + PAUSE_MIN, false));
    }
}
