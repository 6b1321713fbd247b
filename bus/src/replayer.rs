//! Moves running replays on: one node at a time, by a duty.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::coverage::Coverage;
use crate::db::{built, sql};
use crate::handler::Handler;
use crate::node::NodeId;
use crate::registry::{self, Registration};
use crate::replay::{self, Choice, Mode, Replay, ReplayError};
use crate::work::{self, NewWork, QueueId};
use crate::{Db, Log, Read, Recorded, ReplayTarget, Seq, Taken, Tx, bulk, duty, signals};

/// Rows of one replay that may be under way at once; the log is read on as they end.
const UNDER_WAY_MAX: i64 = 1_000;
/// Events that a target takes in one transaction.
const PAGE: usize = 500;
/// Longest time without looking.
const LOOK: Duration = Duration::from_secs(1);
/// With a rate, events are handed over in slices of about this length.
const SLICE: Duration = Duration::from_millis(50);

pub(crate) struct Replayer {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) node: NodeId,
    pub(crate) handlers: Vec<Arc<dyn Handler>>,
    pub(crate) targets: Vec<Arc<dyn ReplayTarget>>,
    pub(crate) stop: CancellationToken,
}

/// To whom a replay goes.
enum Recipient {
    Consumer(Box<Registration>),
    Target(Arc<dyn ReplayTarget>),
}

/// What a step of one replay left to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// More, at once.
    More,
    /// More, after this long.
    After(Duration),
    /// Nothing until a row ends.
    Wait,
}

impl Replayer {
    pub(crate) async fn run(self) {
        let mut changed = self.db.signals().subscribe(signals::REPLAY);
        let mut paces: HashMap<String, Pace> = HashMap::new();
        while !self.stop.is_cancelled() {
            changed.borrow_and_update();
            let wait = match self.round(&mut paces).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "moving replays on");
                    LOOK
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = changed.changed(), if wait > SLICE => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&self, paces: &mut HashMap<String, Pace>) -> Result<Duration, ReplayError> {
        let replays = replay::running(&self.db).await?;
        paces.retain(|id, _| replays.iter().any(|replay| replay.id.as_str() == id));
        let mut wait = LOOK;
        let mut held: HashMap<String, bool> = HashMap::new();
        for replay in &replays {
            let Some(duty) = self.duty(replay) else { continue };
            let holds = match held.get(&duty) {
                Some(holds) => *holds,
                None => duty::hold(&self.db, &duty, &self.node).await?,
            };
            held.insert(duty, holds);
            if !holds {
                continue;
            }
            let pace = paces.entry(replay.id.as_str().to_owned()).or_insert_with(Pace::new);
            match self.step(replay, pace).await {
                Ok(Step::More) => wait = Duration::ZERO,
                Ok(Step::After(time)) => wait = wait.min(time),
                Ok(Step::Wait) => {}
                Err(error) => {
                    let replay = replay.id.as_str();
                    tracing::warn!(replay, error = %chain(&error), "moving a replay on");
                }
            }
        }
        Ok(wait)
    }

    /// What this node must hold to move a replay on; nothing makes it do so where the code of the
    /// consumer is missing that a rebuild needs at its end.
    fn duty(&self, replay: &Replay) -> Option<String> {
        if replay.mode != Mode::Rebuild {
            return Some("replay".to_owned());
        }
        let mut known = self.handlers.iter().map(|handler| &*handler.spec().name);
        known.any(|name| name == replay.consumer).then(|| format!("rebuild {}", replay.consumer))
    }

    async fn step(&self, replay: &Replay, pace: &mut Pace) -> Result<Step, ReplayError> {
        let Some(recipient) = self.recipient(replay).await? else {
            self.fail(replay, "what it goes to is gone").await?;
            return Ok(Step::Wait);
        };
        if let (Mode::Rebuild, Recipient::Consumer(consumer)) = (replay.mode, &recipient) {
            return self.rebuild(replay, consumer).await;
        }
        if replay.cursor >= replay.to {
            if replay.handed <= replay.done + replay.dead {
                self.finish(replay).await?;
            }
            return Ok(Step::Wait);
        }
        let room = UNDER_WAY_MAX - (replay.handed - replay.done - replay.dead);
        let allowed = pace.allows(replay.rate_milli).min(room);
        if room <= 0 {
            return Ok(Step::Wait);
        }
        if allowed <= 0 {
            return Ok(Step::After(SLICE));
        }
        let handed = match recipient {
            Recipient::Consumer(consumer) => self.hand_over(replay, &consumer, allowed).await?,
            Recipient::Target(target) => self.hand_to(replay, target.as_ref(), allowed).await?,
        };
        pace.spend(handed);
        Ok(Step::More)
    }

