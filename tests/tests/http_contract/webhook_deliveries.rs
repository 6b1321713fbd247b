//! Webhooks: how events are delivered, and what is known of it afterwards.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Received, Receiver, eventually, one};

use super::publish_many;
use super::webhooks::{path, webhook};

/// Waits until a webhook has `count` deliveries of `status`.
pub(crate) async fn deliveries(
    client: &Client,
    hook: &Value,
    status: &str,
    count: usize,
) -> Vec<Value> {
    let path = path(hook, &format!("/deliveries?status={status}&limit=500"));
    eventually(&format!("{count} {status}"), async || {
        let items = client.get(&path).await.json_of(200)["items"].as_array().unwrap().clone();
        (items.len() == count).then_some(items)
    })
    .await
}

pub(crate) fn is_signed(request: &Received, secret: &Value) -> bool {
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

#[tokio::test]
async fn a_signature_with_a_private_key_verifies_with_the_published_one() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"signature": "v1a"})).await;
    assert!(hook["secret"].as_str().unwrap().starts_with("whsk_"), "{hook}");
    house.publish(json!({"type": "t"})).await;
    let posted = one(receiver.wait_for(1).await);
    let keys = house.get("/.well-known/webhook-keys").await.json_of(200);
    let key = one(keys["keys"].as_array().unwrap().clone());
    assert_eq!(key["public_key"], hook["public_keys"][0]);
    let public: egress::PublicKey = key["public_key"].as_str().unwrap().parse().unwrap();
    let at = posted.header("webhook-timestamp").parse().unwrap();
    let (id, signature) = (posted.header("webhook-id"), posted.header("webhook-signature"));
    assert!(public.verify(id, at, &posted.body, signature), "{signature}");

    let body = json!({"signature": "v1"});
    let rotated = house.post(&path(&hook, "/rotate"), body).await.json_of(200);
    house.publish(json!({"type": "t"})).await;
    let posted = receiver.wait_for(2).await.pop().unwrap();
    assert!(is_signed(&posted, &rotated["secret"]), "{posted:?}");
    let at = posted.header("webhook-timestamp").parse().unwrap();
    let (id, signature) = (posted.header("webhook-id"), posted.header("webhook-signature"));
    assert!(public.verify(id, at, &posted.body, signature), "both sign");
    let body = json!({"signature": "v1a", "secret": hook["secret"], "overlap": "0s"});
    house.post(&path(&hook, "/rotate"), body).await.check(200);
    let secret = house.get(&path(&hook, "/secret")).await.json_of(200);
    assert_eq!(secret["public_key"], key["public_key"]);
    let of = format!("/.well-known/webhook-keys?webhook={}", hook["id"].as_str().unwrap());
    assert_eq!(house.get(&of).await.json_of(200), keys);
}

/// Waits until a replay has ended, and answers it.
pub(crate) async fn completed(client: &Client, replay: &Value) -> Value {
    let path = format!("/v1/replays/{}", replay["id"].as_str().unwrap());
    eventually("the end of the replay", async || {
        let replay = client.get(&path).await.json_of(200);
        (replay["status"] == "completed").then_some(replay)
    })
    .await
}

