//! Couriers: workers that carry events somewhere slow, many at a time.
//!
//! `Round` leases rows that are due, as many as may be on their way at once, has each carried in a
//! task of its own, and settles what became of them in bulk. A destination that hangs holds its own
//! places only: a queue's limit is part of the claim.
//!
//! A consumer in the same process need not write rows for a round to find: with a [`Dispatcher`] it
//! hands events over as soon as its batch has committed. They are tried on the places that were
//! taken for them (`lane`), and get rows when their outcome is known, when they take long, or when
//! they cannot begin soon.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use schemas::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::pull::{self, Lease, LeaseError};
use crate::work::{self, Claim, LeaseToken, Outcome, Places, QueueId, Seized, WorkId};
use crate::{Db, Log, NodeId, Recorded, Span, Tx, signals};

mod dispatcher;
mod lane;
pub use dispatcher::{Dispatcher, Parcel};
use lane::{Boarded, KEPT, Lanes, Leg, Spare};

/// Outcomes that are written together.
const WRITTEN_MAX: usize = 512;
/// Rows settled in one transaction: thousands that fail at the same moment must not keep others from
/// writing for long.
const SETTLED_MAX: usize = 128;
/// How far apart outcomes are written that nothing waits for. Each write takes the lock of the database
/// from those who send events out, and many outcomes cost little more than one.
const WRITTEN_EACH: Duration = Duration::from_millis(20);
/// Longest wait without looking.
const LOOK: Duration = Duration::from_secs(1);
/// How long an attempt may take without a row: then it is written down as pending.
const ROWLESS_ATTEMPT_MAX: Duration = Duration::from_millis(250);
/// How long an event may wait for one of its queue's places without a row.
const ROWLESS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Events under way without rows past which the consumer is asked to wait.
const ROWLESS_MAX: usize = 4_096;

/// What became of one row.
pub type Answer = (WorkId, LeaseToken, Outcome);

/// One event on its way.
#[derive(Clone, Debug)]
pub struct Trip {
    /// The row of work, or what it will be.
    pub id: WorkId,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// The event.
    pub event: Arc<Recorded>,
}