    async fn recipient(&self, replay: &Replay) -> Result<Option<Recipient>, ReplayError> {
        if let Some(consumer) = registry::find(&self.db, &replay.consumer).await? {
            return Ok(Some(Recipient::Consumer(Box::new(consumer))));
        }
        for target in &self.targets {
            if target.exists(&self.db, &replay.consumer).await? {
                return Ok(Some(Recipient::Target(Arc::clone(target))));
            }
        }
        Ok(None)
    }

    /// Has a target take the next events and moves the position, in one transaction.
    async fn hand_to(
        &self,
        replay: &Replay,
        target: &dyn ReplayTarget,
        allowed: i64,
    ) -> Result<i64, ReplayError> {
        let limit = usize::try_from(allowed).unwrap_or(1).min(PAGE);
        let read =
            Read::after(replay.cursor).until(replay.to).types(replay.types.clone()).limit(limit);
        let page = self.log.read(read).await?;
        let mut tx = self.db.begin().await?;
        let taken = target.hand_over(&mut tx, replay, &page.events).await?;
        if !advance(&mut tx, replay, page.through, taken).await? {
            return Ok(0);
        }
        tx.commit().await?;
        Ok(taken.handed)
    }

    /// Hands over the next events and moves the position, in one transaction. It names the position
    /// that it started from: another node, or a pause in between, makes it do nothing.
    async fn hand_over(
        &self,
        replay: &Replay,
        consumer: &Registration,
        allowed: i64,
    ) -> Result<i64, ReplayError> {
        let limit = usize::try_from(allowed).unwrap_or(1);
        let read =
            Read::after(replay.cursor).until(replay.to).types(replay.types.clone()).limit(limit);
        let page = self.log.read(read).await?;
        let coverage = Coverage::load(&self.db, consumer.clone()).await?;
        let events: Vec<Arc<Recorded>> =
            page.events.into_iter().filter(|event| coverage.wants(&event.event)).collect();
        let progress = coverage.progress(&self.db, &events).await?;
        let queue_name = consumer.queue_name();
        let queue = work::find(&self.db, consumer.kind.work(), &queue_name).await?;
        let Some(queue) = queue else { return Ok(0) };
        let chosen: Vec<&Arc<Recorded>> = events
            .iter()
            .zip(&progress)
            .filter(|(_, progress)| replay::choose(replay.mode, progress) != Choice::Skip)
            .map(|(event, _)| event)
            .collect();
        let mut tx = self.db.begin().await?;
        // What is left of an earlier handling makes room for the new row; what is under way since it was
        // looked at keeps its own.
        clear_ended(&mut tx, queue, &chosen).await?;
        let under_way = under_way(&mut tx, queue, &chosen).await?;
        let handed = i64::try_from(chosen.len() - under_way.len()).unwrap_or(0);
        let skipped = i64::try_from(events.len()).unwrap_or(0) - handed;
        if !advance(&mut tx, replay, page.through, Taken { handed, skipped }).await? {
            return Ok(0);
        }
        for event in chosen.into_iter().filter(|event| !under_way.contains(&event.seq)) {
            let ordered = consumer.policy.ordered;
            tx.enqueue(NewWork {
                seq: Some(event.seq),
                key: ordered.then(|| work::key_of(&event.event).into_owned()),
                tenant: event.event.tenant().map(str::to_owned),
                tag: Some(replay.id.as_str().to_owned()),
                ..NewWork::in_queue(queue)
            });
        }
        tx.commit().await?;
        Ok(handed)
    }

