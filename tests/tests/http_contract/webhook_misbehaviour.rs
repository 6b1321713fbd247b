//! Webhooks: receivers that do not behave cost one attempt, within bounds.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skald_tests::{Client, House, Misbehaviour, RawReceiver, Receiver, eventually};

use super::webhooks::{path, webhook};

/// Delivers one event to `url` in one attempt, and answers that attempt.
async fn attempt(client: &Client, url: &str) -> Value {
    let hook = webhook(client, url, json!({"timeout": "1s", "retry": []})).await;
    client.publish(json!({"type": "t"})).await;
    let listed = path(&hook, "/deliveries");
    eventually("an end", async || {
        let delivery = client.get(&listed).await.json_of(200)["items"][0].clone();
        let attempts = delivery["attempts"].as_array().map_or(0, Vec::len);
        (attempts == 1 && delivery["status"] != "pending").then(|| delivery["attempts"][0].clone())
    })
    .await
}

#[tokio::test]
async fn whatever_the_other_side_does_is_one_attempt_that_ends_in_time() {
    let house = House::start().await;
    for (misbehaves, word) in [
        (Misbehaviour::Hangs, "did not complete"),
        (Misbehaviour::Closes, "closed"),
        (Misbehaviour::ClosesEarly, "end of file"),
        (Misbehaviour::EndlessHeaders, "too large"),
        (Misbehaviour::DripsBody, "did not complete"),
        (Misbehaviour::NoHttp, "invalid HTTP"),
    ] {
        let receiver = RawReceiver::that(misbehaves).await;
        let begun = Instant::now();
        let attempt = attempt(&house, &receiver.url()).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{misbehaves:?}: {attempt}");
        let error = attempt["error"].as_str().unwrap_or_default();
        assert!(error.contains(word), "{misbehaves:?}: {attempt}");
        assert!(attempt["duration_ms"].as_i64().unwrap() < 2_000, "{misbehaves:?}: {attempt}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_delivered_and_read_within_bounds() {
    let house = House::start().await;
    let receiver = RawReceiver::that(Misbehaviour::EndlessBody).await;
    let attempt = attempt(&house, &receiver.url()).await;
    assert_eq!((&attempt["status_code"], &attempt["error"]), (&json!(200), &Value::Null));
    assert_eq!(attempt["response"].as_str().unwrap().len(), 4_096);
}

#[tokio::test]
async fn what_the_head_said_holds_although_the_body_breaks_off() {
    let house = House::start().await;
    let gone = RawReceiver::that(Misbehaviour::GoneEarly).await;
    let hook = webhook(&house, &gone.url(), json!({"retry": ["10ms"]})).await;
    house.publish(json!({"type": "t"})).await;
    eventually("disabled", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["disabled_reason"] == "gone").then_some(())
    })
    .await;
    let busy = RawReceiver::that(Misbehaviour::BusyAndHangs).await;
    let more = json!({"timeout": "500ms", "retry": ["10ms"]});
    let hook = webhook(&house, &busy.url(), more).await;
    house.publish(json!({"type": "t"})).await;
    eventually("held", async || {
        let hook = house.get(&path(&hook, "")).await.json_of(200);
        (hook["health"]["held_until"] != Value::Null).then_some(())
    })
    .await;
    let delivery = house.get(&path(&hook, "/deliveries")).await.json_of(200)["items"][0].clone();
    assert_eq!(delivery["attempts"][0]["status_code"], 429, "{delivery}");
}

#[tokio::test]
async fn what_is_no_tls_is_a_failure() {
    let house = House::start().await;
    let receiver = RawReceiver::that(Misbehaviour::NoHttp).await;
    let attempt = attempt(&house, &receiver.https_url()).await;
    assert_eq!(attempt["status_code"], Value::Null, "{attempt}");
}

#[tokio::test]
async fn a_refused_connection_and_a_name_that_nobody_knows_are_failures_and_tried_again() {
    let house = House::start().await;
    let gone = Receiver::answering(&[200]).await.url();
    for (url, word) in [(&*gone, "refused"), ("http://no-such-host.invalid/", "no-such-host")] {
        let hook = webhook(&house, url, json!({"retry": ["10ms"]})).await;
        house.publish(json!({"type": "t"})).await;
        let listed = path(&hook, "/deliveries?status=failed");
        let attempts = eventually("given up", async || {
            let found = house.get(&listed).await.json_of(200);
            found["items"][0]["attempts"].as_array().cloned()
        })
        .await;
        assert_eq!(attempts.len(), 2, "{attempts:?}");
        let told = |one: &Value| one["error"].as_str().unwrap().to_lowercase().contains(word);
        assert!(attempts.iter().all(told), "{attempts:?}");
        house.delete(&path(&hook, "")).await.check(204);
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let house = House::start().await;
    let elsewhere = Receiver::answering(&[200]).await;
    let url = elsewhere.url();
    let receiver = Receiver::refusing_with(&[302], &[("location", &url)]).await;
    let attempt = attempt(&house, &receiver.url()).await;
    assert_eq!(attempt["status_code"], 302);
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn what_is_disabled_or_deleted_in_mid_delivery_is_not_tried_again() {
    let house = House::start().await;
    let slow = RawReceiver::that(Misbehaviour::Hangs).await;
    let more = json!({"timeout": "500ms", "retry": ["10ms", "10ms"]});
    let disabled = webhook(&house, &slow.url(), more.clone()).await;
    let deleted = webhook(&house, &slow.url(), more).await;
    house.publish(json!({"type": "t"})).await;
    eventually("both under way", async || (slow.connections() == 2).then_some(())).await;
    house.post(&path(&disabled, "/disable"), json!({})).await.check(200);
    house.delete(&path(&deleted, "")).await.check(204);
    eventually("the attempt's end", async || {
        let found = house.get(&path(&disabled, "/deliveries")).await.json_of(200);
        let first = &found["items"][0];
        let attempts = first["attempts"].as_array().unwrap().len();
        (attempts == 1 && first["status"] == "pending").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(slow.connections(), 2);
    let good = Receiver::answering(&[200]).await;
    let body = json!({"url": good.url()});
    house.call(http::Method::PATCH, &path(&disabled, "")).json(&body).send().await.check(200);
    house.post(&path(&disabled, "/enable"), json!({})).await.check(200);
    good.wait_for(1).await;
}
