//! The barrier in another language: three Python participants with books of their own, killed at
//! their worst moment, and the engine killed beside them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skald_tests::{House, eventually_within, tree};

const SAGAS: usize = 500;
const SERVICES: [&str; 3] = ["payment", "stock", "delivery"];

/// A participant that is started again whenever it dies.
struct Service {
    child: Child,
    port: u16,
    books: std::path::PathBuf,
    deaths: usize,
}

impl Service {
    fn start(books: std::path::PathBuf, port: u16, dies: bool) -> Service {
        let script = tree::root().join("examples/orders/participant.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(port.to_string()).arg(&books).stdout(Stdio::piped());
        if dies {
            command.env("DIE_NOW", "1");
        }
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Service { child, port, books, deaths: 0 }
    }

    fn revive(&mut self, dies: bool) {
        if self.child.try_wait().unwrap().is_some() {
            let deaths = self.deaths + 1;
            *self = Service::start(self.books.clone(), self.port, dies);
            self.deaths = deaths;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_ledgers_balance_whoever_is_killed() {
    let mut house = House::start().await;
    let books = |name: &str| house.folder().join(format!("{name}.db"));
    let mut services: Vec<Service> =
        SERVICES.iter().map(|name| Service::start(books(name), 0, true)).collect();
    let url = |at: usize| format!("http://127.0.0.1:{}", services[at].port);
    let step = |name: &str, at: usize| {
        format!(
            "step: {name}, post: '{0}/do', body: {{ items: '{{{{ input.{name} }}}}' }}, retry: {{ \
             attempts_max: 60, backoff_min: 20ms, backoff_max: 300ms }}, undo: {{ post: \
             '{0}/undo', attempts_max: 60, backoff_min: 20ms, backoff_max: 300ms }}",
            url(at)
        )
    };
    let text = format!(
        "saga: order\nsteps:\n  - {{ {} }}\n  - together: [ {{ {} }}, {{ {} }} ]\n",
        step("charge", 0),
        step("reserve", 1),
        step("book", 2)
    );
    let call = house.call(Method::PUT, "/v1/sagas/definitions/order");
    call.typed("application/yaml", text).send().await.check(201);
    let ids: Vec<String> = (0..SAGAS).map(|n| format!("o{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let sold_out = if n.is_multiple_of(4) { "sold_out" } else { "fine" };
        let input = json!({"charge": 1, "reserve": sold_out, "book": 1});
        let body = json!({"definition": "order", "id": id, "input": input});
        house.post("/v1/sagas", body).await.check(201);
        services.iter_mut().for_each(|service| service.revive(true));
        if n == SAGAS / 3 || n == SAGAS * 2 / 3 {
            house.kill_9();
            house.restart().await;
        }
    }
    eventually_within(Duration::from_secs(120), "all sagas end", async || {
        services.iter_mut().for_each(|service| service.revive(true));
        let body = json!({"ids": ids, "timeout": "200ms"});
        let waited = house.post("/v1/wait", body).await.json_of(200);
        (waited["pending"] == json!([])).then_some(())
    })
    .await;
    services.iter_mut().for_each(|service| service.revive(false));
    let deaths: usize = services.iter().map(|service| service.deaths).sum();
    assert!(deaths >= 10, "they died {deaths} times");
    for (service, step) in services.iter_mut().zip(["charge", "reserve", "book"]) {
        let _ = service.child.kill();
        let _ = service.child.wait();
        *service = Service::start(service.books.clone(), service.port, false);
        let url = format!("http://127.0.0.1:{}/books", service.port);
        let ledger: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        for (n, id) in ids.iter().enumerate() {
            let rows = ledger.as_array().unwrap();
            let row = rows.iter().find(|row| row[0] == **id && row[1] == step);
            let effect = row.map_or(0, |row| row[2].as_i64().unwrap());
            assert_eq!(effect, i64::from(!n.is_multiple_of(4)), "{step} of {id}");
        }
    }
}
