//! Sends events out before they have rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::lane::{Boarded, Leg, Reserved};
use super::{Courier, ROWLESS_MAX, ROWLESS_WAIT_MAX, Shared, Trip};
use crate::work::{self, Dispatch, QueueId, Stranded, Wanted, WorkId};
use crate::{Recorded, Tx};

/// Sends events out at once, on the round of this process. Clones are the same.
pub struct Dispatcher<C: Courier> {
    shared: Arc<Shared<C>>,
}

impl<C: Courier> Clone for Dispatcher<C> {
    fn clone(&self) -> Dispatcher<C> {
        Dispatcher { shared: Arc::clone(&self.shared) }
    }
}

/// An event to be sent out: its row, should it get one, itself, and what it needs.
pub type Parcel<C> = (WorkId, Arc<Recorded>, <C as Courier>::Errand);

/// Room for events of one queue, given back unless they depart.
struct Room<C: Courier> {
    shared: Arc<Shared<C>>,
    queue: QueueId,
    events: usize,
}

impl<C: Courier> Drop for Room<C> {
    fn drop(&mut self) {
        self.shared.lanes.release(self.queue, self.events);
    }
}

/// Events of one queue that are sent out once the transaction has committed.
struct Departure<C: Courier> {
    room: Room<C>,
    parcels: Vec<Parcel<C>>,
    dispatch: Arc<Boarded>,
    places: OwnedSemaphorePermit,
}

impl<C: Courier> Dispatcher<C> {
    pub(super) fn new(shared: Arc<Shared<C>>) -> Dispatcher<C> {
        Dispatcher { shared }
    }

    /// Sends out events when `tx` has committed, by queue: all of those that fit into the queues
    /// that have places for them now. The others are returned, for the caller to enqueue.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn send(
        &self,
        tx: &mut Tx,
        mut parcels: BTreeMap<QueueId, Vec<Parcel<C>>>,
    ) -> Result<Vec<Parcel<C>>, sqlx::Error> {
        let total = parcels.values().map(Vec::len).sum();
        let Some(mut places) = self.shared.take_places(total) else {
            return Ok(parcels.into_values().flatten().collect());
        };
        let (mut wanted, mut rooms) = (BTreeMap::new(), BTreeMap::new());
        for (queue, list) in &parcels {
            let Reserved { events, has_places, free } =
                self.shared.lanes.reserve(*queue, list.len());
            let shared = Arc::clone(&self.shared);
            rooms.insert(*queue, Room { shared, queue: *queue, events });
            let seqs = list.iter().take(events).map(|(_, event, _)| event.seq).collect();
            wanted.insert(*queue, Wanted { seqs, has_places, free });
        }
        let most = places.num_permits();
        let begun = work::begin_dispatch(tx, &self.shared.node, &wanted, most).await?;
        for Dispatch { id, queue, places: taken } in begun {
            let (Some(room), Some(list)) = (rooms.remove(&queue), parcels.get_mut(&queue)) else {
                continue;
            };
            let rest = list.split_off(room.events.min(list.len()));
            let going = std::mem::replace(list, rest);
            let Some(places) = places.split(taken) else { continue };
            let dispatch = self.shared.lanes.board(id);
            let departure = Departure { room, parcels: going, dispatch, places };
            tx.after_commit(move || departure.go());
        }
        Ok(parcels.into_values().flatten().collect())
    }

    /// Whether there is room for another batch. Otherwise some of what is under way will have landed,
    /// or have rows, within two seconds.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.lanes.under_way() < ROWLESS_MAX
    }

    /// What carries them.
    #[must_use]
    pub fn courier(&self) -> &C {
        &self.shared.courier
    }

    /// Takes over what processes that are gone had sent out, and what of this one's own got lost:
    /// the caller, which is handed a transaction for it, writes rows for the events.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn abandoned(&self) -> Result<Option<(Tx, Vec<Stranded>)>, sqlx::Error> {
        let Shared { db, node, lanes, .. } = &*self.shared;
        let knows = |dispatch| lanes.knows(dispatch);
        let holds = |queue| lanes.holds(queue);
        if !work::any_abandoned(db, node, C::KIND, knows, holds).await? {
            return Ok(None);
        }
        let mut tx = db.begin().await?;
        let stranded = work::rescue_dispatched(&mut tx, node, C::KIND, knows, holds).await?;
        Ok(Some((tx, stranded)))
    }
}

impl<C: Courier> Departure<C> {
    fn go(self) {
        // The room is given back when what it was kept for is there.
        let Departure { room, parcels, dispatch, places } = self;
        let (shared, queue) = (Arc::clone(&room.shared), room.queue);
        let deadline = Instant::now() + ROWLESS_WAIT_MAX;
        let leg = |(id, event, errand)| Leg {
            dispatch: Arc::clone(&dispatch),
            trip: Trip { id, attempt: 1, event },
            errand,
            deadline,
        };
        let legs = parcels.into_iter().map(leg).collect();
        let on = shared.lanes.add(queue, legs, places);
        shared.go_on(queue, on);
        drop(room);
    }
}
