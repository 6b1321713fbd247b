//! Webhooks whose database goes away while they are delivered.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use skald_tests::{Postgres, Receiver, Setup, eventually_within};
use tempfile::TempDir;

const KEY: &str = "sk_0123456789abcdef0123456789abcdef";
const EVENTS: usize = 200;

#[tokio::test]
async fn postgres_may_be_gone_for_half_a_minute_in_mid_delivery() {
    let mut postgres = Postgres::start().await;
    let folder = TempDir::new().unwrap();
    let house = Setup::serve(folder.path(), KEY)
        .environment("SKALD_SECURITY__ADMIN_KEY", KEY)
        .environment("SKALD_SECURITY__ENCRYPTION_KEY", format!("{}=", "A".repeat(43)))
        .environment("SKALD_WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "127.0.0.1/32")
        .environment("SKALD_DATABASE__URL", postgres.url())
        .start()
        .await;
    let receiver = Receiver::answering(&[200]).await;
    let body =
        json!({"url": receiver.url(), "types": ["t"], "rate": "50/s", "retry": ["1s", "1s"]});
    let hook = house.post("/v1/webhooks", body).await.json_of(201);
    let events: Vec<_> = (0..EVENTS)
        .map(|n| json!({"specversion": "1.0", "source": "/", "type": "t", "id": n.to_string()}))
        .collect();
    house.publish_batch(&events).await;
    receiver.wait_for(20).await;
    postgres.stop().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let meanwhile = receiver.received().len();
    assert!(meanwhile < EVENTS, "{meanwhile} arrived before the fault");
    postgres.restart().await;
    let listed = format!("/v1/webhooks/{}/deliveries?limit=500", hook["id"].as_str().unwrap());
    let items = eventually_within(Duration::from_secs(120), "all delivered", async || {
        let answer = house.get(&format!("{listed}&status=delivered")).await;
        if answer.status != 200 {
            return None;
        }
        let items = answer.json()["items"].as_array().unwrap().clone();
        (items.len() == EVENTS).then_some(items)
    })
    .await;
    let received = receiver.received();
    let ids: HashSet<String> =
        received.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), EVENTS, "each event, whatever the number of requests");
    let noted: usize = items.iter().map(|one| one["attempts"].as_array().unwrap().len()).sum();
    assert_eq!(noted, received.len(), "every request is an attempt in the log");
}
