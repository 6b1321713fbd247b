//! Looks for what a test left behind, without a runtime: it is called while a house is dropped.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long work may take to come to its end after a test.
const PATIENCE: Duration = Duration::from_secs(10);

/// Consumers that still have work under way, or dead letters that nobody claimed.
pub(crate) fn look(base: &str, key: Option<&str>, claimed: &HashSet<String>) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = look_once(base, key, claimed);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn look_once(base: &str, key: Option<&str>, claimed: &HashSet<String>) -> Vec<String> {
    let Ok(listed) = consumers(base, key) else { return vec!["no answer from the server".into()] };
    let Some(items) = listed["items"].as_array() else {
        return vec![format!("no consumers in {listed}")];
    };
    let pending = |consumer: &Value| {
        ["retrying", "dead", "in_flight"].iter().any(|figure| consumer[*figure] != 0)
    };
    let is_claimed =
        |consumer: &Value| consumer["name"].as_str().is_some_and(|name| claimed.contains(name));
    let left = items.iter().filter(|consumer| pending(consumer) && !is_claimed(consumer));
    left.map(Value::to_string).collect()
}

/// A plain HTTP/1.0 call, which the server answers in one piece and ends by closing.
fn consumers(base: &str, key: Option<&str>) -> std::io::Result<Value> {
    let address = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!("GET /v1/consumers?limit=500 HTTP/1.0\r\nHost: {address}\r\n{key}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(std::io::Error::other)
}
