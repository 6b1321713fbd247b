//! The examples, run as their readers would: new consumers that join while everything runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use skald_tests::{Client, House, Nats, Postgres, Setup, binary, eventually, tree};

const KEY: &str = "sk_of_the_example_suite_0123456789";

fn placed(n: i64) -> Value {
    json!({"type": "com.acme.order.placed", "source": "/shop", "id": format!("o-{n}"),
        "data": {"order_id": format!("o-{n}"), "total_cents": n * 10_000,
            "items": [{"sku": "MUG", "quantity": n}]}})
}

/// A program in Python, and the lines that it prints.
struct Script {
    child: Child,
    lines: Receiver<String>,
}

impl Script {
    fn start(name: &str, url: &str) -> Script {
        let path = tree::root().join("examples/new-consumer").join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 40, "{name} is longer than 40 lines");
        let mut command = Command::new("python3");
        let command = command.arg(path).arg(url).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Script { child, lines }
    }

    /// The next so many lines, in any order.
    fn says(&self, count: usize) -> Vec<String> {
        let line = |_| self.lines.recv_timeout(Duration::from_secs(20)).expect("a line in time");
        let mut lines: Vec<String> = (0..count).map(line).collect();
        lines.sort();
        lines
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn publish(client: &Client, orders: std::ops::RangeInclusive<i64>) {
    for n in orders {
        client.publish(placed(n)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_python_leases_from_the_first_event_on() {
    let mut house = House::start().await;
    house.claim("weigh-order");
    publish(&house, 1..=2).await;
    let script = Script::start("lease.py", &house.base());
    assert_eq!(script.says(2), ["weighed o-1 1", "weighed o-2 2"]);
    publish(&house, 3..=3).await;
    assert_eq!(script.says(1), ["weighed o-3 3"]);
    house.publish(json!({"type": "com.acme.order.placed", "data": {"orderNo": "o-4"}})).await;
    eventually("what is no order is a dead letter", async || {
        (house.consumer("weigh-order").await["dead"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_recovers_the_past_and_gets_what_comes() {
    let house = House::start().await;
    publish(&house, 1..=2).await;
    let script = Script::start("webhook.py", &house.base());
    assert_eq!(script.says(2), ["received o-1", "received o-2"]);
    publish(&house, 3..=3).await;
    assert_eq!(script.says(1), ["received o-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_rust_joins_the_nodes_that_run() {
    let (nats, postgres) = (Nats::start(1).await, Postgres::start().await);
    let shared = |setup: Setup| {
        setup
            .environment("SKALD_LOG__URL", nats.url())
            .environment("SKALD_DATABASE__URL", postgres.url())
            .environment("SKALD_SECURITY__ADMIN_KEY", KEY)
    };
    let folder = tempfile::tempdir().unwrap();
    let house = shared(Setup::serve(folder.path(), KEY)).start().await;
    publish(&house, 1..=3).await;
    let program = binary::path().with_file_name("examples").join("new_consumer");
    assert!(program.exists(), "cargo build --example new_consumer");
    let source = std::fs::read_to_string(tree::root().join("examples/new-consumer/main.rs"));
    assert!(source.unwrap().lines().count() <= 40, "it is longer than 40 lines");
    let program = shared(Setup::program(&program, Some(KEY))).start().await;
    eventually("it has spotted the large one of the past", async || {
        program.errors().contains("order=\"o-3\"").then_some(())
    })
    .await;
    publish(&house, 4..=4).await;
    eventually("it spots what comes", async || {
        program.errors().contains("order=\"o-4\"").then_some(())
    })
    .await;
    assert!(!program.errors().contains("order=\"o-2\""), "{}", program.errors());
    eventually("it has had everything", async || {
        let seen = house.consumer("spot-large-order").await;
        assert_eq!(seen["kind"], "rust", "{seen}");
        (seen["waiting"] == 0).then_some(())
    })
    .await;
}
