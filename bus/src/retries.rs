//! Tries again what failed, and handles what a replay hands over, for consumers in this process.
//!
//! Rows are leased, their events run through the same handler as a batch, and the outcomes commit
//! with the effects: exactly once here too. A lease that ended meanwhile takes it all back. With the
//! first row of a key come those that stand behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use schemas::Event;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::handler::{Handled, Handler, Item};
use crate::node::NodeId;
use crate::registry::queue_name;
use crate::work::{self, Claim, Claimed, LeaseToken, Outcome, Verdict, WorkId};
use crate::{Db, Log, ReadError, Recorded, Seq, dead_letter, signals};

/// Rows of one batch, at least and at most: it grows while batches are done soon.
const BATCH_MIN: u32 = 8;
const BATCH_MAX: u32 = 256;
/// A full batch that took less is followed by a larger one, one that took more by a smaller one.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(1);
/// Longest wait without looking: other nodes put rows in too.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct Retries {
    pub(crate) db: Db,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) node: NodeId,
    pub(crate) generation: i64,
    pub(crate) stop: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum RetryError {
    #[error("leasing or settling retries")]
    Database(#[from] sqlx::Error),
    #[error("reading events to retry")]
    Log(#[from] ReadError),
    #[error("a lease ended before its outcome was written")]
    LeaseEnded,
}

impl Retries {
    pub(crate) async fn run(self) {
        let mut woken = self.db.signals().subscribe(signals::WORK);
        let mut batch = BATCH_MIN;
        while !self.stop.is_cancelled() {
            woken.borrow_and_update();
            let wait = match self.claim(batch as usize).await {
                Ok(claimed) if claimed.is_empty() => self.until_due().await,
                Ok(claimed) => {
                    let begun = tokio::time::Instant::now();
                    let rows = self.work_off(claimed, batch as usize).await;
                    let was_full = rows > batch as usize / 2;
                    batch = next_size(batch, was_full, begun.elapsed());
                    continue;
                }
                Err(error) => {
                    self.tell(&error.into());
                    LOOK
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = woken.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn until_due(&self) -> Duration {
        let spec = self.handler.spec();
        let queue = queue_name(&spec.name, self.generation);
        let due = work::next_due(&self.db, spec.kind.work(), Some(&queue)).await.ok().flatten();
        let now = self.db.clock().now();
        due.map_or(LOOK, |due| {
            let us = u64::try_from(due.as_micros() - now.as_micros()).unwrap_or(0);
            Duration::from_micros(us).clamp(Duration::from_millis(1), LOOK)
        })
    }

    fn tell(&self, error: &RetryError) {
        let consumer = &*self.handler.spec().name;
        tracing::warn!(consumer, error = %chain(error), "retrying events");
    }

    async fn claim(&self, max: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let spec = self.handler.spec();
        let queue = queue_name(&spec.name, self.generation);
        let claim = Claim {
            kind: spec.kind.work(),
            queue: Some(&queue),
            max,
            // The smallest batch may take the time of each of its events.
            lease: (spec.policy.timeout.0 * BATCH_MIN).max(Duration::from_secs(60)),
            owner: Some(self.node.as_str()),
        };
        work::claim(&self.db, &claim).await
    }

    /// Settles all of these, however long the log or the database is away: they are leased to this
    /// node, and nobody else tries them before the lease has ended. Answers how many rows there
    /// were, with those that stood behind them.
    async fn work_off(&self, claimed: Vec<Claimed>, batch: usize) -> usize {
        let mut each_behind = batch.saturating_sub(claimed.len()) / claimed.len();
        loop {
            let error = match self.attempt(&claimed, each_behind).await {
                Ok(rows) => return rows,
                Err(error) => error,
            };
            self.tell(&error);
            match error {
                // A row may have been taken away that stood behind one of these.
                RetryError::LeaseEnded if each_behind > 0 => each_behind = 0,
                RetryError::LeaseEnded => return 0,
                _ => tokio::select! {
                    () = self.stop.cancelled() => return 0,
                    () = tokio::time::sleep(LOOK) => {}
                },
            }
        }
    }

    async fn attempt(&self, claimed: &[Claimed], each_behind: usize) -> Result<usize, RetryError> {
        let behind = match each_behind {
            0 => Vec::new(),
            each => work::behind(&self.db, claimed, each).await?,
        };
        let all = [claimed, &behind].concat();
        let (items, gone) = self.items(&all).await?;
        let mut tx = self.db.begin().await?;
        let inputs: Vec<Item> = items.iter().map(|(_, item)| item.clone()).collect();
        // Of one key there is one row under lease and what stands behind it.
        let ordered = !behind.is_empty();
        let answers = self.handler.handle(&inputs, self.generation, ordered, &mut tx).await?;
        let stood_behind: HashSet<WorkId> = behind.iter().map(|row| row.id).collect();
        let mut outcomes: Vec<(WorkId, LeaseToken, Outcome)> = Vec::with_capacity(all.len());
        for ((row, _), answer) in items.iter().zip(answers) {
            if !matches!(answer, Handled::Behind) || !stood_behind.contains(&row.id) {
                outcomes.push((row.id, row.token, outcome(answer)));
            }
        }
        for row in &gone {
            let error = "the event is no longer in the log".to_owned();
            let lost = Outcome::Failed { error, permanent: true, delay: None };
            outcomes.push((row.id, row.token, lost));
        }
        let tried = outcomes.iter().map(|(id, ..)| *id);
        let tried: Vec<WorkId> = tried.filter(|id| stood_behind.contains(id)).collect();
        if !work::step_up(&mut tx, claimed, &tried).await? {
            return Err(RetryError::LeaseEnded);
        }
        let settled = work::settle(&mut tx, None, &outcomes).await?;
        if settled.iter().any(|row| row.verdict == Verdict::Expired) {
            return Err(RetryError::LeaseEnded);
        }
        let events: Vec<Arc<Recorded>> =
            items.iter().map(|(_, item)| Arc::clone(&item.recorded)).collect();
        dead_letter::keep(&mut tx, &settled, &events).await?;
        tx.commit().await?;
        Ok(all.len())
    }

    /// The rows with their events, and the rows whose event is gone.
    async fn items<'a>(
        &self,
        claimed: &'a [Claimed],
    ) -> Result<(Vec<(&'a Claimed, Item)>, Vec<&'a Claimed>), RetryError> {
        let events = events_of(self.log.as_ref(), claimed).await?;
        let (mut items, mut gone) = (Vec::new(), Vec::new());
        for row in claimed {
            match events.get(&row.id) {
                Some(recorded) => {
                    let item = Item {
                        recorded: Arc::clone(recorded),
                        attempt: row.attempt,
                        replayed: row.tag.is_some(),
                    };
                    items.push((row, item));
                }
                None => gone.push(row),
            }
        }
        Ok((items, gone))
    }
}

/// The events that rows are about: as edited where they were, else as the log has them. Rows whose
/// event is gone are missing. A row that a replay made marks its event with `replayed`.
pub(crate) async fn events_of(
    log: &dyn Log,
    rows: &[Claimed],
) -> Result<HashMap<WorkId, Arc<Recorded>>, ReadError> {
    let mut seqs: Vec<Seq> = rows.iter().filter_map(|row| row.seq).collect();
    seqs.sort_unstable();
    let recorded: HashMap<Seq, Arc<Recorded>> =
        log.get(&seqs).await?.into_iter().map(|event| (event.seq, event)).collect();
    let event = |row: &Claimed| {
        let seq = row.seq?;
        let known = recorded.get(&seq).cloned();
        let edited = row.payload.as_ref().and_then(|text| Event::from_json(text.as_bytes()).ok());
        let found = match edited {
            Some(event) => {
                let recorded_at = known.map_or(row.created_at, |known| known.recorded_at);
                Arc::new(Recorded { seq, recorded_at, event })
            }
            None => known?,
        };
        if row.tag.is_none() {
            return Some((row.id, found));
        }
        let event = found.event.clone().with_extension("replayed", true);
        Some((row.id, Arc::new(Recorded { event, ..*found })))
    };
    Ok(rows.iter().filter_map(event).collect())
}

/// How many rows the batch after one of `size` rows may have.
fn next_size(size: u32, was_full: bool, took: Duration) -> u32 {
    let size = match took {
        took if took > LATE => size / 2,
        took if took < SOON && was_full => size * 2,
        _ => size,
    };
    size.clamp(BATCH_MIN, BATCH_MAX)
}

fn outcome(answer: Handled) -> Outcome {
    match answer {
        Handled::Done => Outcome::Done { output: None },
        Handled::Behind => Outcome::Released { delay: Duration::ZERO },
        Handled::Failed(failure) => Outcome::Failed {
            error: failure.error().to_owned(),
            permanent: failure.is_permanent(),
            delay: failure.delay(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_full_ones_are_done_soon_and_shrink_when_one_is_late() {
        assert_eq!(next_size(8, true, Duration::from_millis(10)), 16);
        assert_eq!(next_size(8, false, Duration::from_millis(10)), 8);
        assert_eq!(next_size(64, true, Duration::from_millis(500)), 64);
        assert_eq!(next_size(64, false, Duration::from_secs(30)), 32);
        assert_eq!(next_size(8, true, Duration::from_secs(30)), 8);
        assert_eq!(next_size(256, true, Duration::ZERO), 256);
    }
}
