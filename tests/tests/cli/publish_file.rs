//! `skald publish`: files of events.

use std::fs;

use serde_json::json;
use skald_tests::House;

use super::{json, run};

#[tokio::test]
async fn a_file_published_twice_adds_nothing_the_second_time() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    let mut text = String::from("{\"type\":\"a\",\"id\":\"own\",\"data\":1}\n\n");
    for n in 0..2_500 {
        text.push_str(&format!("{{\"type\":\"file.line\",\"data\":{{\"n\":{n}}}}}\n"));
    }
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let first = json(&house, &["publish", file]).await;
    assert_eq!(first, json!({"published": 2_501, "duplicates": 0, "failed": 0}));
    let again = json(&house, &["publish", file]).await;
    assert_eq!(again, json!({"published": 0, "duplicates": 2_501, "failed": 0}));
    house.get("/v1/events/2501").await.check(200);
    house.get("/v1/events/2502").await.check(404);
}

#[tokio::test]
async fn with_one_batch_in_flight_the_order_of_the_file_is_kept() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    let line = |n| format!("{{\"type\":\"t\",\"data\":{n}}}\n");
    fs::write(&file, (0..2_100).map(line).collect::<String>()).unwrap();
    let file = file.to_str().unwrap();
    let _ = run(&house, &["publish", file, "--in-flight", "1"]).await.ok();
    for seq in [1, 1_000, 1_001, 2_100] {
        let event = house.get(&format!("/v1/events/{seq}")).await.json_of(200);
        assert_eq!(event["event"]["data"], seq - 1);
    }
}

#[tokio::test]
async fn a_bad_line_is_named_by_its_number() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    fs::write(&file, "{\"type\":\"a\"}\n{\"type\":\"a..b\"}\n").unwrap();
    let done = run(&house, &["publish", file.to_str().unwrap()]).await;
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains(":2") && done.stderr.contains("type"), "{done:?}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told() {
    let house = House::start().await;
    let refusal = run(&house, &["publish", "nowhere.jsonl"]).await.refusal();
    assert!(refusal.contains("nowhere.jsonl"), "{refusal}");
}
