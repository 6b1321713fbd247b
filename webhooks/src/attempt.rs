//! One attempt: signs an event and posts it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bus::{Clock, chain};
use bytes::Bytes;
use egress::Egress;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use schemas::{Event, Timestamp};

use crate::endpoint::TIMEOUT_MAX;
use crate::outbound::Outbound;

/// Bytes of a response that are kept.
const KEPT_BYTES: usize = 4_096;

/// What came of one attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was made.
    pub at: Timestamp,
    /// The status of the response; `None` when there was none.
    pub status: Option<StatusCode>,
    /// How long it took.
    pub duration: Duration,
    /// The first 4 KiB of the response.
    pub response: Option<String>,
    /// Why it failed; `None` when it was delivered.
    pub error: Option<String>,
    /// How long the other side asked to be left alone, with a 429 or 503.
    pub pause: Option<Duration>,
}

impl Attempt {
    /// The response's status; `None` when there was none.
    pub(crate) fn status_code(&self) -> Option<i64> {
        self.status.map(|status| i64::from(status.as_u16()))
    }

    /// How long it took, in milliseconds.
    pub(crate) fn millis(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether the other side said that it is gone for good.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE)
    }

    /// Whether the other side said that it has too much to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        self.status.is_some_and(|status| busy.contains(&status))
    }
}

/// An event as it is posted. Clones share the text, which is made when the first of them needs it: an
/// event may be on its way to thousands of endpoints.
#[derive(Clone, Debug, Default)]
pub struct Body(Arc<OnceLock<Bytes>>);

impl Body {
    fn of(&self, event: &Event) -> Bytes {
        self.0.get_or_init(|| Bytes::from(event.to_json())).clone()
    }
}

/// Posts `event`, of which this is the `body`, as Standard Webhooks 1.0 says; `id` is the same over all
/// attempts.
pub async fn attempt(
    egress: &Egress,
    outbound: &Outbound,
    id: &str,
    (event, body): (&Event, &Body),
    at: Timestamp,
) -> Attempt {
    let begun = Instant::now();
    let mut attempt = Attempt {
        at,
        status: None,
        duration: Duration::ZERO,
        response: None,
        error: None,
        pause: None,
    };
    let answer = match request(outbound, id, event, body, at) {
        Ok(request) => egress.send_for_status(request).await.map_err(|error| chain(&error)),
        Err(error) => Err(error),
    };
    attempt.duration = begun.elapsed();
    match answer {
        Ok(response) => {
            attempt.status = Some(response.status);
            attempt.response = Some(kept(&response.body));
            attempt.error = match &response.cut {
                _ if !response.status.is_success() => {
                    Some(format!("answered {}", response.status.as_u16()))
                }
                cut => cut.as_ref().map(|error| chain(error)),
            };
            if attempt.is_busy() {
                attempt.pause = response.retry_after(Clock::wall_seconds());
            }
        }
        Err(error) => attempt.error = Some(error),
    }
    attempt
}

fn request(
    outbound: &Outbound,
    id: &str,
    event: &Event,
    body: &Body,
    at: Timestamp,
) -> Result<egress::Request, String> {
    let route = outbound.route()?;
    let body = body.of(event);
    let mut headers = route.headers.clone();
    let mut add = |name: &'static str, value: &str| -> Result<(), String> {
        let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
        headers.insert(HeaderName::from_static(name), value);
        Ok(())
    };
    add("webhook-id", id)?;
    let seconds = Clock::wall_seconds();
    add("webhook-timestamp", &seconds.to_string())?;
    add("webhook-signature", &route.sign(id, at, seconds, &body))?;
    if let Some(parent) = event.traceparent() {
        add("traceparent", parent)?;
    }
    let timeout = outbound.endpoint().manner.timeout.0.min(TIMEOUT_MAX);
    let url = route.target.clone();
    Ok(egress::Request { method: Method::POST, url, headers, body, timeout })
}

/// The database holds no zero bytes in text.
fn kept(body: &[u8]) -> String {
    let mut text =
        String::from_utf8_lossy(&body[..body.len().min(KEPT_BYTES)]).replace('\0', "\u{fffd}");
    while text.len() > KEPT_BYTES {
        text.pop();
    }
    text
}
