//! Events handed to programs outside: the feeder that turns events into rows, and leases on them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemas::Timestamp;
use sqlx::Row;

use crate::chain;
use crate::db::{sql, yields};
use crate::handler::{Handled, Handler, Item, Kind, Spec};
use crate::log::PAGE_BYTES_MAX;
use crate::registry::Registration;
use crate::retries::events_of;
use crate::work::{self, Claim, Claimed, LeaseToken, NewWork, Outcome, QueueId, Settled, WorkId};
use crate::{Db, Log, ReadError, Recorded, Seq, Tx, dead_letter, registry, signals};

/// Rows that may wait in a queue; further events wait in the log.
const WAITING_MAX: i64 = 10_000;

/// Turns the events of a registered consumer into rows that a worker, or a program outside, leases.
pub struct Feeder {
    spec: Spec,
    queue: QueueId,
}

impl Feeder {
    /// The feeder of a `pull` or `push` consumer.
    #[must_use]
    pub fn new(of: &Registration, queue: QueueId) -> Feeder {
        let spec = Spec {
            name: of.name.as_str().into(),
            kind: of.kind,
            types: of.types.clone(),
            policy: of.policy.clone(),
            side_effects: of.side_effects,
            rebuilds: false,
            linger: Duration::ZERO,
            batch: crate::handler::BATCH,
        };
        Feeder { spec, queue }
    }
}

#[async_trait]
impl Handler for Feeder {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn handle(
        &self,
        items: &[Item],
        _generation: i64,
        _ordered: bool,
        tx: &mut Tx,
    ) -> Result<Vec<Handled>, sqlx::Error> {
        for item in items {
            let event = &item.recorded.event;
            tx.enqueue(NewWork {
                seq: Some(item.recorded.seq),
                key: self.spec.policy.ordered.then(|| work::key_of(event).into_owned()),
                tenant: event.tenant().map(str::to_owned),
                ..NewWork::in_queue(self.queue)
            });
        }
        Ok(items.iter().map(|_| Handled::Done).collect())
    }

    async fn has_room(&self, db: &Db) -> Result<bool, sqlx::Error> {
        let query = sql("select count(*) from (select 1 from work where queue = $1
             and state in ('ready', 'behind') limit $2) w")
        .bind(self.queue.0)
        .bind(WAITING_MAX);
        Ok(db.fetch_optional(query).await?.is_none_or(|row| row.get::<i64, _>(0) < WAITING_MAX))
    }

    fn feeds(&self) -> bool {
        true
    }
}

/// An event under lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The row.
    pub work: Claimed,
    /// The event.
    pub event: Arc<Recorded>,
}

/// Leasing or answering failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The database.
    #[error("leasing events")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error("reading leased events")]
    Log(#[from] ReadError),
    /// The consumer was ended while its events were waited for.
    #[error("the consumer was ended")]
    Ended,
}

const ANSWERS_MAX: u32 = 3;
/// Before a row whose event could not be read is leased again.
const UNREADABLE_DELAY: Duration = Duration::from_millis(500);

/// Rows that are leased before it is known how large their events are.
const SOUNDED: usize = 64;

/// Leases up to `max` events of `consumer`, waiting up to `wait` for the first. Once 64 are
/// leased it takes no more than make about [`PAGE_BYTES_MAX`] with them, if the others are as large.
///
/// # Errors
/// [`LeaseError`].
pub async fn lease(
    db: &Db,
    log: &dyn Log,
    consumer: &Registration,
    claim: (usize, Duration),
    wait: Duration,
) -> Result<Vec<Lease>, LeaseError> {
    let (max, lease) = claim;
    let queue = consumer.queue_name();
    let claim = async |max| {
        let queue = Some(queue.as_str());
        let claim = Claim { kind: Kind::Pull.work(), queue, max, lease, owner: None };
        let claimed = work::claim(db, &claim).await?;
        if claimed.is_empty() { Ok(Vec::new()) } else { with_events(db, log, claimed).await }
    };
    let deadline = tokio::time::Instant::now() + wait;
    let mut woken = db.signals().subscribe(signals::WORK);
    let mut changed = db.signals().subscribe(signals::CONFIG);
    changed.mark_changed(); // It may have been ended since it was found.
    loop {
        woken.borrow_and_update();
        let mut leases = claim(max.min(SOUNDED)).await?;
        if !leases.is_empty() {
            let room = room_beside(&leases, max);
            if room > 0 {
                match claim(room).await {
                    Ok(more) => leases.extend(more),
                    // Those that are leased are handed out all the same.
                    Err(error) => tracing::warn!(error = %chain(&error), "leasing more events"),
                }
            }
            return Ok(leases);
        }
        let look = tokio::time::Instant::now() + until_due(db, &queue).await?;
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            () = tokio::time::sleep_until(look) => {}
            _ = woken.changed() => {}
            _ = changed.changed() => {
                if registry::find(db, &consumer.name).await?.is_none() {
                    return Err(LeaseError::Ended);
                }
            }
        }
    }
}

