//! Webhooks: how events are delivered, and what is known of it afterwards.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Received, Receiver, eventually, one};

use super::publish_many;
use super::webhooks::{path, webhook};

/// Waits until a webhook has `count` deliveries of `status`.
async fn deliveries(client: &Client, hook: &Value, status: &str, count: usize) -> Vec<Value> {
    let path = path(hook, &format!("/deliveries?status={status}&limit=500"));
    eventually(&format!("{count} {status}"), async || {
        let items = client.get(&path).await.json_of(200)["items"].as_array().unwrap().clone();
        (items.len() == count).then_some(items)
    })
    .await
}

fn is_signed(request: &Received, secret: &Value) -> bool {
    let secret: egress::Secret = secret.as_str().unwrap().parse().unwrap();
    let at = request.header("webhook-timestamp").parse().unwrap();
    let signature = request.header("webhook-signature");
    secret.verify(request.header("webhook-id"), at, &request.body, signature)
}

#[tokio::test]
async fn an_event_is_delivered_signed_with_the_owners_headers() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"headers": {"x-colour": "red"}})).await;
    let event = r#"{"type": "t", "id": "e1", "data": {"z":1,"a":2}}"#;
    let publish = house.call(Method::POST, "/v1/events").typed("application/json", event);
    publish.send().await.check(202);
    let posted = one(receiver.wait_for(1).await);
    assert!(is_signed(&posted, &hook["secret"]), "{posted:?}");
    assert_eq!(posted.header("content-type"), "application/cloudevents+json");
    assert_eq!(posted.header("x-colour"), "red");
    assert!(String::from_utf8_lossy(&posted.body).contains(r#"{"z":1,"a":2}"#), "as it was");
    let delivery = one(deliveries(&house, &hook, "delivered", 1).await);
    assert_eq!(delivery["id"], posted.header("webhook-id"));
    assert_eq!((&delivery["event_id"], &delivery["type"]), (&json!("e1"), &json!("t")));
    let attempt = &delivery["attempts"][0];
    assert_eq!((&attempt["trigger"], &attempt["status_code"]), (&json!("schedule"), &json!(200)));
    assert_eq!(
        (&attempt["response"], &attempt["error"]),
        (&json!("said the receiver"), &Value::Null)
    );
    let found = house.get(&path(&hook, "/statistics?window=1h")).await.json_of(200);
    assert_eq!((&found["delivered"], &found["by_status"]["200"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn each_event_goes_once_to_each_endpoint_that_wants_it_and_to_no_other() {
    let house = House::start().await;
    let all = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &all.url(), json!({"types": [">", "t.*"]})).await;
    let other = webhook(&house, &all.url(), json!({"types": ["u"]})).await;
    let tenant = webhook(&house, &all.url(), json!({"types": [">"], "tenant": "acme"})).await;
    publish_many(&house, "t.x", 50).await;
    house.publish(json!({"type": "t.x", "tenant": "acme"})).await;
    deliveries(&house, &hook, "delivered", 50).await;
    deliveries(&house, &tenant, "delivered", 1).await;
    assert_eq!(all.received().len(), 51);
    deliveries(&house, &other, "delivered", 0).await;
}

#[tokio::test]
async fn a_failure_is_tried_again_as_scheduled_with_the_same_id_until_it_is_given_up() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 302, 500, 200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["50ms", "100ms"]})).await;
    house.publish(json!({"type": "t"})).await;
    let failed = one(deliveries(&house, &hook, "failed", 1).await);
    let posted = receiver.wait_for(3).await;
    assert!(posted.iter().all(|one| one.header("webhook-id") == failed["id"]), "{failed}");
    let codes: Vec<&Value> =
        failed["attempts"].as_array().unwrap().iter().map(|one| &one["status_code"]).collect();
    assert_eq!(codes, [500, 302, 500]);

    let path = format!("/v1/deliveries/{}", failed["id"].as_str().unwrap());
    house.post(&format!("{path}/resend"), json!({})).await.check(202);
    let done = one(deliveries(&house, &hook, "delivered", 1).await);
    assert_eq!(done["attempts"][3]["trigger"], "resend");
    house.post(&format!("{path}/resend"), json!({})).await.check(202);
    receiver.wait_for(5).await;
    let done = one(deliveries(&house, &hook, "delivered", 1).await);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn both_secrets_sign_while_they_overlap() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    let rotated = house.post(&path(&hook, "/rotate"), json!({})).await.json_of(200);
    assert_ne!(rotated["secret"], hook["secret"]);
    house.publish(json!({"type": "t"})).await;
    let posted = one(receiver.wait_for(1).await);
    assert!(is_signed(&posted, &hook["secret"]) && is_signed(&posted, &rotated["secret"]));
    let body = json!({"overlap": "0s"});
    let last = house.post(&path(&hook, "/rotate"), body).await.json_of(200);
    house.publish(json!({"type": "t"})).await;
    let posted = receiver.wait_for(2).await.pop().unwrap();
    assert!(is_signed(&posted, &last["secret"]) && !is_signed(&posted, &rotated["secret"]));
    deliveries(&house, &hook, "delivered", 2).await;
}

