//! Reading what is not in memory any more.
//!
//! Stretches are read with short-lived pull consumers, which the server filters by subject; the last
//! ones are kept, so that reading on costs one request. A consumer may live on a server that lags
//! behind the others: that it has nothing more is believed only when the stream's leader says the
//! same, otherwise a cursor could pass over events.
//!
//! Consumers are made by the leader of all servers. While there is none the leader of the stream is
//! asked for one event after the other, which is slower and needs no consumer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures::{StreamExt as _, TryStreamExt as _};
use schemas::{Patterns, Timestamp};
use tokio::time::{Instant, timeout};

use super::message::{RestoredThrough, recorded};
use super::publish::seq;
use super::subjects;
use crate::log::{BoxError, PAGE_BYTES_MAX};
use crate::{Page, Read, ReadError, Recorded, Seq};

/// Consumers kept for reading on.
const KEPT_MAX: usize = 16;
/// After this time without a request a server drops a consumer.
const IDLE: Duration = Duration::from_secs(30);
/// How long the next message of a page may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a replica may take to answer with one event before the leader is asked: it may stand
/// still with its connections open.
const PATIENCE_REPLICA: Duration = Duration::from_millis(500);
/// How long each answer of a leader is waited for before it is asked again, in seconds: what was asked
/// of a server that stands still is never answered. All of them outlast the election of another.
const PATIENCE_LEADER: [u64; 7] = [1, 1, 2, 2, 4, 4, 4];
/// How long a consumer may take to be made where there is another way to read.
const PATIENCE_MADE: Duration = Duration::from_secs(1);
/// After this time a page that is read one by one ends with what it has.
const PATIENCE_SINGLY: Duration = Duration::from_secs(2);
/// How long a page may take whose consumer's server lags behind the leader.
const PATIENCE_LAG: Duration = Duration::from_secs(10);
/// Single messages fetched at once.
const GETS: usize = 64;
/// Positions of the smallest window of a page that is read backwards.
const WINDOW_MIN: i64 = 64;

type Pull = Consumer<pull::Config>;

/// Reads the stream.
pub(super) struct Scanner {
    pub(super) stream: Stream<()>,
    restored: RestoredThrough,
    kept: Mutex<Vec<Kept>>,
}

/// A consumer that stands after `after`; dropped here, it is deleted on the server.
struct Kept {
    stream: Stream<()>,
    restored: RestoredThrough,
    subjects: Vec<String>,
    after: Seq,
    consumer: Pull,
    delivered: u64,
    used: Instant,
}

/// A consumer of `subjects` from `from` on that keeps no state worth keeping.
pub(super) async fn consumer(
    stream: &Stream<()>,
    from: Seq,
    subjects: Vec<String>,
) -> Result<Pull, BoxError> {
    let config = transient(from, subjects);
    Ok(answered(|| stream.create_consumer(config.clone())).await??)
}

/// What a leader answers, asked again while there is none.
pub(super) async fn answered<T, F: Future<Output = T>>(ask: impl Fn() -> F) -> Result<T, BoxError> {
    for patience in PATIENCE_LEADER.map(Duration::from_secs) {
        if let Ok(answer) = timeout(patience, ask()).await {
            return Ok(answer);
        }
    }
    Err("no leader has answered in time".into())
}

