//! Workers of a pull consumer: lease, do, ack, and sometimes fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skald_tests::{Client, Lease};

use super::journal::{Entry, Journal};

pub(crate) const CONSUMER: &str = "ordered-effects";

/// Short, so that what a dead worker held comes back soon.
const LEASE: &str = "1500ms";

/// Works until it is told to stop or the server is gone.
pub(crate) async fn work(client: Client, journal: Arc<Journal>, stop: Arc<AtomicBool>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let terms = json!({"max": 20, "lease": LEASE, "wait": "200ms"});
        if round(&client, &journal, &mut random, &terms).await.is_none() {
            return;
        }
    }
}

/// Works until everything is done.
pub(crate) async fn drain(client: &Client, journal: &Journal) {
    skald_tests::eventually_within(
        std::time::Duration::from_secs(120),
        "all events are done",
        async || {
            let terms = json!({"max": 200, "lease": LEASE, "wait": "100ms"});
            let mut random = StdRng::seed_from_u64(0);
            round(client, journal, &mut random, &terms).await.expect("the server is there");
            let figures = client.consumer(CONSUMER).await;
            let open = ["waiting", "in_flight", "retrying"].iter().any(|name| figures[*name] != 0);
            (!open).then_some(())
        },
    )
    .await;
}

/// Leases once, and answers for what it got; `None` when the server is gone.
async fn round(
    client: &Client,
    journal: &Journal,
    random: &mut StdRng,
    terms: &Value,
) -> Option<()> {
    let answer = post(client, "lease", terms).await?;
    let leases = Lease::read_all(&answer);
    journal.leased(&leases);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for lease in leases {
        match random.random_range(0..20) {
            0 => failed.push(lease),
            1 => {} // Forgotten, as a worker that dies does.
            _ => done.push(lease),
        }
    }
    if !failed.is_empty() {
        let naks = failed.iter().map(|lease| lease.proof_with(&json!({"delay": "0ms"})));
        post(client, "nak", &json!({"leases": naks.collect::<Vec<_>>()})).await?;
    }
    if done.is_empty() {
        return Some(());
    }
    journal.note(done.iter().map(|lease| Entry::AckSent { seq: lease.seq }));
    let proofs: Vec<Value> = done.iter().map(Lease::proof).collect();
    let answer = post(client, "ack", &json!({"leases": proofs})).await?;
    let results = answer["leases"].as_array().unwrap();
    assert_eq!(results.len(), done.len());
    journal.note(done.iter().zip(results).map(|(lease, result)| {
        assert_eq!(result["id"], lease.whole["id"]);
        Entry::AckAnswered { seq: lease.seq, ok: result["result"] == "ok" }
    }));
    Some(())
}

async fn post(client: &Client, verb: &str, body: &Value) -> Option<Value> {
    let path = format!("/v1/consumers/{CONSUMER}/{verb}");
    let answer = client.call(Method::POST, &path).json(body).try_send().await.ok()?;
    Some(answer.json_of(200))
}
