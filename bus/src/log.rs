//! The log: ordered, durable, replayable. One trait, a backend for each profile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemas::{Event, EventId, Patterns, Source, Timestamp};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Seq, Signals};

/// Most events that one publish call may carry.
pub const PUBLISH_EVENTS_MAX: usize = 1_000;
/// Largest event, in bytes of its JSON form, with binary data as it is: 1 MiB. A NATS server takes as
/// much by default, its headers included, so there it is a little less.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Largest publish call, in bytes of all its events: 16 MiB.
pub const PUBLISH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the events, or rows that hold some, which are read at once; one more may go over it.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The type of the event that stands for a message in the log that is no event. Whoever can write to
/// a broker can put one there; the consumer `ingest` makes it a dead letter.
pub const INVALID_MESSAGE: &str = "dev.skald.message.invalid";

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its place in the order of all events.
    pub seq: Seq,
    /// When the log took it; never earlier than that of the event before.
    pub recorded_at: Timestamp,
    /// The event.
    pub event: Event,
}

/// The log's answer for one published event, given after it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The event's id.
    pub id: EventId,
    /// The event's source.
    pub source: Source,
    /// Where it stands in the log; for a duplicate, where the first one stands.
    pub seq: Seq,
    /// Whether `(source, id)` had been published before.
    pub duplicate: bool,
}

/// What to read, oldest first.
#[derive(Clone, Debug)]
pub struct Read {
    /// Read what stands after this position.
    pub after: Seq,
    /// Read up to and including this position.
    pub until: Seq,
    /// Only events of these types.
    pub types: Patterns,
    /// Most events to return.
    pub events_max: usize,
}

impl Read {
    /// Everything after `after`, 1,000 events at a time.
    #[must_use]
    pub fn after(after: Seq) -> Read {
        Read { after, until: Seq::MAX, types: Patterns::any(), events_max: 1_000 }
    }

    /// Only events of these types.
    #[must_use]
    pub fn types(self, types: Patterns) -> Read {
        Read { types, ..self }
    }

    /// Up to and including `until`.
    #[must_use]
    pub fn until(self, until: Seq) -> Read {
        Read { until, ..self }
    }

    /// At most `events_max` events.
    #[must_use]
    pub fn limit(self, events_max: usize) -> Read {
        Read { events_max, ..self }
    }
}

/// A stretch of the log.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The events that matched, in the order they were asked for.
    pub events: Vec<Arc<Recorded>>,
    /// How far the log was looked at; reading on starts here. Past the last event returned where
    /// events of other types follow it.
    pub through: Seq,
}

/// The log as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Which log this is. It stands beside every cursor, so that a cursor is never used on a log
    /// that was deleted and made again.
    pub identity: String,
    /// The oldest event still there; the next one to come when there is none.
    pub first: Seq,
    /// The newest event ever recorded; 0 when there was none.
    pub last: Seq,
}

/// How long events of some types are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Which types; the first rule that matches a type counts.
    pub types: schemas::Pattern,
    /// Events recorded longer ago go, once every consumer has had them.
    pub max_age: Option<Duration>,
    /// The oldest events go while all that match take more bytes of data, consumed or not.
    pub max_bytes: Option<u64>,
}

/// What a pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Events deleted.
    pub events: u64,
    /// The newest one deleted by size although a consumer had not had it yet.
    pub missed_through: Option<Seq>,
    /// How many were deleted by size although a consumer had not had them yet.
    pub missed: u64,
    /// Events old enough to go that a lagging consumer still holds back.
    pub held_back: u64,
}

/// What ends a restored log: its newest position, and per type until when events are gone.
pub type Restored = (Seq, Vec<(schemas::EventType, Timestamp)>);

