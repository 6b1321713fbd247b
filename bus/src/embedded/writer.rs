//! The one writer: takes all that wait, commits them together, has each answered once that is
//! durable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{CachedStatement, Connection, Transaction, TransactionBehavior, params};
use schemas::{Event, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use crate::chain;
use crate::embedded::Start;
use crate::embedded::checkpoint::Checkpoints;
use crate::embedded::gather::Gathered;
use crate::embedded::names::{Names, stored_source};
use crate::embedded::sync::{SyncError, Syncs};
use crate::log::Restored;
use crate::metrics;
use crate::recent::Recent;
use crate::{Clock, Receipt, Recorded, Seq};

/// Publish calls that may wait for the writer; further ones wait for a place.
pub(super) const QUEUE_MAX: usize = 4_096;
/// A checkpoint is asked for after this many events.
const CHECKPOINT_EVENTS: usize = 4_096;
/// And after this many commits.
const CHECKPOINT_COMMITS: usize = 512;

/// A failed commit, told to every caller that was part of it.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    File(#[from] Arc<rusqlite::Error>),
    #[error("syncing the log to the disk failed, nothing is accepted until a restart")]
    Sync(#[from] SyncError),
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> WriteError {
        WriteError::File(Arc::new(error))
    }
}

pub(super) struct Publish {
    pub(super) events: Vec<Event>,
    pub(super) bytes: usize,
    pub(super) reply: Reply,
}

type Reply = oneshot::Sender<Result<Vec<Receipt>, WriteError>>;

pub(super) enum Command {
    Publish(Publish),
    /// Deletes events of one type and notes until when (`sealed`: type, time) it is incomplete.
    Delete {
        seqs: Vec<Seq>,
        sealed: (i64, Timestamp),
        reply: oneshot::Sender<Result<u64, WriteError>>,
    },
    /// Puts events of another log in at the positions they had there.
    Restore {
        events: Vec<Recorded>,
        end: Option<Restored>,
        reply: oneshot::Sender<Result<(), WriteError>>,
    },
}

pub(super) struct Writer {
    connection: Connection,
    sources: Names,
    types: Names,
    last: Seq,
    recorded_at: Timestamp,
    clock: Clock,
    recent: Arc<Recent>,
    head: Arc<watch::Sender<Seq>>,
    syncs: Syncs,
    checkpoints: Checkpoints,
    uncheckpointed: (usize, usize),
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        start: &Start,
        clock: Clock,
        recent: Arc<Recent>,
        head: watch::Sender<Seq>,
        syncs: Syncs,
        checkpoints: Checkpoints,
    ) -> Writer {
        Writer {
            connection,
            sources: Names::new("source"),
            types: Names::new("type"),
            last: start.last,
            recorded_at: start.recorded_at,
            clock,
            recent,
            head: Arc::new(head),
            syncs,
            checkpoints,
            uncheckpointed: (0, 0),
        }
    }

    /// Runs until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut before = 0;
        while let Some(first) = queue.blocking_recv() {
            let wait = || self.syncs.wait();
            let Gathered { calls, other, .. } = Gathered::gather(first, &mut queue, before, wait);
            before = calls.len();
            if !calls.is_empty() {
                self.commit(calls, || other.is_none() && queue.is_empty());
            }
            match other {
                Some(Command::Delete { seqs, sealed, reply }) => {
                    let deleted = self.delete(&seqs, sealed).map(|rows| {
                        let recent = Arc::clone(&self.recent);
                        move || {
                            // After what was written before has been put there.
                            recent.clear();
                            rows
                        }
                    });
                    self.reply(reply, deleted);
                }
                Some(Command::Restore { events, end, reply }) => {
                    let restored = self.restore(events, end).map(|written| {
                        let recent = Arc::clone(&self.recent);
                        let (head, last) = (Arc::clone(&self.head), self.last);
                        move || {
                            recent.extend(written);
                            head.send_replace(last);
                        }
                    });
                    self.reply(reply, restored);
                }
                Some(Command::Publish(_)) | None => {}
            }
            self.checkpoint();
        }
        drop(self.syncs);
        let _ = self.connection.execute_batch("pragma wal_checkpoint(truncate)");
    }

    /// Commits a group and has it answered: here, if nobody else waits then.
    fn commit(&mut self, group: Vec<Publish>, nobody_waits: impl FnOnce() -> bool) {
        let started = Instant::now();
        let before = self.last;
        let events = group.iter().map(|publish| publish.events.len()).sum();
        let mut replies = Vec::with_capacity(group.len());
        let mut calls = Vec::with_capacity(group.len());
        for publish in group {
            replies.push(publish.reply);
            calls.push(publish.events);
        }
        let written = match self.syncs.failed() {
            Some(error) => Err(error.into()),
            None => self.write(calls).map_err(WriteError::from),
        };
        let (answers, recorded) = match written {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(error = %chain(&error), events, "writing events to the log");
                self.last = before;
                self.sources.forget();
                self.types.forget();
                return refuse(replies, &error);
            }
        };
        self.uncheckpointed.0 += events;
        self.uncheckpointed.1 += 1;
        let (recent, head, last) = (Arc::clone(&self.recent), Arc::clone(&self.head), self.last);
        let then = move |synced: Result<(), SyncError>| {
            if let Err(error) = synced {
                return refuse(replies, &error.into());
            }
            metrics::log_committed(events, started.elapsed());
            recent.extend(recorded);
            // Before the answers: who was told of an event finds it by the head.
            head.send_replace(last);
            metrics::published(answers.iter().flatten());
            for (reply, receipts) in replies.into_iter().zip(answers) {
                let _ = reply.send(Ok(receipts));
            }
        };
        self.syncs.then(nobody_waits(), Box::new(then));
    }

    /// Answers with what `then` makes, once what was written is durable.
    fn reply<T: Send + 'static>(
        &self,
        reply: oneshot::Sender<Result<T, WriteError>>,
        written: rusqlite::Result<impl FnOnce() -> T + Send + 'static>,
    ) {
        match written {
            Ok(then) => self.syncs.then(
                true,
                Box::new(move |synced| {
                    let _ = reply.send(synced.map(|()| then()).map_err(WriteError::from));
                }),
            ),
            Err(error) => {
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    fn write(&mut self, calls: Vec<Vec<Event>>) -> rusqlite::Result<Written> {
        let at = self.clock.now().max(self.recorded_at);
        let Writer { connection, sources, types, last, .. } = self;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut group = Group::new(&tx, sources, types, last, at)?;
        let mut answers = Vec::with_capacity(calls.len());
        let mut recorded = Vec::new();
        for events in calls {
            let mut receipts = Vec::with_capacity(events.len());
            for event in events {
                receipts.push(group.insert(event, &mut recorded)?);
            }
            answers.push(receipts);
        }
        group.note_growth()?;
        drop(group);
        tx.commit()?;
        self.recorded_at = at;
        Ok((answers, recorded))
    }

    fn restore(
        &mut self,
        events: Vec<Recorded>,
        end: Option<Restored>,
    ) -> rusqlite::Result<Vec<(Arc<Recorded>, usize)>> {
        let Writer { connection, sources, types, last, .. } = self;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let at = self.recorded_at;
        let mut group = Group::new(&tx, sources, types, last, at)?;
        let mut written = Vec::new();
        for Recorded { seq, recorded_at, event } in events {
            *group.last = seq.previous().max(*group.last);
            group.at = recorded_at.max(group.at);
            group.insert(event, &mut written)?;
        }
        group.note_growth()?;
        let at = group.at;
        drop(group);
        if let Some((newest, pruned)) = end {
            *last = newest.max(*last);
            for (kind, through) in pruned {
                let kind = types.id(&tx, kind.as_str())?;
                let note = "update type set pruned_through_us = ?2 where id = ?1";
                tx.prepare_cached(note)?.execute(params![kind, through.as_micros()])?;
            }
            tx.prepare_cached("update log set last_seq = ?1")?.execute([last.get()])?;
        }
        tx.commit()?;
        self.recorded_at = at;
        Ok(written)
    }

    fn delete(&mut self, seqs: &[Seq], sealed: (i64, Timestamp)) -> rusqlite::Result<u64> {
        let (kind, through) = sealed;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut deleted, mut bytes) = (0_i64, 0_i64);
        {
            let mut statement = tx.prepare_cached(
                "delete from event where seq = ?1
                 returning length(id) + length(attributes) + length(data)",
            )?;
            for seq in seqs {
                let freed: Vec<i64> = statement
                    .query_map([seq.get()], |row| row.get(0))?
                    .collect::<Result<_, _>>()?;
                deleted += i64::try_from(freed.len()).unwrap_or(0);
                bytes += freed.iter().sum::<i64>();
            }
        }
        tx.prepare_cached(
            "update type set events = events - ?2, bytes = bytes - ?3,
                 pruned_through_us = max(coalesce(pruned_through_us, 0), ?4) where id = ?1",
        )?
        .execute(params![kind, deleted, bytes, through.as_micros()])?;
        tx.prepare_cached("update log set last_seq = ?1")?.execute([self.last.get()])?;
        tx.commit()?;
        Ok(u64::try_from(deleted).unwrap_or(0))
    }

    fn checkpoint(&mut self) {
        let (events, commits) = self.uncheckpointed;
        if events >= CHECKPOINT_EVENTS || commits >= CHECKPOINT_COMMITS {
            self.uncheckpointed = (0, 0);
            self.checkpoints.request();
        }
        if self.checkpoints.take_overdue()
            // Not `truncate`: giving the file's blocks back takes longer than moving the rest.
            && let Err(error) = self.connection.execute_batch("pragma wal_checkpoint(restart)")
        {
            tracing::warn!(%error, "starting the log's write-ahead log anew");
        }
    }
}

fn refuse(replies: Vec<Reply>, error: &WriteError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

/// Receipts per call, and the new events with their sizes.
type Written = (Vec<Vec<Receipt>>, Vec<(Arc<Recorded>, usize)>);

/// One transaction under way.
struct Group<'a> {
    tx: &'a Transaction<'a>,
    insert: CachedStatement<'a>,
    sources: &'a mut Names,
    types: &'a mut Names,
    last: &'a mut Seq,
    at: Timestamp,
    /// Per type: events and bytes added.
    growth: HashMap<i64, (i64, i64)>,
}

impl<'a> Group<'a> {
    fn new(
        tx: &'a Transaction<'a>,
        sources: &'a mut Names,
        types: &'a mut Names,
        last: &'a mut Seq,
        at: Timestamp,
    ) -> rusqlite::Result<Group<'a>> {
        let insert = tx.prepare_cached(
            "insert into event (seq, source, id, type, recorded_at_us, attributes, data_kind, data)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) on conflict (source, id) do nothing",
        )?;
        Ok(Group { tx, insert, sources, types, last, at, growth: HashMap::new() })
    }

    fn insert(
        &mut self,
        event: Event,
        recorded: &mut Vec<(Arc<Recorded>, usize)>,
    ) -> rusqlite::Result<Receipt> {
        let source = self.sources.id(self.tx, &stored_source(&event))?;
        let kind = self.types.id(self.tx, event.kind.as_str())?;
        let seq = self.last.next();
        let attributes = event.attributes_json();
        let data = event.data.as_bytes();
        let inserted = self.insert.execute(params![
            seq.get(),
            source,
            event.id.as_str(),
            kind,
            self.at.as_micros(),
            attributes,
            event.data.kind_code(),
            data
        ])?;
        let (id, origin) = (event.id.clone(), event.source.clone());
        if inserted == 0 {
            let first: i64 = self
                .tx
                .prepare_cached("select seq from event where source = ?1 and id = ?2")?
                .query_row(params![source, id.as_str()], |row| row.get(0))?;
            return Ok(Receipt { id, source: origin, seq: Seq::new(first), duplicate: true });
        }
        *self.last = seq;
        let bytes = id.as_str().len() + attributes.len() + data.len();
        let growth = self.growth.entry(kind).or_default();
        growth.0 += 1;
        growth.1 += i64::try_from(bytes).unwrap_or(i64::MAX);
        recorded.push((Arc::new(Recorded { seq, recorded_at: self.at, event }), bytes));
        Ok(Receipt { id, source: origin, seq, duplicate: false })
    }

    fn note_growth(&self) -> rusqlite::Result<()> {
        let mut statement = self.tx.prepare_cached(
            "update type set events = events + ?2, bytes = bytes + ?3 where id = ?1",
        )?;
        for (kind, (events, bytes)) in &self.growth {
            statement.execute(params![kind, events, bytes])?;
        }
        Ok(())
    }
}
