//! Runs one generation of one consumer on this node: reads the log, handles batches, commits the
//! cursor with the effects.
//!
//! A batch is one transaction: the version of the configuration is checked, events whose key is
//! parked are put behind it, the rest is handled, failures become retry rows, the cursor advances.
//! Whatever goes wrong with the transaction itself, it never was, and the batch is taken again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::assignment::{Assignment, LostPartition};
use crate::chain;
use crate::handler::{Handled, Handler, Item};
use crate::node::{NodeId, RENEW};
use crate::partition::partition_of;
use crate::policy::Next;
use crate::registry::{self, Registration};
use crate::work::{self, NewWork, QueueId};
use crate::{
    Db, Log, Page, Read, ReadError, Recorded, Seq, coverage, inbox, metrics, signals, span,
};

/// Wait after a failure of the log or the database; doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A cursor that moved over nothing but events of other types is written this often.
const IDLE_COMMIT: Duration = Duration::from_secs(1);

/// One generation of one consumer on this node.
pub(crate) struct Runner {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) node: NodeId,
    pub(crate) generation: i64,
    pub(crate) stop: CancellationToken,
}

/// A batch did not commit; it is taken again.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error("reading the log")]
    Read(#[from] ReadError),
    #[error("writing a batch")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Lost(#[from] LostPartition),
    #[error("the configuration has changed")]
    Reconfigured,
}

/// What the runner knows between two batches.
struct Position {
    version: i64,
    config: Registration,
    queue: QueueId,
    assignment: Assignment,
    /// How far the log was read; ahead of the cursors where nothing matched.
    read_through: Seq,
    covered: bool,
    /// When this node last looked which partitions are its. Commits renew their leases too, but who
    /// only commits never sees that another node has come and waits for its share.
    renewed: tokio::time::Instant,
    committed: tokio::time::Instant,
}

impl Position {
    /// Whether the log was read further than the cursors say.
    fn is_ahead(&self) -> bool {
        self.read_through > self.assignment.lowest()
    }
}

impl Runner {
    /// Runs until `stop`, or until the consumer is gone.
    pub(crate) async fn run(self) {
        let mut pause = PAUSE_MIN;
        while !self.stop.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let worked = self.work().await;
            if begun.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN; // It went well for a while.
            }
            match worked {
                Ok(()) => return,
                Err(BatchError::Reconfigured | BatchError::Lost(_)) => pause = PAUSE_MIN,
                Err(error) => {
                    let consumer = &*self.handler.spec().name;
                    tracing::warn!(consumer, error = %chain(&error), "a batch failed, it is taken again");
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One stretch with one configuration and one assignment.
    async fn work(&self) -> Result<(), BatchError> {
        let mut config_changed = self.db.signals().subscribe(signals::CONFIG);
        let mut outcomes = self.db.signals().subscribe(signals::OUTCOME);
        let mut head = self.log.head();
        let Some(mut at) = self.position().await? else { return Ok(()) };
        loop {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if at.renewed.elapsed() >= RENEW {
                let Some(fresh) = self.position().await? else { return Ok(()) };
                // Partitions that came from another node stand where it left them: what this one
                // has read meanwhile is not behind them.
                let kept = fresh.assignment.continues(&at.assignment);
                let read_through = if kept { at.read_through } else { Seq::ZERO };
                let covered = kept && at.covered && fresh.version == at.version;
                at = Position { read_through, covered, committed: at.committed, ..fresh };
            }
            outcomes.borrow_and_update();
            let standing = at.config.paused || at.assignment.partitions.is_empty();
            if standing || !self.handler.has_room(&self.db).await? {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    _ = config_changed.changed() => return Err(BatchError::Reconfigured),
                    _ = outcomes.changed() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
                continue;
            }
            let from = at.read_through.max(at.assignment.lowest());
            let patience = if at.is_ahead() { IDLE_COMMIT } else { RENEW };
            let arrived = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                arrived = head.wait_for(|head| *head > from) => Some(arrived.is_ok()),
                _ = config_changed.changed() => return Err(BatchError::Reconfigured),
                () = tokio::time::sleep(patience) => None,
            };
            let Some(arrived) = arrived else {
                self.commit_idle(&mut at).await?;
                continue;
            };
            if !arrived {
                return Ok(()); // The log is closed.
            }
            self.linger(from, &head).await;
            self.batch(&mut at, from).await?;
        }
    }

    async fn position(&self) -> Result<Option<Position>, BatchError> {
        let name = &*self.handler.spec().name;
        let mut tx = self.db.begin().await?;
        let version = registry::version(&mut tx).await?;
        let config = registry::find_in(&mut tx, name).await?;
        drop(tx);
        let Some(config) = config else { return Ok(None) };
        let queue_name = registry::queue_name(name, self.generation);
        let Some(queue) = work::find(&self.db, config.kind.work(), &queue_name).await? else {
            return Ok(None);
        };
        let whose = (name, config.kind);
        let assignment = Assignment::refresh(&self.db, &self.node, whose, self.generation).await?;
        let read_through = Seq::ZERO;
        let renewed = tokio::time::Instant::now();
        Ok(Some(Position {
            version,
            config,
            queue,
            assignment,
            read_through,
            covered: false,
            renewed,
            committed: renewed,
        }))
    }

    /// Waits for a fuller batch, unless there is one already.
    async fn linger(&self, from: Seq, head: &watch::Receiver<Seq>) {
        let waiting = head.borrow().get() - from.get();
        let spec = self.handler.spec();
        let (linger, batch) = (spec.linger, spec.batch);
        if !linger.is_zero() && waiting < i64::try_from(batch).unwrap_or(i64::MAX) {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(linger) => {}
            }
        }
    }