/// Carries events of one kind of work.
pub trait Courier: Send + Sync + 'static {
    /// Which kind of work.
    const KIND: &'static str;
    /// What one row needs beside its event.
    type Errand: Clone + Send + Sync + 'static;
    /// What is noted of one row beside its outcome.
    type Note: Send + Sync + 'static;

    /// Looks up what the rows need.
    fn prepare(
        &self,
        leases: Vec<Lease>,
    ) -> impl Future<Output = Result<Vec<(Lease, Self::Errand)>, LeaseError>> + Send;

    /// Carries one event. It must end well before the lease does.
    fn carry(
        &self,
        trip: &Trip,
        errand: &Self::Errand,
    ) -> impl Future<Output = (Outcome, Self::Note)> + Send;

    /// Whether a failed attempt may close its queue to others, so that nothing of it is to begin before
    /// that is written.
    fn holds(&self, _note: &Self::Note) -> bool {
        false
    }

    /// Writes what became of many rows. It is called again with the same when it failed.
    fn settle(
        &self,
        answers: &[Answer],
        notes: &[Self::Note],
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// Writes what became of events that have no rows, in one transaction with
    /// [`Landings::take_off`], which is committed here. It is called again with the same when it
    /// failed.
    fn land(
        &self,
        landings: &Landings<Self>,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send
    where
        Self: Sized;
}

/// An event that was sent out without a row, and what became of it.
pub struct Landed<C: Courier> {
    /// Its queue.
    pub queue: QueueId,
    /// What was carried.
    pub trip: Trip,
    /// What it needed.
    pub errand: C::Errand,
    /// How far it has come.
    pub arrival: Arrival<C::Note>,
    dispatch: Arc<Boarded>,
}

impl<C: Courier> Landed<C> {
    fn is_done(&self) -> bool {
        matches!(self.arrival, Arrival::Ended(Outcome::Done { .. }, _))
    }
}

/// How far an event without a row has come.
pub enum Arrival<N> {
    /// The attempt has ended.
    Ended(Outcome, N),
    /// The attempt takes long: it goes on under a lease.
    Late(Seized),
    /// It could not begin.
    Waiting,
}

/// Events without rows whose outcomes are written together.
pub struct Landings<C: Courier> {
    landed: Vec<Landed<C>>,
    shared: Arc<Shared<C>>,
}

impl<C: Courier> Landings<C> {
    /// The events.
    #[must_use]
    pub fn landed(&self) -> &[Landed<C>] {
        &self.landed
    }

    /// Takes them off their dispatches, and gives up places that are needed no longer: whether each
    /// event was still there. What was not has rows already, written by another process. All queues
    /// are locked that get rows, or places back; `others` are those that the caller will change.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_off(
        &self,
        tx: &mut Tx,
        others: impl IntoIterator<Item = QueueId>,
    ) -> Result<Vec<bool>, sqlx::Error> {
        let mut taken: BTreeMap<WorkId, i64> = BTreeMap::new();
        for one in &self.landed {
            *taken.entry(one.dispatch.id).or_default() += 1;
        }
        let held = work::end_dispatch(tx, &taken).await?;
        let (shared, counts) = (&self.shared, self.counts());
        let forsaken = shared.lanes.forsaken();
        let queues: BTreeSet<QueueId> = counts.keys().copied().chain(forsaken).collect();
        let due = work::are_due(tx, queues.iter().copied()).await?;
        let may_be_kept = shared.has_places_to_spare();
        let spare = shared.lanes.spare(queues.into_iter(), &counts, &due, may_be_kept);
        let mut given_up: BTreeMap<QueueId, Places> = BTreeMap::new();
        for one in self.landed.iter().filter(|one| matches!(one.arrival, Arrival::Late(_))) {
            given_up.entry(one.queue).or_default().moved += 1;
        }
        for one in &spare {
            given_up.entry(one.queue).or_default().free = i64::try_from(one.count()).unwrap_or(0);
        }
        let gets_row = |one: &&Landed<C>| !one.is_done() && held.contains(&one.dispatch.id);
        let get_rows = self.landed.iter().filter(gets_row).map(|one| one.queue);
        let changed = given_up.keys().copied().chain(get_rows).chain(others);
        work::lock_queues(tx, changed).await?;
        if !given_up.is_empty() {
            work::give_up_places(tx, &self.shared.node, &given_up).await?;
        }
        let shared = Arc::clone(&self.shared);
        tx.after_commit(move || {
            spare.into_iter().for_each(Spare::given_up);
            for (queue, events) in counts {
                let on = shared.lanes.landed(queue, events);
                shared.go_on(queue, on);
            }
        });
        Ok(self.landed.iter().map(|one| held.contains(&one.dispatch.id)).collect())
    }

    fn counts(&self) -> BTreeMap<QueueId, usize> {
        let mut counts = BTreeMap::new();
        for one in &self.landed {
            *counts.entry(one.queue).or_default() += 1;
        }
        counts
    }
}

/// What a task of a round tells the one that writes.
enum Told<C: Courier> {
    Answer(Answer, C::Note),
    Landed(Landed<C>),
}

/// Keeps a courier busy.
pub struct Round<C: Courier> {
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

/// What the tasks of a round share.
struct Shared<C: Courier> {
    courier: Arc<C>,
    db: Db,
    node: NodeId,
    lease: Duration,
    stop: CancellationToken,
    in_flight_max: u32,
    /// One for each event that is being tried, until the one that writes has been told.
    places: Arc<Semaphore>,
    told: mpsc::Sender<Told<C>>,
    /// That what was told is to be written at once.
    hurry: Notify,
    lanes: Arc<Lanes<C>>,
}

impl<C: Courier> Shared<C> {
    /// As many places as there are free, up to `wanted`.
    fn take_places(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        if self.stop.is_cancelled() {
            return None;
        }
        let count = wanted.min(self.places.available_permits());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.places).try_acquire_many_owned(count);
        taken.ok().filter(|taken| taken.num_permits() > 0)
    }

    /// Whether lanes may keep places for events to come.
    fn has_places_to_spare(&self) -> bool {
        self.places.available_permits() > self.in_flight_max as usize / 2
    }

    /// Tells the one that writes, who does it at once: a row, a place, or a retry depends on it.
    async fn tell(&self, told: Told<C>) {
        let _ = self.told.send(told).await;
        self.hurry.notify_one();
    }

    /// Carries one leased row and tells what came of it.
    async fn carry(&self, lease: Lease, errand: C::Errand, place: OwnedSemaphorePermit) {
        let trip = Trip { id: lease.work.id, attempt: lease.work.attempt, event: lease.event };
        let (outcome, note) = self.courier.carry(&trip, &errand).await;
        let answer = (trip.id, lease.work.token, outcome);
        self.tell(Told::Answer(answer, note)).await;
        drop(place);
    }

