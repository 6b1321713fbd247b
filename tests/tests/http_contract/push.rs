//! Push consumers: events posted to a URL.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, Received, Receiver, one};

use super::{figures, publish_many};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Registers the push consumer `p` of the type `t`.
async fn push_to(house: &House, receiver: &Receiver, more: Value) {
    let mut body = json!({"types": ["t"], "kind": "push", "url": receiver.url(),
        "policy": {"backoff_min": "50ms", "backoff_max": "100ms"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    house.put("/v1/consumers/p", body).await.check(201);
}

#[tokio::test]
async fn an_event_is_posted_as_it_is_and_acked_by_2xx() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[204]).await;
    push_to(&house, &receiver, json!({})).await;
    house.publish(json!({"type": "t", "id": "e1", "data": {"n": 1}})).await;
    let posted = one(receiver.wait_for(1).await);
    assert_eq!(posted.header("content-type"), "application/cloudevents+json");
    let stored = house.get("/v1/events/1").await.json_of(200);
    assert_eq!(posted.json(), stored["event"]);
    assert!(
        !posted.header("webhook-id").is_empty() && !posted.header("webhook-timestamp").is_empty()
    );
    assert_eq!(posted.header("webhook-signature"), "", "unsigned without a secret");
    let figures = figures(&house, "p", &[("waiting", 0), ("in_flight", 0)]).await;
    assert_eq!((&figures["kind"], &figures["side_effects"]), (&json!("push"), &json!("http")));
}

#[tokio::test]
async fn a_failure_is_tried_again_with_the_same_id() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 301, 200]).await;
    push_to(&house, &receiver, json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let posted = receiver.wait_for(3).await;
    let ids: Vec<&str> = posted.iter().map(|request| request.header("webhook-id")).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    figures(&house, "p", &[("waiting", 0), ("retrying", 0), ("in_flight", 0)]).await;
    assert_eq!(receiver.received().len(), 3);
}

#[tokio::test]
async fn what_is_refused_to_the_last_is_a_dead_letter_and_can_be_redriven() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 500, 200]).await;
    let policy = json!({"attempts_max": 2, "backoff_min": "10ms", "backoff_max": "20ms"});
    push_to(&house, &receiver, json!({"policy": policy})).await;
    house.publish(json!({"type": "t"})).await;
    figures(&house, "p", &[("dead", 1)]).await;
    let listed = house.get("/v1/consumers/p/dead-letters").await.json_of(200);
    let letter = &listed["items"][0];
    assert_eq!(letter["attempts"], 2);
    assert!(letter["error"].as_str().unwrap().contains("500"), "{letter}");
    let body = json!({"all": true});
    house.post("/v1/consumers/p/dead-letters/redrive", body).await.check(202);
    receiver.wait_for(3).await;
    figures(&house, "p", &[("dead", 0), ("waiting", 0), ("in_flight", 0)]).await;
}

#[tokio::test]
async fn with_a_secret_requests_are_signed() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    push_to(&house, &receiver, json!({"secret": SECRET})).await;
    house.publish(json!({"type": "t"})).await;
    let posted = one(receiver.wait_for(1).await);
    assert!(is_signed(&posted), "{posted:?}");
    let mut changed = posted;
    changed.body = "{}".into();
    assert!(!is_signed(&changed));
    let shown = house.get("/v1/consumers/p").await.expect(200).text();
    assert!(!shown.contains("MfKQ9r8GKYqr"), "a secret is not shown: {shown}");
    figures(&house, "p", &[("waiting", 0), ("in_flight", 0)]).await;
}

fn is_signed(request: &Received) -> bool {
    let secret: egress::Secret = SECRET.parse().unwrap();
    let at = request.header("webhook-timestamp").parse().unwrap();
    let signature = request.header("webhook-signature");
    secret.verify(request.header("webhook-id"), at, &request.body, signature)
}

#[tokio::test]
async fn a_secret_that_is_none_is_refused() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let body = json!({"types": ["t"], "kind": "push", "url": receiver.url(), "secret": "short"});
    let faults = house.put("/v1/consumers/p", body).await.faults();
    assert_eq!(faults, ["/secret"]);
}

#[tokio::test]
async fn a_paused_push_consumer_posts_nothing_until_it_is_resumed() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    push_to(&house, &receiver, json!({})).await;
    house.post("/v1/consumers/p/pause", json!({})).await.check(200);
    publish_many(&house, "t", 3).await;
    figures(&house, "count-events", &[("waiting", 0)]).await;
    assert!(receiver.received().is_empty());
    house.post("/v1/consumers/p/resume", json!({})).await.check(200);
    receiver.wait_for(3).await;
    figures(&house, "p", &[("waiting", 0), ("in_flight", 0)]).await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_does_not_hold_up_the_others() {
    let house = House::start().await;
    let down = Receiver::answering(&[500]).await;
    let up = Receiver::answering(&[200]).await;
    push_to(&house, &down, json!({})).await;
    let body = json!({"types": ["t"], "kind": "push", "url": up.url()});
    house.put("/v1/consumers/q", body).await.check(201);
    publish_many(&house, "t", 20).await;
    up.wait_for(20).await;
    figures(&house, "q", &[("waiting", 0), ("in_flight", 0), ("retrying", 0)]).await;
    house.call(Method::DELETE, "/v1/consumers/p").send().await.check(204);
}

#[tokio::test]
async fn an_ordered_push_consumer_keeps_the_order_of_each_key() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 200]).await;
    let policy = json!({"ordered": true, "backoff_min": "50ms", "backoff_max": "100ms"});
    push_to(&house, &receiver, json!({"policy": policy})).await;
    for id in 0..10 {
        house.publish(json!({"type": "t", "id": id.to_string(), "subject": "one"})).await;
    }
    let posted = receiver.wait_for(11).await;
    let ids: Vec<String> =
        posted.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["0", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    figures(&house, "p", &[("waiting", 0), ("in_flight", 0)]).await;
}
