//! Lists: pages, newest first.

use serde_json::json;
use skald_tests::House;

use super::{publish_many, seq};

#[tokio::test]
async fn a_list_is_items_newest_first_and_next() {
    let house = House::start().await;
    publish_many(&house, "l", 3).await;
    let page = house.get("/v1/events").await.json_of(200);
    let seqs: Vec<i64> = page["items"].as_array().unwrap().iter().map(seq).collect();
    assert_eq!(seqs, [3, 2, 1]);
    assert_eq!(page["next"], json!(null));
    assert_eq!(page.as_object().unwrap().len(), 2, "{page}");
}

#[tokio::test]
async fn a_page_has_50_items_unless_told_otherwise() {
    let house = House::start().await;
    publish_many(&house, "l", 600).await;
    let count = async |query: &str| {
        let page = house.get(&format!("/v1/events{query}")).await.json_of(200);
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 50);
    assert_eq!(count("?limit=1").await, 1);
    assert_eq!(count("?limit=500").await, 500);
    for limit in ["0", "501", "-1"] {
        let answer = house.get(&format!("/v1/events?limit={limit}")).await;
        let bounded =
            answer.status == 200 && answer.json()["items"].as_array().unwrap().len() <= 500;
        assert!(bounded || [400, 422].contains(&answer.status.as_u16()), "{limit}: {answer:?}");
    }
}

#[tokio::test]
async fn cursors_lead_through_all_pages_once_although_events_arrive_meanwhile() {
    let house = House::start().await;
    publish_many(&house, "l", 10).await;
    let (mut path, mut seen) = ("/v1/events?limit=4".to_owned(), Vec::new());
    loop {
        let page = house.get(&path).await.json_of(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(seq));
        house.publish(json!({"type": "meanwhile"})).await;
        let Some(cursor) = page["next"].as_str() else { break };
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        assert!(cursor.chars().all(safe), "a cursor is safe in a URL: {cursor}");
        path = format!("/v1/events?limit=4&cursor={cursor}");
    }
    assert_eq!(seen, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn a_cursor_outlives_the_consumer_that_its_page_ended_with() {
    let house = House::start().await;
    for name in ["a", "b", "c"] {
        house.pull_consumer(name, "t", json!({})).await;
    }
    let page = house.get("/v1/consumers?limit=2").await.json_of(200);
    assert_eq!(page["items"][1]["name"], "b");
    house.delete("/v1/consumers/b").await;
    let next = format!("/v1/consumers?limit=1&cursor={}", page["next"].as_str().unwrap());
    assert_eq!(house.get(&next).await.json_of(200)["items"][0]["name"], "a");
    house.get("/v1/consumers?cursor=b").await.problem(422);
}

#[tokio::test]
async fn a_forged_cursor_is_refused() {
    let house = House::start().await;
    publish_many(&house, "l", 3).await;
    for cursor in ["x", "AAAA", "%2e%2e", "9".repeat(400).as_str()] {
        let answer = house.get(&format!("/v1/events?cursor={cursor}")).await;
        assert!([200, 400, 422].contains(&answer.status.as_u16()), "{cursor}: {answer:?}");
    }
    house.get("/v1/events?cursor=%27%3B%20drop%20table%20event").await.problem(422);
}
