//! Several nodes: a fair share each, taken over from those that go, each event once and in order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::{Dialect, sql};

use crate::house::{House, eventually, in_order};

const KEYS: i64 = 24;

/// Publishes `rounds` numbered events of each key.
async fn publish(house: &House, from: i64, rounds: i64) {
    for n in from..from + rounds {
        let events = (0..KEYS).map(|key| crate::house::event("a", &format!("key-{key}"), n));
        house.log.publish_all(events.collect()).await.unwrap();
    }
}

/// Each key's numbers are there once and in order.
async fn assert_done_once(house: &House, rounds: i64) {
    let mut wrong = BTreeMap::new();
    for key in 0..KEYS {
        let key = format!("key-{key}");
        let done = house.effects(&key).await;
        if done != (0..rounds).collect::<Vec<_>>() {
            wrong.insert(key, done);
        }
    }
    assert!(wrong.is_empty(), "not once, or not in order: {wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_and_go_share_the_partitions_and_do_each_event_once() {
    let house = House::start().await;
    let consumer = || in_order(|_, _| Ok(()));
    let first = house.run_beside(vec![consumer()]).await;
    publish(&house, 0, 20).await;
    let second = house.run_beside(vec![consumer()]).await;
    publish(&house, 20, 20).await;
    eventually(|| async { house.shares("in-order").await == [8, 8] }).await;
    let third = house.run_beside(vec![consumer()]).await;
    publish(&house, 40, 20).await;
    eventually(|| async {
        let shares = house.shares("in-order").await;
        shares.len() == 3 && shares.iter().all(|share| (4..=6).contains(share))
    })
    .await;
    first.stop().await;
    publish(&house, 60, 20).await;
    eventually(|| async { house.shares("in-order").await == [8, 8] }).await;
    third.stop().await;
    eventually(|| async { house.shares("in-order").await == [16] }).await;
    house.settled("in-order").await;
    assert_done_once(&house, 80).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_only_one_of_several_nodes_has_the_code_of_gets_everything() {
    let house = House::start().await;
    let without = house.run_beside(Vec::new()).await;
    let other = house.run_beside(Vec::new()).await;
    publish(&house, 0, 10).await;
    let with = house.run_beside(vec![in_order(|_, _| Ok(()))]).await;
    publish(&house, 10, 10).await;
    house.settled("in-order").await;
    assert_eq!(house.shares("in-order").await, [16]);
    assert_done_once(&house, 20).await;
    // What all have the code of is shared by all.
    eventually(|| async { house.shares("index-lineage").await.len() == 3 }).await;
    for node in [with, without, other] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_taken_over_within_15_s() {
    let house = House::start().await;
    let consumer = || in_order(|_, _| Ok(()));
    let survivor = house.run_beside(vec![consumer()]).await;
    let doomed = house.run_beside(vec![consumer()]).await;
    eventually(|| async { house.shares("in-order").await == [8, 8] }).await;
    publish(&house, 0, 10).await;
    house.settled("in-order").await;
    drop(doomed); // Its tasks end where they stand: nothing is given up.
    let died = Instant::now();
    publish(&house, 10, 10).await;
    house.settled("in-order").await;
    let took = died.elapsed();
    assert!(took < Duration::from_secs(15), "taken over after {took:?}");
    assert_done_once(&house, 20).await;
    survivor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_a_node_that_is_gone_are_ended_with_their_locks() {
    let house = House::start().await;
    if house.db.dialect() == Dialect::Sqlite {
        return; // One process has it all: there is nobody else to end them.
    }
    let paused = house.beside().await;
    let doomed = paused.run_beside(Vec::new()).await;
    let survivor = house.run_beside(Vec::new()).await;
    let mut tx = paused.db.begin().await.unwrap();
    tx.execute(sql("insert into effect (key, n) values ('locked', 1)")).await.unwrap();
    drop(doomed);
    let died = Instant::now();
    // Never idle for as long as the server would take it back for.
    let error = loop {
        assert!(died.elapsed() < Duration::from_secs(15), "it goes on");
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Err(error) = tx.execute(sql("select 1")).await {
            break error;
        }
    };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    assert_eq!(code.as_deref(), Some("57P01"), "{error}");
    survivor.stop().await;
}