#[tokio::test]
async fn gone_disables_and_what_comes_meanwhile_is_skipped() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[410, 200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["50ms"]})).await;
    house.publish(json!({"type": "t"})).await;
    eventually("disabled", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["state"] == "disabled" && hook["disabled_reason"] == "gone").then_some(())
    })
    .await;
    house.publish(json!({"type": "t"})).await;
    let skipped = one(deliveries(&house, &hook, "skipped", 1).await);
    assert_eq!(skipped["attempts"], json!([]));
    let resend = format!("/v1/deliveries/{}/resend", skipped["id"].as_str().unwrap());
    house.post(&resend, json!({})).await.problem(409);
    let enabled = house.post(&path(&hook, "/enable"), json!({})).await.json_of(200);
    assert_eq!(
        (&enabled["state"], &enabled["health"]["status"]),
        (&json!("enabled"), &json!("healthy"))
    );
    deliveries(&house, &hook, "delivered", 1).await;
    house.post(&resend, json!({})).await.check(202);
    deliveries(&house, &hook, "delivered", 2).await;
    let told = house.get("/v1/events?type=dev.skald.webhook.%3E").await.json_of(200);
    let kinds: Vec<&str> = told["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["event"]["type"].as_str().unwrap())
        .collect();
    let wanted =
        ["enabled", "disabled", "created"].map(|what| format!("dev.skald.webhook.endpoint.{what}"));
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn a_test_is_answered_with_its_attempt() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    let attempt = house.post(&path(&hook, "/test"), json!({"type": "a.b"})).await.json_of(200);
    assert_eq!((&attempt["trigger"], &attempt["status_code"]), (&json!("test"), &json!(500)));
    let posted = one(receiver.wait_for(1).await);
    assert!(is_signed(&posted, &hook["secret"]));
    assert_eq!(posted.json()["type"], "a.b");
}

#[tokio::test]
async fn a_rate_is_kept() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"rate": "10/s"})).await;
    let begun = std::time::Instant::now();
    publish_many(&house, "t", 12).await;
    receiver.wait_for(12).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    deliveries(&house, &hook, "delivered", 12).await;
}

#[tokio::test]
async fn an_ordered_webhook_keeps_the_order_of_each_key() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 200]).await;
    let more = json!({"ordered": true, "retry": ["50ms"]});
    let hook = webhook(&house, &receiver.url(), more).await;
    for id in 0..5 {
        house.publish(json!({"type": "t", "id": id.to_string(), "subject": "one"})).await;
    }
    let posted = receiver.wait_for(6).await;
    let ids: Vec<String> =
        posted.iter().map(|one| one.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["0", "0", "1", "2", "3", "4"]);
    deliveries(&house, &hook, "delivered", 5).await;
}

#[tokio::test]
async fn a_deleted_webhook_gets_nothing_more() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["1s"]})).await;
    house.publish(json!({"type": "t"})).await;
    receiver.wait_for(1).await;
    house.call(Method::DELETE, &path(&hook, "")).send().await.check(204);
    house.publish(json!({"type": "t"})).await;
    super::figures(&house, "fan-out-webhooks", &[("waiting", 0)]).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_was_on_its_way_when_the_process_was_killed_arrives_with_the_same_id() {
    let mut house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["100ms", "1s", "1s"]})).await;
    publish_many(&house, "t", 200).await;
    receiver.wait_for(20).await;
    house.kill_9();
    house.restart().await;
    deliveries(&house, &hook, "delivered", 200).await;
    let mut ids: Vec<String> =
        receiver.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}
