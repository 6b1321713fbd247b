//! Events out of one log and into another, each at its position.

use std::sync::Arc;

use schemas::{Event, Patterns, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::TransferError;
use super::file::{LogHead, hex};
use crate::{Log, Read, Recorded, Seq};

/// Events written in one call.
const BATCH: usize = 1_000;

/// An event as it stands in the file.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    seq: Seq,
    recorded_at: Timestamp,
    event: Box<RawValue>,
}

impl Stored {
    pub(super) fn of(recorded: &Recorded) -> Stored {
        let json = String::from_utf8_lossy(&recorded.event.to_json()).into_owned();
        let event = RawValue::from_string(json).unwrap_or_default();
        Stored { seq: recorded.seq, recorded_at: recorded.recorded_at, event }
    }
}

/// Reads a log from its beginning to where it ended when it was opened.
pub(super) struct Reader {
    after: Seq,
    last: Seq,
    total: u64,
}

impl Reader {
    pub(super) async fn open(log: &dyn Log) -> Result<(Reader, LogHead), TransferError> {
        let state = log.state().await?;
        let pruned = log.pruned_through().await?;
        let total = log.count(Seq::ZERO, state.last, &Patterns::everything()).await?;
        let reader = Reader { after: Seq::ZERO, last: state.last, total };
        let pruned = pruned.into_iter().map(|(kind, at)| (kind.to_string(), at)).collect();
        Ok((reader, LogHead { first: state.first, last: state.last, pruned }))
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) async fn next(
        &mut self,
        log: &dyn Log,
    ) -> Result<Option<Vec<Arc<Recorded>>>, TransferError> {
        if self.after >= self.last {
            return Ok(None);
        }
        let read = Read::after(self.after).until(self.last).types(Patterns::everything());
        let page = log.read(read.limit(BATCH)).await?;
        self.after = page.through.max(self.after.next());
        Ok(Some(page.events))
    }
}

/// A hash over events in their order.
#[derive(Default)]
pub(super) struct EventsHash(Sha256);

impl EventsHash {
    pub(super) fn add(&mut self, recorded: &Recorded) {
        self.0.update(recorded.seq.get().to_be_bytes());
        self.0.update(recorded.recorded_at.as_micros().to_be_bytes());
        self.0.update(recorded.event.to_json());
    }

    pub(super) fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Puts events into an empty log.
pub(super) struct Restore<'a> {
    log: &'a dyn Log,
    head: LogHead,
    batch: Vec<Recorded>,
    finished: bool,
}

impl<'a> Restore<'a> {
    pub(super) fn new(log: &'a dyn Log, head: &LogHead) -> Restore<'a> {
        Restore { log, head: head.clone(), batch: Vec::with_capacity(BATCH), finished: false }
    }

    pub(super) async fn add(&mut self, stored: Stored) -> Result<(), TransferError> {
        let Stored { seq, recorded_at, event } = stored;
        let event = Event::from_json(event.get().as_bytes())
            .map_err(|error| TransferError::Form(format!("event {seq}: {error}")))?;
        self.batch.push(Recorded { seq, recorded_at, event });
        if self.batch.len() == BATCH {
            self.log.restore(std::mem::take(&mut self.batch), None).await?;
        }
        Ok(())
    }

    /// Writes what is left, and what the log as a whole remembers.
    pub(super) async fn finish(&mut self) -> Result<(), TransferError> {
        if !self.finished {
            self.finished = true;
            let end = (self.head.last, self.head.pruned());
            self.log.restore(std::mem::take(&mut self.batch), Some(end)).await?;
        }
        Ok(())
    }
}
