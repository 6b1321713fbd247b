//! Order by key: what failed holds back its key and nothing else, and its key catches up.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{BatchConsumer, Failure, Handler, Kind, Policy, Recorded, Tx, Whole, sql};
use schemas::Patterns;

use crate::house::{House, QUICK, event, eventually, in_order, n_of, write_effect};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_holds_back_itself_only() {
    let house = House::start().await;
    let open = Arc::new(AtomicI64::new(0));
    let gate = Arc::clone(&open);
    let script = move |event: &schemas::Event, _| {
        let held = event.subject.as_deref() == Some("held") && n_of(event) == 0;
        if held && gate.load(Ordering::SeqCst) == 0 {
            return Err(Failure::transient("the gate is closed").after(Duration::from_millis(2)));
        }
        Ok(())
    };
    let patient = in_order(script);
    let running = house.run(vec![patient]).await;
    let raise = "update work_queue set policy = '{\"attempts_max\":100,\"ordered\":true}'
        where name = 'in-order'";
    let mut tx = house.db.begin().await.unwrap();
    tx.execute(sql(raise)).await.unwrap();
    tx.commit().await.unwrap();
    for n in 0..20 {
        house.publish("a", "held", n).await;
        house.publish("a", "free", n).await;
    }
    eventually(|| async { house.effects("free").await.len() == 20 }).await;
    assert_eq!(house.effects("held").await, Vec::<i64>::new());
    open.store(1, Ordering::SeqCst);
    house.settled("in-order").await;
    running.stop().await;
    assert_eq!(house.effects("held").await, (0..20).collect::<Vec<_>>());
    assert_eq!(house.effects("free").await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_lets_those_behind_it_pass() {
    let house = House::start().await;
    let script = |event: &schemas::Event, _: i64| match n_of(event) {
        0 => Err(Failure::transient("always")),
        _ => Ok(()),
    };
    let running = house.run(vec![in_order(script)]).await;
    for n in 0..10 {
        house.publish("a", "k", n).await;
    }
    house.settled("in-order").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, (1..10).collect::<Vec<_>>());
    assert_eq!(house.dead_letters("in-order").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_be_longer_than_what_an_index_takes() {
    let house = House::start().await;
    let script = |event: &schemas::Event, attempt: i64| match (n_of(event), attempt) {
        (0, 1) => Err(Failure::transient("not yet")),
        _ => Ok(()),
    };
    let running = house.run(vec![in_order(script)]).await;
    // No two alike, or a database could make it short.
    let long: String = (0..).map(|n: u32| n.to_string()).take(1_000).collect();
    for n in 0..10 {
        let event = event("a", "k", n).with_subject(&long[..2_800]);
        house.log.publish_all(vec![event]).await.unwrap();
    }
    house.settled("in-order").await;
    running.stop().await;
    assert_eq!(house.effects("k").await, (0..10).collect::<Vec<_>>());
}

/// In order, in bulk, and shut at the event with the number 0 until it is opened.
#[derive(Clone, Default)]
struct Gate {
    is_open: Arc<AtomicBool>,
    /// Whether the next batch loses its leases while it is handled.
    robs: Arc<AtomicBool>,
    /// Events in each call since it was opened.
    calls: Arc<Mutex<Vec<usize>>>,
}

impl BatchConsumer for Gate {
    const NAME: &'static str = "gate";
    const POLICY: Policy = Policy { ordered: true, attempts_max: 10_000, ..QUICK };

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        _generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let is_shut = !self.is_open.load(Ordering::SeqCst);
        if is_shut && events.iter().any(|event| n_of(&event.event) == 0) {
            return Err(Failure::transient("shut").after(Duration::from_millis(2)));
        }
        self.calls.lock().unwrap().push(events.len());
        if self.robs.swap(false, Ordering::SeqCst) {
            tx.execute(sql("update work set token = 0 where state = 'leased'")).await?;
        }
        for event in events {
            write_effect(&event.event, tx).await?;
        }
        Ok(())
    }
}

impl Gate {
    /// Has `events` of one key before it, all of which wait, and then opens.
    async fn opens_before(&self, house: &House, events: i64) {
        let handler: Arc<dyn Handler> = Arc::new(Whole::new(self.clone(), Kind::Rust));
        let running = house.run(vec![handler]).await;
        for n in 0..events {
            house.publish("a", "k", n).await;
        }
        let queue = house.queue("gate").await;
        eventually(|| async {
            let counts = bus::work::counts(&house.db, queue).await.unwrap();
            let behind = counts.iter().find(|(state, ..)| state == "behind");
            behind.is_some_and(|(_, rows, _)| *rows == events - 1)
        })
        .await;
        self.is_open.store(true, Ordering::SeqCst);
        house.settled("gate").await;
        running.stop().await;
        assert_eq!(house.effects("k").await, (0..events).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_the_first_of_a_key_is_worked_off_with_it() {
    let gate = Gate::default();
    gate.opens_before(&House::start().await, 200).await;
    let calls = gate.calls.lock().unwrap();
    assert!(calls.len() <= 40, "one batch after the other, none of them small: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_while_its_key_is_worked_off_takes_it_all_back() {
    let gate = Gate::default();
    gate.robs.store(true, Ordering::SeqCst);
    gate.opens_before(&House::start().await, 30).await;
    assert!(!gate.robs.load(Ordering::SeqCst));
    let calls = gate.calls.lock().unwrap();
    assert!(calls.iter().sum::<usize>() > 30, "some were handled twice: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_behind_another_holds_back_what_follows_it() {
    let house = House::start().await;
    let open = Arc::new(AtomicBool::new(false));
    let tried: Arc<Mutex<Vec<(i64, i64)>>> = Arc::default();
    let (gate, log) = (Arc::clone(&open), Arc::clone(&tried));
    let script = move |event: &schemas::Event, attempt| {
        let n = n_of(event);
        if n == 0 && !gate.load(Ordering::SeqCst) {
            return Err(Failure::transient("shut").after(Duration::from_millis(500)));
        }
        log.lock().unwrap().push((n, attempt));
        match (n % 7, attempt) {
            (3, 1 | 2) => Err(Failure::transient("not yet")),
            (5, _) => Err(Failure::permanent("never")),
            _ => Ok(()),
        }
    };
    let running = house.run(vec![in_order(script)]).await;
    house.publish("a", "k", 0).await;
    let queue = house.queue("in-order").await;
    eventually(|| async {
        let counts = bus::work::counts(&house.db, queue).await.unwrap();
        counts.iter().any(|(state, ..)| state == "retrying")
    })
    .await;
    open.store(true, Ordering::SeqCst);
    for n in 1..30 {
        house.publish("a", "k", n).await;
    }
    house.settled("in-order").await;
    running.stop().await;
    let done: Vec<i64> = (0..30).filter(|n| n % 7 != 5).collect();
    assert_eq!(house.effects("k").await, done);
    assert_eq!(house.dead_letters("in-order").await.len(), 4);
    let tried = tried.lock().unwrap();
    for n in [3, 10, 17, 24] {
        let attempts = tried.iter().filter(|(tried, _)| *tried == n).map(|(_, attempt)| *attempt);
        assert_eq!(attempts.collect::<Vec<_>>(), [1, 2, 3], "{n}");
    }
}
