//! The live stream of events.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{EventStream, House, Setup, eventually};

use super::publish_many;

const PATH: &str = "/v1/events/stream";

#[tokio::test]
async fn a_stream_is_live() {
    let house = House::start().await;
    house.publish(json!({"type": "before"})).await;
    let mut stream = EventStream::open(house.call(Method::GET, PATH)).await;
    house.publish(json!({"type": "live.sent", "id": "1", "data": "line\nbreak"})).await;
    let message = stream.next().await;
    assert_eq!(message.id, "2");
    let data: Value = serde_json::from_str(&message.data).unwrap();
    let event = data.get("event").unwrap_or(&data);
    assert_eq!((&event["id"], &event["type"]), (&json!("1"), &json!("live.sent")));
    assert_eq!(event["data"], "line\nbreak");
}

#[tokio::test]
async fn a_stream_that_would_start_ahead_of_the_log_is_refused() {
    let house = House::start().await;
    assert_eq!(house.get(&format!("{PATH}?after=7")).await.faults(), ["/after"]);
    house.call(Method::GET, PATH).header("last-event-id", "7").send().await.problem(422);
}

#[tokio::test]
async fn a_stream_shows_only_the_types_asked_for() {
    let house = House::start().await;
    let path = format!("{PATH}?type=wanted.%2A");
    let mut stream = EventStream::open(house.call(Method::GET, &path)).await;
    for kind in ["other", "wanted.one", "wanted.not.this", "wanted.two"] {
        house.publish(json!({"type": kind})).await;
    }
    assert_eq!(stream.next().await.id, "2");
    assert_eq!(stream.next().await.id, "4");
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_id_without_gap_or_repetition() {
    let house = House::start().await;
    publish_many(&house, "s", 1_000).await;
    publish_many(&house, "r", 200).await;
    let call = house.call(Method::GET, PATH).header("last-event-id", "3");
    let mut stream = EventStream::open(call).await;
    for expected in 4..=1_200 {
        assert_eq!(stream.next().await.id, expected.to_string());
    }
    house.publish(json!({"type": "s"})).await;
    assert_eq!(stream.next().await.id, "1201");
}

#[tokio::test]
async fn a_last_event_id_that_is_no_seq_is_refused() {
    let house = House::start().await;
    let answer = house.call(Method::GET, PATH).header("last-event-id", "abc").send().await;
    assert!([400, 422].contains(&answer.status.as_u16()), "{answer:?}");
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_end_of_the_process() {
    let mut house = Setup::dev().start().await;
    let mut stream = EventStream::open(house.call(Method::GET, PATH)).await;
    house.publish(json!({"type": "s"})).await;
    stream.next().await;
    house.terminate().await;
    assert!(stream.ends_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn streams_are_bounded_and_leave_other_requests_their_places() {
    let setup = Setup::dev().environment("SKALD_HTTP__IN_FLIGHT_MAX", "2");
    let house = setup.start().await;
    let open = async || EventStream::open(house.call(Method::GET, PATH)).await;
    let (first, _second) = (open().await, open().await);
    let refused = house.get(PATH).await;
    assert!(!refused.header("retry-after").is_empty());
    refused.problem(429);
    house.publish(json!({"type": "t"})).await;
    drop(first);
    eventually("its place is there for another", async || {
        let again = house.call(Method::GET, PATH).header("last-event-id", "99");
        // Ahead of the log: refused too, but only who has a place gets as far.
        (again.send().await.status == 422).then_some(())
    })
    .await;
}
