//! Keys: who may call, and what.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{EventStream, House, Setup, skald};
use tempfile::TempDir;

use super::cloud_event;

/// Makes a key; answers what was told of it.
async fn create(data: &Path, name: &str, more: &[&str]) -> Value {
    let folder = data.to_str().unwrap();
    let mut arguments = vec!["keys", "create", name];
    arguments.extend(more);
    arguments.extend(["--data", folder, "--json"]);
    let made = skald(data, &arguments, &[]).await.ok();
    serde_json::from_str(&made.stdout).unwrap_or_else(|error| panic!("{error}: {made:?}"))
}

async fn key(data: &Path, scope: &str) -> String {
    let made = create(data, &format!("for-{scope}"), &["--scope", scope]).await;
    let key = made["key"].as_str().unwrap_or_else(|| panic!("no key: {made}")).to_owned();
    assert!(key.starts_with("sk_") && key.len() > 30, "{key}");
    key
}

/// What asks for keys, called with one of the scope `admin`.
pub(crate) async fn setup_in(folder: &TempDir) -> Setup {
    let admin = key(folder.path(), "admin").await;
    Setup::serve(folder.path(), &admin)
}

async fn house_in(folder: &TempDir) -> House {
    setup_in(folder).await.start().await
}

#[tokio::test]
async fn without_a_key_only_the_pages_for_operators_answer() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let nobody = house.without_key();
    for path in ["/v1/events", "/v1/consumers", "/v1/events/stream", "/v1/replays"] {
        let answer = nobody.get(path).await;
        answer.problem(401);
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
    }
    nobody.post("/v1/events", json!({"type": "t"})).await.problem(401);
    for open in ["/healthz", "/readyz", "/.well-known/webhook-keys"] {
        nobody.get(open).await.check(200);
        house.with_key("sk_that-was-revoked").get(open).await.check(200);
    }
    house.get("/v1/events").await.check(200);
}

#[tokio::test]
async fn a_key_that_is_none_is_401() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    for forged in ["sk_forged", "", "sk_", "'; drop table api_key"] {
        house.with_key(forged).get("/v1/events").await.problem(401);
    }
    let basic = house.without_key().call(Method::GET, "/v1/events");
    basic.header("authorization", "Basic YTpi").send().await.problem(401);
}

#[tokio::test]
async fn scopes_are_enforced() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let body = json!({"types": ["t"], "kind": "pull"});
    let publisher = house.with_key(&key(folder.path(), "publish").await);
    publisher.post("/v1/events", json!({"type": "t"})).await.check(202);
    publisher.get("/v1/events").await.problem(403);
    publisher.put("/v1/consumers/c", body.clone()).await.problem(403);

    let reader = house.with_key(&key(folder.path(), "read").await);
    reader.get("/v1/events").await.check(200);
    reader.get("/v1/consumers").await.check(200);
    reader.post("/v1/events", json!({"type": "t"})).await.problem(403);
    reader.put("/v1/consumers/c", body.clone()).await.problem(403);
    reader.delete("/v1/consumers/c").await.problem(403);

    let operator = house.with_key(&key(folder.path(), "operate").await);
    operator.put("/v1/consumers/c", body).await.check(201);
    operator.post("/v1/consumers/c/lease", json!({"max": 1})).await.check(200);
    operator.post("/v1/consumers/c/pause", json!({})).await.check(200);
    operator.post("/v1/events", json!({"type": "t"})).await.problem(403);
}

#[tokio::test]
async fn a_key_may_have_several_scopes() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let both = house.with_key(&key(folder.path(), "publish,read").await);
    both.publish(json!({"type": "t"})).await;
    both.get("/v1/events").await.check(200);
    both.put("/v1/consumers/c", json!({"types": ["t"], "kind": "pull"})).await.problem(403);
}

#[tokio::test]
async fn a_revocation_counts_at_once() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let made = create(folder.path(), "short-lived", &["--scope", "read"]).await;
    let client = house.with_key(made["key"].as_str().unwrap());
    client.get("/v1/events").await.check(200);
    let (id, data) = (made["id"].as_str().unwrap(), folder.path().to_str().unwrap());
    let _ = skald(folder.path(), &["keys", "revoke", id, "--data", data], &[]).await.ok();
    client.get("/v1/events").await.problem(401);
}

