//! Replays: what they would do, and what they hand over.

use serde_json::{Value, json};
use skald_tests::{House, Lease, eventually, one};

use super::{figures, publish_many};

/// A house with ten events of the type `t`, all of them done by the pull consumer `c`.
async fn house_with_ten_done() -> House {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    publish_many(&house, "t", 10).await;
    assert_eq!(drain(&house, 10).await.len(), 10);
    house
}

/// Leases and acks until `count` events have come.
async fn drain(house: &House, count: usize) -> Vec<Lease> {
    let mut all: Vec<Lease> = Vec::new();
    while all.len() < count {
        let leases = house.lease("c").await;
        assert!(!leases.is_empty(), "{} of {count}", all.len());
        assert!(house.ack("c", &leases).await.iter().all(|result| result == "ok"));
        all.extend(leases);
    }
    all.sort_by_key(|lease| lease.seq);
    all
}

fn seqs(leases: &[Lease]) -> Vec<i64> {
    leases.iter().map(|lease| lease.seq).collect()
}

async fn start(house: &House, body: Value) -> Value {
    house.post("/v1/replays", body).await.json_of(202)
}

async fn completed(house: &House, replay: &Value) -> Value {
    let path = format!("/v1/replays/{}", replay["id"].as_str().unwrap());
    eventually("the replay is completed", async || {
        let replay = house.get(&path).await.json_of(200);
        (replay["status"] == "completed").then_some(replay)
    })
    .await
}

#[tokio::test]
async fn a_dry_run_tells_what_would_happen_and_nothing_happens() {
    let house = house_with_ten_done().await;
    publish_many(&house, "other", 5).await;
    let dry = async |mode: &str| {
        let body = json!({"consumer": "c", "from_seq": 1, "mode": mode, "dry_run": true});
        house.post("/v1/replays", body).await.json_of(200)
    };
    let told = dry("force").await;
    assert_eq!(told["total"], 10, "{told}");
    assert_eq!((&told["done_already"], &told["would_send"]), (&json!(10), &json!(10)));
    let told = dry("skip_done").await;
    assert_eq!((&told["total"], &told["would_send"]), (&json!(10), &json!(0)), "{told}");
    assert!(house.lease_with("c", json!({"max": 10, "wait": "200ms"})).await.is_empty());
    assert_eq!(house.get("/v1/replays").await.json_of(200)["items"], json!([]));
}

#[tokio::test]
async fn a_forced_replay_hands_all_over_again_marked_as_replayed() {
    let house = house_with_ten_done().await;
    let body = json!({"consumer": "c", "from_seq": 3, "to_seq": 5, "mode": "force"});
    let replay = start(&house, body).await;
    assert!(replay["id"].as_str().unwrap().starts_with("rpl_"), "{replay}");
    assert_eq!((&replay["status"], &replay["total"]), (&json!("running"), &json!(3)));
    let leases = drain(&house, 3).await;
    assert_eq!(seqs(&leases), [3, 4, 5]);
    for lease in &leases {
        assert_eq!(lease.event["replayed"], true, "{lease:?}");
        assert_eq!(lease.event["id"], (lease.seq - 1).to_string(), "it keeps its id");
    }
    let done = completed(&house, &replay).await;
    assert_eq!((&done["done"], &done["total"]), (&json!(3), &json!(3)), "{done}");
    assert!(house.get("/v1/events/3").await.json_of(200)["event"].get("replayed").is_none());
}

#[tokio::test]
async fn events_already_done_are_skipped_by_default() {
    let mut house = house_with_ten_done().await;
    house.publish(json!({"type": "t", "id": "bad"})).await;
    let lease = one(house.lease("c").await);
    house.nak("c", &lease, json!({"permanent": true, "error": "bad"})).await;
    let replay = start(&house, json!({"consumer": "c", "from_seq": 1})).await;
    assert_eq!(seqs(&drain(&house, 1).await), [11], "only the dead letter is not done");
    let done = completed(&house, &replay).await;
    assert_eq!((&done["total"], &done["skipped"]), (&json!(11), &json!(10)), "{done}");
    figures(&house, "c", &[("dead", 0)]).await;
    house.claim("c");
}

#[tokio::test]
async fn events_from_before_a_consumer_was_made_are_not_done() {
    let house = House::start().await;
    publish_many(&house, "t", 4).await;
    house.put("/v1/consumers/c", json!({"types": ["t"], "kind": "pull"})).await.check(201);
    let body = json!({"consumer": "c", "from_seq": 2, "mode": "skip_done"});
    let replay = start(&house, body.clone()).await;
    assert_eq!(seqs(&drain(&house, 3).await), [2, 3, 4]);
    completed(&house, &replay).await;
    let again = completed(&house, &start(&house, body).await).await;
    assert_eq!(again["skipped"], 3, "{again}");
}

