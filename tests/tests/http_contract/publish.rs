//! Publishing: the forms an event may come in, and the receipts.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Answer, House};

use super::{cloud_event, seq};

async fn publish_as(house: &House, media_type: &str, body: &str) -> Answer {
    house.call(Method::POST, "/v1/events").typed(media_type, body.to_owned()).send().await
}

async fn event_at(house: &House, seq: i64) -> Value {
    house.get(&format!("/v1/events/{seq}")).await.json_of(200)["event"].clone()
}

#[tokio::test]
async fn a_structured_event_is_accepted_and_kept_as_it_was_sent() {
    let house = House::start().await;
    let event = json!({
        "specversion": "1.0", "id": "a-1", "source": "https://shop.example/orders",
        "type": "com.example.order.placed", "subject": "order-1", "time": "2026-01-02T03:04:05.678Z",
        "datacontenttype": "application/json", "dataschema": "https://shop.example/schema",
        "tenant": "acme", "weight": 7, "express": true, "data": {"total": 12.5, "items": [1, null]}
    });
    let kind = "application/cloudevents+json";
    let receipt = publish_as(&house, kind, &event.to_string()).await.json_of(202);
    let expected = json!({
        "id": "a-1", "source": "https://shop.example/orders", "seq": 1, "duplicate": false
    });
    assert_eq!(receipt, expected);
    assert_eq!(event_at(&house, 1).await, event);
}

#[tokio::test]
async fn a_batch_answers_one_receipt_for_each_event_in_order() {
    let house = House::start().await;
    let events: Vec<Value> =
        (0..20).map(|n| cloud_event("/batch", &format!("e{n}"), "batch.sent")).collect();
    let receipts = house.publish_batch(&events).await;
    assert_eq!(receipts.len(), 20);
    for (n, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt["id"], format!("e{n}"));
        assert_eq!(seq(receipt), i64::try_from(n).unwrap() + 1);
        assert_eq!(receipt["duplicate"], false);
    }
}

#[tokio::test]
async fn an_empty_batch_is_accepted_or_refused_but_never_an_error_of_the_server() {
    let house = House::start().await;
    let answer = house.try_publish_batch(&[]).await;
    assert!([202, 422].contains(&answer.status.as_u16()), "{answer:?}");
}

#[tokio::test]
async fn a_thousand_events_fit_in_one_batch() {
    let house = House::start().await;
    let receipts = super::publish_many(&house, "a.thousand", 1_000).await;
    assert_eq!(seq(&receipts[999]), 1_000);
}

#[tokio::test]
async fn headers_of_binary_mode_are_percent_decoded() {
    let house = House::start().await;
    let call = house
        .call(Method::POST, "/v1/events")
        .header("ce-specversion", "1.0")
        .header("ce-id", "b%201")
        .header("ce-source", "/caf%25C3%25A9")
        .header("ce-type", "binary.sent")
        .header("ce-subject", "Euro%20%E2%82%AC%20%22quoted%22")
        .header("ce-tenant", "acme")
        .typed("text/plain; charset=utf-8", "grüße".to_owned());
    let receipt = call.send().await.json_of(202);
    assert_eq!((&receipt["id"], &receipt["source"]), (&json!("b 1"), &json!("/caf%C3%A9")));
    let event = event_at(&house, seq(&receipt)).await;
    assert_eq!(event["subject"], "Euro € \"quoted\"");
    assert_eq!(event["tenant"], "acme");
    assert_eq!(event["datacontenttype"], "text/plain; charset=utf-8");
    assert_eq!(event["data"], "grüße");
}

#[tokio::test]
async fn json_and_bytes_in_binary_mode_keep_their_kind() {
    let house = House::start().await;
    let call = |id: &str, media: &str, body: Vec<u8>| {
        let call = house.call(Method::POST, "/v1/events").header("ce-specversion", "1.0");
        let call = call.header("ce-id", id).header("ce-source", "/b").header("ce-type", "b.sent");
        call.typed(media, body).send()
    };
    let json = call("json", "application/json", b"{\"a\": 1.50}".to_vec()).await.json_of(202);
    assert_eq!(event_at(&house, seq(&json)).await["data"], json!({"a": 1.5}));
    let bytes = call("bytes", "application/octet-stream", vec![0, 255]).await.json_of(202);
    assert_eq!(event_at(&house, seq(&bytes)).await["data_base64"], "AP8=");
}

#[tokio::test]
async fn the_short_form_is_filled_in() {
    let house = House::start().await;
    let receipt = house.publish(json!({"type": "short.sent", "data": [1]})).await;
    let event = event_at(&house, seq(&receipt)).await;
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["source"], "/");
    assert_eq!(event["id"], receipt["id"]);
    let id = event["id"].as_str().unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "7"), "a UUIDv7: {id}");
    assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
    assert_eq!(event["data"], json!([1]));
}

#[tokio::test]
async fn the_short_form_takes_any_attribute_and_extension() {
    let house = House::start().await;
    let receipt = house
        .publish(json!({
            "type": "short.sent", "id": "s1", "source": "/till", "subject": "4", "tenant": "acme",
            "partitionkey": "k", "x1234567890123456789": "longest"
        }))
        .await;
    assert_eq!((&receipt["id"], &receipt["source"]), (&json!("s1"), &json!("/till")));
    let event = event_at(&house, seq(&receipt)).await;
    assert_eq!(event["subject"], "4");
    assert_eq!((&event["tenant"], &event["partitionkey"]), (&json!("acme"), &json!("k")));
    assert_eq!(event["x1234567890123456789"], "longest");
    assert!(event.get("data").is_none(), "{event}");
}

#[tokio::test]
async fn an_event_published_again_is_a_duplicate_with_the_seq_of_the_first() {
    let house = House::start().await;
    let event = json!({"type": "paid", "id": "p1", "source": "/a"});
    let first = house.publish(event.clone()).await;
    let again = house.publish(event).await;
    assert_eq!((seq(&again), &again["duplicate"]), (seq(&first), &json!(true)));
    let elsewhere = house.publish(json!({"type": "paid", "id": "p1", "source": "/b"})).await;
    assert_eq!(elsewhere["duplicate"], false, "id and source together name an event");
    let listed = house.get("/v1/events").await.json_of(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_duplicate_within_a_batch_and_across_batches_is_one_event() {
    let house = House::start().await;
    let event = |id: &str| cloud_event("/d", id, "d.sent");
    let receipts = house.publish_batch(&[event("1"), event("2"), event("1")]).await;
    let told: Vec<(i64, bool)> =
        receipts.iter().map(|r| (seq(r), r["duplicate"].as_bool().unwrap())).collect();
    assert_eq!(told, [(1, false), (2, false), (1, true)]);
    let receipts = house.publish_batch(&[event("3"), event("2")]).await;
    assert_eq!(receipts[1], json!({"id": "2", "source": "/d", "seq": 2, "duplicate": true}));
    let last = house.get("/v1/events?limit=1").await.json_of(200);
    assert_eq!(last["items"][0]["event"]["id"], "3");
}

#[tokio::test]
async fn data_is_kept_to_the_letter() {
    let house = House::start().await;
    let body = r#"{"type":"n.sent","id":"n","data":{"big":123456789012345678901234567890,"f":1.10,"dup":"\u00e9"}}"#;
    publish_as(&house, "application/json", body).await.check(202);
    let text = house.get("/v1/events/1").await.expect(200).text();
    assert!(text.contains("123456789012345678901234567890"), "{text}");
    assert!(text.contains("1.10"), "{text}");
}
