//! What `/openapi.json` says beside what stands at each handler: what holds everywhere.

use axum::http::StatusCode;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, ObjectBuilder, OpenApi, Ref, RefOr, Required, Response, Type};
use utoipa::{OpenApi as _, ToSchema};

use crate::api::auth;
use crate::api::problem::ProblemBody;

/// The name of the one security scheme.
const KEY: &str = "key";
const PROBLEM: &str = "application/problem+json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Skald", description = "An event platform: publish, consume, retry, replay, sagas."),
    tags(
        (name = "events", description = "Publish events, read them, follow them"),
        (name = "consumers", description = "Who gets which events"),
        (name = "replays", description = "Events of the past, handed over again"),
        (name = "sagas", description = "Writes on several services: all of them or none"),
        (name = "webhooks", description = "Events delivered to customers' endpoints"),
        (name = "analytics", description = "Questions to the rollups"),
        (name = "operations", description = "For those who watch"),
    )
)]
struct Description;

/// What the description begins with.
pub(super) fn begin() -> OpenApi {
    Description::openapi()
}

/// Adds to every operation what holds for all: a name, the key, the refusals and their body, the headers
/// of conditional requests (RFC 9110, section 13).
pub(super) fn complete(mut api: OpenApi) -> OpenApi {
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("sk_…")
        .description(Some("A key. `skald dev` on loopback needs none."))
        .build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(key));
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item) {
            describe(path, operation);
        }
    }
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn describe(path: &str, operation: &mut Operation) {
    operation.operation_id = operation.summary.as_deref().map(id);
    let mut refusals = vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    if auth::is_open(path) {
        operation.security = Some(Vec::new());
        refusals.clear();
    } else {
        operation.security = Some(vec![SecurityRequirement::new(KEY, [""; 0])]);
        refusals.extend([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    }
    if operation.request_body.is_some() {
        refusals.extend([StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE]);
    }
    if operation.request_body.is_some() || has_query(operation) {
        refusals.extend([StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY]);
    }
    let responses = &mut operation.responses.responses;
    for status in refusals {
        responses.entry(status.as_str().to_owned()).or_insert_with(|| Response::new("").into());
    }
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response {
            fill_in(status, response);
        }
    }
    let conditions: &[&str] = if responses.contains_key("412") {
        &["If-Match", "If-Unmodified-Since"]
    } else if responses.contains_key("304") {
        &["If-None-Match", "If-Modified-Since"]
    } else {
        &[]
    };
    let parameters = conditions.iter().map(|name| RefOr::T(header(name)));
    operation.parameters.get_or_insert_default().extend(parameters);
}

fn has_query(operation: &Operation) -> bool {
    let in_query = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    };
    operation.parameters.iter().flatten().any(in_query)
}

/// What programs that write clients name a call: `Lease events` is `lease_events`, and no other call has
/// that summary.
fn id(summary: &str) -> String {
    let words = summary.split_whitespace().filter(|word| !["a", "an", "the"].contains(word));
    words.map(|word| word.to_lowercase().replace('\'', "")).collect::<Vec<_>>().join("_")
}

/// Says what a refusal looks like where its handler names no more than its status.
fn fill_in(status: &str, response: &mut Response) {
    let Ok(status) = status.parse::<StatusCode>() else { return };
    if response.description.is_empty() {
        response.description = status.canonical_reason().unwrap_or_default().to_owned();
    }
    if (status.is_client_error() || status.is_server_error()) && response.content.is_empty() {
        let problem = Ref::from_schema_name(ProblemBody::name());
        response.content.insert(PROBLEM.to_owned(), Content::new(Some(problem)).into());
    }
    if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
        let seconds = Header::new(ObjectBuilder::new().schema_type(Type::Integer));
        response.headers.insert("Retry-After".to_owned(), seconds.into());
    }
}

fn header(name: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}
