//! Workers of a pull consumer: lease, do, ack, and sometimes fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skald_tests::{Client, Lease};

use super::journal::{Entry, Journal, now};

pub(crate) const CONSUMER: &str = "ordered-effects";

/// Short, so that what a dead worker held comes back soon.
const LEASE: &str = "1500ms";
pub(crate) const LEASE_US: i64 = 1_500_000;

/// A server did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It says that it cannot now.
    Later,
    /// It says nothing.
    Gone,
}

/// Works until it is told to stop or the server is gone.
pub(crate) async fn work(client: Client, journal: Arc<Journal>, stop: Arc<AtomicBool>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        match round(&client, &journal, &mut random, (20, "200ms")).await {
            Ok(()) => {}
            Err(Unanswered::Gone) => return,
            Err(Unanswered::Later) => panic!("a server that runs can lease"),
        }
    }
}

/// Works until everything is done.
pub(crate) async fn drain(client: &Client, journal: &Journal) {
    skald_tests::eventually_within(
        std::time::Duration::from_secs(120),
        "all events are done",
        async || {
            let mut random = StdRng::seed_from_u64(0);
            round(client, journal, &mut random, (200, "100ms")).await.expect("the server is there");
            let figures = client.consumer(CONSUMER).await;
            let open = ["waiting", "in_flight", "retrying"].iter().any(|name| figures[*name] != 0);
            (!open).then_some(())
        },
    )
    .await;
}

/// Leases once, up to so many and waiting so long for the first, and answers for what it got.
pub(crate) async fn round(
    client: &Client,
    journal: &Journal,
    random: &mut StdRng,
    (max, wait): (u32, &str),
) -> Result<(), Unanswered> {
    let terms = json!({"max": max, "lease": LEASE, "wait": wait});
    let answer = post(client, "lease", &terms).await?;
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
    let at = now();
    if !failed.is_empty() {
        let sent = |lease: &Lease| Entry::NakSent { seq: lease.seq, attempt: lease.attempt, at };
        journal.note(failed.iter().map(sent));
        let naks = failed.iter().map(|lease| lease.proof_with(&json!({"delay": "0ms"})));
        post(client, "nak", &json!({"leases": naks.collect::<Vec<_>>()})).await?;
    }
    if done.is_empty() {
        return Ok(());
    }
    let sent = |lease: &Lease| Entry::AckSent { seq: lease.seq, attempt: lease.attempt, at };
    journal.note(done.iter().map(sent));
    let proofs: Vec<Value> = done.iter().map(Lease::proof).collect();
    let answer = post(client, "ack", &json!({"leases": proofs})).await?;
    let results = answer["leases"].as_array().unwrap();
    assert_eq!(results.len(), done.len());
    journal.note(done.iter().zip(results).map(|(lease, result)| {
        assert_eq!(result["id"], lease.whole["id"]);
        Entry::AckAnswered { seq: lease.seq, ok: result["result"] == "ok" }
    }));
    Ok(())
}

async fn post(client: &Client, verb: &str, body: &Value) -> Result<Value, Unanswered> {
    let path = format!("/v1/consumers/{CONSUMER}/{verb}");
    let call = client.call(Method::POST, &path).json(body);
    let answer = call.try_send().await.map_err(|_| Unanswered::Gone)?;
    if answer.status == 503 {
        return Err(Unanswered::Later);
    }
    Ok(answer.json_of(200))
}