/// Publishing failed; nothing of the call was recorded, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// More than [`EVENT_BYTES_MAX`].
    #[error("event {index} is {bytes} bytes, the limit is {EVENT_BYTES_MAX}")]
    EventTooLarge {
        /// Its place in the call, from 0.
        index: usize,
        /// Its size.
        bytes: usize,
    },
    /// More than [`PUBLISH_EVENTS_MAX`] events or [`PUBLISH_BYTES_MAX`] bytes in one call.
    #[error(
        "{events} events of {bytes} bytes, the limits of one call are {PUBLISH_EVENTS_MAX} events and {PUBLISH_BYTES_MAX} bytes"
    )]
    BatchTooLarge {
        /// Events in the call.
        events: usize,
        /// Bytes in the call.
        bytes: usize,
    },
    /// The log could not write: a full or broken disk, an unreachable server. Whether the events
    /// were recorded is unknown; publishing them again is safe, `(source, id)` makes them one.
    #[error("writing to the log")]
    Write(#[source] BoxError),
    /// The log as a whole: it was made again, has lost events, or could not be synced to the disk.
    #[error("{0}")]
    Faulty(Arc<str>),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

/// Reading failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log could not be read.
    #[error("reading the log")]
    Read(#[source] BoxError),
    /// The log as a whole: it was made again, has lost events, or could not be synced to the disk.
    #[error("{0}")]
    Faulty(Arc<str>),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

/// An error of a backend.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An ordered, durable, replayable log of events.
///
/// All methods may be called at once from many tasks. Dropping a future of `publish` does not take
/// the events back.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends all of `events`, in this order, or none; answers after they are durable.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn publish_all(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError>;

    /// Reads oldest first.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn read(&self, read: Read) -> Result<Page, ReadError>;

    /// Reads newest first: events from `read.until` down to above `read.after`. `through` of the
    /// answer is the lowest position looked at.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn read_back(&self, read: Read) -> Result<Page, ReadError>;

    /// The events at these positions, in their order; those that are gone are left out.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn get(&self, seqs: &[Seq]) -> Result<Vec<Arc<Recorded>>, ReadError>;

    /// How many events of these types stand after `after` and not after `until`.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn count(&self, after: Seq, until: Seq, types: &Patterns) -> Result<u64, ReadError>;

    /// The position of the last event recorded before `at`: reading after it starts at `at`.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn position_at(&self, at: Timestamp) -> Result<Seq, ReadError>;

    /// The log as a whole.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn state(&self) -> Result<LogState, ReadError>;

    /// The newest position; the receiver wakes whenever it grows.
    fn head(&self) -> watch::Receiver<Seq>;

    /// Deletes what the rules let go. Age waits for `consumed`, the position that every consumer
    /// has passed; size does not.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn prune(
        &self,
        rules: &[Retention],
        consumed: Seq,
        now: Timestamp,
    ) -> Result<Pruned, ReadError>;

    /// Per event type that lost events to pruning: the time up to which they are gone. Events
    /// recorded earlier can no longer be read; it is a whole minute.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn pruned_through(&self) -> Result<Vec<(schemas::EventType, Timestamp)>, ReadError>;

    /// Puts events of another log, in their order, in at the positions and with the times they had
    /// there; `end` comes with the last. For a log that was empty before and that nobody else uses.
    ///
    /// # Errors
    /// [`PublishError::Write`].
    async fn restore(
        &self,
        events: Vec<Recorded>,
        end: Option<Restored>,
    ) -> Result<(), PublishError>;

    /// Whether others than this process write to it. Such a log may hold an event twice, published
    /// again after its broker had forgotten it: consumers then look for themselves.
    fn is_shared(&self) -> bool {
        false
    }

    /// What is wrong with the log as a whole, if something is: nothing is published or read then.
    fn fault(&self) -> Option<Arc<str>> {
        None
    }

    /// Carries wake-ups between the nodes that share the log, until `stop`.
    async fn carry(&self, _signals: &Signals, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Appends one event.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        let receipts = self.publish_all(vec![event]).await?;
        receipts.into_iter().next().ok_or(PublishError::Closed)
    }
}

/// Refuses what is too large, before anything is written.
///
/// # Errors
/// [`PublishError::EventTooLarge`] and [`PublishError::BatchTooLarge`].
pub fn check_size(events: &[Event]) -> Result<usize, PublishError> {
    let mut total = 0;
    for (index, event) in events.iter().enumerate() {
        let mut bytes = event.size();
        if bytes > EVENT_BYTES_MAX {
            bytes = event.exact_size(); // The other is a little too high.
        }
        if bytes > EVENT_BYTES_MAX {
            return Err(PublishError::EventTooLarge { index, bytes });
        }
        total += bytes;
    }
    if events.len() > PUBLISH_EVENTS_MAX || total > PUBLISH_BYTES_MAX {
        return Err(PublishError::BatchTooLarge { events: events.len(), bytes: total });
    }
    Ok(total)
}
