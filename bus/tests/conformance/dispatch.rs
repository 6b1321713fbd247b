//! Dispatch: events that are tried before they have rows, within the limits of their queue, each
//! once, and not lost with the process that tries them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bus::pull::{Lease, LeaseError};
use bus::work::{self, NewWork, Outcome, QueueId, Verdict, WorkId};
use bus::{
    Answer, Arrival, Courier, Db, Dispatcher, Landings, NodeId, Parcel, Policy, Recorded, Round,
    Trip, sql,
};
use sqlx::Row;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::house::House;

const LEASE: Duration = Duration::from_secs(60);

/// Carries events no further than a gate, and notes in the database those that came through.
struct Van {
    db: Db,
    gate: Semaphore,
    /// Never gets to write what became of anything.
    mute: bool,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Van {
    async fn note(tx: &mut bus::Tx, seq: i64) -> Result<(), sqlx::Error> {
        let note = sql("insert into effect (key, n) values ('carried', $1)").bind(seq);
        tx.execute(note).await.map(|_| ())
    }
}

impl Courier for Van {
    const KIND: &'static str = "test";
    type Errand = ();
    type Note = i64;

    async fn prepare(&self, leases: Vec<Lease>) -> Result<Vec<(Lease, ())>, LeaseError> {
        Ok(leases.into_iter().map(|lease| (lease, ())).collect())
    }

    async fn carry(&self, trip: &Trip, (): &()) -> (Outcome, i64) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.inside.fetch_sub(1, Ordering::SeqCst);
        (Outcome::Done { output: None }, trip.event.seq.get())
    }

    async fn settle(&self, answers: &[Answer], notes: &[i64]) -> Result<(), LeaseError> {
        let mut tx = self.db.begin().await?;
        let settled = work::settle(&mut tx, None, answers).await?;
        for (row, seq) in settled.iter().zip(notes) {
            if row.verdict == Verdict::Done {
                Van::note(&mut tx, *seq).await?;
            }
        }
        Ok(tx.commit().await?)
    }

    async fn land(&self, landings: &Landings<Van>) -> Result<(), LeaseError> {
        if self.mute {
            return Err(sqlx::Error::WorkerCrashed.into());
        }
        let mut tx = self.db.begin().await?;
        let held = landings.take_off(&mut tx, []).await?;
        for one in landings.landed().iter().zip(held).filter_map(|(one, held)| held.then_some(one))
        {
            let row = NewWork {
                id: one.trip.id,
                seq: Some(one.trip.event.seq),
                ..NewWork::in_queue(one.queue)
            };
            match &one.arrival {
                Arrival::Ended(_, seq) => Van::note(&mut tx, *seq).await?,
                Arrival::Late(lease) => tx.enqueue(NewWork { leased: Some(lease.clone()), ..row }),
                Arrival::Waiting => tx.enqueue(row),
            }
        }
        Ok(tx.commit().await?)
    }
}

/// A process with a van.
struct Garage {
    van: Arc<Van>,
    node: NodeId,
    dispatcher: Dispatcher<Van>,
    running: JoinHandle<()>,
    stop: CancellationToken,
}

impl Garage {
    async fn open(house: &House) -> Garage {
        Garage::with(house, false).await
    }

