//! Webhooks: how endpoints are configured.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House};

/// Registers a webhook of the type `t`, and answers what was said.
pub(crate) async fn webhook(client: &Client, url: &str, more: Value) -> Value {
    let mut body = json!({"url": url, "types": ["t"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.post("/v1/webhooks", body).await.json_of(201)
}

pub(crate) fn path(webhook: &Value, rest: &str) -> String {
    format!("/v1/webhooks/{}{rest}", webhook["id"].as_str().unwrap())
}

async fn patch(client: &Client, webhook: &Value, body: Value) -> skald_tests::Answer {
    client.call(Method::PATCH, &path(webhook, "")).json(&body).send().await
}

#[tokio::test]
async fn a_webhook_is_made_read_changed_and_deleted() {
    let house = House::start().await;
    let url = "http://127.0.0.1:9009/hook";
    let made = webhook(&house, url, json!({"description": "one", "metadata": {"a": 1}})).await;
    assert!(made["id"].as_str().unwrap().starts_with("ep_"), "{made}");
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    assert_eq!((&made["state"], &made["timeout"]), (&json!("enabled"), &json!("15s")));
    assert_eq!(made["retry"], json!(["5s", "5m", "30m", "2h", "5h", "10h", "10h"]));

    let read = house.get(&path(&made, "")).await.json_of(200);
    assert_eq!(read["secret"], Value::Null, "the secret is not shown again: {read}");
    let secret = house.get(&path(&made, "/secret")).await.json_of(200);
    assert_eq!(secret["secret"], made["secret"]);

    let body = json!({"description": null, "types": ["a.*", "b.>"], "retry": []});
    let changed = patch(&house, &made, body).await.json_of(200);
    assert_eq!(changed["types"], json!(["a.*", "b.>"]));
    assert_eq!((&changed["description"], &changed["retry"]), (&Value::Null, &json!([])));
    assert_eq!(changed["metadata"], json!({"a": 1}), "what is not given stays");

    house.delete(&path(&made, "")).await.check(204);
    house.get(&path(&made, "")).await.problem(404);
}

#[tokio::test]
async fn all_faults_of_a_webhook_are_told_at_once() {
    let house = House::start().await;
    let body = json!({
        "url": "ftp://user@host", "types": ["a..b"], "filter": {"nonsense": 1}, "rate": "fast",
        "max_concurrent": 0, "timeout": "2h", "retry": ["soon"], "signature": "v9",
        "secret": "short", "metadata": [], "colour": "red",
        "headers": {"webhook-id": "x", "Host": "x", "x-a": "b\r\nc: d", "x b": "y", "x-n": 1},
    });
    let mut faults = house.post("/v1/webhooks", body).await.faults();
    faults.retain(|pointer| !pointer.starts_with("/filter"));
    faults.sort();
    let wanted = [
        "/colour",
        "/headers/Host",
        "/headers/webhook-id",
        "/headers/x b",
        "/headers/x-a",
        "/headers/x-n",
        "/max_concurrent",
        "/metadata",
        "/rate",
        "/retry/0",
        "/secret",
        "/signature",
        "/timeout",
        "/types/0",
        "/url",
    ];
    assert_eq!(faults, wanted);
    assert_eq!(house.post("/v1/webhooks", json!({})).await.faults(), ["/url", "/types"]);
}

#[tokio::test]
async fn a_webhook_has_a_version_that_changes_can_name() {
    let house = House::start().await;
    let made = webhook(&house, "http://127.0.0.1:9009/", json!({})).await;
    let read = house.get(&path(&made, "")).await.expect(200);
    let tag = read.header("etag").to_owned();
    let known = house.call(Method::GET, &path(&made, "")).header("if-none-match", &tag);
    known.send().await.check(304);
    patch(&house, &made, json!({"description": "new"})).await.check(200);
    let late = house.call(Method::PATCH, &path(&made, "")).header("if-match", &tag);
    late.json(&json!({"description": "late"})).send().await.problem(412);
    let late = house.call(Method::DELETE, &path(&made, "")).header("if-match", &tag);
    late.send().await.problem(412);
}

#[tokio::test]
async fn webhooks_are_listed_by_tenant_and_state_and_erased_by_tenant() {
    let house = House::start().await;
    let url = "http://127.0.0.1:9009/";
    for tenant in ["a", "a", "b"] {
        webhook(&house, url, json!({"tenant": tenant})).await;
    }
    let last = webhook(&house, url, json!({})).await;
    house.post(&path(&last, "/disable"), json!({})).await.check(200);
    let count = async |query: &str| {
        let listed = house.get(&format!("/v1/webhooks{query}")).await.json_of(200);
        listed["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 4);
    assert_eq!((count("?tenant=a").await, count("?state=disabled").await), (2, 1));
    let page = house.get("/v1/webhooks?limit=3").await.json_of(200);
    let next = page["next"].as_str().unwrap();
    assert_eq!(page["items"][0]["id"], last["id"], "newest first");
    assert_eq!(count(&format!("?limit=3&cursor={next}")).await, 1);
    house.delete("/v1/tenants/a").await.check(204);
    assert_eq!(count("").await, 2);
}

#[tokio::test]
async fn values_that_look_like_credentials_are_not_shown_nor_stored_in_the_clear() {
    let house = House::start().await;
    let headers = json!({"Authorization": "Bearer hunter2", "X-Colour": "red"});
    let made = webhook(&house, "http://127.0.0.1:9009/", json!({"headers": headers})).await;
    assert_eq!(made["headers"], json!({"authorization": "***", "x-colour": "red"}));
    let secret = made["secret"].as_str().unwrap();
    for entry in std::fs::read_dir(house.data()).unwrap().flatten() {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("hunter2") && !text.contains(secret), "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_filter_can_be_tried_on_an_event() {
    let house = House::start().await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "/", "type": "t",
        "data": {"total": 5}});
    for (kind, matches) in [("t", true), ("u", false)] {
        let body = json!({"filter": {"exact": {"type": kind}}, "event": event});
        let answer = house.post("/v1/webhooks/filter-test", body).await.json_of(200);
        assert_eq!(answer, json!({ "matches": matches }));
    }
    let faults = house.post("/v1/webhooks/filter-test", json!({"event": event})).await.faults();
    assert_eq!(faults, ["/filter"]);
}

#[tokio::test]
async fn changes_at_the_same_moment_are_all_made_unless_they_name_a_version() {
    let house = House::start().await;
    let made = webhook(&house, "http://127.0.0.1:9009/", json!({})).await;
    let all = |tag: Option<&str>| {
        futures::future::join_all((0..12).map(|number| {
            let mut call = house.call(Method::PATCH, &path(&made, ""));
            if let Some(tag) = tag {
                call = call.header("if-match", tag);
            }
            call.json(&json!({ "description": number.to_string() })).send()
        }))
    };
    for answer in all(None).await {
        answer.check(200);
    }
    let tag = house.get(&path(&made, "")).await.header("etag").to_owned();
    let answers = all(Some(&tag)).await;
    let made = answers.iter().filter(|answer| answer.status == 200).count();
    let late = answers.iter().filter(|answer| answer.status == 412).count();
    assert_eq!((made, late), (1, 11));
}
