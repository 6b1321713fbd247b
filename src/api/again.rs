//! Changes that the database took back in favour of another: made again, and then told.
//!
//! Two transactions that waited for each other (Postgres), or one that waited too long for a lock, lose
//! nothing but their time. A caller would be told to try again; the server can do that itself. Handlers
//! commit as the last thing they do, or what they did before does not count twice.

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::body::read_body;
use crate::api::problem::Yielded;
use crate::api::router::BODY_BYTES_MAX;

/// How often a change is made before its caller is told to try again.
const TRIES: usize = 4;

/// A layer over what changes anything.
pub(crate) async fn again(request: Request, next: Next) -> Response {
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match read_body(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    for _ in 1..TRIES {
        let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
        let response = next.clone().run(request).await;
        if response.extensions().get::<Yielded>().is_none() {
            return response;
        }
        tracing::debug!(path = parts.uri.path(), "the database took a change back; once more");
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::{MethodRouter, get, post};
    use sqlx::error::{DatabaseError, ErrorKind};
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::problem::Problem;

    #[derive(Debug)]
    struct Deadlock;

    impl std::fmt::Display for Deadlock {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("deadlock detected")
        }
    }

    impl std::error::Error for Deadlock {}

    impl DatabaseError for Deadlock {
        fn message(&self) -> &'static str {
            "deadlock detected"
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some("40P01".into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    /// How often a handler ran that yields so often, what it answered, and what it last read.
    async fn run(yields: usize, method: &Method) -> (usize, StatusCode, String) {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let handler = move |body: String| async move {
            if counted.fetch_add(1, Ordering::Relaxed) < yields {
                let error = sqlx::Error::Database(Box::new(Deadlock));
                return Err(Problem::from(bus::replay::ReplayError::from(error)));
            }
            Ok(body)
        };
        let route: MethodRouter = if method == Method::GET { get(handler) } else { post(handler) };
        let router = Router::new().route("/", route).layer(from_fn(again));
        let request = Request::builder().method(method).body(Body::from("what is sent")).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (runs.load(Ordering::Relaxed), status, body)
    }

    #[tokio::test]
    async fn a_change_that_was_taken_back_is_made_again() {
        let (runs, status, body) = run(2, &Method::POST).await;
        assert_eq!((runs, status, body.as_str()), (3, StatusCode::OK, "what is sent"));
    }

    #[tokio::test]
    async fn one_that_never_gets_through_is_told() {
        let (runs, status, _) = run(100, &Method::POST).await;
        assert_eq!((runs, status), (TRIES, StatusCode::SERVICE_UNAVAILABLE));
        let (runs, status, _) = run(100, &Method::GET).await;
        assert_eq!((runs, status), (1, StatusCode::SERVICE_UNAVAILABLE));
    }
}