    async fn with(house: &House, mute: bool) -> Garage {
        let van = Arc::new(Van {
            db: house.db.clone(),
            gate: Semaphore::new(0),
            mute,
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let (node, stop) = (NodeId::new(), CancellationToken::new());
        let mut tx = house.db.begin().await.unwrap();
        let alive = sql("insert into node (id, started_at_us, seen_at_us) values ($1, 0, $2)");
        let now = house.clock.now().as_micros();
        tx.execute(alive.bind(node.as_str().to_owned()).bind(now)).await.unwrap();
        tx.commit().await.unwrap();
        let round = Round {
            courier: Arc::clone(&van),
            db: house.db.clone(),
            log: Arc::clone(&house.log),
            node: node.clone(),
            in_flight_max: 1_000,
            claim_max: 100,
            lease: LEASE,
            stop: stop.clone(),
        };
        let (dispatcher, running) = round.start();
        Garage { van, node, dispatcher, running: tokio::spawn(running), stop }
    }

    /// Sends events out, and enqueues those that it is handed back: how many those were.
    async fn send(&self, house: &House, queue: QueueId, events: &[Arc<Recorded>]) -> usize {
        let mut tx = house.db.begin().await.unwrap();
        let parcels: Vec<Parcel<Van>> =
            events.iter().map(|event| (WorkId::new(), Arc::clone(event), ())).collect();
        let parcels = BTreeMap::from([(queue, parcels)]);
        let back = self.dispatcher.send(&mut tx, parcels).await.unwrap();
        let count = back.len();
        for (id, event, ()) in back {
            let seq = Some(event.seq);
            tx.enqueue(NewWork { id, seq, ..NewWork::in_queue(queue) });
        }
        tx.commit().await.unwrap();
        count
    }

    async fn close(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// Ends as a process does that is killed.
    async fn kill(self, house: &House) {
        self.running.abort();
        let mut tx = house.db.begin().await.unwrap();
        let gone = sql("delete from node where id = $1").bind(self.node.as_str().to_owned());
        tx.execute(gone).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn queue(house: &House, max_concurrent: u32) -> QueueId {
    let policy = Policy { max_concurrent: Some(max_concurrent), ..Policy::DEFAULT };
    let mut tx = house.db.begin().await.unwrap();
    let queue = work::define(&mut tx, "test", "q", &policy, &[]).await.unwrap();
    tx.commit().await.unwrap();
    queue
}

async fn published(house: &House, count: i64) -> Vec<Arc<Recorded>> {
    for n in 0..count {
        house.publish("test.carried", "k", n).await;
    }
    house.events().await
}

async fn count(house: &House, of: &str) -> i64 {
    let query = bus::built(format!("select cast(count(*) as bigint) from {of}"));
    house.db.fetch_optional(query).await.unwrap().unwrap().get(0)
}

async fn until(house: &House, of: &str, wanted: i64) {
    let look = async {
        while count(house, of).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), look).await.is_err() {
        panic!("{} in {of}, not {wanted}", count(house, of).await);
    }
}

/// Nothing is under way, and no place is taken.
async fn all_is_given_back(house: &House) {
    until(house, "work_dispatch", 0).await;
    until(house, "work_place", 0).await;
    until(house, "work where state in ('ready', 'leased')", 0).await;
    until(house, "work_limit where in_flight <> 0", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_tried_on_no_more_places_than_the_limit_has() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 3).await, published(&house, 60).await);
    let garage = Garage::open(&house).await;
    garage.van.gate.add_permits(60);
    for some in events.chunks(20) {
        garage.send(&house, queue, some).await;
    }
    until(&house, "effect where key = 'carried'", 60).await;
    assert!(garage.van.most.load(Ordering::SeqCst) <= 3);
    let once = "(select n from effect where key = 'carried' group by n having count(*) = 1) e";
    assert_eq!(count(&house, once).await, 60);
    all_is_given_back(&house).await;
    garage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_transaction_sends_out_in_parts_shares_the_places() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 3).await, published(&house, 20).await);
    let garage = Garage::open(&house).await;
    garage.van.gate.add_permits(20);
    let mut tx = house.db.begin().await.unwrap();
    for some in events.chunks(10) {
        let parcels = some.iter().map(|event| (WorkId::new(), Arc::clone(event), ())).collect();
        let back = garage.dispatcher.send(&mut tx, BTreeMap::from([(queue, parcels)])).await;
        assert!(back.unwrap().is_empty());
    }
    tx.commit().await.unwrap();
    until(&house, "effect where key = 'carried'", 20).await;
    assert!(garage.van.most.load(Ordering::SeqCst) <= 3);
    all_is_given_back(&house).await;
    garage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_or_cannot_begin_gets_rows() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 2).await, published(&house, 5).await);
    let garage = Garage::open(&house).await;
    assert_eq!(garage.send(&house, queue, &events).await, 0);
    until(&house, "work where state = 'leased'", 2).await;
    until(&house, "work where state = 'ready'", 3).await;
    until(&house, "work_limit where in_flight = 2", 1).await;
    until(&house, "work_place", 0).await;
    // With no place free, nothing more is sent out.
    house.publish("test.carried", "k", 9).await;
    let more = house.events().await.split_off(5);
    assert_eq!(garage.send(&house, queue, &more).await, 1);
    garage.van.gate.add_permits(6);
    until(&house, "effect where key = 'carried'", 6).await;
    assert!(garage.van.most.load(Ordering::SeqCst) <= 2);
    all_is_given_back(&house).await;
    garage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_out_of_a_queue_that_is_paused() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 2).await, published(&house, 2).await);
    let mut tx = house.db.begin().await.unwrap();
    work::set_paused(&mut tx, queue, true).await.unwrap();
    tx.commit().await.unwrap();
    let garage = Garage::open(&house).await;
    assert_eq!(garage.send(&house, queue, &events).await, 2);
    assert_eq!(count(&house, "work where state = 'ready'").await, 2);
    assert_eq!(count(&house, "work_dispatch").await, 0);
    garage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_does_not_commit_sends_nothing_out() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 2).await, published(&house, 1).await);
    let garage = Garage::open(&house).await;
    garage.van.gate.add_permits(9);
    let mut tx = house.db.begin().await.unwrap();
    let parcel = (WorkId::new(), Arc::clone(&events[0]), ());
    let parcels = BTreeMap::from([(queue, vec![parcel])]);
    assert!(garage.dispatcher.send(&mut tx, parcels).await.unwrap().is_empty());
    drop(tx);
    // A server may still hold the queue for the one that was dropped: then there is a row.
    garage.send(&house, queue, &events).await;
    until(&house, "effect where key = 'carried'", 1).await;
    all_is_given_back(&house).await;
    garage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_sent_out_is_taken_over_once() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 2).await, published(&house, 4).await);
    let garage = Garage::with(&house, true).await;
    assert_eq!(garage.send(&house, queue, &events).await, 0);
    let other = Garage::open(&house).await;
    // While the one lives, the other has nothing to take over.
    assert!(other.dispatcher.abandoned().await.unwrap().is_none());
    garage.kill(&house).await;
    let (tx, stranded) = other.dispatcher.abandoned().await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(stranded.len(), 1);
    assert_eq!((stranded[0].queue, &stranded[0].name[..]), (queue, "q"));
    assert_eq!(stranded[0].seqs, seqs);
    assert!(other.dispatcher.abandoned().await.unwrap().is_none());
    all_is_given_back(&house).await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_not_forgotten_that_is_due_after_all_places_were_taken() {
    let house = House::start().await;
    let (queue, events) = (queue(&house, 1).await, published(&house, 2).await);
    let garage = Garage::open(&house).await;
    assert_eq!(garage.send(&house, queue, &events[..1]).await, 0);
    let due = house.clock.now().as_micros() + 1_000_000;
    let mut tx = house.db.begin().await.unwrap();
    let due_at = Some(schemas::Timestamp::from_micros(due));
    tx.enqueue(NewWork { seq: Some(events[1].seq), due_at, ..NewWork::in_queue(queue) });
    tx.flush().await.unwrap();
    // A claim looks at the queue now, and finds its place taken.
    work::widen(&mut tx, "test", "q").await.unwrap();
    tx.commit().await.unwrap();
    until(&house, "work_queue where next_due_us = 9223372036854775807", 1).await;
    garage.van.gate.add_permits(2);
    until(&house, "effect", 2).await;
    garage.close().await;
    all_is_given_back(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_send_out_to_the_same_queues_do_not_wait_for_each_other() {
    let house = Arc::new(House::start().await);
    let events = published(&house, 6).await;
    let mut queues = Vec::new();
    let policy = Policy { max_concurrent: Some(1), ..Policy::DEFAULT };
    let mut tx = house.db.begin().await.unwrap();
    for name in ["q1", "q2", "q3", "q4", "q5"] {
        queues.push(work::define(&mut tx, "test", name, &policy, &[]).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4_usize {
        let (house, events, queues) = (Arc::clone(&house), events.clone(), queues.clone());
        senders.spawn(async move {
            let garage = Garage::open(&house).await;
            garage.van.gate.add_permits(100_000);
            for round in 0..15 {
                let mut tx = house.db.begin().await.unwrap();
                let some: Vec<QueueId> =
                    queues.iter().copied().cycle().skip(sender * 2 + round).take(3).collect();
                let parcel = |event: &Arc<Recorded>| (WorkId::new(), Arc::clone(event), ());
                let parcels =
                    some.iter().map(|queue| (*queue, events.iter().map(parcel).collect()));
                garage.dispatcher.send(&mut tx, parcels.collect()).await.unwrap();
                // Rows for all of them, whether there were places or not.
                for queue in some {
                    tx.enqueue(NewWork::in_queue(queue));
                }
                tx.commit().await.unwrap();
            }
            garage.close().await;
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_holds_nobody_up() {
    let house = House::start().await;
    let (first, events) = (queue(&house, 2).await, published(&house, 3).await);
    let policy = Policy { max_concurrent: Some(2), ..Policy::DEFAULT };
    let mut tx = house.db.begin().await.unwrap();
    let second = work::define(&mut tx, "test", "second", &policy, &[]).await.unwrap();
    tx.commit().await.unwrap();
    let garage = Garage::open(&house).await;
    assert_eq!(garage.send(&house, first, &events[..2]).await, 0);
    let mut tx = house.db.begin().await.unwrap();
    work::delete_queue(&mut tx, "test", "q").await.unwrap();
    tx.commit().await.unwrap();
    garage.van.gate.add_permits(10);
    assert_eq!(garage.send(&house, second, &events[2..]).await, 0);
    until(&house, "effect", 1).await;
    until(&house, "work_place", 0).await;
    garage.close().await;
    all_is_given_back(&house).await;
}
