//! Webhooks: what is left when something ends: a process, an outage, a replay, a tenant.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, Misbehaviour, RawReceiver, Receiver, Setup, eventually, one};

use super::publish_many;
use super::webhook_deliveries::{completed, deliveries};
use super::webhooks::{path, webhook};

#[tokio::test]
async fn a_delivery_can_be_seen_from_the_moment_its_endpoint_is_called() {
    let house = House::start().await;
    let receiver = RawReceiver::that(Misbehaviour::Hangs).await;
    let hook = webhook(&house, &receiver.url(), json!({"timeout": "20s"})).await;
    let seq = house.publish(json!({"type": "t", "id": "e1"})).await["seq"].clone();
    eventually("a call", async || (receiver.connections() >= 1).then_some(())).await;
    let listed = house.get(&path(&hook, "/deliveries?status=pending")).await.json_of(200);
    let pending = one(listed["items"].as_array().unwrap().clone());
    assert_eq!((&pending["event_id"], &pending["seq"]), (&json!("e1"), &seq), "{pending}");
    let id = pending["id"].as_str().unwrap();
    let delivery = house.get(&format!("/v1/deliveries/{id}")).await.json_of(200);
    assert_eq!(delivery["status"], "pending");
    house.post(&format!("/v1/deliveries/{id}/resend"), json!({})).await.problem(409);
    let wait = json!({"ids": [id], "timeout": "1ms"});
    assert_eq!(house.post("/v1/wait", wait).await.json_of(200), json!({"pending": [id]}));
    let seq = seq.as_i64().unwrap();
    let trace = house.get(&format!("/v1/events/{seq}/trace")).await.json_of(200);
    assert_eq!(trace["deliveries"][0]["id"], id);
    // And later too, when it has a row.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let listed = house.get(&path(&hook, "/deliveries?status=pending")).await.json_of(200);
    assert_eq!(one(listed["items"].as_array().unwrap().clone())["id"], id);
    house.delete(&path(&hook, "")).await.check(204);
}

#[tokio::test]
async fn an_attempt_that_a_kill_cut_off_is_not_held_against_the_delivery() {
    let mut house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": []})).await;
    publish_many(&house, "t", 300).await;
    receiver.wait_for(20).await;
    house.kill_9();
    house.restart().await;
    deliveries(&house, &hook, "delivered", 300).await;
    let mut ids: Vec<String> =
        receiver.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 300);
}

#[tokio::test]
async fn a_stop_in_order_loses_no_delivery_and_fails_none() {
    let mut house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": [], "max_concurrent": 2})).await;
    publish_many(&house, "t", 500).await;
    receiver.wait_for(5).await;
    house.terminate().await;
    house.restart().await;
    deliveries(&house, &hook, "delivered", 500).await;
    deliveries(&house, &hook, "failed", 0).await;
}

#[tokio::test]
async fn the_since_that_enable_names_brings_all_that_was_missed() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    house.post(&path(&hook, "/disable"), json!({})).await.check(200);
    publish_many(&house, "t", 7).await;
    deliveries(&house, &hook, "skipped", 7).await;
    let enabled = house.post(&path(&hook, "/enable"), json!({})).await.json_of(200);
    let since = json!({"since": enabled["missed"]["since"]});
    let replay = house.post(&path(&hook, "/recover"), since).await.json_of(202);
    assert_eq!(completed(&house, &replay).await["done"], 7);
    deliveries(&house, &hook, "delivered", 7).await;
}

#[tokio::test]
async fn what_a_cancelled_recovery_took_back_another_one_brings() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"rate": "5/s"})).await;
    house.post(&path(&hook, "/disable"), json!({})).await.check(200);
    publish_many(&house, "t", 40).await;
    deliveries(&house, &hook, "skipped", 40).await;
    house.post(&path(&hook, "/enable"), json!({})).await.check(200);
    let all = json!({"since": "2020-01-01T00:00:00Z"});
    let recover = path(&hook, "/recover");
    let replay = house.post(&recover, all.clone()).await.json_of(202);
    receiver.wait_for(1).await;
    let cancel = format!("/v1/replays/{}/cancel", replay["id"].as_str().unwrap());
    house.post(&cancel, json!({})).await.check(200);
    deliveries(&house, &hook, "pending", 0).await;
    let body = json!({"rate": null});
    house.call(Method::PATCH, &path(&hook, "")).json(&body).send().await.check(200);
    let replay = house.post(&recover, all).await.json_of(202);
    completed(&house, &replay).await;
    deliveries(&house, &hook, "delivered", 40).await;
}

