//! What every request goes through: a place, an id, a span, a time limit.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State as Extract};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use crate::api::leases::WAIT_MAX;
use crate::api::linger::linger;
use crate::api::problem::Problem;
use crate::api::{State, auth, trace_context};
use crate::keys::Principal;

/// Longest request id taken over from a caller.
const REQUEST_ID_BYTES_MAX: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The gate as a layer of the router.
pub(crate) async fn gate(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let handle = |principal, mut request: Request| {
        request.extensions_mut().insert(principal);
        next.run(request)
    };
    pass(&state, route, request, handle).await
}

/// Lets a request through to `handle`, or refuses it; either way it is counted under `route`.
pub(crate) async fn pass<F: Future<Output = Response>>(
    state: &State,
    route: &str,
    request: Request,
    handle: impl FnOnce(Principal, Request) -> F,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let id = request_id(&request);
    let span = tracing::debug_span!(
        "request",
        otel.kind = "server",
        otel.name = %format_args!("{method} {route}"),
        http.request.method = %method,
        http.route = %route,
        request.id = %id.to_str().unwrap_or_default(),
    );
    trace_context::continue_from(&span, request.headers());

    let place = state.places.try_acquire();
    let response = if place.is_err() && !auth::is_open(request.uri().path()) {
        Problem::overloaded().into_response()
    } else {
        admit(state, request, handle).instrument(span).await
    };
    finish(state, response, &method, route, id, started)
}

async fn admit<F: Future<Output = Response>>(
    state: &State,
    request: Request,
    handle: impl FnOnce(Principal, Request) -> F,
) -> Response {
    let (parts, body) = request.into_parts();
    let (body, _share) = state.bodies.count(linger(body));
    let principal = match auth::admit(state, &parts).await {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
    };
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Problem::media_type("send the body plain, or coded as gzip").into_response();
    }
    if parts.uri.path().contains("%00") {
        return Problem::malformed("nothing has a NUL character in its name").into_response();
    }
    let waits = auth::waits(parts.uri.path());
    let limit = if waits { state.timeout + WAIT_MAX } else { state.timeout };
    let handled = AssertUnwindSafe(handle(principal, Request::from_parts(parts, body)));
    let handled = handled.catch_unwind();
    match tokio::time::timeout(limit, handled).await {
        Ok(Ok(response)) => told_as_problem(response),
        Ok(Err(_)) => {
            tracing::error!("a handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable("the request took too long").into_response(),
    }
}

fn finish(
    state: &State,
    mut response: Response,
    method: &axum::http::Method,
    route: &str,
    id: HeaderValue,
    started: Instant,
) -> Response {
    response.headers_mut().insert(REQUEST_ID, id);
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A page of somebody else's must not show ours and have its buttons pressed.
    let html = |value: &HeaderValue| value.as_bytes().starts_with(b"text/html");
    if headers.get(header::CONTENT_TYPE).is_some_and(html) {
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    }
    let status = response.status().as_u16();
    if status >= 500 {
        let id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        tracing::warn!(request.id = id, %method, route, status, "a request could not be answered");
    }
    state.requests.count(method_label(method), route, status, started.elapsed());
    response
}

/// What the framework refuses by itself, such as a body over the limit, leaves as a problem too.
fn told_as_problem(response: Response) -> Response {
    let told = || {
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers().get(header::CONTENT_TYPE) == Some(&problem)
    };
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE if !told() => {
            Problem::too_large("the body is too large").into_response()
        }
        StatusCode::BAD_REQUEST if !told() => {
            Problem::malformed("the request cannot be read").into_response()
        }
        _ => response,
    }
}

/// A caller's id is taken over when it is short and plain; a new one is drawn otherwise.
fn request_id(request: &Request) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let ok = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
        !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(ok)
    };
    request.headers().get(REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
        let mut id = *b"req_................................";
        Uuid::now_v7().simple().encode_lower(&mut id[4..]);
        HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("req"))
    })
}

/// Methods that exist; anything else is one label, so that callers cannot make up new series.
fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}
