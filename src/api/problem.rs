//! Refusals: RFC 9457 problem details. The one place that maps errors to answers.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bus::replay::ReplayError;
use bus::{PublishError, ReadError, lineage, pull};
use consumers::analytics::TimeseriesError;
use schemas::{Fault, Faults, ParseError};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was refused.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// The last part of the problem's type.
    kind: &'static str,
    detail: String,
    faults: Vec<Fault>,
    retry_after: Option<Duration>,
    yielded: bool,
}

/// Stands in the extensions of an answer whose change the database took back in favour of another.
#[derive(Clone, Copy)]
pub(crate) struct Yielded;

/// How to say who one is: programs by a bearer's token (RFC 6750); browsers, which ask for a password,
/// by the same key as that (RFC 7617). One header each: browsers read no lists.
const CHALLENGES: [&str; 2] =
    ["Bearer", r#"Basic realm="Skald: a key as the password", charset="UTF-8""#];

/// The body of a refusal (RFC 9457), `application/problem+json`.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProblemBody {
    /// A URI that names the kind of problem.
    r#type: String,
    title: String,
    status: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What is wrong with the body, all at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FaultBody>,
}

/// One fault.
#[derive(Serialize, ToSchema)]
pub(crate) struct FaultBody {
    /// A JSON pointer into the body; for a query, the parameter's name after `/`.
    pointer: String,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            kind,
            detail: detail.into(),
            faults: Vec::new(),
            retry_after: None,
            yielded: false,
        }
    }

    /// Its status, title and detail, for a page.
    pub(crate) fn told(&self) -> (StatusCode, &'static str, &str) {
        (self.status, self.status.canonical_reason().unwrap_or("Error"), &self.detail)
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub(crate) fn invalid(faults: Faults) -> Problem {
        let count = faults.0.len();
        let detail = if count == 1 { "1 fault".to_owned() } else { format!("{count} faults") };
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Problem { faults: faults.0, ..Problem::new(status, "invalid", detail) }
    }

    pub(crate) fn fault(pointer: &str, detail: impl std::fmt::Display) -> Problem {
        Problem::invalid(Faults::one(pointer, detail))
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(crate) fn not_found(what: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what}"))
    }

    pub(crate) fn no_method() -> Problem {
        let detail = "this address does not have that method";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub(crate) fn precondition(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// The same, and what in the body it is about.
    pub(crate) fn at(self, pointer: &str) -> Problem {
        Problem { faults: Faults::one(pointer, &self.detail).0, ..self }
    }

    pub(crate) fn media_type(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    }

    pub(crate) fn overloaded() -> Problem {
        let retry_after = Some(Duration::from_secs(1));
        let detail = "too many requests at once; try again shortly";
        Problem { retry_after, ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail) }
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Problem {
        let retry_after = Some(Duration::from_secs(2));
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem { retry_after, ..Problem::new(status, "unavailable", detail) }
    }

    pub(crate) fn internal() -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "")
    }

    /// An answer of 5xx says little; the log says it all, once.
    fn of_backend(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Problem {
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        if causes.any(|cause| cause.downcast_ref().is_some_and(bus::yields)) {
            let detail = "others were changing the same; nothing was accepted, try again";
            return Problem { yielded: true, ..Problem::unavailable(detail) };
        }
        tracing::error!(error = bus::chain(error), "{what} does not answer");
        Problem::unavailable(format!("{what} does not answer; nothing was accepted, try again"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let errors = self
            .faults
            .into_iter()
            .map(|fault| FaultBody { pointer: fault.pointer, detail: fault.detail });
        let title = self.status.canonical_reason().unwrap_or("Error").to_owned();
        let body = ProblemBody {
            r#type: format!("https://skald.dev/problems/{}", self.kind),
            title,
            status: self.status.as_u16(),
            detail: self.detail,
            errors: errors.collect(),
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.yielded {
            response.extensions_mut().insert(Yielded);
        }
        let headers = response.headers_mut();
        let media = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media);
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            for challenge in CHALLENGES {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response
    }
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Problem {
        match error {
            ParseError::Malformed(detail) => Problem::malformed(detail),
            error => Problem::invalid(error.into_faults()),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Problem {
        match error {
            PublishError::EventTooLarge { .. } | PublishError::BatchTooLarge { .. } => {
                Problem::too_large(error.to_string())
            }
            error => Problem::of_backend("the log", &error),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        Problem::of_backend("the log", &error)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        Problem::of_backend("the database", &error)
    }
}

impl From<pull::LeaseError> for Problem {
    fn from(error: pull::LeaseError) -> Problem {
        match error {
            pull::LeaseError::Ended => Problem::not_found("consumer of this name any more"),
            error => Problem::of_backend("the database", &error),
        }
    }
}

impl From<lineage::TraceError> for Problem {
    fn from(error: lineage::TraceError) -> Problem {
        Problem::of_backend("the database", &error)
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Problem {
        match error {
            ReplayError::NoGenerations | ReplayError::RebuildRunning => {
                Problem::conflict(error.to_string())
            }
            error => Problem::of_backend("the database", &error),
        }
    }
}

impl From<orchestrator::StartError> for Problem {
    fn from(error: orchestrator::StartError) -> Problem {
        use orchestrator::StartError as E;
        use orchestrator::template::InvalidValue;
        match error {
            E::NoDefinition(_) => Problem::fault("/definition", error.to_string()),
            E::Id(error) => Problem::fault("/id", error.to_string()),
            E::Input(InvalidValue::TooLarge) => Problem::too_large(error.to_string()),
            E::Input(InvalidValue::TooDeep) => Problem::fault("/input", error.to_string()),
            E::Conflict(_) => Problem::conflict(error.to_string()),
            error => Problem::of_backend("the database", &error),
        }
    }
}

impl From<orchestrator::RegisterError> for Problem {
    fn from(error: orchestrator::RegisterError) -> Problem {
        use orchestrator::RegisterError as E;
        match error {
            E::Faults(faults) => Problem::invalid(faults),
            error => Problem::of_backend("the database", &error),
        }
    }
}

impl From<orchestrator::InputError> for Problem {
    fn from(error: orchestrator::InputError) -> Problem {
        use orchestrator::InputError as E;
        use orchestrator::planner::Refusal;
        match error {
            E::NoSaga(id) => Problem::not_found(&format!("saga `{id}`")),
            E::Refused(Refusal::NoStep(step)) => Problem::not_found(&format!("step `{step}`")),
            E::Refused(Refusal::Conflict(detail)) => Problem::conflict(detail),
            error => Problem::of_backend("the database", &error),
        }
    }
}

impl From<TimeseriesError> for Problem {
    fn from(error: TimeseriesError) -> Problem {
        match error {
            TimeseriesError::TooManyPoints => Problem::fault("/interval", error.to_string()),
            error => Problem::of_backend("the database", &error),
        }
    }
}
