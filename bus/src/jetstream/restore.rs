//! Events of another log, put into an empty stream at the positions they had there.
//!
//! A server numbers messages itself, without gaps. Where positions are missing, fillers take them and
//! are deleted together at the end. It also notes its own time; the one that counts travels in a
//! header, which is believed up to the position that the stream's metadata names.

use std::collections::VecDeque;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, Info};
use schemas::{EventType, Timestamp};

use super::message::{RECORDED_AT, outgoing};
use super::publish::seq;
use super::{JetStreamLog, prune};
use crate::log::{BoxError, Restored};
use crate::{PublishError, Recorded, Seq};

/// Messages that wait for their acknowledgement at once.
const WINDOW: usize = 500;
/// Where fillers stand until they are deleted.
const FILLER: &str = "events.dev.skald.log.filler";
/// Up to which position times in headers count.
const RESTORED_THROUGH: &str = "skald_restored_through";

fn failed(error: impl Into<BoxError>) -> PublishError {
    PublishError::Write(error.into())
}

/// Up to which position the stream was restored.
pub(super) fn restored_through(info: &Info) -> Seq {
    let known = info.config.metadata.get(RESTORED_THROUGH);
    known.and_then(|text| text.parse().ok()).unwrap_or(Seq::ZERO)
}

pub(super) async fn restore(
    log: &JetStreamLog,
    events: Vec<Recorded>,
    end: Option<Restored>,
) -> Result<(), PublishError> {
    let info = log.scanner.stream.get_info().await.map_err(failed)?;
    let last = seq(info.state.last_sequence);
    if restored_through(&info) == Seq::ZERO {
        remember(log, &info.config, Seq::MAX).await?;
    }
    let mut next = last.next();
    if last == Seq::ZERO
        && let Some(first) = events.first()
        && first.seq > next
    {
        // An empty stream goes on from where it is purged to.
        let sequence = u64::try_from(first.seq.get()).unwrap_or(1);
        log.scanner.stream.purge().sequence(sequence).await.map_err(failed)?;
        next = first.seq;
    }
    let mut appending = Appending { log, waiting: VecDeque::new(), next };
    for recorded in events {
        appending.fill_up_to(recorded.seq).await?;
        let mut message = outgoing(&recorded.event);
        message.headers.insert(RECORDED_AT, recorded.recorded_at.as_micros().to_string());
        let sent =
            log.context.publish_with_headers(message.subject, message.headers, message.payload);
        appending.sent(sent.await.map_err(failed)?).await?;
    }
    if let Some((newest, _)) = &end {
        appending.fill_up_to(newest.next()).await?;
    }
    appending.settle(0).await?;
    if let Some((newest, pruned)) = end {
        finish(log, newest, pruned).await?;
    }
    Ok(())
}

async fn remember(log: &JetStreamLog, config: &Config, through: Seq) -> Result<(), PublishError> {
    let mut config = config.clone();
    config.metadata.insert(RESTORED_THROUGH.to_owned(), through.to_string());
    log.context.update_stream(config).await.map_err(failed)?;
    log.restored.set(through);
    Ok(())
}

async fn finish(
    log: &JetStreamLog,
    newest: Seq,
    pruned: Vec<(EventType, Timestamp)>,
) -> Result<(), PublishError> {
    let info = log.scanner.stream.get_info().await.map_err(failed)?;
    remember(log, &info.config, newest).await?;
    log.scanner.stream.purge().filter(FILLER).await.map_err(failed)?;
    for (kind, through) in pruned {
        prune::note(log, &kind, through).await.map_err(failed)?;
    }
    Ok(())
}

struct Appending<'a> {
    log: &'a JetStreamLog,
    waiting: VecDeque<(Seq, PublishAckFuture)>,
    /// The position of the next message.
    next: Seq,
}

impl Appending<'_> {
    async fn fill_up_to(&mut self, wanted: Seq) -> Result<(), PublishError> {
        while self.next < wanted {
            let sent = self.log.context.publish(FILLER, "".into()).await.map_err(failed)?;
            self.sent(sent).await?;
        }
        Ok(())
    }

    async fn sent(&mut self, acknowledgement: PublishAckFuture) -> Result<(), PublishError> {
        self.waiting.push_back((self.next, acknowledgement));
        self.next = self.next.next();
        self.settle(WINDOW).await
    }

    /// Waits until at most `most` acknowledgements are under way.
    async fn settle(&mut self, most: usize) -> Result<(), PublishError> {
        while self.waiting.len() > most
            && let Some((wanted, acknowledgement)) = self.waiting.pop_front()
        {
            let acknowledged = acknowledgement.await.map_err(failed)?;
            let at = seq(acknowledged.sequence);
            if at != wanted || acknowledged.duplicate {
                let why = format!(
                    "an event went to {at} instead of {wanted}: somebody else publishes, or the stream knows the event already"
                );
                return Err(failed(why));
            }
        }
        Ok(())
    }
}
