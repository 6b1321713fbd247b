//! Tries again what failed, and handles what a replay hands over, for consumers in this process.
//!
//! Rows are leased, their events run through the same handler as a batch, and the outcomes commit
//! with the effects: exactly once here too. A lease that ended meanwhile takes it all back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemas::Event;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::handler::{Handled, Handler, Item};
use crate::node::NodeId;
use crate::registry::queue_name;
use crate::work::{self, Claim, Claimed, LeaseToken, Outcome, Verdict, WorkId};
use crate::{Db, Log, ReadError, Recorded, Seq, dead_letter, signals};

/// Rows leased at a time.
const BATCH: usize = 256;
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
        while !self.stop.is_cancelled() {
            woken.borrow_and_update();
            let wait = match self.claim().await {
                Ok(claimed) if claimed.is_empty() => self.until_due().await,
                Ok(claimed) => {
                    self.work_off(claimed).await;
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

    async fn claim(&self) -> Result<Vec<Claimed>, sqlx::Error> {
        let spec = self.handler.spec();
        let queue = queue_name(&spec.name, self.generation);
        let claim = Claim {
            kind: spec.kind.work(),
            queue: Some(&queue),
            max: BATCH,
            // A whole batch may take the time of each of its events.
            lease: (spec.policy.timeout.0 * 8).max(Duration::from_secs(60)),
            owner: Some(self.node.as_str()),
        };
        work::claim(&self.db, &claim).await
    }

    /// Settles all of these, however long the log or the database is away: they are leased to this
    /// node, and nobody else tries them before the lease has ended.
    async fn work_off(&self, claimed: Vec<Claimed>) {
        while let Err(error) = self.attempt(&claimed).await {
            self.tell(&error);
            if matches!(error, RetryError::LeaseEnded) {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn attempt(&self, claimed: &[Claimed]) -> Result<(), RetryError> {
        let (items, gone) = self.items(claimed).await?;
        let mut tx = self.db.begin().await?;
        let inputs: Vec<Item> = items.iter().map(|(_, item)| item.clone()).collect();
        // Of one key there is never more than one row under lease, so order needs no care here.
        let answers = self.handler.handle(&inputs, self.generation, false, &mut tx).await?;
        let mut outcomes: Vec<(WorkId, LeaseToken, Outcome)> = Vec::with_capacity(claimed.len());
        for ((row, _), answer) in items.iter().zip(answers) {
            outcomes.push((row.id, row.token, outcome(answer)));
        }
        for row in &gone {
            let error = "the event is no longer in the log".to_owned();
            let lost = Outcome::Failed { error, permanent: true, delay: None };
            outcomes.push((row.id, row.token, lost));
        }
        let settled = work::settle(&mut tx, None, &outcomes).await?;
        if settled.iter().any(|row| row.verdict == Verdict::Expired) {
            return Err(RetryError::LeaseEnded);
        }
        let events: Vec<Arc<Recorded>> =
            items.iter().map(|(_, item)| Arc::clone(&item.recorded)).collect();
        dead_letter::keep(&mut tx, &settled, &events).await?;
        tx.commit().await?;
        Ok(())
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