    async fn batch(&self, at: &mut Position, from: Seq) -> Result<(), BatchError> {
        let batch = self.handler.spec().batch;
        let read = Read::after(from).types(at.config.types.clone()).limit(batch);
        let page = self.log.read(read).await?;
        let wanted = |event: &&Arc<Recorded>| {
            at.assignment.wants(partition_of(&event.event), event.seq)
                && at.config.filter.as_ref().is_none_or(|filter| filter.matches(&event.event))
        };
        let items: Vec<Item> = page
            .events
            .iter()
            .filter(wanted)
            .map(|event| Item { recorded: Arc::clone(event), attempt: 1, replayed: false })
            .collect();
        at.read_through = page.through;
        let may_wait = at.covered && at.committed.elapsed() < IDLE_COMMIT;
        if may_wait && items.is_empty() {
            return Ok(());
        }
        // Most events start no saga, have no cause and go to no endpoint: their consumers have done
        // all with a look, without the write lock and a sync of the disk.
        if may_wait && !self.handler.is_concerned(&items, &self.db).await? {
            metrics::consumed(&at.config.name, items.len(), 0, Duration::ZERO);
            return Ok(());
        }
        let span = span::process(&at.config.name, items.len(), "first");
        let committed = self.commit(at, items, &page).instrument(span.clone()).await;
        if let Err(error) = &committed {
            span.record("error.type", tracing::field::display(error));
        }
        committed
    }

    /// Writes how far the log was read where nothing in it was for this consumer.
    async fn commit_idle(&self, at: &mut Position) -> Result<(), BatchError> {
        if !at.is_ahead() {
            return Ok(());
        }
        let page = Page { events: Vec::new(), through: at.read_through };
        self.commit(at, Vec::new(), &page).await
    }

    async fn commit(
        &self,
        at: &mut Position,
        items: Vec<Item>,
        page: &Page,
    ) -> Result<(), BatchError> {
        let started = std::time::Instant::now();
        let name = &*self.handler.spec().name;
        let mut tx = self.db.begin().await?;
        if registry::version(&mut tx).await? != at.version {
            return Err(BatchError::Reconfigured);
        }
        if !at.covered {
            coverage::note(&mut tx, &at.config, self.generation, &at.assignment).await?;
        }
        let items = if self.log.is_shared() && !items.is_empty() {
            let repeated = inbox::note(&mut tx, at.queue, &items).await?;
            metrics::repeated(name, repeated.len());
            items.into_iter().filter(|item| !repeated.contains(&item.recorded.seq)).collect()
        } else {
            items
        };
        let ordered = at.config.policy.ordered && !self.handler.feeds();
        let (parked, now): (Vec<Item>, Vec<Item>) = if ordered {
            let keys: Vec<_> =
                items.iter().map(|item| work::key_of(&item.recorded.event)).collect();
            let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
            let busy: HashSet<String> = work::busy_keys(&mut tx, at.queue.0, &keys).await?;
            items.into_iter().partition(|item| busy.contains(&*work::key_of(&item.recorded.event)))
        } else {
            (Vec::new(), items)
        };
        let answers = self.handler.handle(&now, self.generation, ordered, &mut tx).await?;
        let mut failed = 0;
        for (item, answer) in now.iter().zip(&answers) {
            if let Handled::Failed(_) = answer {
                failed += 1;
            }
            leave_row(&mut tx, at, self.generation, item, Some(answer));
        }
        for item in &parked {
            leave_row(&mut tx, at, self.generation, item, None);
        }
        tx.flush().await?;
        at.assignment.advance(&mut tx, &self.node, name, self.generation, page.through).await??;
        tx.commit().await?;
        at.assignment.advanced(page.through);
        at.covered = true;
        at.committed = tokio::time::Instant::now();
        metrics::consumed(name, now.len() - failed, failed, started.elapsed());
        Ok(())
    }
}

/// The row that an event leaves behind: none when it is done.
fn leave_row(
    tx: &mut crate::Tx,
    at: &Position,
    generation: i64,
    item: &Item,
    answer: Option<&Handled>,
) {
    let ordered = at.config.policy.ordered;
    let row = NewWork {
        seq: Some(item.recorded.seq),
        key: ordered.then(|| work::key_of(&item.recorded.event).into_owned()),
        tenant: item.recorded.event.tenant().map(str::to_owned),
        ..NewWork::in_queue(at.queue)
    };
    match answer {
        Some(Handled::Done) => {}
        Some(Handled::Behind) | None => tx.enqueue(row),
        Some(Handled::Failed(failure)) => {
            let policy = &at.config.policy;
            let next = policy.after_failure(
                1,
                Duration::ZERO,
                failure.is_permanent(),
                failure.delay(),
                rand::random::<f64>(),
            );
            let failed = Some((1, failure.error().to_owned()));
            let row = match next {
                Next::RetryAfter(wait) => {
                    let due = tx.clock().now().as_micros() + crate::Span(wait).micros();
                    NewWork { failed, due_at: Some(schemas::Timestamp::from_micros(due)), ..row }
                }
                Next::Dead => {
                    metrics::dead_letter(&registry::queue_name(&at.config.name, generation));
                    let payload = String::from_utf8(item.recorded.event.to_json()).ok();
                    NewWork { failed, dead: true, payload, ..row }
                }
            };
            tx.enqueue(row);
        }
    }
}
