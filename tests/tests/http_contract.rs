//! The contract of the HTTP API, section by section.

mod analytics;
mod conditions;
mod dead_letters;
mod everywhere;
mod keys;
mod large_items;
mod lists;
mod local_only;
mod policy;
mod publish;
mod publish_refusals;
mod pull;
mod push;
mod reading;
mod registration;
mod replays;
mod replays_under_way;
mod saga_definitions;
mod saga_limits;
mod saga_shapes;
mod sagas;
mod sagas_stuck;
mod stream;
mod trace;
mod webhook_deliveries;
mod webhook_ends;
mod webhook_guards;
mod webhook_isolation;
mod webhook_misbehaviour;
mod webhooks;

use serde_json::{Value, json};
use skald_tests::{Client, eventually};

/// An event as its producer writes it: all attributes that are required.
fn cloud_event(source: &str, id: &str, kind: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": source, "type": kind, "data": {"id": id}})
}

/// Publishes `count` events of a type in one call; their ids are `0`, `1`, …
async fn publish_many(client: &Client, kind: &str, count: usize) -> Vec<Value> {
    let event = |n: usize| cloud_event(&format!("/{kind}"), &n.to_string(), kind);
    let events: Vec<Value> = (0..count).map(event).collect();
    client.publish_batch(&events).await
}

/// The seq of a receipt, of an item of a list or of a lease.
#[track_caller]
fn seq(of: &Value) -> i64 {
    of["seq"].as_i64().unwrap_or_else(|| panic!("no seq: {of}"))
}

/// Waits until the figures of a consumer are as wanted, and answers them.
pub(crate) async fn figures(client: &Client, consumer: &str, wanted: &[(&str, i64)]) -> Value {
    eventually(&format!("{consumer} has {wanted:?}"), async || {
        let figures = client.consumer(consumer).await;
        wanted.iter().all(|(name, value)| figures[*name] == *value).then_some(figures)
    })
    .await
}

/// RFC 3339 in UTC with microseconds.
#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{text}");
}
