//! What every connection is answered by.
//!
//! Publishing is the one request that comes by the ten thousands a second: its address is compared
//! first, and it goes through the gate straight to its handler. Everything else, a compressed
//! publish too, goes through the router, whose layers cost more than the handler itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use tower::Service;

use crate::api::publish::{self, PATH};
use crate::api::{State, gate, router};

/// What every connection is answered by.
#[derive(Clone)]
pub struct Front {
    state: State,
    router: Router,
}

impl Front {
    /// The whole API.
    #[must_use]
    pub fn new(state: State) -> Front {
        Front { router: router(state.clone()), state }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // A router always is, and the gate refuses what is too much.
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        name_coding(&mut request);
        if !is_plain_publish(&request) {
            return Box::pin(self.router.call(request));
        }
        let state = self.state.clone();
        Box::pin(async move {
            let handle = |principal, request| async {
                publish::answer(&state, principal, request).await.into_response()
            };
            Ok(gate::pass(&state, PATH, request, handle).await)
        })
    }
}

/// Codings are named in any case, and gzip by two names (RFC 9110, section 8.4.1).
fn name_coding(request: &mut Request) {
    if let Some(coding) = request.headers_mut().get_mut(header::CONTENT_ENCODING) {
        let gzip = [&b"gzip"[..], b"x-gzip"];
        if gzip.iter().any(|name| coding.as_bytes().eq_ignore_ascii_case(name)) {
            *coding = HeaderValue::from_static("gzip");
        } else if coding.as_bytes().eq_ignore_ascii_case(b"identity") {
            request.headers_mut().remove(header::CONTENT_ENCODING);
        }
    }
}

fn is_plain_publish(request: &Request) -> bool {
    *request.method() == Method::POST
        && request.uri().path() == PATH
        && !request.headers().contains_key(header::CONTENT_ENCODING)
}
