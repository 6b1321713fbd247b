//! Pull consumers, as a program outside uses them.

use serde_json::{Value, json};

use crate::{Answer, Client};

/// A leased event.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Where the event stands in the log.
    pub seq: i64,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// The event.
    pub event: Value,
    /// All that was said of it.
    pub whole: Value,
}

impl Lease {
    /// Reads the leases of an answer.
    ///
    /// # Panics
    /// When they are not as the contract says.
    #[must_use]
    pub fn read_all(answer: &Value) -> Vec<Lease> {
        let leases = answer["leases"].as_array().unwrap_or_else(|| panic!("no leases: {answer}"));
        let read = |whole: &Value| Lease {
            seq: whole["seq"].as_i64().unwrap_or_else(|| panic!("no seq: {whole}")),
            attempt: whole["attempt"].as_i64().unwrap_or_else(|| panic!("no attempt: {whole}")),
            event: whole["event"].clone(),
            whole: whole.clone(),
        };
        leases.iter().map(read).collect()
    }

    /// What shows that one holds it.
    #[must_use]
    pub fn proof(&self) -> Value {
        json!({"id": self.whole["id"], "token": self.whole["token"]})
    }

    /// The proof with more said about it.
    #[must_use]
    pub fn proof_with(&self, more: &Value) -> Value {
        let mut proof = self.proof();
        if let (Some(proof), Some(more)) = (proof.as_object_mut(), more.as_object()) {
            proof.extend(more.clone());
        }
        proof
    }
}

/// The only one of `items`.
///
/// # Panics
/// When there are none or several.
#[track_caller]
pub fn one<T: std::fmt::Debug>(items: Vec<T>) -> T {
    assert_eq!(items.len(), 1, "{items:?}");
    items.into_iter().next().expect("one")
}

impl Client {
    /// Registers a pull consumer of one type pattern, from the start of the log.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn pull_consumer(&self, name: &str, types: &str, policy: Value) {
        let body = json!({"types": [types], "from": "first", "kind": "pull", "policy": policy});
        self.put(&format!("/v1/consumers/{name}"), body).await.check(201);
    }

    /// Leases up to 100 events, waiting up to 10 s for the first.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn lease(&self, consumer: &str) -> Vec<Lease> {
        self.lease_with(consumer, json!({"max": 100, "lease": "30s", "wait": "10s"})).await
    }

    /// Leases on the caller's terms.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn lease_with(&self, consumer: &str, terms: Value) -> Vec<Lease> {
        let path = format!("/v1/consumers/{consumer}/lease");
        Lease::read_all(&self.post(&path, terms).await.json_of(200))
    }

    /// Acks these, if there are any; answers `ok` or `expired` for each.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn ack(&self, consumer: &str, leases: &[Lease]) -> Vec<String> {
        if leases.is_empty() {
            return Vec::new();
        }
        let proofs: Vec<Value> = leases.iter().map(Lease::proof).collect();
        self.settle(consumer, "ack", json!({"leases": proofs})).await
    }

    /// Answers for one that could not be done, with more said about it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn nak(&self, consumer: &str, lease: &Lease, more: Value) -> String {
        let body = json!({"leases": [lease.proof_with(&more)]});
        one(self.settle(consumer, "nak", body).await)
    }

    /// `ack`, `nak` or `extend`; answers `ok` or `expired` for each lease.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn settle(&self, consumer: &str, verb: &str, body: Value) -> Vec<String> {
        let path = format!("/v1/consumers/{consumer}/{verb}");
        results(&self.post(&path, body.clone()).await, &body)
    }
}

fn results(answer: &Answer, asked: &Value) -> Vec<String> {
    let answer = answer.json_of(200);
    let leases = answer["leases"].as_array().unwrap_or_else(|| panic!("no leases: {answer}"));
    let ids = |of: &Value| -> Vec<Value> {
        of["leases"].as_array().into_iter().flatten().map(|lease| lease["id"].clone()).collect()
    };
    assert_eq!(ids(&answer), ids(asked), "one result for each, in order");
    leases.iter().map(|lease| lease["result"].as_str().unwrap_or_default().to_owned()).collect()
}
