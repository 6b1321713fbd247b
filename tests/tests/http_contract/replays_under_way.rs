//! Replays under way: paused, resumed, cancelled, restarted.

use serde_json::{Value, json};
use skald_tests::{House, eventually};

use super::{figures, publish_many};

/// A house with 60 events that `c` has done, and a forced replay of all of them, slow enough to be
/// caught under way.
async fn house_with_a_slow_replay() -> (House, String) {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    publish_many(&house, "t", 60).await;
    assert_eq!(drain(&house, 60).await.len(), 60);
    let body = json!({"consumer": "c", "from_seq": 1, "mode": "force", "rate": "30/s"});
    let replay = house.post("/v1/replays", body).await.json_of(202);
    let path = format!("/v1/replays/{}", replay["id"].as_str().unwrap());
    assert!(!lease_and_ack(&house).await.is_empty());
    (house, path)
}

async fn lease_and_ack(house: &House) -> Vec<i64> {
    let leases = house.lease("c").await;
    assert!(house.ack("c", &leases).await.iter().all(|result| result == "ok"));
    leases.iter().map(|lease| lease.seq).collect()
}

async fn drain(house: &House, count: usize) -> Vec<i64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        let more = lease_and_ack(house).await;
        assert!(!more.is_empty(), "{} of {count}", seqs.len());
        seqs.extend(more);
    }
    seqs
}

/// Acks until nothing more comes.
async fn take_what_is_left(house: &House) {
    loop {
        let leases = house.lease_with("c", json!({"max": 100, "wait": "500ms"})).await;
        if leases.is_empty() {
            return;
        }
        house.ack("c", &leases).await;
    }
}

async fn change(house: &House, path: &str, verb: &str) -> Value {
    house.post(&format!("{path}/{verb}"), json!({})).await.json_of(200)
}

async fn replay(house: &House, path: &str) -> Value {
    house.get(path).await.json_of(200)
}

/// Acks until the replay has come to its end.
async fn finish(house: &House, path: &str) -> Value {
    eventually("the replay ends", async || {
        let leases = house.lease_with("c", json!({"max": 100, "wait": "100ms"})).await;
        house.ack("c", &leases).await;
        let replay = replay(house, path).await;
        (replay["status"] == "completed").then_some(replay)
    })
    .await
}

#[tokio::test]
async fn a_paused_replay_stands_still_and_goes_on_when_resumed() {
    let (house, path) = house_with_a_slow_replay().await;
    assert_eq!(change(&house, &path, "pause").await["status"], "paused");
    // What was handed over before is finished, then nothing more comes.
    take_what_is_left(&house).await;
    let standing = replay(&house, &path).await;
    assert_eq!(standing["status"], "paused");
    assert!(standing["done"].as_i64().unwrap() < 60, "{standing}");
    assert_eq!(change(&house, &path, "resume").await["status"], "running");
    let done = finish(&house, &path).await;
    assert_eq!((&done["done"], &done["total"]), (&json!(60), &json!(60)), "{done}");
}

#[tokio::test]
async fn a_cancelled_replay_hands_nothing_more_over() {
    let (house, path) = house_with_a_slow_replay().await;
    assert_eq!(change(&house, &path, "cancel").await["status"], "cancelled");
    take_what_is_left(&house).await;
    let ended = replay(&house, &path).await;
    assert_eq!(ended["status"], "cancelled");
    assert!(ended["done"].as_i64().unwrap() < 60, "{ended}");
    house.post(&format!("{path}/resume"), json!({})).await.problem(409);
    figures(&house, "c", &[("waiting", 0), ("in_flight", 0)]).await;
}

#[tokio::test]
async fn a_replay_survives_kill_9_and_hands_each_event_over_once() {
    let (mut house, path) = house_with_a_slow_replay().await;
    let before = replay(&house, &path).await["done"].as_i64().unwrap();
    assert!(before > 0);
    house.kill_9();
    house.restart().await;
    let mut seqs = Vec::new();
    let done = eventually("the replay ends", async || {
        let leases = house.lease_with("c", json!({"max": 100, "wait": "100ms"})).await;
        house.ack("c", &leases).await;
        seqs.extend(leases.iter().map(|lease| lease.seq));
        let replay = replay(&house, &path).await;
        (replay["status"] == "completed").then_some(replay)
    })
    .await;
    assert_eq!((&done["done"], &done["total"]), (&json!(60), &json!(60)), "{done}");
    assert_eq!(seqs.len(), usize::try_from(60 - before).unwrap());
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), usize::try_from(60 - before).unwrap(), "each once");
}

#[tokio::test]
async fn replays_are_listed_newest_first() {
    let (house, path) = house_with_a_slow_replay().await;
    change(&house, &path, "cancel").await;
    let body = json!({"consumer": "c", "from_seq": 1, "to_seq": 1, "mode": "skip_done"});
    let second = house.post("/v1/replays", body).await.json_of(202);
    let items = house.get("/v1/replays").await.json_of(200)["items"].clone();
    assert_eq!(items[0]["id"], second["id"]);
    assert!(path.ends_with(items[1]["id"].as_str().unwrap()));
    let second = format!("/v1/replays/{}", second["id"].as_str().unwrap());
    finish(&house, &second).await;
    house.post(&format!("{second}/pause"), json!({})).await.problem(409);
    take_what_is_left(&house).await;
}

#[tokio::test]
async fn ending_its_consumer_ends_the_replay() {
    let (house, path) = house_with_a_slow_replay().await;
    assert!(house.delete("/v1/consumers/c").await.status.is_success());
    eventually("the replay has ended", async || {
        let replay = replay(&house, &path).await;
        ["cancelled", "failed"].contains(&replay["status"].as_str().unwrap()).then_some(())
    })
    .await;
}