#[tokio::test]
async fn keys_are_listed_without_the_key_itself() {
    let folder = TempDir::new().unwrap();
    let made = create(folder.path(), "till", &["--scope", "publish", "--tenant", "acme"]).await;
    let data = folder.path().to_str().unwrap();
    let arguments = ["keys", "list", "--data", data, "--json"];
    let listed = skald(folder.path(), &arguments, &[]).await.ok().stdout;
    assert!(listed.contains("till") && listed.contains("acme") && listed.contains("publish"));
    assert!(!listed.contains(made["key"].as_str().unwrap()), "{listed}");
    let table = skald(folder.path(), &["keys", "list", "--data", data], &[]).await.ok().stdout;
    assert!(table.contains("till") && !table.contains(made["key"].as_str().unwrap()));
}

#[tokio::test]
async fn a_key_of_a_tenant_publishes_and_reads_only_its_own_events() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let made =
        create(folder.path(), "acme", &["--scope", "publish,read", "--tenant", "acme"]).await;
    let acme = house.with_key(made["key"].as_str().unwrap());
    acme.publish(json!({"type": "t", "id": "own", "tenant": "acme"})).await;
    let foreign = acme.post("/v1/events", json!({"type": "t", "tenant": "other"})).await;
    assert!([403, 422].contains(&foreign.status.as_u16()), "{foreign:?}");
    house.publish(json!({"type": "t", "id": "foreign", "tenant": "other"})).await;
    house.publish(json!({"type": "t", "id": "nobodys"})).await;
    let listed = acme.get("/v1/events").await.json_of(200);
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{listed}");
    assert_eq!(items[0]["event"]["id"], "own");
    acme.get("/v1/events/2").await.problem(403);
}

#[tokio::test]
async fn what_one_tenant_publishes_is_no_duplicate_of_what_another_does() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    for tenant in ["acme", "beta"] {
        let made =
            create(folder.path(), tenant, &["--scope", "publish,read", "--tenant", tenant]).await;
        let its = house.with_key(made["key"].as_str().unwrap());
        for duplicate in [false, true] {
            let receipt = its.publish(cloud_event("/shop", "order-1", "t")).await;
            assert_eq!(receipt["duplicate"], duplicate, "{receipt}");
        }
        let listed = its.get("/v1/events").await.json_of(200);
        assert_eq!(listed["items"][0]["event"]["tenant"], tenant, "{listed}");
        assert_eq!(listed["items"][0]["event"]["source"], "/shop", "{listed}");
    }
}

#[tokio::test]
async fn the_configured_admin_key_always_holds() {
    let folder = TempDir::new().unwrap();
    let key = "sk_admin_0123456789abcdef";
    let setup = Setup::serve(folder.path(), key).environment("SKALD_SECURITY__ADMIN_KEY", key);
    let house = setup.start().await;
    house.publish(json!({"type": "t"})).await;
    house.without_key().get("/v1/events").await.problem(401);
    assert!(!house.errors().contains(key), "a key is never logged");
}

#[tokio::test]
async fn without_any_key_a_server_does_not_listen_beyond_this_machine() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    for verb in ["serve", "dev"] {
        let arguments = [verb, "--listen", "0.0.0.0:0", "--data", data];
        let refusal = skald(folder.path(), &arguments, &[]).await.refusal();
        assert!(refusal.contains("key"), "{refusal}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked() {
    let folder = TempDir::new().unwrap();
    let house = house_in(&folder).await;
    let made = create(folder.path(), "reader", &["--scope", "read"]).await;
    let reader = house.with_key(made["key"].as_str().unwrap());
    let mut stream = EventStream::open(reader.call(Method::GET, "/v1/events/stream")).await;
    let id = made["id"].as_str().unwrap();
    let data = folder.path().to_str().unwrap();
    let revoked = skald(folder.path(), &["keys", "revoke", id, "--data", data], &[]).await;
    assert_eq!(revoked.ok().code, Some(0));
    assert!(stream.ends_within(std::time::Duration::from_secs(10)).await);
}