    /// Goes on with a lane: so many start to work on it, and these events get rows.
    fn go_on(self: &Arc<Self>, queue: QueueId, (idle, overdue): (usize, Vec<Leg<C>>)) {
        self.work(queue, idle);
        if !overdue.is_empty() {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.tell_waiting(queue, overdue).await });
        }
    }

    /// Waits until no place is taken for events without rows.
    async fn all_landed(&self) {
        let mut outcomes = self.db.signals().subscribe(signals::OUTCOME);
        while self.lanes.are_any() {
            tokio::select! {
                _ = outcomes.changed() => {}
                () = tokio::time::sleep(ROWLESS_ATTEMPT_MAX) => {}
            }
        }
    }

    /// Has rows written for events that wait.
    async fn tell_waiting(&self, queue: QueueId, legs: Vec<Leg<C>>) {
        for Leg { dispatch, trip, errand, .. } in legs {
            let arrival = Arrival::Waiting;
            self.tell(Told::Landed(Landed { queue, trip, errand, arrival, dispatch })).await;
        }
    }

    /// Puts so many at work on idle places.
    fn work(self: &Arc<Self>, queue: QueueId, idle: usize) {
        for _ in 0..idle {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(leg) = shared.lanes.next(queue) {
                    if !shared.try_leg(queue, leg).await {
                        return;
                    }
                }
            });
        }
    }

    /// Tries one event; whether its place is still there for the next.
    async fn try_leg(self: &Arc<Self>, queue: QueueId, leg: Leg<C>) -> bool {
        let Leg { dispatch, trip, errand, .. } = leg;
        let landed = |arrival| Landed {
            queue,
            trip: trip.clone(),
            errand: errand.clone(),
            arrival,
            dispatch: Arc::clone(&dispatch),
        };
        // Where it is, for all that is put around it: it is kilobytes to move.
        let carried = pin!(self.courier.carry(&trip, &errand));
        let mut carried = AssertUnwindSafe(carried).catch_unwind();
        match tokio::time::timeout(ROWLESS_ATTEMPT_MAX, &mut carried).await {
            Ok(ended) => {
                // One that panicked is tried again by a claim, which counts its attempts.
                let arrival =
                    ended.map_or(Arrival::Waiting, |(outcome, note)| Arrival::Ended(outcome, note));
                let (failed, holds) = match &arrival {
                    Arrival::Ended(Outcome::Done { .. }, _) => (false, false),
                    Arrival::Ended(_, note) => (true, self.courier.holds(note)),
                    Arrival::Late(_) | Arrival::Waiting => (true, false),
                };
                let on = self.lanes.tried(queue, failed, holds);
                let _ = self.told.send(Told::Landed(landed(arrival))).await;
                if failed || self.told.max_capacity() - self.told.capacity() >= WRITTEN_MAX {
                    self.hurry.notify_one();
                }
                self.go_on(queue, on);
                true
            }
            Err(_) => {
                let (place, stuck) = self.lanes.leave(queue);
                let until = self.db.clock().now().as_micros() + Span(self.lease).micros();
                let seized = Seized::new(&self.node, Timestamp::from_micros(until));
                let token = seized.token;
                self.tell(Told::Landed(landed(Arrival::Late(seized)))).await;
                self.tell_waiting(queue, stuck).await;
                if let Ok((outcome, note)) = carried.await {
                    let answer = (trip.id, token, outcome);
                    self.tell(Told::Answer(answer, note)).await;
                }
                drop(place);
                false
            }
        }
    }
}

impl<C: Courier> Round<C> {
    /// Prepares a round: what sends events out on it, and what runs it until `stop`; then what is
    /// on its way is waited for.
    pub fn start(self) -> (Dispatcher<C>, impl Future<Output = ()> + Send) {
        let (told, inbox) = mpsc::channel(self.in_flight_max);
        let shared = Arc::new(Shared {
            courier: Arc::clone(&self.courier),
            db: self.db.clone(),
            node: self.node.clone(),
            lease: self.lease,
            stop: self.stop.clone(),
            in_flight_max: u32::try_from(self.in_flight_max).unwrap_or(u32::MAX),
            places: Arc::new(Semaphore::new(self.in_flight_max)),
            told,
            hurry: Notify::new(),
            lanes: Arc::default(),
        });
        let dispatcher = Dispatcher::new(Arc::clone(&shared));
        (dispatcher, self.run(shared, inbox))
    }

