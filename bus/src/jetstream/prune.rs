//! Retention: purges, type by type, what is old enough or too much.
//!
//! Neither the stream's own limits nor a time to live per message can do it: they wait for no
//! consumer, and messages of other clients carry none. Up to when events of a type are gone stands
//! in a small stream beside the log, written before anything is purged.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, Stream};
use futures::{StreamExt as _, TryStreamExt as _};
use schemas::{EventType, Pattern, Patterns, Timestamp};
use tokio::time::Instant;

use super::message::{PREFIX, subject_of};
use super::publish::seq;
use super::{JetStreamLog, subjects};
use crate::log::BoxError;
use crate::{Log, Pruned, ReadError, Retention, Seq};

const MINUTE_US: i64 = 60_000_000;
/// Messages whose bytes are added up as one.
const CHUNK: u64 = 64;
/// How long a server may take to answer that elects a leader, and the wait before it is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes per rule by size, of the messages that this node has looked at.
#[derive(Default)]
pub(super) struct Sizes(Mutex<HashMap<Pattern, Window>>);

/// The bytes that a rule governs, oldest first.
#[derive(Clone, Default)]
struct Window {
    chunks: VecDeque<Chunk>,
    bytes: u64,
    through: Seq,
}

#[derive(Clone, Copy, Default)]
struct Chunk {
    through: Seq,
    messages: u64,
    bytes: u64,
}

fn failed(error: impl Into<BoxError>) -> ReadError {
    ReadError::Read(error.into())
}

/// Applies `rules`; the first that matches a type counts for it.
pub(super) async fn prune(
    log: &JetStreamLog,
    rules: &[Retention],
    consumed: Seq,
    now: Timestamp,
) -> Result<Pruned, ReadError> {
    let mut pruned = Pruned::default();
    let kinds = kinds(log).await?;
    for (index, rule) in rules.iter().enumerate() {
        let governs = |kind: &&EventType| {
            rules.iter().position(|rule| rule.types.matches(kind)) == Some(index)
        };
        let mine: Vec<&EventType> = kinds.iter().filter(governs).collect();
        if mine.is_empty() {
            continue;
        }
        if let Some(age) = rule.max_age {
            let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            let cutoff = Timestamp::from_micros(now.as_micros().saturating_sub(age_us));
            by_age(log, &mine, minute(cutoff), consumed, &mut pruned).await?;
        }
        if let Some(limit) = rule.max_bytes {
            by_size(log, rule, &mine, limit, consumed, &mut pruned).await?;
        }
    }
    if pruned.events > 0 {
        log.recent.clear();
    }
    Ok(pruned)
}

/// The types that the stream holds.
async fn kinds(log: &JetStreamLog) -> Result<Vec<EventType>, ReadError> {
    let found = log.scanner.stream.info_with_subjects(subjects::ALL).await.map_err(failed)?;
    let found: Vec<(String, usize)> = found.try_collect().await.map_err(failed)?;
    let kinds = found.iter().filter_map(|(subject, _)| subject.strip_prefix(PREFIX)?.parse().ok());
    Ok(kinds.collect())
}

/// Deletes whole minutes only, so that a rollup by minute is either complete or sealed.
async fn by_age(
    log: &JetStreamLog,
    kinds: &[&EventType],
    cutoff: Timestamp,
    consumed: Seq,
    pruned: &mut Pruned,
) -> Result<(), ReadError> {
    let old = log.position_at(cutoff).await?;
    if old == Seq::ZERO {
        return Ok(());
    }
    let (last, through) = if consumed >= old {
        (old, cutoff)
    } else {
        let unread = log.read(crate::Read::after(consumed).types(Patterns::everything()).limit(1));
        let unread = unread.await?.events.first().map(|event| event.recorded_at);
        let through = unread.map_or(cutoff, |at| minute(at.min(cutoff)));
        (log.position_at(through).await?, through)
    };
    for kind in kinds {
        let types = Patterns::from(Pattern::from(*kind));
        if last > Seq::ZERO && log.scanner.count(Seq::ZERO, last, &types).await? > 0 {
            pruned.events += purge(log, kind, last, through).await?;
        }
        pruned.held_back += log.scanner.count(last, old, &types).await?;
    }
    Ok(())
}

/// Deletes the oldest events, whatever their age, until the rest fits; up to a few dozen more than
/// needed.
async fn by_size(
    log: &JetStreamLog,
    rule: &Retention,
    kinds: &[&EventType],
    limit: u64,
    consumed: Seq,
    pruned: &mut Pruned,
) -> Result<(), ReadError> {
    let mut window = log.sizes.take(&rule.types);
    window.read_on(&log.scanner.stream, kinds).await?;
    let mut doomed = Seq::ZERO;
    while window.bytes > limit
        && let Some(chunk) = window.chunks.pop_front()
    {
        window.bytes -= chunk.bytes;
        doomed = chunk.through;
    }
    if doomed > Seq::ZERO {
        for kind in kinds {
            let types = Patterns::from(Pattern::from(*kind));
            if doomed > consumed {
                let missed = log.scanner.count(consumed, doomed, &types).await?;
                if missed > 0 {
                    pruned.missed += missed;
                    pruned.missed_through = pruned.missed_through.max(Some(doomed));
                }
            }
            let newest = log.scanner.one(doomed).await?;
            let sealed = newest.map_or(Timestamp::from_micros(0), |event| event.recorded_at);
            let sealed = Timestamp::from_micros(minute(sealed).as_micros() + MINUTE_US);
            if log.scanner.count(Seq::ZERO, doomed, &types).await? > 0 {
                pruned.events += purge(log, kind, doomed, sealed).await?;
            }
        }
    }
    log.sizes.put(&rule.types, window);
    Ok(())
}