fn transient(from: Seq, subjects: Vec<String>) -> pull::Config {
    let start_sequence = u64::try_from(from.get()).unwrap_or(1).max(1);
    pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        filter_subjects: subjects,
        inactive_threshold: IDLE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

fn failed(error: impl Into<BoxError>) -> ReadError {
    ReadError::Read(error.into())
}

impl Scanner {
    pub(super) fn new(stream: Stream<()>, restored: RestoredThrough) -> Scanner {
        Scanner { stream, restored, kept: Mutex::default() }
    }

    /// Reads oldest first what stands after `read.after`, up to `until`, which the stream has.
    pub(super) async fn forward(&self, read: &Read, until: Seq) -> Result<Page, ReadError> {
        let subjects = subjects::of(&read.types);
        let deadline = Instant::now() + PATIENCE_LAG;
        loop {
            let mut kept = match self.take(&subjects, read.after) {
                Some(kept) => kept,
                None => match self.make(subjects.clone(), read.after).await {
                    Ok(made) => made,
                    Err(error) => {
                        tracing::debug!(%error, "reading the log without a consumer");
                        return self.singly(read, until, &subjects).await;
                    }
                },
            };
            let fetched = kept.fetch(read.events_max).await;
            let (events, full) = match fetched {
                Ok(fetched) => fetched,
                // It may have been dropped by the server: the next one is new.
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(%error, "reading the log again");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let last = events.last().map_or(read.after, |event| event.seq);
            let through = if full { last } else { self.nothing_before(&subjects, last).await? };
            let through = through.min(until.max(last));
            if through == read.after && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            if through == last {
                self.keep(kept);
            }
            let mut page = Page { events, through: through.min(read.until) };
            page.events
                .retain(|event| event.seq <= read.until && read.types.matches(&event.event.kind));
            return Ok(page);
        }
    }

    /// Reads like `forward`, one event after the other, from the stream's leader.
    async fn singly(
        &self,
        read: &Read,
        until: Seq,
        subjects: &[String],
    ) -> Result<Page, ReadError> {
        let until = until.min(read.until);
        let deadline = Instant::now() + PATIENCE_SINGLY;
        let mut page = Page { events: Vec::new(), through: read.after };
        let mut bytes = 0;
        while page.through < until && page.events.len() < read.events_max {
            let found = match self.first(subjects, page.through).await? {
                Some(found) if found.seq <= until => found,
                _ => {
                    page.through = until;
                    break;
                }
            };
            page.through = found.seq;
            if read.types.matches(&found.event.kind) {
                bytes += found.event.size();
                page.events.push(Arc::new(found));
            }
            if bytes >= PAGE_BYTES_MAX || Instant::now() >= deadline {
                break;
            }
        }
        Ok(page)
    }

    /// Up to where there is no message of `subjects` after `after`, as the stream's leader knows it.
    async fn nothing_before(&self, subjects: &[String], after: Seq) -> Result<Seq, ReadError> {
        let first = self.first(subjects, after).await?;
        Ok(first.map_or(Seq::MAX, |found| found.seq.previous()))
    }

    /// The first message of `subjects` after `after`, as the stream's leader knows it.
    async fn first(&self, subjects: &[String], after: Seq) -> Result<Option<Recorded>, ReadError> {
        let next = subjects.iter().map(|subject| self.next(subject, after.next()));
        let next = futures::future::try_join_all(next).await?;
        Ok(next.into_iter().flatten().min_by_key(|found| found.seq))
    }

    /// The first event of `subject` at or after `from`, from the stream's leader.
    async fn next(&self, subject: &str, from: Seq) -> Result<Option<Recorded>, ReadError> {
        let from = u64::try_from(from.get()).unwrap_or(1).max(1);
        let ask =
            || self.stream.raw_message_builder().sequence(from).next_by_subject(subject).send();
        match answered(ask).await.map_err(failed)? {
            Ok(message) => Ok(Some(from_stream(&message, &self.restored))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads newest first, from `until` down. Windows grow while they hold little, and shrink while
    /// they hold too much.
    pub(super) async fn back(
        &self,
        read: &Read,
        until: Seq,
        mut page: Page,
    ) -> Result<Page, ReadError> {
        let mut size = i64::try_from(read.events_max).unwrap_or(i64::MAX).max(WINDOW_MIN);
        let mut page_bytes: usize = page.events.iter().map(|event| event.event.size()).sum();
        let mut high = until;
        while page.events.len() < read.events_max
            && page_bytes < PAGE_BYTES_MAX
            && high > read.after
        {
            let low = Seq::new(high.get().saturating_sub(size)).max(read.after);
            let wanted = read.events_max - page.events.len();
            let found_max = if size > WINDOW_MIN { wanted.saturating_mul(4) } else { usize::MAX };
            let bytes_max = if size > WINDOW_MIN { PAGE_BYTES_MAX } else { usize::MAX };
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut after = low;
            while after < high && found.len() <= found_max && bytes <= bytes_max {
                let part = Read { after, until: high, events_max: 1_000, ..read.clone() };
                let part = self.forward(&part, high).await?;
                bytes += part.events.iter().map(|event| event.event.size()).sum::<usize>();
                found.extend(part.events);
                after = part.through;
            }
            if after < high {
                size /= 4;
                continue;
            }
            high = low;
            page.through = low.next();
            for event in found.into_iter().rev() {
                page.through = event.seq;
                page_bytes += event.event.size();
                page.events.push(event);
                if page.events.len() == read.events_max || page_bytes >= PAGE_BYTES_MAX {
                    return Ok(page);
                }
            }
            page.through = low.next();
            size = size.saturating_mul(8);
        }
        Ok(page)
    }

    /// How many messages of `types` stand after `after` and not after `until`.
    pub(super) async fn count(
        &self,
        after: Seq,
        until: Seq,
        types: &Patterns,
    ) -> Result<u64, ReadError> {
        let Some(subjects) = subjects::of_events(types) else {
            return self.count_by_reading(after, until, types).await;
        };
        let not_meant = subjects::not_meant(&subjects, types);
        let mut total = self.between(after, until, subjects).await?;
        if !not_meant.is_empty() {
            total = total.saturating_sub(self.between(after, until, not_meant).await?);
        }
        Ok(total)
    }

    async fn count_by_reading(
        &self,
        mut after: Seq,
        until: Seq,
        types: &Patterns,
    ) -> Result<u64, ReadError> {
        let mut total = 0;
        while after < until {
            let read = Read::after(after).until(until).types(types.clone());
            let page = self.forward(&read, until).await?;
            total += page.events.len() as u64;
            after = page.through;
        }
        Ok(total)
    }

    async fn between(
        &self,
        after: Seq,
        until: Seq,
        subjects: Vec<String>,
    ) -> Result<u64, ReadError> {
        let (from_after, from_until) = futures::try_join!(
            self.pending(after, subjects.clone()),
            self.pending(until, subjects)
        )?;
        Ok(from_after.saturating_sub(from_until))
    }

    /// How many messages of `subjects` stand after `after`.
    async fn pending(&self, after: Seq, subjects: Vec<String>) -> Result<u64, ReadError> {
        if after == Seq::MAX {
            return Ok(0);
        }
        let consumer = consumer(&self.stream, after.next(), subjects).await.map_err(failed)?;
        let pending = consumer.cached_info().num_pending;
        delete(&self.stream, &consumer);
        Ok(pending)
    }

    /// The position of the last event recorded before `at`, of those up to `last`.
    pub(super) async fn position_at(&self, at: Timestamp, last: Seq) -> Result<Seq, ReadError> {
        // Times grow with positions: after `low` all is unknown, from `high` on nothing is earlier.
        let (mut low, mut high) = (Seq::ZERO, last.next());
        while low.next() < high {
            let middle = Seq::new(i64::midpoint(low.get(), high.get()));
            match self.next(subjects::ALL, middle).await? {
                Some(found) if found.seq < high && found.recorded_at < at => low = found.seq,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// For each of `seqs` the event, if the stream has it.
    pub(super) async fn get(
        &self,
        seqs: Vec<Seq>,
    ) -> Result<Vec<Option<Arc<Recorded>>>, ReadError> {
        let all = futures::stream::iter(seqs).map(|seq| self.one(seq)).buffered(GETS);
        all.try_collect().await
    }

    /// One event, if the stream has it.
    pub(super) async fn one(&self, wanted: Seq) -> Result<Option<Arc<Recorded>>, ReadError> {
        let sequence = u64::try_from(wanted.get()).unwrap_or(0);
        if sequence == 0 {
            return Ok(None);
        }
        // Any replica may answer this one, and may not have the newest.
        let replica = timeout(PATIENCE_REPLICA, self.stream.direct_get(sequence)).await;
        if let Ok(Ok(message)) = replica {
            return Ok(Some(Arc::new(from_stream(&message, &self.restored))));
        }
        match answered(|| self.stream.get_raw_message(sequence)).await.map_err(failed)? {
            Ok(message) => Ok(Some(Arc::new(from_stream(&message, &self.restored)))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn take(&self, subjects: &[String], after: Seq) -> Option<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.used.elapsed() < IDLE / 2);
        let at = kept.iter().position(|kept| kept.after == after && kept.subjects == subjects)?;
        Some(kept.swap_remove(at))
    }

    async fn make(&self, subjects: Vec<String>, after: Seq) -> Result<Kept, BoxError> {
        let making = self.stream.create_consumer(transient(after.next(), subjects.clone()));
        let consumer = timeout(PATIENCE_MADE, making).await??;
        let (stream, used) = (self.stream.clone(), Instant::now());
        let restored = self.restored.clone();
        Ok(Kept { stream, restored, subjects, after, consumer, delivered: 0, used })
    }

    fn keep(&self, kept: Kept) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == KEPT_MAX
            && let Some(oldest) = (0..all.len()).min_by_key(|&index| all[index].used)
        {
            all.swap_remove(oldest);
        }
        all.push(kept);
    }
}

impl Kept {
    /// The next messages, and whether there may be more. A server ends with an error where the next one
    /// would be more than the bytes asked for: what came before it is a page.
    async fn fetch(&mut self, most: usize) -> Result<(Vec<Arc<Recorded>>, bool), BoxError> {
        let fetch = self.consumer.fetch().max_messages(most).max_bytes(PAGE_BYTES_MAX);
        let mut messages = timeout(PATIENCE, fetch.messages()).await??;
        let mut events = Vec::new();
        let (mut delivered, mut ended_early) = (0, false);
        while let Some(message) = timeout(PATIENCE, messages.next()).await? {
            let message = match message {
                Err(error) if delivered > 0 => {
                    tracing::debug!(%error, "a page of the log ends early");
                    ended_early = true;
                    break;
                }
                message => message?,
            };
            let info = message.info()?;
            if info.consumer_sequence != self.delivered + 1 {
                return Err("a message is missing".into());
            }
            self.delivered = info.consumer_sequence;
            delivered += 1;
            let at = seq(info.stream_sequence);
            if at <= self.after {
                continue; // Made on a server that lagged, it begins before where it was told to.
            }
            self.after = at;
            let taken = info.published.unix_timestamp_nanos();
            let message = message.message;
            let taken = self.restored.recorded_at(at, taken, message.headers.as_ref());
            events.push(Arc::new(recorded(
                at,
                taken,
                &message.subject,
                message.headers.as_ref(),
                &message.payload,
            )));
        }
        self.used = Instant::now();
        Ok((events, ended_early || delivered == most))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        delete(&self.stream, &self.consumer);
    }
}

/// Deletes a consumer without waiting for it; a server does the same when nobody asks for a while.
fn delete(stream: &Stream<()>, consumer: &Pull) {
    let (stream, name) = (stream.clone(), consumer.cached_info().name.clone());
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { stream.delete_consumer(&name).await });
    }
}

fn from_stream(message: &StreamMessage, restored: &RestoredThrough) -> Recorded {
    let (at, taken) = (seq(message.sequence), message.time.unix_timestamp_nanos());
    recorded(
        at,
        restored.recorded_at(at, taken, Some(&message.headers)),
        &message.subject,
        Some(&message.headers),
        &message.payload,
    )
}
