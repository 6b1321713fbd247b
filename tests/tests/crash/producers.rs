//! Producers that publish without a pause, and publish again what was not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skald_tests::Client;

use super::journal::{Entry, Journal};

/// Keys that events belong to.
const KEYS: u32 = 40;

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
            if self.unanswered.is_empty() {
                self.unanswered = self.batch();
            }
            if !self.publish(&client, &journal).await {
                break;
            }
        }
        self
    }

    /// Publishes what was not answered.
    pub(crate) async fn finish(mut self, client: &Client, journal: &Journal) {
        if !self.unanswered.is_empty() {
            assert!(self.publish(client, journal).await, "the server is there");
        }
    }

    /// Whether an answer came back.
    async fn publish(&mut self, client: &Client, journal: &Journal) -> bool {
        let body = Value::from(self.unanswered.as_slice()).to_string();
        let kind = "application/cloudevents-batch+json";
        let call = client.call(http::Method::POST, "/v1/events").typed(kind, body);
        let Ok(answer) = call.try_send().await else { return false };
        let answer = answer.json_of(202);
        let receipts = answer["events"].as_array().unwrap();
        assert_eq!(receipts.len(), self.unanswered.len());
        journal.note(receipts.iter().zip(&self.unanswered).map(|(receipt, event)| {
            assert_eq!((&receipt["id"], &receipt["source"]), (&event["id"], &event["source"]));
            let id = event["id"].as_str().unwrap().to_owned();
            Entry::Accepted { id, seq: receipt["seq"].as_i64().unwrap() }
        }));
        self.unanswered.clear();
        true
    }

    fn batch(&mut self) -> Vec<Value> {
        let size = self.random.random_range(1..=4);
        (0..size).map(|_| self.event()).collect()
    }

    fn event(&mut self) -> Value {
        self.next += 1;
        let (name, number) = (self.name, self.next);
        json!({
            "specversion": "1.0", "id": format!("{name}-{number}"), "source": "/producer",
            "type": "crash.happened", "subject": format!("key-{}", self.random.random_range(0..KEYS)),
            "data": {"padding": "x".repeat(self.random.random_range(0..400))}
        })
    }
}
