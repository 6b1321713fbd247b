//! Two nodes and three participants, each a process with books of its own, their broker and their
//! database, killed and stopped at random while hundreds of orders run: all end, and the three ledgers
//! balance.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skald_tests::{Client, House, Nats, Postgres, Service, Setup, eventually_within, seed};

const SAGAS: usize = 600;
const KILLS: usize = 14;
const KEY: &str = "sk_killed_0123456789abcdefgh";
const RETRY: &str = "attempts_max: 80, backoff_min: 20ms, backoff_max: 500ms";

fn definition(payment: &Service, delivery: &Service) -> String {
    format!(
        "saga: order
start_on: com.acme.order.placed
id: '{{{{ event.data.id }}}}'
steps:
  - step: charge
    post: '{payment}/charge'
    retry: {{ {RETRY} }}
    undo: {{ post: '{payment}/refund', {RETRY} }}
  - together:
    - {{ step: reserve, command: stock, body: '{{{{ input.stock }}}}', timeout: 2s, retry: {{ {RETRY} }}, undo: {{ command: stock, as: release, timeout: 2s, {RETRY} }} }}
    - {{ step: book, post: '{delivery}/book', retry: {{ {RETRY} }}, undo: {{ post: '{delivery}/cancel', {RETRY} }} }}
  - {{ step: confirm, publish: com.acme.confirmed, body: '{{{{ input.id }}}}', no_undo: said }}
",
        payment = payment.url(),
        delivery = delivery.url(),
    )
}

fn id(n: usize) -> String {
    format!("o{n}")
}

/// Starts orders until all are: what was not answered is started again, wherever a node answers.
async fn place_orders(nodes: [Client; 2], placed: Arc<AtomicUsize>) {
    for n in 0..SAGAS {
        let stock = if n.is_multiple_of(3) { "sold_out" } else { "fine" };
        let input = json!({"id": id(n), "stock": stock});
        let by_event = n.is_multiple_of(5);
        let (path, body) = if by_event {
            let event = json!({"type": "com.acme.order.placed", "id": id(n), "source": "/t", "data": input});
            ("/v1/events", event)
        } else {
            let saga =
                json!({"definition": "order", "id": format!("order:{}", id(n)), "input": input});
            ("/v1/sagas", saga)
        };
        for attempt in n.. {
            let call = nodes[attempt % 2].call(Method::POST, path).json(&body);
            let sent = tokio::time::timeout(Duration::from_secs(20), call.try_send()).await;
            if sent.is_ok_and(|sent| sent.is_ok_and(|answer| answer.status.is_success())) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        placed.store(n + 1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_ledgers_balance_whichever_of_two_nodes_and_three_services_dies() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut nats, mut postgres) = (Nats::start(1).await, Postgres::start().await);
    let folder = tempfile::tempdir().unwrap();
    let nats_url = nats.url();
    let database_url = postgres.url();
    let setup = |n: usize| {
        Setup::serve(&folder.path().join(format!("node-{n}")), KEY)
            .environment("SKALD_LOG__URL", nats_url.clone())
            .environment("SKALD_DATABASE__URL", database_url.clone())
            .environment("SKALD_SECURITY__ADMIN_KEY", KEY)
            .environment("SKALD_SAGAS__ALLOW_PRIVATE_NETWORKS", "127.0.0.0/8")
    };
    let mut nodes = [setup(0).start().await, setup(1).start().await];
    let program = Path::new(env!("CARGO_BIN_EXE_participant"));
    let at = folder.path();
    let mut services = [
        Service::start(program, at, "payment", None).await,
        Service::start(program, at, "stock", Some(&nats_url)).await,
        Service::start(program, at, "delivery", None).await,
    ];
    let call = nodes[0].call(Method::PUT, "/v1/sagas/definitions/order");
    let text = definition(&services[0], &services[2]);
    call.typed("application/yaml", text).send().await.check(201);
    let placed = Arc::new(AtomicUsize::new(0));
    let clients = nodes.each_ref().map(|node| Client::clone(node));
    let orders = tokio::spawn(place_orders(clients, Arc::clone(&placed)));
    for kill in 0..KILLS {
        // Spread over the orders, whatever their speed; the moment itself is drawn.
        let due = SAGAS * kill / KILLS;
        eventually_within(Duration::from_secs(120), "orders are placed", async || {
            (placed.load(Ordering::Relaxed) >= due).then_some(())
        })
        .await;
        let pause = Duration::from_millis(random.random_range(0..300));
        tokio::time::sleep(pause).await;
        let victim = kill % 7;
        let away = Duration::from_millis(random.random_range(0..1_500));
        if victim == 5 {
            postgres.stop().await;
            tokio::time::sleep(away).await;
            postgres.restart().await;
        } else if victim == 6 {
            nats.kill_9(0);
            tokio::time::sleep(away).await;
            nats.restart(0);
            nats.well().await;
        } else if victim < 2 {
            nodes[victim].kill_9();
            tokio::time::sleep(away).await;
            nodes[victim].restart().await;
        } else {
            services[victim - 2].kill_9();
            tokio::time::sleep(away).await;
            services[victim - 2].restart().await;
        }
    }
    orders.await.unwrap();
    let ids: Vec<String> = (0..SAGAS).map(|n| format!("order:{}", id(n))).collect();
    let ends = format!("all orders end (SKALD_TEST_SEED={seed})");
    eventually_within(Duration::from_secs(180), &ends, async || {
        for id in &ids {
            nodes[1]
                .call(Method::GET, &format!("/v1/sagas/{id}"))
                .try_send()
                .await
                .ok()
                .filter(|a| a.status.is_success())?;
        }
        let body = json!({"ids": ids, "timeout": "5s"});
        let waited = nodes[0].post("/v1/wait", body).await.json_of(200);
        (waited["pending"] == json!([])).then_some(())
    })
    .await;
    assert_balance(&nodes, &services, seed).await;
}

async fn assert_balance(nodes: &[House; 2], services: &[Service; 3], seed: u64) {
    let books = [services[0].books().await, services[1].books().await, services[2].books().await];
    for n in 0..SAGAS {
        let saga: Value =
            nodes[n % 2].get(&format!("/v1/sagas/order:{}", id(n))).await.json_of(200);
        let completes = !n.is_multiple_of(3);
        let expected = if completes { "completed" } else { "compensated" };
        assert_eq!(saga["status"], expected, "SKALD_TEST_SEED={seed} {saga:#}");
        for (books, step) in books.iter().zip(["charge", "reserve", "book"]) {
            let of = |row: &&(String, String, i64, i64)| row.0 == saga["id"] && row.1 == step;
            let (effect, entries) = books.iter().find(of).map_or((0, 0), |row| (row.2, row.3));
            let told = format!("SKALD_TEST_SEED={seed} {step} of {saga:#}");
            assert_eq!(effect, i64::from(completes), "{told}");
            // Once done, at most once undone: no double charge, no double refund.
            assert!(entries <= if completes { 1 } else { 2 }, "{entries} entries: {told}");
        }
    }
    assert!(services.iter().all(|service| service.deaths >= 2));
}
