//! The commands for webhooks.

use std::process::Stdio;

use serde_json::json;
use skald_tests::{House, Receiver, binary, eventually, one};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::{json, run};

#[tokio::test]
async fn webhooks_are_created_tested_listed_and_their_deliveries_recovered() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[500, 200]).await;
    let made =
        json(&house, &["webhooks", "create", &receiver.url(), "--type", "t", "--tenant", "a"])
            .await;
    let id = made["id"].as_str().unwrap();
    let tested = run(&house, &["webhooks", "test", id]).await;
    assert!(tested.code == Some(1) && tested.stdout.contains("answered 500"), "{tested:?}");
    let tested = run(&house, &["webhooks", "test", id, "--type", "a.b"]).await.ok().stdout;
    assert!(tested.starts_with("delivered: 200"), "{tested}");
    let table = run(&house, &["webhooks"]).await.ok().stdout;
    assert!(table.contains(id) && table.contains("enabled"), "{table}");

    let _ = run(&house, &["webhooks", "disable", id]).await.ok();
    house.publish(json!({"type": "t", "tenant": "a"})).await;
    let skipped = eventually("a skipped delivery", async || {
        let found = json(&house, &["webhooks", "deliveries", id, "--status", "skipped"]).await;
        found["items"].as_array().unwrap().first().cloned()
    })
    .await;
    let enabled = run(&house, &["webhooks", "enable", id]).await.ok().stdout;
    assert!(enabled.contains("1 were skipped: skald webhooks recover"), "{enabled}");
    let _ = run(&house, &["webhooks", "recover", id, "--since", "1h", "--wait"]).await.ok();
    let delivery = skipped["id"].as_str().unwrap();
    let shown = json(&house, &["webhooks", "delivery", delivery]).await;
    assert_eq!(
        (&shown["status"], &shown["attempts"][0]["trigger"]),
        (&json!("delivered"), &json!("recover"))
    );
    let traced = run(&house, &["trace", &shown["seq"].to_string()]).await.ok().stdout;
    assert!(traced.contains(delivery) && traced.contains(&format!("t to {id}")), "{traced}");
    let _ = run(&house, &["webhooks", "resend", delivery]).await.ok();
    receiver.wait_for(4).await;
    let secret = run(&house, &["webhooks", "rotate", id, "--overlap", "1h"]).await.ok().stdout;
    assert!(secret.starts_with("whsec_"), "{secret}");
    let _ = run(&house, &["webhooks", "delete", id]).await.ok();
    assert_eq!(run(&house, &["webhooks", "show", id]).await.code, Some(1));
}

#[tokio::test]
async fn live_events_are_forwarded_with_a_signature() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let mut listening = Command::new(binary::path())
        .args(["listen", "--json", "--forward", &receiver.url(), "--type", "a.>"])
        .args(["--url", &house.base()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    let ready: serde_json::Value =
        serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    let secret: egress::Secret = ready["secret"].as_str().unwrap().parse().unwrap();
    eventually("a forwarded event", async || {
        house.publish(json!({"type": "a.b", "data": {"z": 1}})).await;
        house.publish(json!({"type": "b"})).await;
        (!receiver.received().is_empty()).then_some(())
    })
    .await;
    let told: serde_json::Value =
        serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(told["answer"], "200");
    let posted = one(receiver.received().into_iter().take(1).collect());
    assert_eq!(posted.json()["type"], "a.b");
    let at = posted.header("webhook-timestamp").parse().unwrap();
    let signature = posted.header("webhook-signature");
    assert!(secret.verify(posted.header("webhook-id"), at, &posted.body, signature));
}
