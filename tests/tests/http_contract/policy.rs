//! What a consumer's policy and filter hold back.

use std::time::Instant;

use serde_json::{Value, json};
use skald_tests::{House, Receiver, one};

use super::{figures, publish_many};

async fn house_with(policy: Value) -> House {
    let house = House::start().await;
    house.pull_consumer("c", "t", policy).await;
    house
}

#[tokio::test]
async fn at_most_so_many_are_under_lease_at_once() {
    let house = house_with(json!({"max_concurrent": 2})).await;
    publish_many(&house, "t", 5).await;
    figures(&house, "c", &[("waiting", 5)]).await;
    let first = house.lease("c").await;
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(house.lease_with("c", json!({"max": 9, "wait": "200ms"})).await.is_empty());
    house.ack("c", &first[..1]).await;
    let second = one(house.lease("c").await);
    house.ack("c", &[first[1].clone(), second]).await;
    let third = house.lease("c").await;
    assert_eq!(third.len(), 2, "{third:?}");
    house.ack("c", &third).await;
}

#[tokio::test]
async fn no_more_than_so_many_are_started_in_a_time() {
    let house = house_with(json!({"rate": "10/s", "burst": 2})).await;
    publish_many(&house, "t", 8).await;
    figures(&house, "c", &[("waiting", 8)]).await;
    let (started, mut count) = (Instant::now(), 0);
    while count < 8 {
        let leases = house.lease("c").await;
        count += leases.len();
        house.ack("c", &leases).await;
    }
    // The first two at once, then one each 100 ms.
    assert!(started.elapsed().as_millis() >= 500, "{:?}", started.elapsed());
}

#[tokio::test]
async fn pushes_are_limited_too() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let body = json!({"types": ["t"], "kind": "push", "url": receiver.url(),
        "policy": {"rate": "10/s"}});
    house.put("/v1/consumers/p", body).await.check(201);
    let started = Instant::now();
    publish_many(&house, "t", 8).await;
    receiver.wait_for(8).await;
    assert!(started.elapsed().as_millis() >= 600, "{:?}", started.elapsed());
    figures(&house, "p", &[("waiting", 0), ("in_flight", 0)]).await;
}

#[tokio::test]
async fn the_lease_is_the_timeout_of_the_policy_unless_told_otherwise() {
    let house = house_with(json!({"timeout": "300ms"})).await;
    house.publish(json!({"type": "t"})).await;
    let first = one(house.lease_with("c", json!({"wait": "10s"})).await);
    let second = one(house.lease_with("c", json!({"wait": "10s", "lease": "60s"})).await);
    assert_eq!((second.seq, second.attempt), (first.seq, 2));
    house.ack("c", &[second]).await;
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused() {
    let house = House::start().await;
    for (policy, pointer) in [
        (json!({"backoff_min": "10s", "backoff_max": "1s"}), "/policy/backoff_min"),
        (json!({"timeout": "0s"}), "/policy/timeout"),
        (json!({"timeout": "8d"}), "/policy/timeout"),
        (json!({"attempts_max": 101}), "/policy/attempts_max"),
        (json!({"max_concurrent": 0}), "/policy/max_concurrent"),
        (json!({"burst": -1}), "/policy/burst"),
        (json!({"ordered": "yes"}), "/policy/ordered"),
        (json!([]), "/policy"),
    ] {
        let body = json!({"types": ["t"], "kind": "pull", "policy": policy});
        assert_eq!(house.put("/v1/consumers/c", body).await.faults(), [pointer], "{policy}");
    }
}

#[tokio::test]
async fn a_filter_chooses_by_attributes_and_data() {
    let house = House::start().await;
    let large = json!({"data": {"path": "$.total", "op": "gt", "value": 100}});
    let filter = json!({"all": [large, {"not": {"exact": {"subject": "test"}}}]});
    let body = json!({"types": ["t"], "kind": "pull", "from": "first", "filter": filter});
    house.put("/v1/consumers/c", body).await.check(201);
    assert_eq!(house.get("/v1/consumers/c").await.json_of(200)["filter"], filter);
    for (id, subject, total) in [("a", "x", 100), ("b", "x", 101), ("c", "test", 500)] {
        let event = json!({"type": "t", "id": id, "subject": subject, "data": {"total": total}});
        house.publish(event).await;
    }
    let lease = one(house.lease("c").await);
    assert_eq!(lease.event["id"], "b");
    house.ack("c", &[lease]).await;
    figures(&house, "c", &[("waiting", 0), ("in_flight", 0)]).await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_by_pointer() {
    let house = House::start().await;
    let filter = json!({"data": {"path": "$.total", "op": "resembles", "value": 1}});
    let body = json!({"types": ["t"], "kind": "pull", "filter": filter});
    let faults = house.put("/v1/consumers/c", body).await.faults();
    assert_eq!(faults, ["/filter/data/op"]);
}
