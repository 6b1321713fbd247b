//! A participant of sagas: a service with books of its own, which follow the rules of the barrier.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One call as it came in.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method and path.
    pub line: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null without one.
    pub body: Value,
}

impl Call {
    /// A header, empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A participant. The path says how it answers: `/refuse`, `/status/500`, `/garbage`, `/later`,
/// `/fail/3` (500 three times a key), `/after/1` (503 with `Retry-After: 1`, once a key),
/// `/answer/done` (500 with `Skald-Answer: done`), `/large/2000000` (so many bytes), `/slow/50` (done,
/// after so many milliseconds), `/nothing` (204); anything else is done.
pub struct Participant {
    address: String,
    shared: Arc<Mutex<Books>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Books {
    calls: Vec<Call>,
    /// What is in effect, by saga and step.
    effects: BTreeMap<(String, String), i64>,
    answered: HashMap<String, (StatusCode, Value)>,
    blocked: BTreeMap<(String, String), bool>,
    failures: HashMap<String, u32>,
    /// Calls under way now, and at most.
    at_once: (usize, usize),
    /// Paths that are answered well from now on, whatever they say.
    healed: bool,
}

impl Participant {
    /// How many calls were under way at once, at most, since this was asked last.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        std::mem::take(&mut self.books().at_once.1)
    }

    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Participant {
        let shared: Arc<Mutex<Books>> = Arc::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a running server");
        });
        Participant { address, shared, server }
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.books().calls.clone()
    }

    /// What is in effect, by saga and step: never anything but 0 and 1.
    #[must_use]
    pub fn effects(&self) -> BTreeMap<(String, String), i64> {
        self.books().effects.clone()
    }

    /// From now on everything is done.
    pub fn heal(&self) {
        self.books().healed = true;
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Books>>>,
    method: http::Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let at_once = |more: bool| {
        let mut books = shared.lock().unwrap_or_else(PoisonError::into_inner);
        books.at_once.0 = if more { books.at_once.0 + 1 } else { books.at_once.0 - 1 };
        books.at_once.1 = books.at_once.1.max(books.at_once.0);
    };
    at_once(true);
    if let Some(time) = uri.path().strip_prefix("/slow/").and_then(|time| time.parse().ok()) {
        tokio::time::sleep(std::time::Duration::from_millis(time)).await;
    }
    at_once(false);
    let mut books = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let call = Call { line: format!("{method} {}", uri.path()), headers, body };
    books.calls.push(call.clone());
    let mut more = HeaderMap::new();
    let path: Vec<&str> = uri.path().split('/').skip(1).collect();
    let key = call.header("idempotency-key").to_owned();
    if !books.healed {
        match path[..] {
            ["status", code, ..] => {
                let code = code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
                return (code.expect("a status"), more, "{\"error\":\"so it says\"}".to_owned());
            }
            ["garbage", ..] => return (StatusCode::OK, more, "<html>".to_owned()),
            ["later", ..] => {
                more.insert("skald-completion", "callback".parse().expect("a value"));
                return (StatusCode::ACCEPTED, more, String::new());
            }
            ["answer", what, ..] => {
                more.insert("skald-answer", what.parse().expect("a value"));
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return (status, more, "{\"n\":1}".to_owned());
            }
            ["large", bytes, ..] => {
                let bytes = bytes.parse().expect("a number");
                return (StatusCode::OK, more, format!("\"{}\"", "x".repeat(bytes)));
            }
            ["after", seconds, ..] if books.failures.insert(key.clone(), 1).is_none() => {
                more.insert("retry-after", seconds.parse().expect("a value"));
                return (StatusCode::SERVICE_UNAVAILABLE, more, String::new());
            }
            ["fail", times, ..] => {
                let failures = books.failures.entry(key.clone()).or_default();
                *failures += 1;
                if *failures <= times.parse().expect("a number") {
                    return (StatusCode::INTERNAL_SERVER_ERROR, more, String::new());
                }
            }
            _ => {}
        }
    }
    if let Some((status, value)) = books.answered.get(&key) {
        return (*status, more, value.to_string());
    }
    let refuses = path[..] == ["refuse"] && !books.healed;
    let (status, value) = carry_out(&mut books, &call, refuses);
    books.answered.insert(key, (status, value.clone()));
    if path[..] == ["nothing"] {
        return (StatusCode::NO_CONTENT, more, String::new());
    }
    (status, more, value.to_string())
}

fn carry_out(books: &mut Books, call: &Call, refuses: bool) -> (StatusCode, Value) {
    let of = (call.header("skald-saga-id").to_owned(), call.header("skald-step").to_owned());
    if call.header("skald-operation") == "action" {
        if refuses || books.blocked.get(&of).is_some_and(|blocked| *blocked) {
            return (StatusCode::UNPROCESSABLE_ENTITY, json!({"error": "no"}));
        }
        *books.effects.entry(of).or_default() += 1;
    } else if books.effects.get(&of).copied().unwrap_or(0) > 0 {
        *books.effects.entry(of).or_default() -= 1;
    } else {
        books.blocked.insert(of, true);
    }
    (StatusCode::OK, json!({"id": call.header("idempotency-key"), "got": call.body}))
}
