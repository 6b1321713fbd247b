//! Counts by type and minute, and their rebuild.

use std::time::Duration;

use bus::replay::{self, Mode, NewReplay, Status};
use bus::{BatchConsumer, Seq, registry, sql};
use consumers::analytics::CountEvents;
use schemas::Timestamp;

use crate::house::House;

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_counted_once_by_its_type() {
    let house = House::start().await;
    house.publish("shop.order.placed", 300).await;
    house.publish("shop.order.paid", 200).await;
    house.counted().await;
    assert_eq!(house.total(None).await, 500);
    assert_eq!(house.total(Some("shop.order.paid")).await, 200);
    assert_eq!(house.total(Some("shop.>")).await, 500);
    assert_eq!(house.total(Some("other")).await, 0);
    house.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_mends_the_counts_and_takes_over_when_it_has_caught_up() {
    let house = House::start().await;
    house.publish("a", 1_000).await;
    house.counted().await;
    let mut tx = house.db.begin().await.unwrap();
    let spoil = "update analytics_event_minute set events = events + 5";
    tx.execute(sql(spoil)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(house.total(None).await > 1_000);
    rebuild(&house).await;
    house.publish("a", 10).await;
    house.counted().await;
    assert_eq!(house.total(None).await, 1_010);
    let consumer = registry::find(&house.db, CountEvents::NAME).await.unwrap().unwrap();
    assert_eq!(consumer.generation, 2);
    house.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_carries_forward_what_the_log_no_longer_has() {
    let house = House::start().await;
    house.publish("a", 70).await;
    house.publish("b", 30).await;
    house.counted().await;
    // As if recorded an hour ago: the minute moves with its events.
    let hour = 3_600_000_000_i64;
    let now = house.clock.now();
    let later = Timestamp::from_micros(now.as_micros() + hour);
    let rule = bus::Retention {
        types: "a".parse().unwrap(),
        max_age: Some(Duration::from_secs(60)),
        max_bytes: None,
    };
    let head = *house.log.head().borrow();
    let pruned = house.log.prune(&[rule], head, later).await.unwrap();
    assert_eq!(pruned.events, 70);
    rebuild(&house).await;
    assert_eq!(house.total(Some("a")).await, 70, "sealed minutes are carried forward");
    assert_eq!(house.total(Some("b")).await, 30);
    house.running.stop().await;
}

async fn rebuild(house: &House) {
    let consumer = registry::find(&house.db, CountEvents::NAME).await.unwrap().unwrap();
    let new =
        NewReplay { types: None, from: Seq::new(1), to: None, mode: Mode::Rebuild, rate: None };
    let log = house.log.as_ref();
    let started = replay::start(&house.db, log, &consumer, &new, "test").await.unwrap();
    let again = replay::start(&house.db, log, &consumer, &new, "test").await;
    assert!(matches!(again, Err(replay::ReplayError::RebuildRunning)));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = replay::find(&house.db, &started.id).await.unwrap().unwrap();
        if found.status == Status::Completed {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not rebuilt within 20 s: {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
