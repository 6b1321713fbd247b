//! Consumers: registering, listing, pausing and ending them.

use serde_json::{Value, json};
use skald_tests::{House, one};

use super::{figures, publish_many};

#[tokio::test]
async fn a_list_shows_built_in_and_registered_consumers_with_their_figures() {
    let mut house = House::start().await;
    house.claim("mine");
    house.pull_consumer("mine", "a.*", json!({})).await;
    house.pull_consumer("idle", "nothing.*", json!({})).await;
    publish_many(&house, "a.b", 3).await;
    let counted = figures(&house, "count-events", &[("waiting", 0)]).await;
    assert_eq!((&counted["kind"], &counted["state"]), (&json!("builtin"), &json!("running")));
    assert_eq!(counted["side_effects"], "none");

    let leases = house.lease_with("mine", json!({"max": 1, "lease": "60s", "wait": "10s"})).await;
    assert_eq!(leases.len(), 1);
    let mine = figures(&house, "mine", &[("waiting", 2), ("in_flight", 1)]).await;
    assert_eq!((&mine["kind"], &mine["types"]), (&json!("pull"), &json!(["a.*"])));
    assert_eq!((&mine["retrying"], &mine["dead"]), (&json!(0), &json!(0)));
    assert!(mine["oldest_waiting_seconds"].is_number(), "{mine}");
    let idle = house.consumer("idle").await;
    assert_eq!(idle["waiting"], 0, "{idle}");
    assert!(idle["oldest_waiting_seconds"].is_null() || idle["oldest_waiting_seconds"] == 0.0);

    assert_eq!(house.nak("mine", &leases[0], json!({"delay": "1h"})).await, "ok");
    figures(&house, "mine", &[("waiting", 2), ("in_flight", 0), ("retrying", 1)]).await;
}

#[tokio::test]
async fn a_creating_put_answers_201_and_another_200() {
    let house = House::start().await;
    let body = json!({"types": ["a.*", "b.>"], "kind": "pull", "policy": {"attempts_max": 3}});
    let created = house.put("/v1/consumers/c", body.clone()).await.json_of(201);
    assert_eq!(created["types"], json!(["a.*", "b.>"]));
    assert_eq!(house.put("/v1/consumers/c", body).await.json_of(200)["name"], "c");
    let changed = json!({"types": ["a.*"], "kind": "pull"});
    assert_eq!(house.put("/v1/consumers/c", changed).await.json_of(200)["types"], json!(["a.*"]));
    assert_eq!(house.get("/v1/consumers/c").await.json_of(200)["types"], json!(["a.*"]));
}

#[tokio::test]
async fn a_consumer_starts_where_it_was_told_to() {
    let house = House::start().await;
    publish_many(&house, "t", 3).await;
    let middle = house.get("/v1/events/2").await.json_of(200)["recorded_at"].clone();
    let plain = json!({"types": ["t"], "kind": "pull"});
    house.put("/v1/consumers/unsaid", plain.clone()).await.check(201);
    for (name, from) in [("first", json!("first")), ("now", json!("now")), ("seq", json!(2))] {
        let mut body = plain.clone();
        body["from"] = from;
        house.put(&format!("/v1/consumers/{name}"), body).await.check(201);
    }
    let body = json!({"types": ["t"], "kind": "pull", "from": middle});
    house.put("/v1/consumers/time", body).await.check(201);
    house.publish(json!({"type": "t"})).await;
    for (name, expected) in
        [("first", vec![1, 2, 3, 4]), ("now", vec![4]), ("seq", vec![2, 3, 4]), ("unsaid", vec![4])]
    {
        assert_eq!(all_seqs(&house, name, expected.len()).await, expected, "{name}");
    }
    let by_time = all_seqs(&house, "time", 3).await;
    assert!(by_time.ends_with(&[2, 3, 4]), "{by_time:?}");
}

/// Leases and acks until `count` events have come.
async fn all_seqs(house: &House, consumer: &str, count: usize) -> Vec<i64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        let leases = house.lease(consumer).await;
        assert!(!leases.is_empty(), "{consumer} gives no more than {seqs:?}");
        house.ack(consumer, &leases).await;
        seqs.extend(leases.iter().map(|lease| lease.seq));
    }
    seqs.sort_unstable();
    seqs
}

#[tokio::test]
async fn what_is_published_after_the_answer_is_seen() {
    let house = House::start().await;
    for n in 0..10 {
        let name = format!("c{n}");
        let body = json!({"types": ["t"], "kind": "pull", "from": "now"});
        house.put(&format!("/v1/consumers/{name}"), body).await.check(201);
        let receipt = house.publish(json!({"type": "t"})).await;
        let lease = one(house.lease(&name).await);
        assert_eq!(receipt["seq"], lease.seq);
        assert_eq!(house.ack(&name, &[lease]).await, ["ok"]);
    }
}

