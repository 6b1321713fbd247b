//! Pages for people, made on the server from what the API tells: the log as it grows, and one event
//! with all that came of it.
//!
//! A page reads; what changes something is a button that asks first and then calls the API
//! (`pages/skald.js`). Nothing is fetched from elsewhere, and without a script the pages still show
//! everything.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Extension, Router};
use minijinja::Environment;
use minijinja::value::Serde;
use orchestrator::draw::svg_of_saga;
use schemas::Timestamp;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::api::problem::Problem;
use crate::api::sagas::{self, SagaDetail};
use crate::api::{State, events};
use crate::keys::Principal;

/// Sagas of an event that are shown with their steps; the others are named.
const SAGAS_SHOWN: usize = 10;
/// Deliveries of an event that are shown with their attempts; the others are counted.
const DELIVERIES_SHOWN: usize = 50;

/// Nothing of other origins, no inline scripts, and no page around these.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'";

const TEMPLATES: [(&str, &str); 4] = [
    ("layout.html", include_str!("pages/layout.html")),
    ("events.html", include_str!("pages/events.html")),
    ("event.html", include_str!("pages/event.html")),
    ("problem.html", include_str!("pages/problem.html")),
];
const STYLE: &str = include_str!("pages/skald.css");
const SCRIPT: &str = include_str!("pages/skald.js");

/// The pages and what they are made of.
pub(crate) fn router() -> Router<State> {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/events") }))
        .route("/events", get(list))
        .route("/events/{seq}", get(event))
        .route("/pages/skald.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/pages/skald.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], text)
}

/// `GET /events`: a page of the log, newest first, with the same conditions as the API's list.
async fn list(
    state: Extract<State>,
    principal: Extension<Principal>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    // A form sends the fields that were left empty too.
    let given: BTreeMap<String, String> =
        pairs.into_owned().filter(|(_, value)| !value.is_empty()).collect();
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&given).finish();
    let page = events::list(state, principal, RawQuery(Some(query))).await;
    render("events.html", page.map(|page| json!({"page": page.0, "query": given})))
}

/// `GET /events/{seq}`: an event, its consumers, and what came of it.
async fn event(state: Extract<State>, seq: Path<String>) -> Response {
    render("event.html", whole(state, seq).await)
}

async fn whole(state: Extract<State>, seq: Path<String>) -> Result<Value, Problem> {
    let detail = events::get(Extract(state.0.clone()), Path(seq.0.clone())).await?;
    let trace = events::trace(Extract(state.0.clone()), seq).await?;
    let detail = serde_json::to_value(detail.0).unwrap_or_default();
    let mut trace = serde_json::to_value(trace.0).unwrap_or_default();
    if let Some(found) = trace["sagas"].as_array_mut() {
        for saga in found.iter_mut().take(SAGAS_SHOWN) {
            let id = saga["id"].as_str().unwrap_or_default().to_owned();
            *saga = saga_of(&state, &id).await?;
        }
    }
    let pretty = serde_json::to_string_pretty(&detail["event"]).unwrap_or_default();
    let data = serde_json::to_string_pretty(&detail["event"]["data"]).unwrap_or_default();
    Ok(json!({
        "seq": detail["seq"], "event": detail["event"], "recorded_at": detail["recorded_at"],
        "consumers": detail["consumers"], "trace": trace, "pretty": pretty, "data": data,
        "deliveries_shown": DELIVERIES_SHOWN,
    }))
}

/// A saga with its steps, when each began and how long it took, and its drawing.
async fn saga_of(state: &State, id: &str) -> Result<Value, Problem> {
    let told = sagas::find(state, id).await?;
    let drawing = svg_of_saga(&told.state);
    let mut saga = serde_json::to_value(SagaDetail::from(told)).unwrap_or_default();
    let created = saga["created_at"].clone();
    for step in saga["steps"].as_array_mut().into_iter().flatten() {
        time(step, &created);
        if step["compensation"].is_object() {
            time(&mut step["compensation"], &created);
        }
    }
    saga["drawing"] = Value::from(drawing);
    Ok(saga)
}

fn time(half: &mut Value, created: &Value) {
    half["after"] = between(created, &half["started_at"]);
    half["took"] = between(&half["started_at"], &half["finished_at"]);
}

/// The time between two moments for people; null while there is none.
fn between(from: &Value, to: &Value) -> Value {
    let moment = |at: &Value| Some(at.as_str()?.parse::<Timestamp>().ok()?.as_micros());
    match (moment(from), moment(to)) {
        (Some(from), Some(to)) if to - from < 10_000_000 => {
            let us = to - from;
            Value::from(format!("{}.{} ms", us / 1_000, us % 1_000 / 100))
        }
        (Some(from), Some(to)) => Value::from(format!("{} s", (to - from) / 1_000_000)),
        _ => Value::Null,
    }
}

fn render(template: &str, told: Result<Value, Problem>) -> Response {
    let (status, template, context) = match told {
        Ok(context) => (None, template, context),
        Err(problem) => {
            let (status, title, detail) = problem.told();
            (Some(status), "problem.html", json!({ "title": title, "detail": detail }))
        }
    };
    let page = environment().and_then(|environment| {
        environment.get_template(template)?.render(minijinja::Value::from(Serde(context)))
    });
    let mut response = match page {
        Ok(page) => Html(page).into_response(),
        Err(error) => {
            tracing::error!(%error, template, "a page cannot be rendered");
            return Problem::internal().into_response();
        }
    };
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What ends in `.html` is escaped; values that are not there are nothing.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    for (name, text) in TEMPLATES {
        environment.add_template(name, text)?;
    }
    environment.add_filter("time", |text: &str| text.replace('T', " ").replace('Z', ""));
    Ok(environment)
}
