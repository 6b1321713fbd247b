//! What must be true when all has come to rest: every order accepted is in the log once, was consumed
//! once by each, its saga has ended as it must, the ledgers balance, and the receiver was told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skald_tests::{Client, eventually};

use super::orders::{Done, PLACED, completes};
use super::stage::Stage;

pub(crate) async fn assert_all_adds_up(stage: &Stage, done: &Done) {
    let orders = done.published.orders;
    assert!(orders > 20, "orders flowed: {orders}");
    let wanted: BTreeSet<String> = (0..orders).map(|n| format!("o{n}")).collect();

    for node in &stage.nodes {
        let placed = ids(node, PLACED).await;
        assert_eq!(placed.len(), orders, "each is in the log once");
        assert_eq!(placed.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
    let counted = format!("/v1/analytics/timeseries?metric=events&interval=day&type={PLACED}");
    let counted = stage.nodes[0].get(&counted).await.json_of(200);
    let counted =
        counted["points"].as_array().unwrap().iter().map(|at| at["value"].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), orders as u64, "each is counted once");

    for id in &wanted {
        let (ok, open) = done.packed.acks.get(id).copied().unwrap_or_default();
        assert!(ok <= 1, "{id} was packed {ok} times");
        assert!(ok + open >= 1, "{id} was never packed");
    }
    let told: BTreeSet<String> = done.received.keys().cloned().collect();
    assert_eq!(told, wanted, "the receiver was told of each");
    assert_eq!(done.forged, 0, "every signature was genuine");

    // The saga has ended when its last event is staged; the relay may have to be taken over first.
    let completed = (0..orders).filter(|n| completes(*n)).count();
    let confirmed = eventually("what was staged is published", async || {
        let confirmed = ids(&stage.nodes[0], "com.acme.order.confirmed").await;
        (confirmed.len() >= completed).then_some(confirmed)
    })
    .await;
    assert_eq!(confirmed.len(), completed);
    assert_eq!(confirmed.into_iter().collect::<BTreeSet<_>>().len(), completed, "each once");
    assert_ledgers_balance(stage, orders).await;
}

async fn assert_ledgers_balance(stage: &Stage, orders: usize) {
    let mut books: Vec<BTreeMap<String, (i64, i64)>> = Vec::new();
    for service in &stage.services {
        let lines = service.books().await;
        books.push(lines.into_iter().map(|(saga, _, sum, lines)| (saga, (sum, lines))).collect());
    }
    for n in 0..orders {
        let id = format!("order:o{n}");
        let saga = stage.nodes[0].get(&format!("/v1/sagas/{id}")).await.json_of(200);
        let expected = if completes(n) { "completed" } else { "compensated" };
        assert_eq!(saga["status"], expected, "{saga:#}");
        for (books, step) in books.iter().zip(["charge", "reserve", "book"]) {
            let (sum, lines) = books.get(&id).copied().unwrap_or_default();
            assert_eq!(sum, i64::from(completes(n)), "{step} of {saga:#}");
            // Once done, at most once undone: no double charge, no double refund.
            assert!(lines <= if completes(n) { 1 } else { 2 }, "{lines} lines: {step} of {saga:#}");
        }
    }
}

/// The ids of all events of a type, as this node tells them.
async fn ids(node: &Client, kind: &str) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/events?type={kind}&limit=500&after={after}");
        let page = node.get(&path).await.json_of(200);
        let items = page["items"].as_array().unwrap();
        let id = |item: &Value| item["event"]["id"].as_str().unwrap().to_owned();
        found.extend(items.iter().map(id));
        match items.last() {
            Some(last) => after = last["seq"].as_i64().unwrap(),
            None => return found,
        }
    }
}
