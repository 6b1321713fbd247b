//! The ledger of the nodes: every event once, those of a key in their order.

use std::collections::BTreeMap;

use serde_json::Value;
use skald_tests::{Postgres, eventually_within};

use super::site::TAKEOVER;

/// Waits until the ledger has a line for each of these.
pub(crate) async fn has(postgres: &Postgres, seqs: &[i64], within: std::time::Duration) {
    let listed: Vec<String> = seqs.iter().map(i64::to_string).collect();
    let query =
        format!("select count(distinct seq) from ledger where seq in ({})", listed.join(","));
    let all = seqs.len().to_string();
    eventually_within(within, "the ledger has what was published", async || {
        (postgres.query(&query).await == [all.as_str()]).then_some(())
    })
    .await;
}

/// Every event of the log has one line, and lines of one key stand in the order of the log.
pub(crate) async fn assert_each_once_and_in_order(postgres: &Postgres, log: &[Value]) {
    let all: Vec<i64> = log.iter().map(|item| item["seq"].as_i64().unwrap()).collect();
    has(postgres, &all, TAKEOVER).await;
    let mut keys: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut lines = 0;
    for line in postgres.query("select key, seq from ledger order by line").await {
        let (key, seq) = line.split_once('|').unwrap();
        keys.entry(key.to_owned()).or_default().push(seq.parse().unwrap());
        lines += 1;
    }
    for (key, seqs) in &keys {
        let wrong = seqs.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(wrong, None, "{key}: not once, or not in order");
    }
    assert_eq!(lines, log.len(), "each event once");
}
