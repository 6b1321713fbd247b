//! Delivers: leases what is due, posts it, writes what came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::pull::{Lease, LeaseError, keep_events};
use bus::work::{self, Outcome};
use bus::{Answer, Courier, Db, Log, NodeId, Round, Seal};
use egress::Egress;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, attempt};
use crate::endpoint::Endpoint;
use crate::{health, outcome, store};

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
    db: Db,
    log: Arc<dyn Log>,
    egress: Egress,
    seal: Option<Seal>,
}

/// What is noted of one row.
pub struct Note {
    /// The endpoint and the attempt, if there was one.
    pub(crate) made: Option<(Arc<Endpoint>, Attempt)>,
}

impl DeliverWebhooks {
    /// Runs until `stop`; what is on its way is waited for. Deliveries are kept for `retention`.
    pub async fn run(
        db: Db,
        log: Arc<dyn Log>,
        egress: Egress,
        seal: Option<Seal>,
        node: NodeId,
        retention: Duration,
        stop: CancellationToken,
    ) {
        let courier =
            Arc::new(DeliverWebhooks { db: db.clone(), log: Arc::clone(&log), egress, seal });
        let sweeping = outcome::sweep(db.clone(), retention, stop.clone());
        let (in_flight_max, claim_max, lease) = (IN_FLIGHT_MAX, CLAIM_MAX, LEASE);
        let round = Round { courier, db, log, node, in_flight_max, claim_max, lease, stop };
        tokio::join!(round.run(), sweeping);
    }
}

impl Courier for DeliverWebhooks {
    const KIND: &'static str = store::WORK;
    /// The endpoint; `None` while it is being deleted, and its rows with it.
    type Errand = Option<Arc<Endpoint>>;
    type Note = Note;

    async fn prepare(&self, leases: Vec<Lease>) -> Result<Vec<(Lease, Self::Errand)>, LeaseError> {
        let mut ids: Vec<String> =
            leases.iter().map(|lease| lease.work.queue_name.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let endpoints = store::find_many(&self.db, &ids).await?;
        let endpoints: HashMap<String, Arc<Endpoint>> =
            endpoints.into_iter().map(|one| (one.id.to_string(), Arc::new(one))).collect();
        let endpoint = |lease: Lease| {
            let endpoint = endpoints.get(&lease.work.queue_name).cloned();
            (lease, endpoint)
        };
        Ok(leases.into_iter().map(endpoint).collect())
    }

    async fn carry(&self, lease: &Lease, endpoint: Self::Errand) -> (Outcome, Note) {
        let Some(endpoint) = endpoint else {
            return (Outcome::Released { delay: LOOK }, Note { made: None });
        };
        let (id, at) = (lease.work.id.prefixed("dlv"), self.db.clock().now());
        let (egress, seal) = (&self.egress, self.seal.as_ref());
        let made = attempt(egress, seal, &endpoint, &id, &lease.event.event, at).await;
        let outcome = match &made.error {
            None => Outcome::Done { output: None },
            Some(error) => {
                let jitter = rand::random();
                let wait = endpoint.manner.wait_after(lease.work.attempt, jitter);
                let delay = wait.map(|wait| wait.max(made.pause.unwrap_or(Duration::ZERO)));
                Outcome::Failed { error: error.clone(), permanent: false, delay }
            }
        };
        (outcome, Note { made: Some((endpoint, made)) })
    }

    async fn settle(&self, answers: &[Answer], notes: &[Note]) -> Result<(), LeaseError> {
        let mut tx = self.db.begin().await?;
        let settled = work::settle(&mut tx, None, answers).await?;
        outcome::note(&mut tx, &settled, notes).await?;
        health::note(&mut tx, notes).await?;
        keep_events(&mut tx, self.log.as_ref(), &settled).await?;
        tx.commit().await?;
        Ok(())
    }
}
