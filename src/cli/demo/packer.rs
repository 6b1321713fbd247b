//! A consumer outside: it leases orders over HTTP, as a program in any language does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::orders::{self, Order};
use crate::cli::client::Client;

/// Its name.
pub(super) const NAME: &str = "pack-order";

/// How often each order was packed, by the id of its event. At least once is what leases promise.
pub(super) type Packed = Arc<Mutex<BTreeMap<String, usize>>>;

/// Leases and packs for ever, also when the node is gone for a while.
pub(super) async fn run(client: Client, packed: Packed) {
    loop {
        if let Err(error) = round(&client, &packed).await {
            tracing::debug!(%error, "leasing again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Registers it, from the first event on.
pub(super) async fn register(client: &Client) -> anyhow::Result<()> {
    let consumer = json!({"kind": "pull", "types": [orders::PLACED], "from": "first"});
    client.send(Method::PUT, &["consumers", NAME], Some(&consumer)).await?;
    Ok(())
}

async fn round(client: &Client, packed: &Packed) -> anyhow::Result<()> {
    let ask = json!({"max": 20, "lease": "5s", "wait": "10s"});
    let leased = client.send(Method::POST, &["consumers", NAME, "lease"], Some(&ask)).await?;
    let leases = leased["leases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for lease in leases {
        let mut answer = json!({"id": lease["id"], "token": lease["token"]});
        match serde_json::from_value::<Order>(lease["event"]["data"].clone()) {
            Ok(_) => {
                note(packed, &lease["event"]["id"]);
                done.push(answer);
            }
            Err(error) => {
                answer["error"] = json!(format!("this is no order: {error}"));
                answer["permanent"] = json!(true);
                failed.push(answer);
            }
        }
    }
    for (verb, answers) in [("ack", done), ("nak", failed)] {
        if !answers.is_empty() {
            let body = json!({ "leases": answers });
            client.send(Method::POST, &["consumers", NAME, verb], Some(&body)).await?;
        }
    }
    Ok(())
}

fn note(packed: &Packed, id: &Value) {
    let id = id.as_str().unwrap_or_default().to_owned();
    *packed.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
}
