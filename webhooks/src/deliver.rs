//! Delivers: posts what is fresh, leases and posts what is due, writes what came of both.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bus::pull::{Lease, LeaseError, keep_events};
use bus::work::{self, Outcome, QueueId};
use bus::{Answer, Courier, Db, Dispatcher, Landings, Log, NodeId, Round, Seal, Seq, Trip};
use egress::Egress;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Body, attempt};
use crate::endpoint::Endpoint;
use crate::health::Heard;
use crate::outbound::Outbound;
use crate::{abandoned, outcome, store};

/// Deliveries on their way at once, over all endpoints of this node: hanging ones take ten places
/// each, and a thousand of them must leave room for the others.
const IN_FLIGHT_MAX: usize = 16_384;
/// Rows claimed at once.
const CLAIM_MAX: usize = 1_024;
/// Longer than any attempt takes.
const LEASE: Duration = Duration::from_secs(90);
/// How long a row waits whose endpoint is not there.
const LOOK: Duration = Duration::from_secs(1);

/// Delivers events to endpoints.
pub struct DeliverWebhooks {
    /// The state.
    pub db: Db,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The way out.
    pub egress: Egress,
    /// Opens secrets and headers.
    pub seal: Option<Seal>,
}

/// Joins the consumer that finds the endpoints of fresh events with the worker that posts them, on
/// one node; until that has started, the consumer writes rows. Clones are the same.
#[derive(Clone, Default)]
pub struct DirectLane(Arc<OnceLock<Dispatcher<DeliverWebhooks>>>);

impl DirectLane {
    pub(crate) fn get(&self) -> Option<&Dispatcher<DeliverWebhooks>> {
        self.0.get()
    }
}

/// An endpoint and what is posted to it; `None` while it is being deleted, and its rows with it.
pub(crate) type Errand = Option<(Arc<Outbound>, Body)>;

/// What is noted of one row: the attempt, if there was one.
pub struct Note {
    pub(crate) made: Option<(Arc<Outbound>, Attempt)>,
}

impl DeliverWebhooks {
    /// Runs until `stop`; what is on its way is waited for. Deliveries are kept for `retention`.
    pub async fn run(
        self,
        node: NodeId,
        lane: DirectLane,
        retention: Duration,
        stop: CancellationToken,
    ) {
        let (db, log) = (self.db.clone(), Arc::clone(&self.log));
        let sweeping = outcome::sweep(db.clone(), retention, stop.clone());
        let round = Round {
            courier: Arc::new(self),
            db,
            log: Arc::clone(&log),
            node,
            in_flight_max: IN_FLIGHT_MAX,
            claim_max: CLAIM_MAX,
            lease: LEASE,
            stop: stop.clone(),
        };
        let (dispatcher, running) = round.start();
        let taking_over = abandoned::take_over(log, dispatcher.clone(), stop);
        let _ = lane.0.set(dispatcher);
        tokio::join!(running, sweeping, taking_over);
    }

    pub(crate) fn outbound(&self, endpoint: Arc<Endpoint>) -> Outbound {
        Outbound::new(endpoint, &self.egress, self.seal.as_ref())
    }
}

impl Courier for DeliverWebhooks {
    const KIND: &'static str = store::WORK;
    type Errand = Errand;
    type Note = Note;

    async fn prepare(&self, leases: Vec<Lease>) -> Result<Vec<(Lease, Errand)>, LeaseError> {
        let mut ids: Vec<String> =
            leases.iter().map(|lease| lease.work.queue_name.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let endpoints = store::find_many(&self.db, &ids).await?;
        let endpoints: HashMap<String, Arc<Outbound>> = endpoints
            .into_iter()
            .map(|one| (one.id.to_string(), Arc::new(self.outbound(Arc::new(one)))))
            .collect();
        let mut bodies: HashMap<Seq, Body> = HashMap::new();
        let errand = |lease: Lease| {
            let outbound = endpoints.get(&lease.work.queue_name).cloned();
            let body = bodies.entry(lease.event.seq).or_default().clone();
            (lease, outbound.map(|outbound| (outbound, body)))
        };
        Ok(leases.into_iter().map(errand).collect())
    }

    async fn carry(&self, trip: &Trip, errand: &Errand) -> (Outcome, Note) {
        let Some((outbound, body)) = errand else {
            return (Outcome::Released { delay: LOOK }, Note { made: None });
        };
        let (id, at) = (trip.id.prefixed("dlv"), self.db.clock().now());
        let made = attempt(&self.egress, outbound, &id, (&trip.event.event, body), at).await;
        let outcome = match &made.error {
            None => Outcome::Done { output: None },
            Some(error) => {
                let jitter = rand::random();
                let wait = outbound.endpoint().manner.wait_after(trip.attempt, jitter);
                let delay = wait.map(|wait| wait.max(made.pause.unwrap_or(Duration::ZERO)));
                Outcome::Failed { error: error.clone(), permanent: false, delay }
            }
        };
        (outcome, Note { made: Some((Arc::clone(outbound), made)) })
    }

    fn holds(&self, note: &Note) -> bool {
        note.made.as_ref().is_some_and(|(_, made)| made.is_busy() || made.is_gone())
    }

    async fn settle(&self, answers: &[Answer], notes: &[Note]) -> Result<(), LeaseError> {
        let mut tx = self.db.begin().await?;
        let settled = work::settle(&mut tx, None, answers).await?;
        outcome::note(&mut tx, &settled, notes).await?;
        let made: Vec<_> = notes.iter().filter_map(|note| note.made.as_ref()).collect();
        outcome::count(&mut tx, &made).await?;
        Heard::of(&mut tx, &made).await?.note(&mut tx).await?;
        keep_events(&mut tx, self.log.as_ref(), &settled).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn land(&self, landings: &Landings<DeliverWebhooks>) -> Result<(), LeaseError> {
        let mut tx = self.db.begin().await?;
        let made: Vec<_> = landings.landed().iter().filter_map(outcome::made).collect();
        let heard = Heard::of(&mut tx, &made).await?;
        let recovering: Vec<QueueId> = landings
            .landed()
            .iter()
            .filter(|one| {
                outcome::made(one).is_some_and(|(to, _)| heard.recovers(&to.endpoint().id))
            })
            .map(|one| one.queue)
            .collect();
        let held = landings.take_off(&mut tx, recovering).await?;
        outcome::land(&mut tx, landings.landed(), &held).await?;
        outcome::count(&mut tx, &made).await?;
        heard.note(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