#[tokio::test]
async fn what_failed_and_what_was_missed_is_recovered_under_the_same_id() {
    let house = House::start().await;
    house.publish(json!({"type": "t", "id": "before"})).await;
    let receiver = Receiver::answering(&[500, 200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": []})).await;
    house.publish(json!({"type": "t", "id": "failed"})).await;
    let failed = one(deliveries(&house, &hook, "failed", 1).await);
    house.publish(json!({"type": "t", "id": "delivered"})).await;
    deliveries(&house, &hook, "delivered", 1).await;
    house.post(&path(&hook, "/disable"), json!({})).await.check(200);
    house.publish(json!({"type": "t", "id": "skipped"})).await;
    deliveries(&house, &hook, "skipped", 1).await;

    let recover = path(&hook, "/recover");
    let since = json!({"since": "2020-01-01T00:00:00Z", "only": "failed"});
    house.post(&recover, since.clone()).await.problem(409);
    let enabled = house.post(&path(&hook, "/enable"), json!({})).await.json_of(200);
    assert_eq!(
        (&enabled["missed"]["failed"], &enabled["missed"]["skipped"]),
        (&json!(1), &json!(1))
    );

    let replay = house.post(&recover, since).await.json_of(202);
    assert_eq!((&replay["webhook"], &replay["total"]), (&hook["id"], &json!(4)));
    let replay = completed(&house, &replay).await;
    assert_eq!((&replay["done"], &replay["skipped"]), (&json!(1), &json!(3)), "{replay}");
    let posted = receiver.wait_for(3).await.pop().unwrap();
    assert_eq!(posted.header("webhook-id"), failed["id"]);
    let body = posted.json();
    assert_eq!((&body["id"], &body["replayed"]), (&json!("failed"), &json!(true)));
    assert!(is_signed(&posted, &hook["secret"]));

    let missing = json!({"since": "2020-01-01T00:00:00Z", "only": "missing"});
    completed(&house, &house.post(&recover, missing).await.json_of(202)).await;
    let ids: Vec<Value> =
        receiver.wait_for(5).await[3..].iter().map(|one| one.json()["id"].clone()).collect();
    assert!(ids.contains(&json!("before")) && ids.contains(&json!("skipped")), "{ids:?}");
    let all = deliveries(&house, &hook, "delivered", 4).await;
    let triggers: Vec<&Value> = all
        .iter()
        .map(|one| &one["attempts"].as_array().unwrap().last().unwrap()["trigger"])
        .collect();
    assert_eq!(triggers.iter().filter(|trigger| **trigger == "recover").count(), 3, "{all:?}");

    let force = json!({"webhook": hook["id"], "from_seq": 1, "mode": "force", "dry_run": true});
    let run = house.post("/v1/replays", force.clone()).await.json_of(200);
    assert_eq!(run, json!({"total": 4, "done_already": 4, "would_send": 4}));
    let mut force = force;
    force["dry_run"] = json!(false);
    completed(&house, &house.post("/v1/replays", force).await.json_of(202)).await;
    assert_eq!(receiver.received().len(), 9);
}

#[tokio::test]
async fn deliveries_are_waited_for_and_traced() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 200]).await;
    let hook = webhook(&house, &receiver.url(), json!({"retry": ["300ms"]})).await;
    let seq = house.publish(json!({"type": "t"})).await["seq"].as_i64().unwrap();
    receiver.wait_for(1).await;
    let listed = path(&hook, "/deliveries");
    let id = house.get(&listed).await.json_of(200)["items"][0]["id"].clone();
    let wait = json!({"ids": [id], "timeout": "1ms"});
    assert_eq!(house.post("/v1/wait", wait).await.json_of(200), json!({"pending": [id]}));
    let wait = json!({"ids": [id], "timeout": "20s"});
    assert_eq!(house.post("/v1/wait", wait).await.json_of(200), json!({"pending": []}));
    let trace = house.get(&format!("/v1/events/{seq}/trace")).await.json_of(200);
    assert_eq!(
        (&trace["deliveries"][0]["id"], &trace["deliveries"][0]["status"]),
        (&id, &json!("delivered"))
    );
}

/// Reads a secret, headers and a body, and verifies them as a receiver written in Python does.
const RECEIVER: &str = "
import json, sys
from standardwebhooks.webhooks import Webhook
request = json.load(sys.stdin)
event = Webhook(request['secret']).verify(request['body'], request['headers'])
print(event['id'])
";

#[tokio::test]
async fn the_official_python_library_verifies_a_request() {
    let python = skald_tests::tree::root().join("target/venv/bin/python");
    assert!(python.exists(), "{} is missing: run tests/run", python.display());
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    let rotated = house.post(&path(&hook, "/rotate"), json!({})).await.json_of(200);
    house.publish(json!({"type": "t", "id": "of-python", "data": {"text": "žluťoučký 🐎"}})).await;
    let posted = one(receiver.wait_for(1).await);
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: std::collections::BTreeMap<&str, &str> =
        names.iter().map(|name| (*name, posted.header(name))).collect();
    let body = String::from_utf8(posted.body.to_vec()).unwrap();
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (secret, verifies) in
        [(hook["secret"].as_str(), true), (rotated["secret"].as_str(), true), (Some(other), false)]
    {
        let request = json!({"secret": secret, "headers": headers, "body": body});
        let mut child = std::process::Command::new(&python)
            .args(["-c", RECEIVER])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, request.to_string().as_bytes()).unwrap();
        drop(stdin);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.success(), verifies, "{said}");
        assert_eq!(ended.stdout == b"of-python\n", verifies, "{said}");
    }
}
