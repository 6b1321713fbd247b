//! Reading events: one, and pages of them by type, source, subject and time.

use serde_json::{Value, json};
use skald_tests::House;

use super::{assert_time, figures, publish_many, seq};

async fn ids(house: &House, query: &str) -> Vec<String> {
    let page = house.get(&format!("/v1/events?{query}")).await.json_of(200);
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["event"]["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_item_has_its_seq_its_event_and_when_it_was_recorded() {
    let house = House::start().await;
    house.publish(json!({"type": "a", "id": "1"})).await;
    let page = house.get("/v1/events").await.json_of(200);
    let item = &page["items"][0];
    assert_eq!(item.as_object().unwrap().len(), 3, "{item}");
    assert_eq!((seq(item), &item["event"]["id"]), (1, &json!("1")));
    assert_time(&item["recorded_at"]);
}

#[tokio::test]
async fn what_was_accepted_is_read_at_once() {
    let house = House::start().await;
    for n in 0..300 {
        let receipt = house.publish(json!({"type": "a", "id": n.to_string()})).await;
        let page = house.get("/v1/events?limit=1").await.json_of(200);
        assert_eq!(page["items"][0]["seq"], receipt["seq"]);
        house.get(&format!("/v1/events/{}", seq(&receipt))).await.check(200);
    }
}

#[tokio::test]
async fn events_are_selected_by_type_pattern_source_and_subject() {
    let house = House::start().await;
    for (id, kind, source, subject) in [
        ("1", "shop.order.placed", "/a", "x"),
        ("2", "shop.order.paid", "/b", "x"),
        ("3", "shop.stock.low.soon", "/a", "y"),
        ("4", "mail.sent", "/a", "x"),
    ] {
        let event = json!({"type": kind, "id": id, "source": source, "subject": subject});
        house.publish(event).await;
    }
    assert_eq!(ids(&house, "type=shop.order.paid").await, ["2"]);
    assert_eq!(ids(&house, "type=shop.order.%2A").await, ["2", "1"]);
    assert_eq!(ids(&house, "type=shop.%3E").await, ["3", "2", "1"]);
    assert_eq!(ids(&house, "source=%2Fa").await, ["4", "3", "1"]);
    assert_eq!(ids(&house, "subject=x").await, ["4", "2", "1"]);
    assert_eq!(ids(&house, "type=shop.%3E&source=%2Fa&subject=x").await, ["1"]);
    assert_eq!(ids(&house, "type=nothing.like.it").await, Vec::<String>::new());
}

#[tokio::test]
async fn events_are_selected_by_the_time_they_were_recorded() {
    let house = House::start().await;
    for n in 0..3 {
        house.publish(json!({"type": "t", "id": n.to_string()})).await;
    }
    let middle = house.get("/v1/events/2").await.json_of(200)["recorded_at"].clone();
    let middle = middle.as_str().unwrap();
    assert_eq!(ids(&house, &format!("since={middle}")).await, ["2", "1"]);
    assert_eq!(ids(&house, "since=2000-01-01T00:00:00Z").await, ["2", "1", "0"]);
    assert_eq!(ids(&house, "until=2000-01-01T00:00:00Z").await, Vec::<String>::new());
    let before = ids(&house, &format!("until={middle}")).await;
    assert!(before.contains(&"0".to_owned()) && !before.contains(&"2".to_owned()), "{before:?}");
}

#[tokio::test]
async fn after_a_seq_events_come_oldest_first() {
    let house = House::start().await;
    publish_many(&house, "t", 5).await;
    assert_eq!(ids(&house, "after=2").await, ["2", "3", "4"]);
    assert_eq!(ids(&house, "after=0&limit=2").await, ["0", "1"]);
    assert_eq!(ids(&house, "after=5").await, Vec::<String>::new());
}

#[tokio::test]
async fn pages_after_a_seq_go_on_where_the_last_one_ended() {
    let house = House::start().await;
    publish_many(&house, "t", 7).await;
    let (mut path, mut seen) = ("/v1/events?after=0&limit=3".to_owned(), Vec::new());
    loop {
        let page = house.get(&path).await.json_of(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(seq));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/events?after=0&limit=3&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn one_event_tells_what_became_of_it_at_each_consumer() {
    let mut house = House::start().await;
    house.claim("jobs");
    house.pull_consumer("jobs", "job.%3E".replace("%3E", ">").as_str(), json!({})).await;
    house.publish(json!({"type": "job.added"})).await;
    let event = house.get("/v1/events/1").await.json_of(200);
    assert_time(&event["recorded_at"]);
    assert_eq!((seq(&event), &event["event"]["type"]), (1, &json!("job.added")));
    figures(&house, "count-events", &[("waiting", 0)]).await;

    let state = async || {
        let event = house.get("/v1/events/1").await.json_of(200);
        of_consumer(&event, "jobs")
    };
    assert_eq!(state().await["state"], "waiting");
    let lease = skald_tests::one(house.lease("jobs").await);
    let error = json!({"error": "no paper", "delay": "1h"});
    assert_eq!(house.nak("jobs", &lease, error).await, "ok");
    let retrying = state().await;
    assert_eq!(retrying["state"], "retrying", "{retrying}");
    assert_eq!(retrying["attempts"], 1, "{retrying}");
    assert!(retrying.to_string().contains("no paper"), "{retrying}");

    house.pull_consumer("others", "job.*", json!({"attempts_max": 1})).await;
    house.claim("others");
    let lease = skald_tests::one(house.lease("others").await);
    assert_eq!(house.nak("others", &lease, json!({"error": "never"})).await, "ok");
    let event = house.get("/v1/events/1").await.json_of(200);
    assert_eq!(of_consumer(&event, "others")["state"], "dead", "{event}");
    assert_eq!(of_consumer(&event, "count-events")["state"], "done", "{event}");
}

/// What an event says of one consumer.
fn of_consumer(event: &Value, name: &str) -> Value {
    let states = event["consumers"].as_array().unwrap_or_else(|| panic!("no consumers: {event}"));
    let found = states.iter().find(|state| state["name"] == name || state["consumer"] == name);
    found.unwrap_or_else(|| panic!("nothing of {name}: {event}")).clone()
}

#[tokio::test]
async fn an_event_that_is_not_there_is_404() {
    let house = House::start().await;
    house.get("/v1/events/1").await.problem(404);
    house.get("/v1/events/9223372036854775807").await.problem(404);
    for seq in ["x", "-1", "1.5", "99999999999999999999"] {
        let answer = house.get(&format!("/v1/events/{seq}")).await;
        assert!([400, 404, 422].contains(&answer.status.as_u16()), "{seq}: {answer:?}");
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_is_told() {
    let house = House::start().await;
    for query in
        ["since=yesterday", "type=a..b", "limit=many", "after=x", "cursor=%00", "colour=red"]
    {
        let answer = house.get(&format!("/v1/events?{query}")).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{query}: {answer:?}");
        answer.problem(answer.status.as_u16());
    }
}
