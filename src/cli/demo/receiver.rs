//! A customer's program at the end of a webhook: it takes what is signed, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use egress::Secret;
use egress::signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use tokio::net::TcpListener;

/// A message that is older, or from further in the future, is not believed: 5 minutes.
const TOLERANCE_SECONDS: i64 = 300;

/// The program.
pub(super) struct Receiver {
    pub(super) url: String,
    seen: Arc<Seen>,
}

/// What came in.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// How often each message came, by its id.
    pub(super) messages: BTreeMap<String, usize>,
    /// Messages that were not signed, or not by the secret.
    pub(super) unverified: usize,
}

#[derive(Default)]
struct Seen {
    secret: OnceLock<Secret>,
    received: Mutex<Received>,
}

impl Receiver {
    pub(super) async fn open() -> anyhow::Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let seen: Arc<Seen> = Arc::default();
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Receiver { url, seen })
    }

    /// The secret that the endpoint was given when it was registered.
    pub(super) fn trust(&self, secret: Secret) {
        let _ = self.seen.secret.set(secret);
    }

    pub(super) fn received(&self) -> Received {
        self.seen.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn take(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, at) = (header(ID_HEADER), header(TIMESTAMP_HEADER).parse::<i64>().unwrap_or_default());
    let recent = (jiff::Timestamp::now().as_second() - at).abs() <= TOLERANCE_SECONDS;
    let secret = seen.secret.get();
    let signed =
        secret.is_some_and(|secret| secret.verify(id, at, &body, header(SIGNATURE_HEADER)));
    let mut received = seen.received.lock().unwrap_or_else(PoisonError::into_inner);
    if !(recent && signed) {
        received.unverified += 1;
        return StatusCode::UNAUTHORIZED;
    }
    *received.messages.entry(id.to_owned()).or_default() += 1;
    StatusCode::NO_CONTENT
}
