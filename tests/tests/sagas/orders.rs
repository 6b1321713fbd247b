//! The example of an order: in YAML over HTTP and NATS, and in Rust, with its participant.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Service, Setup, eventually, tree};

async fn participant(folder: &Path) -> Service {
    Service::start(Path::new(env!("CARGO_BIN_EXE_participant")), folder, "books", None).await
}

fn order(id: &str, item: &str) -> Value {
    json!({"order_id": id, "customer": "c1", "total_cents": 500, "card": "visa", "items": [item], "ship": true})
}

async fn ended(client: &Client, id: &str, status: &str) {
    let saga = client.get(&format!("/v1/sagas/{id}?wait=30s")).await.json_of(200);
    assert_eq!(saga["status"], status, "{saga:#}");
}

/// What is in effect, by saga.
async fn effects(service: &Service, saga: &str) -> i64 {
    service.books().await.iter().filter(|row| row.0 == saga).map(|row| row.2).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_in_yaml_is_placed_by_an_event_or_nothing_of_it() {
    let books = tempfile::tempdir().unwrap();
    let service = participant(books.path()).await;
    let house = Setup::dev()
        .environment("SKALD_SAGAS__ENV", "PAYMENT_URL,STOCK_URL,DELIVERY_URL")
        .environment("PAYMENT_URL", service.url())
        .environment("STOCK_URL", service.url())
        .environment("DELIVERY_URL", service.url())
        .start()
        .await;
    let text = std::fs::read_to_string(tree::root().join("examples/orders/order.yaml")).unwrap();
    let call = house.call(Method::PUT, "/v1/sagas/definitions/place-order");
    call.typed("application/yaml", text).send().await.check(201);
    for (id, item) in [("1", "book"), ("2", "sold_out")] {
        house.publish(json!({"type": "com.acme.order.placed", "data": order(id, item)})).await;
    }
    for (id, status, sum) in [("1", "completed", 3), ("2", "compensated", 0)] {
        let saga = format!("place-order:{id}");
        eventually("it is started", async || {
            (house.get(&format!("/v1/sagas/{saga}")).await.status == 200).then_some(())
        })
        .await;
        ended(&house, &saga, status).await;
        assert_eq!(effects(&service, &saga).await, sum, "{saga}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_in_rust_goes_on_where_it_was_when_its_program_is_killed() {
    let books = tempfile::tempdir().unwrap();
    let mut service = participant(books.path()).await;
    let key = "sk_order_0123456789abcdef";
    let setup = Setup::program(Path::new(env!("CARGO_BIN_EXE_order")), Some(key))
        .environment("SKALD_SECURITY__ADMIN_KEY", key)
        .environment("PARTICIPANTS_URL", service.url());
    let mut house: House = setup.start().await;
    let start = async |house: &House, id: &str, item: &str| {
        let body = json!({"definition": "place-order", "id": id, "input": order(id, item)});
        house.post("/v1/sagas", body).await.check(201);
    };
    start(&house, "one", "book").await;
    ended(&house, "one", "completed").await;
    start(&house, "two", "sold_out").await;
    ended(&house, "two", "compensated").await;
    service.kill_9();
    start(&house, "three", "book").await;
    eventually("it asks in vain", async || {
        let journal = house.get("/v1/sagas/three/journal").await.text();
        journal.contains("retrying").then_some(())
    })
    .await;
    house.kill_9();
    service.restart().await;
    house.restart().await;
    ended(&house, "three", "completed").await;
    for (id, sum) in [("one", 3), ("two", 0), ("three", 3)] {
        assert_eq!(effects(&service, id).await, sum, "{id}");
    }
}
