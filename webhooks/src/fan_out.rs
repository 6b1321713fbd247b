//! The consumer that turns one event into a delivery for each endpoint that gets it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::work::{self, QueueId, WorkId};
use bus::{
    BatchConsumer, Db, Dialect, Dispatcher, Failure, Parcel, Recorded, Seq, Tx, built, bulk, sql,
};
use schemas::Patterns;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::attempt::Body;
use crate::deliver::{DeliverWebhooks, DirectLane};
use crate::index::{Entry, Index};
use crate::new_delivery::{self, NewDelivery};
use crate::store;

/// Events looked at together.
const EVENTS: usize = 256;
/// Positions of the log whose deliveries are read at once.
const STRETCH: i64 = 1_024;

/// Turns one event into a delivery for each endpoint that gets it.
///
/// Endpoints are looked up in memory. Each batch compares the version that was read with the one in
/// its own transaction: what was configured before an event was accepted is seen by it.
///
/// What can be posted at once is: it goes over the lane to the worker of this node, and its rows are
/// written when it is known what came of it. The rest gets rows now.
pub struct FanOutWebhooks {
    known: Mutex<Known>,
    lane: DirectLane,
}

/// The endpoints as they were at a version.
struct Known {
    version: i64,
    index: Index,
}

impl Default for Known {
    /// From before there were any.
    fn default() -> Known {
        Known { version: -1, index: Index::default() }
    }
}

/// One event for one endpoint.
struct Match<'a> {
    entry: Arc<Entry>,
    event: &'a Arc<Recorded>,
    /// The delivery's.
    id: WorkId,
}

impl FanOutWebhooks {
    /// One that has read no endpoints yet.
    #[must_use]
    pub fn new(lane: DirectLane) -> FanOutWebhooks {
        FanOutWebhooks { known: Mutex::default(), lane }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the index up to date: what has changed is read, and who is there only when one is gone.
    async fn refresh(&self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let version = store::version(tx).await?;
        let since = self.known().version;
        if since == version {
            return Ok(());
        }
        let changed = store::changed_since(tx, since).await?;
        let there = store::count_all(tx).await?;
        {
            let mut known = self.known();
            for (endpoint, queue) in changed {
                known.index.put(Entry::new(endpoint, queue));
            }
            if known.index.len() == there {
                known.version = version;
                return Ok(());
            }
        }
        let ids = store::all_ids(tx).await?;
        let mut known = self.known();
        known.index.retain(&ids);
        known.version = version;
        Ok(())
    }

    /// The endpoints of each event, those left out that are younger.
    fn matches<'a>(&self, events: &'a [Arc<Recorded>]) -> Vec<Match<'a>> {
        let known = self.known();
        let of = |event: &'a Arc<Recorded>| {
            let entries = known.index.matches(&event.event).into_iter();
            entries.filter(|entry| event.seq > entry.endpoint.from).map(move |entry| {
                let id = new_delivery::id_of(&entry.endpoint.id, event);
                Match { entry, event, id }
            })
        };
        events.iter().flat_map(of).collect()
    }
}

impl BatchConsumer for FanOutWebhooks {
    const NAME: &'static str = "fan-out-webhooks";
    const BATCH: usize = 512;

    fn types(&self) -> Patterns {
        Patterns::everything()
    }

    fn has_room(&self) -> bool {
        self.lane.get().is_none_or(Dispatcher::has_room)
    }

    async fn is_concerned(&self, events: &[Arc<Recorded>], db: &Db) -> Result<bool, sqlx::Error> {
        let version = db.config_version(store::WORK).await?;
        let known = self.known();
        let wanted = |event: &Arc<Recorded>| !known.index.matches(&event.event).is_empty();
        Ok(known.version != version || events.iter().any(wanted))
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        self.refresh(tx).await?;
        self.lock(tx, events).await?;
        // A few events at a time: any of them may be for every endpoint there is.
        for some in events.chunks(EVENTS) {
            self.hand_on(tx, self.matches(some)).await?;
        }
        Ok(())
    }
}

