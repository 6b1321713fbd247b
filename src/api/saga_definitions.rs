//! `/v1/sagas/definitions`: sagas as they are written, in versions.

use axum::Extension;
use axum::Json;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use orchestrator::definition::{Action, told};
use orchestrator::{Definition, Node, Registered, SOURCE_BYTES_MAX, check_children};
use schemas::{Faults, Timestamp};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::{Fields, read_json};
use crate::api::listing::{Items, Limit, Version, cursor};
use crate::api::problem::Problem;
use crate::keys::Principal;

/// A version of a definition.
#[derive(Serialize, ToSchema)]
pub(crate) struct DefinitionBody {
    name: String,
    version: i64,
    /// As it was written.
    definition: Value,
    /// Its steps, in the order of writing.
    steps: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    created_by: String,
}

impl From<&Registered> for DefinitionBody {
    fn from(known: &Registered) -> DefinitionBody {
        DefinitionBody {
            name: known.definition.name.to_string(),
            version: known.version,
            definition: known.definition.document().clone(),
            steps: known.definition.steps.iter().map(|step| step.name.to_string()).collect(),
            created_at: known.created_at,
            created_by: known.created_by.clone(),
        }
    }
}

fn version_of(known: &Registered) -> Version {
    Version { version: known.version, updated_at: known.created_at }
}

/// Register a definition
///
/// As JSON or YAML. A new version, unless it equals the newest one; running sagas keep theirs.
#[utoipa::path(
    put, path = "/v1/sagas/definitions/{name}", tag = "sagas", params(("name" = String, Path)),
    request_body(content = Value, content_type = "application/json"),
    responses(
        (status = 201, description = "A new version", body = DefinitionBody),
        (status = 200, description = "It equals the newest version", body = DefinitionBody),
        (status = 412), (status = 415), (status = 422, description = "All faults, with line and path")
    )
)]
pub(crate) async fn put(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let node = node(&headers, &body)?;
    let newest = state.sagas.definitions().newest().await?;
    let more = |definition: &Definition, faults: &mut Faults| {
        if *definition.name != *name {
            let detail = format!("is `{}`, and the address says `{name}`", definition.name);
            faults.push("/saga", detail);
        }
        check_here(&state, definition, faults);
        check_children(definition, &newest, faults);
    };
    let definition = Definition::checked(&node, more).map_err(Problem::invalid)?;
    let may = |known: Option<&Registered>| match known {
        None if headers.contains_key(header::IF_MATCH) => {
            Err(Problem::precondition("there is no such definition yet"))
        }
        None => Ok(()),
        Some(_) if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "*") => {
            Err(Problem::precondition(format!("there is a definition `{name}`")))
        }
        Some(known) => version_of(known).check(&headers),
    };
    let definitions = state.sagas.definitions();
    let (registered, is_new) = definitions.put_if(definition, &principal.name, may).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(version_of(&registered).answer(status, DefinitionBody::from(&registered)))
}

fn node(headers: &HeaderMap, body: &Bytes) -> Result<Node, Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if body.len() > SOURCE_BYTES_MAX {
        let detail = format!("a definition has at most {SOURCE_BYTES_MAX} bytes");
        return Err(Problem::too_large(detail));
    }
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::malformed("the definition is not UTF-8"))?;
    let node = match essence.to_ascii_lowercase().as_str() {
        "application/json" => {
            read_json(body)?; // What is no JSON is 400, as everywhere; faults of a definition are 422.
            Node::of_json(text)
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => {
            Node::of_yaml(text)
        }
        _ => return Err(Problem::media_type("send application/json or application/yaml")),
    };
    node.map_err(Problem::invalid)
}

/// What can only be checked where it runs: the environment, addresses, the broker.
fn check_here(state: &State, definition: &Definition, faults: &mut Faults) {
    for name in definition.env() {
        if !state.sagas.env().contains_key(&name) {
            for (path, line) in definition.env_read_at(&name) {
                let detail = format!(
                    "reads env.{name}, which the configuration does not list in `sagas.env`, or \
                     which is not set"
                );
                told(faults, &path, line, &detail);
            }
        }
    }
    for (step, path, action) in definition.actions() {
        match action {
            Action::Http(call) => {
                let verb = call.method.as_str().to_ascii_lowercase();
                let url = call.url.constant().and_then(Value::as_str);
                let refused = url.and_then(|url| state.participants.check_url(url).err());
                let path = format!("{path}/{verb}");
                // What is no URL at all has been told.
                if let Some(error) = refused
                    && faults.0.iter().all(|fault| fault.pointer != path)
                {
                    told(faults, &path, step.line, &error.to_string());
                }
            }
            Action::Command(_) if !state.log.is_shared() => {
                let detail = "commands go over NATS, and this server runs on the embedded log, \
                              where there is none; call the participant over HTTP";
                told(faults, &format!("{path}/command"), step.line, detail);
            }
            Action::Method => {
                let detail = "a `method` is written in Rust, in the program itself";
                told(faults, &path, step.line, detail);
            }
            _ => {}
        }
    }
}

/// Get a definition
#[utoipa::path(
    get, path = "/v1/sagas/definitions/{name}", tag = "sagas", params(("name" = String, Path)),
    responses((status = 200, description = "The newest version", body = DefinitionBody), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    shown(&state, &name, None, &headers).await
}

/// Get a version of a definition
#[utoipa::path(
    get, path = "/v1/sagas/definitions/{name}/versions/{version}", tag = "sagas",
    params(("name" = String, Path), ("version" = i64, Path)),
    responses((status = 200, description = "That version", body = DefinitionBody), (status = 404))
)]
pub(crate) async fn version(
    Extract(state): Extract<State>,
    Path((name, version)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = |_| Problem::not_found("version of this number");
    let version: i64 = version.parse().map_err(missing)?;
    shown(&state, &name, Some(version), &headers).await
}

async fn shown(
    state: &State,
    name: &str,
    version: Option<i64>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let found = state.sagas.definitions().find(name, version).await?;
    let known = found.ok_or_else(|| Problem::not_found(&format!("definition `{name}`")))?;
    let version = version_of(&known);
    if version.is_known(headers) {
        return Ok(version.not_modified().into_response());
    }
    Ok(version.answer(StatusCode::OK, DefinitionBody::from(&known)))
}

/// List definitions
///
/// The newest version of each; first the one that was registered for the first time last.
#[utoipa::path(
    get, path = "/v1/sagas/definitions", tag = "sagas",
    params(("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page, newest first", body = Items<DefinitionBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<DefinitionBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let all = state.sagas.definitions().list().await?;
    let place = |name: &str| all.iter().position(|known| known.definition.name.as_str() == name);
    let from = cursor(&mut query, place).map_or(0, |last| last + 1);
    let limit = Limit::of(&mut query);
    query.finish()?;
    let page = limit.page(all[from..].iter().collect(), |last| last.definition.name.to_string());
    Ok(Json(page.map(DefinitionBody::from)))
}