#[tokio::test]
async fn a_wildcard_for_all_does_not_match_events_of_skald_itself() {
    let house = House::start().await;
    house.pull_consumer("all", ">", json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let lease = one(house.lease("all").await);
    assert_eq!(lease.event["type"], "t");
    house.ack("all", &[lease]).await;
}

#[tokio::test]
async fn faults_of_a_registration_are_told_by_pointer_all_at_once() {
    let house = House::start().await;
    let body = json!({
        "types": ["a..b"], "kind": "pull", "from": "yesterday", "colour": "red",
        "policy": {"attempts_max": 0, "backoff_min": "soon", "rate": "fast", "mood": "bad"}
    });
    let mut faults = house.put("/v1/consumers/c", body).await.faults();
    faults.sort();
    let policy = ["attempts_max", "backoff_min", "mood", "rate"].map(|f| format!("/policy/{f}"));
    let mut expected = vec!["/colour".to_owned(), "/from".to_owned()];
    expected.extend(policy);
    expected.push("/types/0".to_owned());
    assert_eq!(faults, expected);
    house.get("/v1/consumers/c").await.problem(404);
}

#[tokio::test]
async fn a_consumer_begins_where_the_log_is_or_right_after_it() {
    let house = House::start().await;
    publish_many(&house, "e", 3).await;
    let body = |from: i64| json!({"types": ["t"], "kind": "pull", "from": from});
    assert_eq!(house.put("/v1/consumers/c", body(5)).await.faults(), ["/from"]);
    house.put("/v1/consumers/c", body(4)).await.check(201);
}

#[tokio::test]
async fn a_registration_needs_types_and_a_kind_and_a_push_a_url() {
    let house = House::start().await;
    let put = async |body: Value| house.put("/v1/consumers/c", body).await.faults();
    assert_eq!(put(json!({"kind": "pull"})).await, ["/types"]);
    assert_eq!(put(json!({"types": ["a"]})).await, ["/kind"]);
    assert_eq!(put(json!({"types": ["a"], "kind": "builtin"})).await, ["/kind"]);
    assert_eq!(put(json!({"types": ["a"], "kind": "push"})).await, ["/url"]);
    let ftp = json!({"types": ["a"], "kind": "push", "url": "ftp://example.com/"});
    assert_eq!(put(ftp).await, ["/url"]);
}

#[tokio::test]
async fn names_of_consumers_are_plain() {
    let house = House::start().await;
    let body = json!({"types": ["a"], "kind": "pull"});
    house.put("/v1/consumers/Az09._:-", body.clone()).await.check(201);
    let long = "x".repeat(129);
    for name in ["a%20b", "a%2Fb", "%C3%A9", long.as_str()] {
        let answer = house.put(&format!("/v1/consumers/{name}"), body.clone()).await;
        assert!([404, 422].contains(&answer.status.as_u16()), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn built_in_consumers_cannot_be_replaced_or_ended() {
    let house = House::start().await;
    let body = json!({"types": ["a"], "kind": "pull"});
    house.put("/v1/consumers/count-events", body).await.problem(409);
    house.delete("/v1/consumers/count-events").await.problem(409);
}

#[tokio::test]
async fn an_ended_consumer_is_gone_and_may_be_made_anew() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    publish_many(&house, "t", 2).await;
    figures(&house, "c", &[("waiting", 2)]).await;
    let status = house.delete("/v1/consumers/c").await.status;
    assert!(status.is_success(), "{status}");
    house.get("/v1/consumers/c").await.problem(404);
    house.delete("/v1/consumers/c").await.problem(404);
    house.post("/v1/consumers/c/lease", json!({"max": 1})).await.problem(404);
    house.put("/v1/consumers/c", json!({"types": ["t"], "kind": "pull"})).await.check(201);
    let leases = house.lease_with("c", json!({"max": 10, "wait": "0ms"})).await;
    assert!(leases.is_empty(), "nothing of the old one is left: {leases:?}");
}

#[tokio::test]
async fn a_paused_consumer_gets_nothing_until_it_is_resumed() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    assert_eq!(
        house.post("/v1/consumers/c/pause", json!({})).await.json_of(200)["state"],
        "paused"
    );
    house.publish(json!({"type": "t"})).await;
    assert!(house.lease_with("c", json!({"max": 1, "wait": "200ms"})).await.is_empty());
    assert_eq!(house.consumer("c").await["state"], "paused");
    let resumed = house.post("/v1/consumers/c/resume", json!({})).await.json_of(200);
    assert_eq!(resumed["state"], "running");
    let lease = one(house.lease("c").await);
    assert_eq!(house.ack("c", &[lease]).await, ["ok"]);
    house.post("/v1/consumers/nobody/pause", json!({})).await.problem(404);
}

#[tokio::test]
async fn a_paused_built_in_consumer_catches_up_when_it_is_resumed() {
    let house = House::start().await;
    house.post("/v1/consumers/count-events/pause", json!({})).await.check(200);
    publish_many(&house, "t", 5).await;
    let paused = figures(&house, "count-events", &[("waiting", 5)]).await;
    assert!(paused["oldest_waiting_seconds"].is_number(), "{paused}");
    house.post("/v1/consumers/count-events/resume", json!({})).await.check(200);
    figures(&house, "count-events", &[("waiting", 0)]).await;
}

#[tokio::test]
async fn the_names_of_what_is_part_of_the_program_are_taken() {
    let house = House::start().await;
    for name in ["ingest", "count-events", "index-lineage"] {
        let body = json!({"types": ["t"], "kind": "pull"});
        house.put(&format!("/v1/consumers/{name}"), body).await.problem(409);
    }
}