    /// Watches the new generation and lets it take over once it has caught up.
    async fn rebuild(&self, replay: &Replay, consumer: &Registration) -> Result<Step, ReplayError> {
        let Some(generation) = replay.generation else { return Ok(Step::Wait) };
        let query = sql("select min(cursor_seq) from consumer_partition
             where consumer = $1 and generation = $2")
        .bind(consumer.name.clone())
        .bind(generation);
        let cursor: Option<i64> = self.db.fetch_optional(query).await?.and_then(|row| row.get(0));
        let cursor = Seq::new(cursor.unwrap_or(0));
        let caught_up = cursor >= replay.to && cursor >= *self.log.head().borrow();
        let handler = self.handlers.iter().find(|h| *h.spec().name == *consumer.name);
        match handler {
            Some(handler) if caught_up => {
                self.switch(replay, consumer, generation, handler.as_ref()).await?;
                Ok(Step::Wait)
            }
            _ => {
                self.note_rebuild(replay, cursor).await?;
                Ok(Step::After(Duration::from_millis(200)))
            }
        }
    }

    async fn note_rebuild(&self, replay: &Replay, cursor: Seq) -> Result<(), ReplayError> {
        let read = cursor.min(replay.to);
        let done = self.log.count(replay.from.previous(), read, &replay.types).await?;
        let done = i64::try_from(done).unwrap_or(0).min(replay.total);
        let mut tx = self.db.begin().await?;
        let query = sql("update replay set cursor_seq = $2, handed = $3, done = $3,
             updated_at_us = $4 where id = $1")
        .bind(replay.id.as_str().to_owned())
        .bind(read.get())
        .bind(done)
        .bind(self.db.clock().now().as_micros());
        tx.execute(query).await?;
        Ok(tx.commit().await?)
    }

    async fn switch(
        &self,
        replay: &Replay,
        consumer: &Registration,
        generation: i64,
        handler: &dyn Handler,
    ) -> Result<(), ReplayError> {
        let pruned = self.log.pruned_through().await?;
        let mut tx = self.db.begin().await?;
        // Somebody may have paused or cancelled it since it was read.
        if generation == consumer.generation
            || !end(&mut tx, replay, "completed", None, Some(replay.total)).await?
        {
            return Ok(());
        }
        handler.switch(&mut tx, consumer.generation, generation, &pruned).await?;
        registry::drop_generation(&mut tx, consumer, consumer.generation).await?;
        let query = sql("update consumer set generation = $2 where name = $1 and generation = $3")
            .bind(consumer.name.clone())
            .bind(generation)
            .bind(consumer.generation);
        tx.execute(query).await?;
        registry::touch(&mut tx).await?;
        tx.commit().await?;
        tracing::info!(consumer = consumer.name, generation, "a rebuilt generation took over");
        Ok(())
    }

    async fn finish(&self, replay: &Replay) -> Result<(), ReplayError> {
        let mut tx = self.db.begin().await?;
        end(&mut tx, replay, "completed", None, None).await?;
        Ok(tx.commit().await?)
    }

    async fn fail(&self, replay: &Replay, error: &str) -> Result<(), ReplayError> {
        let mut tx = self.db.begin().await?;
        end(&mut tx, replay, "failed", Some(error), None).await?;
        Ok(tx.commit().await?)
    }
}

/// Ends a replay that is running; whether it was.
async fn end(
    tx: &mut Tx,
    replay: &Replay,
    status: &'static str,
    error: Option<&str>,
    done: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let query = sql("update replay set status = $2, error = $3, updated_at_us = $4,
             done = coalesce($5, done), handed = coalesce($5, handed)
         where id = $1 and status = 'running'")
    .bind(replay.id.as_str().to_owned())
    .bind(status)
    .bind(error.map(str::to_owned))
    .bind(now_us)
    .bind(done);
    Ok(tx.execute(query).await?.rows_affected() == 1)
}

/// Moves the position of a replay, unless it has been moved or stopped since it was read.
async fn advance(
    tx: &mut Tx,
    replay: &Replay,
    through: Seq,
    taken: Taken,
) -> Result<bool, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let query = sql("update replay set cursor_seq = $3, handed = handed + $4,
             skipped = skipped + $5, updated_at_us = $6
         where id = $1 and cursor_seq = $2 and status = 'running'")
    .bind(replay.id.as_str().to_owned())
    .bind(replay.cursor.get())
    .bind(through.get())
    .bind(taken.handed)
    .bind(taken.skipped)
    .bind(now_us);
    Ok(tx.execute(query).await?.rows_affected() > 0)
}

async fn clear_ended(
    tx: &mut Tx,
    queue: QueueId,
    events: &[&Arc<Recorded>],
) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(events) {
        let mut query = built(format!(
            "delete from work where queue = $1 and state in ('done', 'dead', 'discarded')
             and seq in ({})",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(queue.0);
        for event in chunk {
            query = query.bind(event.seq.get());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Those of the events that have a row in the queue.
async fn under_way(
    tx: &mut Tx,
    queue: QueueId,
    events: &[&Arc<Recorded>],
) -> Result<HashSet<Seq>, sqlx::Error> {
    let mut seqs = HashSet::new();
    for chunk in bulk::chunks(events) {
        let mut query = built(format!(
            "select seq from work where queue = $1 and seq in ({})",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(queue.0);
        for event in chunk {
            query = query.bind(event.seq.get());
        }
        seqs.extend(tx.fetch_all(query).await?.iter().map(|row| Seq::new(row.get(0))));
    }
    Ok(seqs)
}

/// How many events a rate lets pass: whole ones, saved up for at most a slice or one event.
struct Pace {
    since: Instant,
    saved: f64,
}

impl Pace {
    fn new() -> Pace {
        Pace { since: Instant::now(), saved: 1.0 }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "small counts"
    )]
    fn allows(&mut self, rate_milli: Option<i64>) -> i64 {
        let Some(rate) = rate_milli.map(|milli| milli as f64 / 1_000.0) else { return i64::MAX };
        let earned = self.since.elapsed().as_secs_f64() * rate;
        self.since = Instant::now();
        self.saved = (self.saved + earned).min((rate * SLICE.as_secs_f64() * 2.0).max(1.0));
        self.saved.floor() as i64
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn spend(&mut self, events: i64) {
        self.saved -= events as f64;
    }
}