#[tokio::test]
async fn a_cancelled_recovery_leaves_what_was_delivered_before_delivered() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    publish_many(&house, "t", 40).await;
    deliveries(&house, &hook, "delivered", 40).await;
    let body = json!({"rate": "5/s"});
    house.call(Method::PATCH, &path(&hook, "")).json(&body).send().await.check(200);
    let all = json!({"since": "2020-01-01T00:00:00Z", "only": "all"});
    let replay = house.post(&path(&hook, "/recover"), all).await.json_of(202);
    receiver.wait_for(41).await;
    let cancel = format!("/v1/replays/{}/cancel", replay["id"].as_str().unwrap());
    house.post(&cancel, json!({})).await.check(200);
    deliveries(&house, &hook, "pending", 0).await;
    deliveries(&house, &hook, "delivered", 40).await;
}

#[tokio::test]
async fn a_filter_decides_what_is_delivered() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let more = json!({"filter": {"exact": {"subject": "wanted"}}});
    let hook = webhook(&house, &receiver.url(), more).await;
    for (id, subject) in [("1", "wanted"), ("2", "other"), ("3", "wanted")] {
        house.publish(json!({"type": "t", "id": id, "subject": subject})).await;
    }
    super::figures(&house, "fan-out-webhooks", &[("waiting", 0)]).await;
    let mut ids: Vec<Value> =
        receiver.wait_for(2).await.iter().map(|one| one.json()["id"].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, ["1", "3"]);
    deliveries(&house, &hook, "delivered", 2).await;
}

#[tokio::test]
async fn an_erased_tenant_leaves_nothing_and_others_are_not_touched() {
    let house = House::start().await;
    let hanging = RawReceiver::that(Misbehaviour::Hangs).await;
    let receiver = Receiver::answering(&[200]).await;
    let erased = webhook(&house, &hanging.url(), json!({"tenant": "a"})).await;
    let other = webhook(&house, &receiver.url(), json!({"tenant": "b"})).await;
    for tenant in ["a", "b"] {
        house.publish(json!({"type": "t", "tenant": tenant})).await;
    }
    eventually("a call", async || (hanging.connections() >= 1).then_some(())).await;
    let pending = one(deliveries(&house, &erased, "pending", 1).await);
    house.delete("/v1/tenants/a").await.check(204);
    house.get(&path(&erased, "")).await.problem(404);
    house.get(&format!("/v1/deliveries/{}", pending["id"].as_str().unwrap())).await.problem(404);
    house.publish(json!({"type": "t", "tenant": "a"})).await;
    house.publish(json!({"type": "t", "tenant": "b"})).await;
    deliveries(&house, &other, "delivered", 2).await;
    assert_eq!(hanging.connections(), 1);
}

#[tokio::test]
async fn old_deliveries_go_with_their_attempts_and_those_that_are_pending_stay() {
    let house = Setup::dev().environment("SKALD_WEBHOOKS__RETENTION", "1s").start().await;
    let receiver = Receiver::answering(&[200]).await;
    let broken = Receiver::answering(&[500]).await;
    let good = webhook(&house, &receiver.url(), json!({})).await;
    let retried = webhook(&house, &broken.url(), json!({"retry": ["1h"]})).await;
    let given_up = webhook(&house, &broken.url(), json!({"retry": []})).await;
    house.publish(json!({"type": "t", "id": "e1"})).await;
    receiver.wait_for(1).await;
    broken.wait_for(2).await;
    for hook in [&good, &given_up] {
        eventually("nothing old is left", async || {
            let left = house.get(&path(hook, "/deliveries")).await.json_of(200);
            left["items"].as_array().unwrap().is_empty().then_some(())
        })
        .await;
    }
    let kept = one(deliveries(&house, &retried, "pending", 1).await);
    let id = kept["id"].as_str().unwrap();
    let delivery = house.get(&format!("/v1/deliveries/{id}")).await.json_of(200);
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1, "{delivery}");
}
