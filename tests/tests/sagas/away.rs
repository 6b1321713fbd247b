//! The database goes away for half a minute, and a node for longer than its lease, in the middle of
//! hundreds of sagas.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Nats, Participant, Postgres, Setup, eventually_within};

const SAGAS: usize = 200;
const KEY: &str = "sk_away_0123456789abcdefghij";

struct Site {
    nodes: Vec<House>,
    postgres: Postgres,
    _nats: Nats,
    _folder: tempfile::TempDir,
}

async fn site(count: usize) -> Site {
    let (nats, postgres) = (Nats::start(1).await, Postgres::start().await);
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for n in 0..count {
        let setup = Setup::serve(&folder.path().join(format!("node-{n}")), KEY)
            .environment("SKALD_LOG__URL", nats.url())
            .environment("SKALD_DATABASE__URL", postgres.url())
            .environment("SKALD_SECURITY__ADMIN_KEY", KEY)
            .environment("SKALD_SAGAS__ALLOW_PRIVATE_NETWORKS", "127.0.0.0/8");
        nodes.push(setup.start().await);
    }
    Site { nodes, postgres, _nats: nats, _folder: folder }
}

/// Starts sagas of four slow steps, every third of which is refused at the last.
async fn start_all(client: &Client, p: &Participant) -> Vec<String> {
    let step = |name: &str, path: &str| {
        format!(
            "  - {{ step: {name}, post: '{}', undo: {{ post: '{}' }} }}\n",
            p.url(path),
            p.url("/u")
        )
    };
    let text = format!(
        "saga: s\nsteps:\n{}{}{}{}",
        step("a", "/slow/400"),
        step("b", "/slow/400"),
        step("c", "/slow/400"),
        step("d", "/{{ input.last }}")
    );
    let call = client.call(Method::PUT, "/v1/sagas/definitions/s");
    call.typed("application/yaml", text).send().await.check(201);
    let ids: Vec<String> = (0..SAGAS).map(|n| format!("s{n}")).collect();
    let start = async |n: usize| {
        let last = if n.is_multiple_of(3) { "refuse" } else { "x" };
        let body = json!({"definition": "s", "id": ids[n], "input": {"last": last}});
        client.post("/v1/sagas", body).await.check(201);
    };
    futures::future::join_all((0..SAGAS).map(start)).await;
    ids
}

async fn assert_all_end(client: &Client, p: &Participant, ids: &[String]) {
    eventually_within(Duration::from_secs(90), "all sagas end", async || {
        let body = json!({"ids": ids, "timeout": "5s"});
        let waited = client.call(Method::POST, "/v1/wait").json(&body).try_send().await.ok()?;
        let ended = waited.status.is_success() && waited.json_of(200)["pending"] == json!([]);
        ended.then_some(())
    })
    .await;
    let effects = p.effects();
    for (n, id) in ids.iter().enumerate() {
        let saga: Value = client.get(&format!("/v1/sagas/{id}")).await.json_of(200);
        let completes = !n.is_multiple_of(3);
        assert_eq!(saga["status"], if completes { "completed" } else { "compensated" });
        for step in ["a", "b", "c", "d"] {
            let effect = effects.get(&(id.clone(), step.to_owned())).copied().unwrap_or(0);
            assert_eq!(effect, i64::from(completes), "{step} of {saga:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_go_on_when_the_database_was_gone_for_half_a_minute() {
    let mut site = site(1).await;
    let p = Participant::start().await;
    let client = Client::clone(&site.nodes[0]);
    let ids = start_all(&client, &p).await;
    site.postgres.stop().await;
    let body = json!({"definition": "s", "input": {"last": "x"}});
    let refused = client.post("/v1/sagas", body).await;
    refused.check(503);
    assert!(!refused.header("retry-after").is_empty());
    tokio::time::sleep(Duration::from_secs(30)).await;
    site.postgres.restart().await;
    assert_all_end(&client, &p, &ids).await;
}

/// Each waited for those before it, 10 s long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_looked_up_once_for_all_who_wait_while_the_database_is_away() {
    let mut site = site(1).await;
    let client = site.nodes[0].with_key("sk_one_that_nobody_made_0123456");
    client.get("/v1/events").await.problem(401);
    site.postgres.stop().await;
    let calls = (0..20).map(|_| client.get("/v1/events"));
    let answers = tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(calls));
    for answer in answers.await.expect("none waits for the others") {
        answer.check(503);
    }
    site.postgres.restart().await;
    eventually_within(Duration::from_secs(60), "keys are known again", async || {
        (client.get("/v1/events").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_after_its_lease_writes_nothing_that_is_not_its_own_any_more() {
    let site = site(2).await;
    let p = Participant::start().await;
    let (other, client) = (&site.nodes[1], Client::clone(&site.nodes[0]));
    let ids = start_all(&client, &p).await;
    other.pause();
    // Its shards are taken over: every saga ends without it.
    assert_all_end(&client, &p, &ids).await;
    other.resume();
    let twice = "select saga from saga_journal, json_array_elements(entries::json) entry
         where entry->>'kind' in ('completed', 'compensated') group by saga having count(*) > 1";
    let twice = site.postgres.query(twice).await;
    assert!(twice.is_empty(), "{twice:?}");
    assert_all_end(&Client::clone(other), &p, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_what_is_said_to_a_saga_of_another() {
    let site = site(2).await;
    let text = "saga: w\nsteps:\n  - { step: ok, wait_for: { signal: ok } }\n";
    let call = site.nodes[0].call(Method::PUT, "/v1/sagas/definitions/w");
    call.typed("application/yaml", text).send().await.check(201);
    let ids: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
    // Each is started, told and waited for on nodes drawn by its number: half of them do not have it.
    let live = async |n: usize| {
        let (id, node) = (&ids[n], |turn: usize| &site.nodes[(n >> turn) % 2]);
        let body = json!({"definition": "w", "id": id, "input": {"n": n}});
        node(0).post("/v1/sagas", body.clone()).await.check(201);
        node(1).post("/v1/sagas", body).await.check(200);
        let verb = if n.is_multiple_of(5) { "cancel" } else { "signals/ok" };
        node(2).post(&format!("/v1/sagas/{id}/{verb}"), json!({})).await.check(200);
        let saga = node(3).get(&format!("/v1/sagas/{id}?wait=30s")).await.json_of(200);
        let wanted = if n.is_multiple_of(5) { "cancelled" } else { "completed" };
        assert_eq!(saga["status"], wanted, "{saga:#}");
        for node in &site.nodes {
            node.post(&format!("/v1/sagas/{id}/signals/ok"), json!({})).await.check(409);
            let skip = json!({"step": "none", "reason": "x"});
            node.post(&format!("/v1/sagas/{id}/skip"), skip).await.check(404);
        }
    };
    futures::future::join_all((0..ids.len()).map(live)).await;
    for node in &site.nodes {
        node.post("/v1/sagas/none/cancel", json!({})).await.check(404);
        let listed = node.get("/v1/sagas?status=completed&limit=500").await.json_of(200);
        assert_eq!(listed["items"].as_array().unwrap().len(), 32);
    }
}