impl FanOutWebhooks {
    /// Locks all that the events will change, in the order of [`work::lock_queues`]: the rows in front of
    /// their keys where they are kept in order, then the queues.
    async fn lock(&self, tx: &mut Tx, events: &[Arc<Recorded>]) -> Result<(), sqlx::Error> {
        if tx.dialect() == Dialect::Sqlite {
            return Ok(()); // There is one writer.
        }
        let (mut keys, mut queues) = (BTreeSet::new(), BTreeSet::new());
        for Match { entry, event, .. } in self.matches(events) {
            if entry.endpoint.disabled_reason.is_none() {
                queues.insert(entry.queue);
            }
            if entry.endpoint.manner.ordered {
                keys.insert((entry.queue, work::key_of(&event.event)));
            }
        }
        work::lock_keys(tx, keys).await?;
        work::lock_queues(tx, queues).await
    }

    async fn hand_on(&self, tx: &mut Tx, mut matches: Vec<Match<'_>>) -> Result<(), sqlx::Error> {
        let known = existing(tx, &matches).await?;
        if !known.is_empty() {
            let is_known = |one: &Match<'_>| {
                known.contains(&(one.event.seq.get(), one.entry.endpoint.id.as_str().to_owned()))
            };
            matches.retain(|one| !is_known(one));
        }
        self.send_out(tx, &mut matches).await?;
        let status = |one: &Match<'_>| {
            if one.entry.endpoint.disabled_reason.is_some() { "skipped" } else { "pending" }
        };
        let rows: Vec<NewDelivery<'_>> = matches
            .iter()
            .map(|one| NewDelivery::of(one.id, &one.entry.endpoint.id, one.event, status(one)))
            .collect();
        new_delivery::insert(tx, &rows).await?;
        for (row, Match { entry, event, .. }) in rows.iter().zip(&matches) {
            if entry.endpoint.disabled_reason.is_none() {
                tx.enqueue(new_delivery::work_for(&entry.endpoint, entry.queue, row.id, event));
            }
        }
        tx.flush().await
    }

    /// Sends out what can be, and leaves the others in `matches`.
    async fn send_out(&self, tx: &mut Tx, matches: &mut Vec<Match<'_>>) -> Result<(), sqlx::Error> {
        let Some(dispatcher) = self.lane.get() else { return Ok(()) };
        let mut parcels: BTreeMap<QueueId, Vec<Parcel<DeliverWebhooks>>> = BTreeMap::new();
        let mut bodies: HashMap<Seq, Body> = HashMap::new();
        for Match { entry, event, id } in &*matches {
            if entry.is_sent_out() {
                let outbound = entry.outbound(|one| dispatcher.courier().outbound(one));
                let body = bodies.entry(event.seq).or_default().clone();
                let parcel = (*id, Arc::clone(event), Some((outbound, body)));
                parcels.entry(entry.queue).or_default().push(parcel);
            }
        }
        let mut going: HashSet<WorkId> = parcels.values().flatten().map(|one| one.0).collect();
        for (id, ..) in dispatcher.send(tx, parcels).await? {
            going.remove(&id);
        }
        matches.retain(|one| !going.contains(&one.id));
        Ok(())
    }
}

/// The deliveries of these events that there are: made by a replay that was faster, or by this same
/// consumer when the event is handed to it again.
async fn existing(
    tx: &mut Tx,
    matches: &[Match<'_>],
) -> Result<HashSet<(i64, String)>, sqlx::Error> {
    let seqs: BTreeSet<i64> = matches.iter().map(|one| one.event.seq.get()).collect();
    let read = |row: &AnyRow| (row.get(0), row.get(1));
    let mut found = HashSet::new();
    // Fresh events stand together in the log; those that are handled anew may be far apart.
    if let (Some(first), Some(last)) = (seqs.first(), seqs.last())
        && last - first < STRETCH
    {
        let query = sql("select seq, endpoint from webhook_delivery where seq between $1 and $2");
        let rows = tx.fetch_all(query.bind(*first).bind(*last)).await?;
        found.extend(rows.iter().map(read));
        return Ok(found);
    }
    let seqs: Vec<i64> = seqs.into_iter().collect();
    for chunk in bulk::lists(&seqs) {
        let mut query = built(format!(
            "select seq, endpoint from webhook_delivery where seq in ({})",
            bulk::list(1, chunk.len())
        ));
        for seq in &chunk {
            query = query.bind(**seq);
        }
        found.extend(tx.fetch_all(query).await?.iter().map(read));
    }
    Ok(found)
}
