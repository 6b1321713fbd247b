//! Two transactions at one lock, on Postgres, where the second begins in the middle of the first.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Nats, Postgres, Setup, eventually};

const KEY: &str = "sk_locks_0123456789abcdefghi";
const HOLDS: &str = "
saga: holds
lock: ['l']
steps:
  - { step: w, wait_for: { signal: go } }
";

struct Site {
    nodes: Vec<House>,
    postgres: Postgres,
    _nats: Nats,
    _folder: tempfile::TempDir,
}

async fn site() -> Site {
    let (nats, postgres) = (Nats::start(1).await, Postgres::start().await);
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for n in 0..2 {
        let setup = Setup::serve(&folder.path().join(format!("node-{n}")), KEY)
            .environment("SKALD_LOG__URL", nats.url())
            .environment("SKALD_DATABASE__URL", postgres.url())
            .environment("SKALD_SECURITY__ADMIN_KEY", KEY);
        nodes.push(setup.start().await);
    }
    let call = nodes[0].call(Method::PUT, "/v1/sagas/definitions/holds");
    call.typed("application/yaml", HOLDS.to_owned()).send().await.check(201);
    let site = Site { nodes, postgres, _nats: nats, _folder: folder };
    // From then on none changes hands.
    eventually("each node has half of the shards", async || {
        let halves = "select count(*) from saga_shard where node is not null group by node";
        let halves = site.postgres.query(halves).await;
        let half = (bus::PARTITIONS / 2).to_string();
        (halves == [half.clone(), half]).then_some(())
    })
    .await;
    site
}

impl Site {
    /// Ids of two sagas that different nodes have.
    async fn apart(&self) -> [String; 2] {
        let shards = "select shard, node from saga_shard order by shard";
        let rows = self.postgres.query(shards).await;
        let owner = |id: &str| {
            let shard = usize::try_from(bus::partition_of_key(id)).unwrap();
            rows[shard].split_once('|').unwrap().1.to_owned()
        };
        let first = "a0".to_owned();
        let other = (0..1_000).map(|n| format!("b{n}")).find(|id| owner(id) != owner(&first));
        [first, other.unwrap()]
    }

    /// Makes a saga, and waits until it has the lock, or stands in the queue for it.
    async fn start(&self, id: &str, table: &str) {
        let body = json!({"definition": "holds", "id": id, "input": {}});
        self.nodes[0].post("/v1/sagas", body).await.check(201);
        let query = format!("select 1 from {table} where saga = '{id}'");
        eventually("it is there", async || {
            (self.postgres.query(&query).await.len() == 1).then_some(())
        })
        .await;
    }

    /// Every change of this kind takes long from now on.
    async fn slow(&self, when: &str) {
        let sleeps = "create function sleeps() returns trigger language plpgsql as
             $$ begin perform pg_sleep(1); return new; end $$";
        self.postgres.query(sleeps).await;
        let trigger = format!("create trigger sleeps before {when} execute function sleeps()");
        self.postgres.query(&trigger).await;
    }

    async fn sleeps(&self) {
        let query = "select 1 from pg_stat_activity where wait_event = 'PgSleep'";
        eventually("it is in the middle", async || {
            (!self.postgres.query(query).await.is_empty()).then_some(())
        })
        .await;
    }

    async fn ends(&self, id: &str) {
        let client: &Client = &self.nodes[0];
        client.post(&format!("/v1/sagas/{id}/signals/go"), json!({})).await.check(200);
        let saga: Value = client.get(&format!("/v1/sagas/{id}?wait=20s")).await.json_of(200);
        assert_eq!(saga["status"], "completed", "{saga:#}");
    }

    /// The safety net had nothing to do.
    fn assert_nothing_was_mended(&self) {
        for node in &self.nodes {
            let told = node.errors();
            assert!(!told.contains("nobody let go of"), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_in_the_queue_while_the_holder_lets_go_is_handed_the_lock() {
    let site = site().await;
    let [first, second] = site.apart().await;
    site.start(&first, "saga_lock").await;
    site.slow("insert on saga_lock_queue for each row").await;
    let body = json!({"definition": "holds", "id": second, "input": {}});
    site.nodes[0].post("/v1/sagas", body).await.check(201);
    // It has seen that the lock is held.
    site.sleeps().await;
    site.ends(&first).await;
    site.ends(&second).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    site.assert_nothing_was_mended();
    assert!(site.postgres.query("select 1 from saga_lock").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_end_is_being_written_is_not_left_with_a_lock() {
    let site = site().await;
    let [first, second] = site.apart().await;
    site.start(&first, "saga_lock").await;
    site.start(&second, "saga_lock_queue").await;
    site.start("third", "saga_lock_queue").await;
    let ends = format!("new.id = '{second}' and new.status = 'cancelled'");
    site.slow(&format!("update on saga for each row when ({ends})")).await;
    let client = Client::clone(&site.nodes[0]);
    let path = format!("/v1/sagas/{second}/cancel");
    let cancel = tokio::spawn(async move { client.post(&path, json!({})).await.check(200) });
    site.sleeps().await;
    site.ends(&first).await;
    cancel.await.unwrap();
    site.ends("third").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    site.assert_nothing_was_mended();
    assert!(site.postgres.query("select 1 from saga_lock").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_want_several_of_few_locks_on_two_nodes_all_end() {
    let site = site().await;
    let text = "saga: few\nlock: ['{{ input.a }}', '{{ input.b }}']\nsteps:\n  - { step: nap, sleep: 5ms }\n";
    let call = site.nodes[0].call(Method::PUT, "/v1/sagas/definitions/few");
    call.typed("application/yaml", text.to_owned()).send().await.check(201);
    let ids: Vec<String> = (0..48).map(|n| format!("f{n}")).collect();
    let live = async |n: usize| {
        let (id, node) = (&ids[n], &site.nodes[n % 2]);
        let input = json!({"a": format!("l{}", n % 4), "b": format!("l{}", n / 4 % 4)});
        let body = json!({"definition": "few", "id": id, "input": input});
        node.post("/v1/sagas", body).await.check(201);
        if n.is_multiple_of(3) {
            // Some have the lock by then, some wait, some have ended.
            let status = node.post(&format!("/v1/sagas/{id}/cancel"), json!({})).await.status;
            assert!(status == 200 || status == 409, "{status}");
        }
    };
    futures::future::join_all((0..ids.len()).map(live)).await;
    let body = json!({"ids": ids, "timeout": "60s"});
    let waited = site.nodes[0].post("/v1/wait", body).await.json_of(200);
    assert_eq!(waited["pending"], json!([]));
    site.assert_nothing_was_mended();
    for node in &site.nodes {
        assert!(!node.errors().contains("deadlock"), "{}", node.errors());
    }
    for table in ["saga_lock", "saga_lock_queue"] {
        assert!(site.postgres.query(&format!("select 1 from {table}")).await.is_empty());
    }
}