/// Deletes events of `kind` up to and including `last`, after noting that they are gone.
async fn purge(
    log: &JetStreamLog,
    kind: &EventType,
    last: Seq,
    sealed: Timestamp,
) -> Result<u64, ReadError> {
    note(log, kind, sealed).await?;
    let sequence = u64::try_from(last.next().get()).unwrap_or(1);
    let purge = log.scanner.stream.purge().filter(subject_of(kind.as_str())).sequence(sequence);
    Ok(purge.await.map_err(failed)?.purged)
}

impl Sizes {
    fn take(&self, rule: &Pattern) -> Window {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(rule).unwrap_or_default()
    }

    fn put(&self, rule: &Pattern, window: Window) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(rule.clone(), window);
    }
}

impl Window {
    /// Adds up the messages of `kinds` that came since the last look: their sizes only. A server that
    /// elects a leader does not answer for a moment, and is asked again from where it stopped.
    async fn read_on(
        &mut self,
        stream: &Stream<()>,
        kinds: &[&EventType],
    ) -> Result<(), ReadError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read_to_the_end(stream, kinds).await {
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(%error, "adding up sizes again");
                    tokio::time::sleep(PAUSE).await;
                }
                read => return read,
            }
        }
    }

    async fn read_to_the_end(
        &mut self,
        stream: &Stream<()>,
        kinds: &[&EventType],
    ) -> Result<(), ReadError> {
        let start = u64::try_from(self.through.next().get()).unwrap_or(1);
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::None,
            filter_subjects: kinds.iter().map(|kind| subject_of(kind.as_str())).collect(),
            headers_only: true,
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(failed)?;
        loop {
            let fetch = consumer.fetch().max_messages(1_000);
            let mut messages = fetch.messages().await.map_err(failed)?;
            let mut read = 0;
            while let Some(message) = messages.next().await {
                let message = message.map_err(failed)?;
                let info = message.info().map_err(failed)?;
                let headers = message.headers.as_ref();
                let payload = headers.and_then(|headers| headers.get("Nats-Msg-Size"));
                let payload = payload.and_then(|size| size.as_str().parse().ok()).unwrap_or(0);
                self.add(seq(info.stream_sequence), payload + message.length as u64);
                read += 1;
            }
            if read < 1_000 {
                break;
            }
        }
        let name = consumer.cached_info().name.clone();
        let _ = stream.delete_consumer(&name).await;
        Ok(())
    }

    fn add(&mut self, at: Seq, bytes: u64) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.messages < CHUNK => {
                chunk.messages += 1;
                chunk.bytes += bytes;
                chunk.through = at;
            }
            _ => self.chunks.push_back(Chunk { through: at, messages: 1, bytes }),
        }
        self.bytes += bytes;
        self.through = at;
    }
}

/// Per type up to when its events are gone: the last message of a subject of its own.
fn notes(log: &JetStreamLog) -> (String, String) {
    (format!("{}_PRUNED", log.name), format!("skald.pruned.{}.", log.name))
}

pub(super) async fn note(
    log: &JetStreamLog,
    kind: &EventType,
    through: Timestamp,
) -> Result<(), ReadError> {
    let (name, prefix) = notes(log);
    let config = Config {
        name,
        description: Some("up to when events of a type were deleted from the log".to_owned()),
        subjects: vec![format!("{prefix}>")],
        max_messages_per_subject: 1,
        num_replicas: log.replicas,
        ..Config::default()
    };
    log.context.get_or_create_stream(config).await.map_err(failed)?;
    let through = through.as_micros().to_string();
    let noted = log.context.publish(format!("{prefix}{kind}"), through.into()).await;
    noted.map_err(failed)?.await.map_err(failed)?;
    Ok(())
}

pub(super) async fn pruned_through(
    log: &JetStreamLog,
) -> Result<Vec<(EventType, Timestamp)>, ReadError> {
    use async_nats::jetstream::ErrorCode;
    use async_nats::jetstream::context::GetStreamErrorKind;
    let (name, prefix) = notes(log);
    let stream = match log.context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                return Ok(Vec::new());
            }
            _ => return Err(failed(error)),
        },
    };
    let subjects = stream.info_with_subjects(format!("{prefix}>")).await.map_err(failed)?;
    let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(failed)?;
    let mut known = Vec::with_capacity(subjects.len());
    for (subject, _) in subjects {
        let last = stream.get_last_raw_message_by_subject(&subject).await.map_err(failed)?;
        let through = std::str::from_utf8(&last.payload).ok().and_then(|text| text.parse().ok());
        let kind = subject.strip_prefix(&prefix).and_then(|kind| kind.parse().ok());
        if let (Some(kind), Some(through)) = (kind, through) {
            known.push((kind, Timestamp::from_micros(through)));
        }
    }
    Ok(known)
}

fn minute(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros().rem_euclid(MINUTE_US))
}
