//! An endpoint of someone else's, to which events are posted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::eventually;

/// A server on this machine that keeps what it is sent.
pub struct Receiver {
    address: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    /// What to answer, in order; the last one for ever.
    statuses: Vec<StatusCode>,
    /// Headers of every answer that is no success.
    refusal: HeaderMap,
    received: Mutex<Vec<Received>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it came.
    pub at: Instant,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Received {
    /// A header, empty when it is absent.
    ///
    /// # Panics
    /// When it is no text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Receiver {
    /// Answers with these statuses, one after the other, and with the last one for ever.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn answering(statuses: &[u16]) -> Receiver {
        Receiver::refusing_with(statuses, &[]).await
    }

    /// The same; what is no success has these headers.
    ///
    /// # Panics
    /// When there is no free port, or a header is none.
    pub async fn refusing_with(statuses: &[u16], headers: &[(&'static str, &str)]) -> Receiver {
        let statuses = statuses.iter().map(|&code| StatusCode::from_u16(code).expect("a status"));
        let header = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().expect("a header"))
        };
        let shared = Arc::new(Shared {
            statuses: statuses.collect(),
            refusal: headers.iter().map(header).collect(),
            received: Mutex::new(Vec::new()),
        });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a running server");
        });
        Receiver { address, shared, server }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// All requests so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there have been `count` requests.
    ///
    /// # Panics
    /// When there are not in time.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} requests"), async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, &'static str) {
    let mut received = shared.received.lock().unwrap_or_else(PoisonError::into_inner);
    let turn = received.len().min(shared.statuses.len().saturating_sub(1));
    received.push(Received { at: Instant::now(), headers, body });
    let status = shared.statuses.get(turn).copied().unwrap_or(StatusCode::NO_CONTENT);
    let headers = if status.is_success() { HeaderMap::new() } else { shared.refusal.clone() };
    (status, headers, "said the receiver")
}
