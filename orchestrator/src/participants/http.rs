//! Participants over HTTP: the headers that they see, and what their answers mean.

use bus::chain;
use bytes::Bytes;
use egress::{Egress, EgressError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::seen::seen;
use super::unclear_for;
use crate::request::{Answer, Request};
use crate::store::SagaRow;

/// Bytes of a response that an error tells of.
const SHOWN_BYTES: usize = 300;

/// What the definition says of a call.
pub(super) struct HttpRequest<'r> {
    pub(super) method: &'r Method,
    pub(super) url: &'r str,
    pub(super) headers: &'r [(String, String)],
    pub(super) body: Option<&'r Value>,
}

/// Sends one attempt and reads its answer.
pub(super) async fn send(
    egress: &Egress,
    saga: &SagaRow,
    request: &Request,
    call: HttpRequest<'_>,
    now_s: i64,
) -> Answer {
    let url = match egress.check_url(call.url) {
        Ok(url) => url,
        // Nothing is sent, and the next attempt would be the same.
        Err(error @ EgressError::InvalidUrl { .. }) => return Answer::Unfilled(chain(&error)),
        Err(error) => return Answer::unclear(chain(&error)),
    };
    let headers = match headers(saga, request, &call) {
        Ok(headers) => headers,
        Err(error) => return Answer::Unfilled(error),
    };
    let body = call.body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let method = call.method.clone();
    let sent =
        egress.send(egress::Request { method, url, headers, body, timeout: request.timeout });
    match sent.await {
        Ok(response) => read(&response, now_s),
        Err(error) => Answer::unclear(chain(&error)),
    }
}

fn headers(saga: &SagaRow, request: &Request, call: &HttpRequest<'_>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
        let (name, value) = parsed.ok_or_else(|| format!("the header {name} cannot be sent"))?;
        headers.insert(name, value);
        Ok::<(), String>(())
    };
    if call.body.is_some() {
        add("content-type", "application/json")?;
    }
    add("accept", "application/json")?;
    for (name, value) in call.headers {
        add(name, value)?;
    }
    for (name, value) in seen(saga, request) {
        add(name, &value)?;
    }
    Ok(headers)
}

fn read(response: &egress::Response, now_s: i64) -> Answer {
    let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
    let status = response.status;
    let callback = status == StatusCode::ACCEPTED && header("skald-completion") == Some("callback");
    match header("skald-answer") {
        Some("done") => return done(response),
        Some("refused") => return Answer::Refused(told(response)),
        Some("later") => return Answer::Later,
        Some("retry") => {
            return unclear_for(told(response), response.retry_after(now_s));
        }
        _ => {}
    }
    if callback {
        Answer::Later
    } else if status.is_success() {
        done(response)
    } else if status == StatusCode::UNPROCESSABLE_ENTITY {
        Answer::Refused(told(response))
    } else {
        unclear_for(told(response), response.retry_after(now_s))
    }
}

/// The body is the output. One that is no JSON is garbage, and garbage is no clear answer.
fn done(response: &egress::Response) -> Answer {
    if response.truncated {
        return Answer::unclear("the answer is larger than 1 MiB");
    }
    if response.body.iter().all(u8::is_ascii_whitespace) {
        return Answer::Done(Value::Null);
    }
    match serde_json::from_slice(&response.body) {
        Ok(output) => Answer::Done(output),
        Err(error) => Answer::unclear(format!("answered what is no JSON: {error}")),
    }
}

/// What a participant said, for people: the `detail`, `error` or `message` of its JSON, else the
/// beginning of its body.
fn told(response: &egress::Response) -> String {
    let status = response.status.as_u16();
    if let Ok(Value::Object(body)) = serde_json::from_slice(&response.body) {
        let said = ["detail", "error", "message", "title"].iter().find_map(|name| body.get(*name));
        if let Some(said) = said.and_then(Value::as_str) {
            return format!("{status}: {said}");
        }
    }
    let shown = &response.body[..response.body.len().min(SHOWN_BYTES)];
    let text = String::from_utf8_lossy(shown);
    match text.trim() {
        "" => format!("answered {status}"),
        text => format!("{status}: {text}"),
    }
}
