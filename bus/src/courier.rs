//! Couriers: workers that carry leased events somewhere slow, many at a time.
//!
//! `Round` leases rows that are due, as many as may be on their way at once, has each carried in a
//! task of its own, and settles what became of them in bulk. A destination that hangs holds its own
//! places only: a queue's limit is part of the claim.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::pull::{self, Lease, LeaseError};
use crate::work::{self, Claim, LeaseToken, Outcome, WorkId};
use crate::{Db, Log, NodeId, signals};

/// Rows settled in one transaction: a thousand that fail at the same moment must not keep others from
/// writing for seconds.
const SETTLED_MAX: usize = 512;
/// Longest wait without looking.
const LOOK: Duration = Duration::from_secs(1);

/// What became of one row.
pub type Answer = (WorkId, LeaseToken, Outcome);

/// Carries events of one kind of work.
pub trait Courier: Send + Sync + 'static {
    /// Which kind of work.
    const KIND: &'static str;
    /// What one row needs beside its event.
    type Errand: Send + 'static;
    /// What is noted of one row beside its outcome.
    type Note: Send + 'static;

    /// Looks up what the rows need.
    fn prepare(
        &self,
        leases: Vec<Lease>,
    ) -> impl Future<Output = Result<Vec<(Lease, Self::Errand)>, LeaseError>> + Send;

    /// Carries one event. It must end well before the lease does.
    fn carry(
        &self,
        lease: &Lease,
        errand: Self::Errand,
    ) -> impl Future<Output = (Outcome, Self::Note)> + Send;

    /// Writes what became of many rows. It is called again with the same when it failed.
    fn settle(
        &self,
        answers: &[Answer],
        notes: &[Self::Note],
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;
}

/// Keeps a courier busy.
pub struct Round<C> {
    /// The courier.
    pub courier: Arc<C>,
    /// The state.
    pub db: Db,
    /// The log.
    pub log: Arc<dyn Log>,
    /// This process, whose leases are free again when it has ended.
    pub node: NodeId,
    /// Rows on their way at once, on this node.
    pub in_flight_max: usize,
    /// Rows claimed at once.
    pub claim_max: usize,
    /// How long a row is leased: longer than carrying it takes, so that it is not carried twice at
    /// once.
    pub lease: Duration,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<C: Courier> Round<C> {
    /// Runs until `stop`; what is on its way is waited for.
    pub async fn run(self) {
        let mut woken = self.db.signals().subscribe(signals::WORK);
        let mut trips: JoinSet<(Answer, C::Note)> = JoinSet::new();
        let (answers, inbox) = mpsc::channel(self.in_flight_max);
        let settler = tokio::spawn(settle(Arc::clone(&self.courier), inbox));
        while !self.stop.is_cancelled() {
            woken.borrow_and_update();
            let room = self.in_flight_max.saturating_sub(trips.len()).min(self.claim_max);
            let wait = match self.begin(room, &mut trips).await {
                Ok(0) => self.until_due().await,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), kind = C::KIND, "leasing events to carry");
                    LOOK
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                Some(Ok(answer)) = trips.join_next() => {
                    let _ = answers.send(answer).await;
                }
                _ = woken.changed(), if room > 0 => {}
                () = tokio::time::sleep(wait), if room > 0 => {}
            }
            while let Some(Ok(answer)) = trips.try_join_next() {
                let _ = answers.send(answer).await;
            }
        }
        while let Some(Ok(answer)) = trips.join_next().await {
            let _ = answers.send(answer).await;
        }
        drop(answers);
        let _ = settler.await;
    }

    async fn begin(
        &self,
        room: usize,
        trips: &mut JoinSet<(Answer, C::Note)>,
    ) -> Result<usize, LeaseError> {
        if room == 0 {
            return Ok(0);
        }
        let owner = Some(self.node.as_str());
        let claim = Claim { kind: C::KIND, queue: None, max: room, lease: self.lease, owner };
        let claimed = work::claim(&self.db, &claim).await?;
        if claimed.is_empty() {
            return Ok(0);
        }
        let leases = pull::with_events(&self.db, self.log.as_ref(), claimed).await?;
        let errands = self.courier.prepare(leases).await?;
        let count = errands.len();
        for (lease, errand) in errands {
            let courier = Arc::clone(&self.courier);
            trips.spawn(async move {
                let (outcome, note) = courier.carry(&lease, errand).await;
                ((lease.work.id, lease.work.token, outcome), note)
            });
        }
        Ok(count)
    }

    async fn until_due(&self) -> Duration {
        let due = work::next_due(&self.db, C::KIND, None).await.ok().flatten();
        let now = self.db.clock().now().as_micros();
        due.map_or(LOOK, |due| {
            let us = u64::try_from(due.as_micros() - now).unwrap_or(0);
            Duration::from_micros(us).clamp(Duration::from_millis(1), LOOK)
        })
    }
}

/// Writes outcomes, as many together as have come in.
async fn settle<C: Courier>(courier: Arc<C>, mut inbox: mpsc::Receiver<(Answer, C::Note)>) {
    let mut settled = Vec::new();
    while inbox.recv_many(&mut settled, SETTLED_MAX).await > 0 {
        let (answers, notes): (Vec<Answer>, Vec<C::Note>) = settled.drain(..).unzip();
        while let Err(error) = courier.settle(&answers, &notes).await {
            // The outcome is known and must not be lost: the lease outlasts a short outage.
            tracing::warn!(error = %chain(&error), kind = C::KIND, "writing what became of events");
            tokio::time::sleep(LOOK).await;
        }
    }
}
