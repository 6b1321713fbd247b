//! Webhooks: what keeps secrets secret, and keeps requests out of networks they must not reach.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Receiver, Setup, ShiftedClock, one};

use super::keys::setup_in;
use super::webhook_deliveries::is_signed;
use super::webhooks::{path, webhook};

/// The headers of a webhook after a change of them.
async fn change_headers(client: &Client, hook: &Value, headers: Value) -> skald_tests::Answer {
    let patch = client.call(Method::PATCH, &path(hook, ""));
    patch.json(&json!({ "headers": headers })).send().await
}

#[tokio::test]
async fn what_was_read_can_be_sent_back_without_loss_of_a_hidden_header() {
    let house = House::start().await;
    let receiver = Receiver::answering(&[200]).await;
    let headers = json!({"Authorization": "Bearer hunter2", "X-Colour": "red"});
    let hook = webhook(&house, &receiver.url(), json!({ "headers": headers })).await;

    let mut shown = house.get(&path(&hook, "")).await.json_of(200)["headers"].clone();
    assert_eq!(shown["authorization"], "***");
    shown["x-colour"] = json!("blue");
    let changed = change_headers(&house, &hook, shown).await.json_of(200);
    assert_eq!(changed["headers"], json!({"authorization": "***", "x-colour": "blue"}));
    house.publish(json!({"type": "t"})).await;
    let posted = one(receiver.wait_for(1).await);
    assert_eq!(
        (posted.header("authorization"), posted.header("x-colour")),
        ("Bearer hunter2", "blue")
    );

    // A change of something else leaves them, and one of them all leaves only those that are given.
    let other = house.call(Method::PATCH, &path(&hook, "")).json(&json!({"description": "d"}));
    other.send().await.check(200);
    house.publish(json!({"type": "t"})).await;
    assert_eq!(receiver.wait_for(2).await[1].header("authorization"), "Bearer hunter2");
    change_headers(&house, &hook, json!({"X-Api-Key": "k2"})).await.check(200);
    house.publish(json!({"type": "t"})).await;
    let posted = receiver.wait_for(3).await.pop().unwrap();
    assert_eq!((posted.header("x-api-key"), posted.header("authorization")), ("k2", ""));

    // There is nothing behind these.
    let unknown = change_headers(&house, &hook, json!({"X-Token": "***"})).await;
    assert_eq!(unknown.faults(), ["/headers/X-Token"]);
    let body = json!({"url": receiver.url(), "types": ["t"], "headers": {"Cookie": "***"}});
    assert_eq!(house.post("/v1/webhooks", body).await.faults(), ["/headers/Cookie"]);
}

#[tokio::test]
async fn the_old_secret_signs_for_as_long_as_the_overlap_says() {
    let folder = tempfile::TempDir::new().unwrap();
    let clock = ShiftedClock::new(folder.path());
    let house = clock.for_process(Setup::dev()).start().await;
    let receiver = Receiver::answering(&[200]).await;
    let hook = webhook(&house, &receiver.url(), json!({})).await;
    let body = json!({"overlap": "24h"});
    let rotated = house.post(&path(&hook, "/rotate"), body).await.json_of(200);
    // A later rotation does not make the time of the earlier one shorter.
    let body = json!({"overlap": "1h"});
    let last = house.post(&path(&hook, "/rotate"), body).await.json_of(200);
    let secrets = [&hook["secret"], &rotated["secret"], &last["secret"]];
    let times = [("+0", [true; 3]), ("+23h", [true, false, true]), ("+25h", [false, false, true])];
    for (count, (passed, sign)) in (1..).zip(times) {
        clock.shift(passed);
        house.publish(json!({"type": "t"})).await;
        let posted = receiver.wait_for(count).await.pop().unwrap();
        assert_eq!(secrets.map(|one| is_signed(&posted, one)), sign, "{passed}: {posted:?}");
    }
}

#[tokio::test]
async fn a_server_refuses_endpoints_in_networks_that_are_not_its_callers_to_reach() {
    let folder = tempfile::TempDir::new().unwrap();
    let house = setup_in(&folder).await.start().await;
    for host in [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "localhost",
    ] {
        let body = json!({"url": format!("http://{host}/hook"), "types": ["t"]});
        let faults = house.post("/v1/webhooks", body).await.faults();
        assert_eq!(faults, ["/url"], "{host}");
    }
}

#[tokio::test]
async fn a_network_that_is_allowed_by_configuration_is_reached() {
    let folder = tempfile::TempDir::new().unwrap();
    let setup = setup_in(&folder)
        .await
        .environment("SKALD_WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "127.0.0.0/8")
        .environment("SKALD_SECURITY__ENCRYPTION_KEY", format!("{}=", "A".repeat(43)));
    let house = setup.start().await;
    let receiver = Receiver::answering(&[200]).await;
    webhook(&house, &receiver.url(), json!({})).await;
    house.publish(json!({"type": "t"})).await;
    receiver.wait_for(1).await;
    let body = json!({"url": "http://10.0.0.1/", "types": ["t"]});
    assert_eq!(house.post("/v1/webhooks", body).await.faults(), ["/url"]);
}