#[tokio::test]
async fn a_replay_may_be_narrowed_by_type_and_time() {
    let house = House::start().await;
    let body = json!({"types": ["a.*"], "kind": "pull", "from": "first"});
    house.put("/v1/consumers/c", body).await.check(201);
    for kind in ["a.x", "a.y", "b.x", "a.x"] {
        house.publish(json!({"type": kind})).await;
    }
    drain(&house, 3).await;
    let since = house.get("/v1/events/2").await.json_of(200)["recorded_at"].clone();
    let body = json!({"consumer": "c", "type": "a.x", "since": since, "mode": "force"});
    let replay = start(&house, body).await;
    assert_eq!(replay["total"], 1, "{replay}");
    assert_eq!(seqs(&drain(&house, 1).await), [4]);
    completed(&house, &replay).await;
    let until = json!({"consumer": "c", "from_seq": 1, "until": since, "mode": "force"});
    let replay = start(&house, until).await;
    let handed = drain(&house, usize::try_from(replay["total"].as_i64().unwrap()).unwrap()).await;
    assert!(handed.iter().all(|lease| lease.seq <= 2), "{handed:?}");
    completed(&house, &replay).await;
}

#[tokio::test]
async fn a_replay_goes_to_the_named_consumer_only() {
    let house = house_with_ten_done().await;
    house.put("/v1/consumers/d", json!({"types": ["t"], "kind": "pull"})).await.check(201);
    let body = json!({"consumer": "c", "from_seq": 1, "mode": "force"});
    let replay = start(&house, body).await;
    drain(&house, 10).await;
    completed(&house, &replay).await;
    assert!(house.lease_with("d", json!({"max": 10, "wait": "0ms"})).await.is_empty());
}

#[tokio::test]
async fn what_dies_in_a_replay_has_ended_too() {
    let mut house = house_with_ten_done().await;
    house.claim("c");
    let body = json!({"consumer": "c", "from_seq": 1, "to_seq": 1, "mode": "force"});
    let replay = start(&house, body).await;
    let lease = one(house.lease("c").await);
    house.nak("c", &lease, json!({"permanent": true, "error": "no"})).await;
    completed(&house, &replay).await;
    figures(&house, "c", &[("dead", 1)]).await;
}

#[tokio::test]
async fn a_rate_holds_a_replay_back() {
    let house = house_with_ten_done().await;
    let body = json!({"consumer": "c", "from_seq": 1, "mode": "force", "rate": "10/s"});
    let started = std::time::Instant::now();
    let replay = start(&house, body).await;
    drain(&house, 10).await;
    assert!(started.elapsed().as_millis() >= 700, "{:?}", started.elapsed());
    completed(&house, &replay).await;
}

#[tokio::test]
async fn faults_of_a_replay_are_told() {
    let house = house_with_ten_done().await;
    house.post("/v1/replays", json!({"consumer": "nobody", "from_seq": 1})).await.problem(404);
    let faults = async |body: Value| {
        let mut faults = house.post("/v1/replays", body).await.faults();
        faults.sort();
        faults
    };
    let body = json!({"from_seq": 1, "mode": "again", "rate": "fast", "type": "a..b", "x": 1});
    assert_eq!(faults(body).await, ["/consumer", "/mode", "/rate", "/type", "/x"]);
    assert_eq!(faults(json!({"consumer": "c"})).await, ["/since"], "it needs a start");
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let ends_first = json!({"consumer": "c", "since": late, "until": early});
    assert_eq!(faults(ends_first).await, ["/until"]);
    let both = json!({"consumer": "c", "from_seq": 1, "since": "2026-01-01T00:00:00Z"});
    assert_eq!(faults(both).await.len(), 1);
    house.get("/v1/replays/rpl_0190").await.problem(404);
}

#[tokio::test]
async fn what_counts_events_is_rebuilt_and_not_forced() {
    let house = House::start().await;
    let body = |dry_run: bool| json!({"consumer": "count-events", "from_seq": 1, "mode": "force", "dry_run": dry_run});
    let told = house.post("/v1/replays", body(true)).await.json_of(200);
    assert!(told["refused"].as_str().unwrap().contains("rebuild"), "{told}");
    house.post("/v1/replays", body(false)).await.problem(409);
    let skips = json!({"consumer": "count-events", "from_seq": 1});
    house.post("/v1/replays", skips).await.check(202);
}