    async fn run(self, shared: Arc<Shared<C>>, inbox: mpsc::Receiver<Told<C>>) {
        let all_told = CancellationToken::new();
        let writer = tokio::spawn(write(Arc::clone(&shared), inbox, all_told.clone()));
        let mut woken = self.db.signals().subscribe(signals::WORK);
        while !self.stop.is_cancelled() {
            woken.borrow_and_update();
            let Some(places) = shared.take_places(self.claim_max) else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    _ = shared.places.acquire() => {}
                }
                continue;
            };
            let wait = match self.begin(&shared, places).await {
                Ok(0) => self.until_due().await,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), kind = C::KIND, "leasing events to carry");
                    LOOK
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = woken.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        for (queue, waiting) in shared.lanes.close() {
            shared.tell_waiting(queue, waiting).await;
        }
        shared.all_landed().await;
        let _everyone = shared.places.acquire_many(shared.in_flight_max).await;
        all_told.cancel();
        let _ = writer.await;
    }

    async fn begin(
        &self,
        shared: &Arc<Shared<C>>,
        mut places: OwnedSemaphorePermit,
    ) -> Result<usize, LeaseError> {
        let owner = Some(self.node.as_str());
        let max = places.num_permits();
        let claim = Claim { kind: C::KIND, queue: None, max, lease: self.lease, owner };
        let claimed = work::claim(&self.db, &claim).await?;
        if claimed.is_empty() {
            return Ok(0);
        }
        let leases = pull::with_events(&self.db, self.log.as_ref(), claimed).await?;
        // Should that fail, they were not tried.
        let back = Outcome::Released { delay: LOOK };
        let back = leases.iter().map(|one| (one.work.id, one.work.token, back.clone()));
        let back: Vec<Answer> = back.collect();
        let errands = match self.courier.prepare(leases).await {
            Ok(errands) => errands,
            Err(error) => {
                pull::answer(&self.db, self.log.as_ref(), None, &back).await?;
                return Err(error);
            }
        };
        let count = errands.len();
        for (lease, errand) in errands {
            let Some(place) = places.split(1) else { break };
            let shared = Arc::clone(shared);
            tokio::spawn(async move { shared.carry(lease, errand, place).await });
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

/// Writes outcomes, as many together as have come in, until `all_told`.
async fn write<C: Courier>(
    shared: Arc<Shared<C>>,
    mut inbox: mpsc::Receiver<Told<C>>,
    all_told: CancellationToken,
) {
    let (courier, stop) = (&shared.courier, &shared.stop);
    let mut told = Vec::new();
    let mut written = Instant::now();
    loop {
        tokio::select! {
            biased;
            _ = inbox.recv_many(&mut told, WRITTEN_MAX) => {}
            () = all_told.cancelled() => return,
            () = tokio::time::sleep(KEPT), if shared.lanes.any_idle() => {
                if shared.lanes.forsaken().is_empty() {
                    continue;
                }
                // Places are given up although no event has landed.
                let landings = Landings { landed: Vec::new(), shared: Arc::clone(&shared) };
                if let Err(error) = courier.land(&landings).await {
                    is_to_try_again::<C>(&error, stop).await;
                }
                continue;
            }
        }
        // One that comes alone is written at once.
        tokio::select! {
            () = shared.hurry.notified() => {}
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(written + WRITTEN_EACH) => {}
        }
        written = Instant::now();
        while told.len() < WRITTEN_MAX
            && let Ok(one) = inbox.try_recv()
        {
            told.push(one);
        }
        let (mut answers, mut notes, mut landed) = (Vec::new(), Vec::new(), Vec::new());
        for one in told.drain(..) {
            match one {
                Told::Answer(answer, note) => {
                    answers.push(answer);
                    notes.push(note);
                }
                Told::Landed(one) => landed.push(one),
            }
        }
        // First what gets its row here: its answer may be among the others already. Each in a
        // transaction of its own, so that rows and queues are locked in one order everywhere; and
        // until it has worked, as the outcomes are known and must not be lost.
        let landings = Landings { landed, shared: Arc::clone(&shared) };
        while (!landings.landed.is_empty() || !shared.lanes.forsaken().is_empty())
            && let Err(error) = courier.land(&landings).await
            && is_to_try_again::<C>(&error, stop).await
        {}
        for (answers, notes) in answers.chunks(SETTLED_MAX).zip(notes.chunks(SETTLED_MAX)) {
            while let Err(error) = courier.settle(answers, notes).await
                && is_to_try_again::<C>(&error, stop).await
            {}
        }
    }
}

/// Waits for a moment, unless the process stops: then they are tried again after the next start. The
/// leases outlast a short outage.
async fn is_to_try_again<C: Courier>(error: &LeaseError, stop: &CancellationToken) -> bool {
    tracing::warn!(error = %chain(error), kind = C::KIND, "writing what became of events");
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(LOOK) => true,
    }
}