/// How many rows to lease beside these, up to `max` in all, if their events are as large.
fn room_beside(leases: &[Lease], max: usize) -> usize {
    if leases.len() < SOUNDED {
        return 0; // There were no more, or some are gone.
    }
    let bytes: usize = leases.iter().map(|lease| lease.event.event.size()).sum();
    let left = PAGE_BYTES_MAX.saturating_sub(bytes);
    (left / (bytes / leases.len()).max(1)).min(max - leases.len())
}

/// Puts rows and their events together. Rows whose event is gone from the log become dead letters
/// here and now. While the log cannot be read, the rows go back and wait for a moment.
///
/// # Errors
/// [`LeaseError`].
pub async fn with_events(
    db: &Db,
    log: &dyn Log,
    claimed: Vec<Claimed>,
) -> Result<Vec<Lease>, LeaseError> {
    let mut events = match events_of(log, &claimed).await {
        Ok(events) => events,
        Err(error) => {
            let back = claimed
                .iter()
                .map(|row| (row.id, row.token, Outcome::Released { delay: UNREADABLE_DELAY }));
            answer(db, log, None, &back.collect::<Vec<_>>()).await?;
            return Err(error.into());
        }
    };
    let (mut leases, mut gone) = (Vec::with_capacity(claimed.len()), Vec::new());
    for work in claimed {
        match events.remove(&work.id) {
            Some(event) => leases.push(Lease { work, event }),
            None => {
                let error = "the event is no longer in the log".to_owned();
                let lost = Outcome::Failed { error, permanent: true, delay: None };
                gone.push((work.id, work.token, lost));
            }
        }
    }
    if !gone.is_empty()
        && let Err(error) = answer(db, log, None, &gone).await
    {
        tracing::warn!(error = %chain(&error), "noting that events are gone; it is done with their next lease");
    }
    Ok(leases)
}

/// Ends leases, with `only` those of one queue: see [`work::settle`].
///
/// # Errors
/// [`LeaseError`].
pub async fn answer(
    db: &Db,
    log: &dyn Log,
    only: Option<QueueId>,
    answers: &[(WorkId, LeaseToken, Outcome)],
) -> Result<Vec<Settled>, LeaseError> {
    let mut tries = 1;
    loop {
        match try_answer(db, log, only, answers).await {
            Err(LeaseError::Database(error)) if yields(&error) && tries < ANSWERS_MAX => {
                tries += 1;
            }
            settled => return settled,
        }
    }
}

async fn try_answer(
    db: &Db,
    log: &dyn Log,
    only: Option<QueueId>,
    answers: &[(WorkId, LeaseToken, Outcome)],
) -> Result<Vec<Settled>, LeaseError> {
    let mut tx = db.begin().await?;
    let settled = work::settle(&mut tx, only, answers).await?;
    keep_events(&mut tx, log, &settled).await?;
    tx.commit().await?;
    Ok(settled)
}

/// Makes leases last longer: see [`work::extend`].
///
/// # Errors
/// Those of the database.
pub async fn extend(
    db: &Db,
    queue: QueueId,
    leases: &[(WorkId, LeaseToken)],
    lease: Duration,
) -> Result<Vec<work::Extended>, sqlx::Error> {
    let mut tx = db.begin().await?;
    let extended = work::extend(&mut tx, queue, leases, lease).await?;
    tx.commit().await?;
    Ok(extended)
}

/// Keeps a copy of the events of new dead letters.
///
/// # Errors
/// [`LeaseError`].
pub async fn keep_events(
    tx: &mut Tx,
    log: &dyn Log,
    settled: &[Settled],
) -> Result<(), LeaseError> {
    for settled in settled.chunks(SOUNDED) {
        let died: Vec<Seq> = settled.iter().filter_map(|row| row.seq).collect();
        if !died.is_empty() {
            let events = log.get(&died).await?;
            dead_letter::keep(tx, settled, &events).await?;
        }
    }
    Ok(())
}

async fn until_due(db: &Db, queue: &str) -> Result<Duration, sqlx::Error> {
    let due = work::next_due(db, Kind::Pull.work(), Some(queue)).await?;
    let now = db.clock().now();
    let ahead = |due: Timestamp| u64::try_from(due.as_micros() - now.as_micros()).unwrap_or(0);
    let wait = due.map_or(Duration::from_secs(1), |due| Duration::from_micros(ahead(due)));
    Ok(wait.clamp(Duration::from_millis(1), Duration::from_secs(1)))
}
