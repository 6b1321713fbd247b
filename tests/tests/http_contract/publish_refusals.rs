//! Publishing: what is refused, and how it is told.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Answer, House, Setup, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::cloud_event;

const MEBIBYTE: usize = 1024 * 1024;

async fn post(house: &House, media_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    house.call(Method::POST, "/v1/events").typed(media_type, body.into()).send().await
}

async fn assert_log_is_empty(house: &House) {
    let listed = house.get("/v1/events").await.json_of(200);
    assert_eq!(listed, json!({"items": [], "next": null}));
}

#[tokio::test]
async fn a_batch_with_bad_events_is_refused_whole_and_each_is_named_by_pointer() {
    let house = House::start().await;
    let mut events: Vec<Value> =
        (0..4).map(|n| cloud_event("/b", &n.to_string(), "b.ok")).collect();
    events[2]["type"] = json!("two words");
    events[3].as_object_mut().unwrap().remove("id");
    let faults = house.try_publish_batch(&events).await.faults();
    assert_eq!(faults, ["/2/type", "/3/id"]);
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn all_faults_of_an_event_are_told_at_once() {
    let house = House::start().await;
    let event = json!({"specversion": "0.3", "id": "", "source": "with space", "type": "a..b",
        "time": "yesterday", "Upper": "x", "nested": {"a": 1}});
    let answer = post(&house, "application/cloudevents+json", event.to_string()).await;
    let mut faults = answer.faults();
    faults.sort();
    let expected = ["/Upper", "/id", "/nested", "/source", "/specversion", "/time", "/type"];
    assert_eq!(faults, expected);
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn a_type_must_be_tokens_between_dots() {
    let house = House::start().await;
    let long = "x".repeat(256);
    for kind in ["", ".a", "a.", "a..b", "a b", "a\tb", "a\u{7}b", "a.*", "a.>", long.as_str()] {
        let faults = house.post("/v1/events", json!({"type": kind})).await.faults();
        assert_eq!(faults, ["/type"], "{kind:?}");
    }
    assert_eq!(house.post("/v1/events", json!({"data": 1})).await.faults(), ["/type"]);
    house.publish(json!({"type": "x".repeat(255)})).await;
}

#[tokio::test]
async fn types_of_skald_itself_are_reserved() {
    let house = House::start().await;
    let kind = "dev.skald.saga.compensated";
    assert_eq!(house.post("/v1/events", json!({"type": kind})).await.faults(), ["/type"]);
    let events = [cloud_event("/b", "1", "fine"), cloud_event("/b", "2", kind)];
    assert_eq!(house.try_publish_batch(&events).await.faults(), ["/1/type"]);
    assert_log_is_empty(&house).await;
    house.publish(json!({"type": "dev.skaldic.song"})).await;
}

#[tokio::test]
async fn malformed_json_is_400() {
    let house = House::start().await;
    for media in
        ["application/json", "application/cloudevents+json", "application/cloudevents-batch+json"]
    {
        for body in ["", "{", "{\"type\":", "[1,", "nonsense", "{\"type\":\"a\"} x"] {
            post(&house, media, body).await.problem(400);
        }
        post(&house, media, b"{\"type\":\"\xff\"}".to_vec()).await.problem(400);
    }
}

#[tokio::test]
async fn json_of_the_wrong_shape_is_422() {
    let house = House::start().await;
    for (media, body) in [
        ("application/json", "[]"),
        ("application/json", "\"a\""),
        ("application/cloudevents+json", "[]"),
        ("application/cloudevents-batch+json", "{}"),
    ] {
        assert_eq!(post(&house, media, body).await.faults(), [""], "{media} {body}");
    }
    let batch = "application/cloudevents-batch+json";
    assert_eq!(post(&house, batch, "[1, null]").await.faults(), ["/0", "/1"]);
}

#[tokio::test]
async fn another_media_type_without_ce_headers_is_415() {
    let house = House::start().await;
    for media in ["text/plain", "application/xml", "application/x-www-form-urlencoded"] {
        post(&house, media, "type=a").await.problem(415);
    }
    house.call(Method::POST, "/v1/events").body("{}").send().await.problem(415);
}

#[tokio::test]
async fn an_event_may_be_a_mebibyte_and_not_more() {
    let house = House::start().await;
    let of = |bytes: usize| json!({"type": "big", "data": "x".repeat(bytes)});
    house.publish(of(MEBIBYTE - 1_000)).await;
    let mut full = cloud_event("/b", "0", "big");
    full["data"] = json!("");
    full["data"] = json!("x".repeat(MEBIBYTE - full.to_string().len()));
    post(&house, "application/cloudevents+json", full.to_string()).await.check(202);
    full["data"] = json!(format!("x{}", full["data"].as_str().unwrap()));
    let told = post(&house, "application/cloudevents+json", full.to_string()).await.problem(413);
    assert!(told["detail"].as_str().unwrap().contains("the event is 1048577 bytes"), "{told}");
    let binary = house.call(Method::POST, "/v1/events").header("ce-specversion", "1.0");
    let binary = binary.header("ce-id", "3").header("ce-source", "/b").header("ce-type", "big");
    binary.typed("image/png", vec![0; MEBIBYTE - 1_000]).send().await.check(202);
    house.post("/v1/events", of(MEBIBYTE + 1)).await.problem(413);
    let mut big = cloud_event("/b", "2", "big");
    big["data"] = json!("x".repeat(MEBIBYTE + 1));
    let structured = post(&house, "application/cloudevents+json", big.to_string()).await;
    structured.problem(413);
    house.try_publish_batch(&[cloud_event("/b", "1", "big"), big]).await.problem(413);
    let listed = house.get("/v1/events").await.json_of(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_body_may_be_16_mebibytes_and_not_more() {
    let house = House::start().await;
    let batch = |count: usize| {
        let event = |n: usize| {
            let mut event = cloud_event("/b", &n.to_string(), "big");
            event["data"] = json!("x".repeat(MEBIBYTE * 9 / 10));
            event
        };
        (0..count).map(event).collect::<Vec<_>>()
    };
    house.try_publish_batch(&batch(18)).await.problem(413);
    assert_log_is_empty(&house).await;
    house.publish_batch(&batch(17)).await;
}

#[tokio::test]
async fn a_batch_of_more_than_a_thousand_events_is_refused() {
    let house = House::start().await;
    let events: Vec<Value> = (0..1_001).map(|n| cloud_event("/b", &n.to_string(), "b")).collect();
    let answer = house.try_publish_batch(&events).await;
    assert!([413, 422].contains(&answer.status.as_u16()), "{answer:?}");
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn a_nesting_bomb_is_refused_and_does_no_harm() {
    let house = House::start().await;
    for levels in [200, 100_000] {
        let bomb = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let short = format!("{{\"type\":\"bomb\",\"data\":{bomb}}}");
        let answer = post(&house, "application/json", short).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{answer:?}");
        let answer = post(&house, "application/cloudevents-batch+json", bomb).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{answer:?}");
    }
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn control_characters_in_attributes_are_refused() {
    let house = House::start().await;
    for attribute in ["id", "source", "subject", "tenant"] {
        for text in ["a\u{0}b", "a\nb", "\u{1b}[31m", "a\u{7f}"] {
            let mut event = json!({"type": "control"});
            event[attribute] = json!(text);
            let faults = house.post("/v1/events", event).await.faults();
            assert_eq!(faults, [format!("/{attribute}")], "{text:?}");
        }
    }
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn what_skald_says_of_a_delivery_no_producer_says() {
    let house = House::start().await;
    let forged = json!({"type": "t", "replayed": true});
    assert_eq!(house.post("/v1/events", forged).await.faults(), ["/replayed"]);
}

#[tokio::test]
async fn names_of_extensions_are_short_and_lower_case() {
    let house = House::start().await;
    let long = "x".repeat(21);
    for name in ["with_underscore", "Camel", "dash-ed", "", long.as_str()] {
        let mut event = json!({"type": "e"});
        event[name] = json!("x");
        assert_eq!(house.post("/v1/events", event).await.faults(), [format!("/{name}")]);
    }
}

#[tokio::test]
async fn an_attribute_given_twice_is_refused() {
    let house = House::start().await;
    let body = r#"{"type":"a","id":"1","id":"2"}"#;
    assert_eq!(post(&house, "application/json", body).await.faults(), ["/id"]);
}

#[tokio::test]
async fn binary_mode_names_its_faulty_headers() {
    let house = House::start().await;
    let call = house.call(Method::POST, "/v1/events").header("ce-specversion", "1.0");
    let call = call.header("ce-id", "1").header("ce-type", "a..b").typed("text/plain", "x");
    let faults = call.send().await.faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("type")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("source")), "{faults:?}");
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn whose_an_event_is_is_told_by_a_string() {
    let house = House::start().await;
    for tenant in [json!(5), json!(true)] {
        let answer = house.post("/v1/events", json!({"type": "t", "tenant": tenant})).await;
        assert_eq!(answer.faults(), ["/tenant"]);
    }
    house.publish(json!({"type": "t", "tenant": "5"})).await;
}

#[tokio::test]
async fn an_event_of_a_batch_that_is_too_large_is_named() {
    let house = House::start().await;
    let mut events: Vec<Value> =
        (0..3).map(|n| cloud_event("/b", &n.to_string(), "b.ok")).collect();
    events[1]["data"] = json!("x".repeat(MEBIBYTE));
    let problem = house.try_publish_batch(&events).await.problem(413);
    assert_eq!(problem["errors"][0]["pointer"], "/1", "{problem}");
    assert_log_is_empty(&house).await;
}

#[tokio::test]
async fn bodies_are_bounded_together() {
    let setup = Setup::dev().environment("SKALD_HTTP__IN_FLIGHT_BYTES_MAX", "16MiB");
    let house = setup.start().await;
    let event = |bytes: usize| json!({"type": "t", "data": "x".repeat(bytes)});
    let address = house.base().trim_start_matches("http://").to_owned();
    let length = 16 * MEBIBYTE;
    let head =
        format!("POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
    // Most of the room goes to one who sends no end of it. (It is he who is refused where the other's
    // body was there before the last of his.)
    let (slow, refused) = eventually("what is large is refused", async || {
        let mut slow = TcpStream::connect(&address).await.unwrap();
        slow.write_all(head.as_bytes()).await.unwrap();
        slow.write_all(&vec![b' '; length - 100_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refused = house.post("/v1/events", event(200_000)).await;
        (refused.status == 429).then_some((slow, refused))
    })
    .await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429);
    house.publish(event(1_000)).await;
    drop(slow);
    eventually("its room is there for others", async || {
        (house.post("/v1/events", event(200_000)).await.status == 202).then_some(())
    })
    .await;
}
