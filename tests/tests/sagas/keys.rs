//! Keys and names of locks that Postgres has no place for: they end their own saga, and no other waits.

use http::Method;
use serde_json::{Value, json};
use skald_tests::{Client, House, Postgres, Setup, eventually};

const WAITS: &str = "
saga: waits
steps:
  - step: w
    wait_for: { event: com.acme.paid, key: '{{ input.k }}', of: '{{ event.data.k }}' }
";
const LOCKS: &str = "
saga: locks
lock: ['{{ input.k }}']
steps:
  - { step: nap, sleep: 1ms }
";

async fn ended(client: &Client, id: &str) -> Value {
    client.get(&format!("/v1/sagas/{id}?wait=20s")).await.json_of(200)
}

async fn start(client: &Client, definition: &str, id: &str, k: &str) {
    let body = json!({"definition": definition, "id": id, "input": {"k": k}});
    client.post("/v1/sagas", body).await.check(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_postgres_does_not_take_ends_its_own_saga_alone() {
    let postgres = Postgres::start().await;
    let setup = Setup::dev().environment("SKALD_DATABASE__URL", postgres.url());
    let house: House = setup.start().await;
    for (name, text) in [("waits", WAITS), ("locks", LOCKS)] {
        let call = house.call(Method::PUT, &format!("/v1/sagas/definitions/{name}"));
        call.typed("application/yaml", text.to_owned()).send().await.check(201);
    }
    start(&house, "waits", "good", "order-1").await;
    let incompressible: String =
        (0..1_200).map(|n: u32| format!("{:08x}", n.wrapping_mul(0x9e37_79b9))).collect();
    for (n, k) in ["a\0b", &incompressible].into_iter().enumerate() {
        for definition in ["waits", "locks"] {
            let id = format!("{definition}-{n}");
            start(&house, definition, &id, k).await;
            let saga = ended(&house, &id).await;
            assert_eq!(saga["status"], "compensated", "{saga:#}");
            let error = saga["error"].as_str().unwrap();
            assert!(error.contains("without NUL"), "{error}");
        }
        // Nor does an event with such a key keep others from being handed over.
        house.publish(json!({"type": "com.acme.paid", "data": {"k": k}})).await;
    }
    eventually("it waits", async || {
        let saga = house.get("/v1/sagas/good").await.json_of(200);
        (saga["steps"][0]["status"] == "acting").then_some(())
    })
    .await;
    house.publish(json!({"type": "com.acme.paid", "data": {"k": "order-1"}})).await;
    assert_eq!(ended(&house, "good").await["status"], "completed");
}
