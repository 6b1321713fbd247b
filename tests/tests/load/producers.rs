//! Producers that publish all the time, and publish again what was not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skald_tests::{Answer, Client};

use super::journal::{Entry, Journal};

/// Between two calls: a load that workers can work off, however slow the machine is.
const PACE: std::time::Duration = std::time::Duration::from_millis(5);
/// Keys that events belong to.
pub(crate) const KEYS: u32 = 40;

/// What came of an attempt to publish.
pub(crate) enum Published {
    /// All of it was accepted, and stands there.
    Accepted(Vec<i64>),
    /// None of it was, says the server.
    Refused(Answer),
    /// Nobody answered.
    Gone,
}

/// A producer with events of its own. What was sent and not answered is sent first the next time.
pub(crate) struct Producer {
    name: usize,
    random: StdRng,
    next: u64,
    unanswered: Vec<Value>,
}

impl Producer {
    pub(crate) fn new(name: usize, seed: u64) -> Producer {
        let random = StdRng::seed_from_u64(seed ^ (name as u64 + 1));
        Producer { name, random, next: 0, unanswered: Vec::new() }
    }

    /// Publishes until it is told to stop or the server is gone.
    pub(crate) async fn run(
        mut self,
        client: Client,
        journal: Arc<Journal>,
        stop: Arc<AtomicBool>,
    ) -> Producer {
        while !stop.load(Ordering::Relaxed) {
            match self.publish(&client, &journal).await {
                Published::Accepted(_) => tokio::time::sleep(PACE).await,
                Published::Refused(answer) => answer.check(202),
                Published::Gone => break,
            }
        }
        self
    }

    /// Publishes what was not answered.
    pub(crate) async fn finish(mut self, client: &Client, journal: &Journal) {
        if !self.unanswered.is_empty() {
            let published = self.publish(client, journal).await;
            assert!(matches!(published, Published::Accepted(_)), "the server is there");
        }
    }

    /// Publishes what was not answered, or else new events.
    pub(crate) async fn publish(&mut self, client: &Client, journal: &Journal) -> Published {
        if self.unanswered.is_empty() {
            self.unanswered = self.batch();
        }
        let body = Value::from(self.unanswered.as_slice()).to_string();
        let kind = "application/cloudevents-batch+json";
        let call = client.call(http::Method::POST, "/v1/events").typed(kind, body);
        let Ok(answer) = call.try_send().await else { return Published::Gone };
        if answer.status != 202 {
            return Published::Refused(answer);
        }
        let answer = answer.json();
        let receipts = answer["events"].as_array().unwrap();
        assert_eq!(receipts.len(), self.unanswered.len());
        let seqs: Vec<i64> =
            receipts.iter().map(|receipt| receipt["seq"].as_i64().unwrap()).collect();
        journal.note(receipts.iter().zip(&self.unanswered).zip(&seqs).map(
            |((receipt, event), seq)| {
                assert_eq!((&receipt["id"], &receipt["source"]), (&event["id"], &event["source"]));
                Entry::Accepted { id: event["id"].as_str().unwrap().to_owned(), seq: *seq }
            },
        ));
        self.unanswered.clear();
        Published::Accepted(seqs)
    }

    /// One event of each key, to be published next.
    pub(crate) fn of_each_key(&mut self, data: &Value) {
        self.unanswered = (0..KEYS).map(|key| self.event_of(key, data)).collect();
    }

    fn batch(&mut self) -> Vec<Value> {
        let size = self.random.random_range(1..=4);
        (0..size).map(|_| self.event()).collect()
    }

    fn event(&mut self) -> Value {
        let key = self.random.random_range(0..KEYS);
        let padding = "x".repeat(self.random.random_range(0..400));
        self.event_of(key, &json!({"padding": padding}))
    }

    fn event_of(&mut self, key: u32, data: &Value) -> Value {
        self.next += 1;
        let (name, number) = (self.name, self.next);
        json!({
            "specversion": "1.0", "id": format!("{name}-{number}"), "source": "/producer",
            "type": "crash.happened", "subject": format!("key-{key}"), "data": data
        })
    }
}
