//! Pages for people, made on the server from what the API tells: the log as it grows, and one event
//! with all that came of it.
//!
//! A page reads; what changes something is a button that asks first and then calls the API
//! (`pages/skald.js`). Nothing is fetched from elsewhere, and without a script the pages still show
//! everything.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bus::{Read, Seq};
use minijinja::Environment;
use minijinja::value::Serde;
use orchestrator::draw::svg_of_saga;
use schemas::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::api::problem::Problem;
use crate::api::sagas::{self, SagaDetail};
use crate::api::{State, events};
use crate::keys::Principal;

pub(crate) mod written;

/// Sagas of an event that are shown with their steps; the others are named.
const SAGAS_SHOWN: usize = 10;
/// Deliveries of an event that are shown with their attempts; the others are counted.
const DELIVERIES_SHOWN: usize = 50;

/// Bytes of a problem that are read for a page: its faults are bounded, and short.
const PROBLEM_BYTES_MAX: usize = 1 << 20;

/// Nothing of other origins, no inline scripts, and no page around these.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'";

const TEMPLATES: [(&str, &str); 5] = [
    ("layout.html", include_str!("pages/layout.html")),
    ("events.html", include_str!("pages/events.html")),
    ("event.html", include_str!("pages/event.html")),
    ("faults.html", include_str!("pages/faults.html")),
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
    match events::list(state, principal, RawQuery(Some(query_of(&given)))).await {
        Ok(page) => {
            let filter: BTreeMap<_, _> =
                given.iter().filter(|(name, _)| *name != "cursor").collect();
            let context = json!({
                "page": page.0, "query": given, "filter": query_of(filter.clone()),
                "filtered": !filter.is_empty(),
            });
            render("events.html", StatusCode::OK, context)
        }
        Err(problem) => {
            let (status, mut context) = told(problem).await;
            // What is wrong with the form is put right in the form.
            let invalid = status == StatusCode::UNPROCESSABLE_ENTITY;
            context["query"] = json!(given);
            render(if invalid { "events.html" } else { "problem.html" }, status, context)
        }
    }
}

fn query_of<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// `GET /events/{seq}`: an event, its consumers, and what came of it.
async fn event(state: Extract<State>, seq: Path<String>) -> Response {
    match whole(state, seq).await {
        Ok(context) => render("event.html", StatusCode::OK, context),
        Err(problem) => {
            let (status, context) = told(problem).await;
            render("problem.html", status, context)
        }
    }
}

/// An event's text, for what is shown as it was written.
#[derive(Deserialize)]
struct Shown<'a> {
    seq: Seq,
    #[serde(borrow)]
    event: &'a RawValue,
}

#[derive(Deserialize)]
struct Carried<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

async fn whole(state: Extract<State>, seq: Path<String>) -> Result<Value, Problem> {
    let detail = events::get(Extract(state.0.clone()), Path(seq.0.clone())).await?;
    let trace = events::trace(Extract(state.0.clone()), seq).await?;
    let text = serde_json::to_string(&detail.0).map_err(|_| Problem::internal())?;
    let detail: Value = serde_json::from_str(&text).map_err(|_| Problem::internal())?;
    let shown: Shown<'_> = serde_json::from_str(&text).map_err(|_| Problem::internal())?;
    let mut trace = serde_json::to_value(trace.0).unwrap_or_default();
    if let Some(found) = trace["sagas"].as_array_mut() {
        for saga in found.iter_mut().take(SAGAS_SHOWN) {
            let id = saga["id"].as_str().unwrap_or_default().to_owned();
            *saga = saga_of(&state, &id).await?;
        }
    }
    let (before, after) = neighbours(&state, shown.seq).await?;
    Ok(json!({
        "seq": detail["seq"], "event": detail["event"], "recorded_at": detail["recorded_at"],
        "consumers": detail["consumers"], "trace": trace, "before": before, "after": after,
        "pretty": written::indented(shown.event.get()), "data": data_of(&detail["event"], &shown),
        "deliveries_shown": DELIVERIES_SHOWN,
    }))
}

/// The events beside one in the log: there may be gaps, and none before the first or after the
/// newest.
async fn neighbours(state: &State, seq: Seq) -> Result<(Option<Seq>, Option<Seq>), Problem> {
    let before = Read::after(Seq::default()).until(seq.previous()).limit(1);
    let before = state.log.read_back(before).await?;
    let after = state.log.read(Read::after(seq).limit(1)).await?;
    let first = |page: bus::log::Page| page.events.first().map(|event| event.seq);
    Ok((first(before), first(after)))
}

/// What an event carries, for people: its kind, its size and its text.
fn data_of(event: &Value, shown: &Shown<'_>) -> Value {
    if let Some(base64) = event["data_base64"].as_str() {
        let padding = base64.bytes().rev().take_while(|&byte| byte == b'=').count();
        let bytes = (base64.len() / 4 * 3).saturating_sub(padding);
        return json!({ "bytes": bytes, "text": base64 });
    }
    if event.get("data").is_none() {
        return Value::Null;
    }
    let carried = serde_json::from_str::<Carried<'_>>(shown.event.get());
    let text = carried.ok().and_then(|carried| carried.data);
    json!({ "text": text.map_or_else(|| "null".to_owned(), |text| written::indented(text.get())) })
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

/// What a page tells of a problem, as the API tells it, and the status of both.
async fn told(problem: Problem) -> (StatusCode, Value) {
    let (status, title, detail) = problem.told();
    let mut context = json!({ "title": title, "detail": detail });
    let body = axum::body::to_bytes(problem.into_response().into_body(), PROBLEM_BYTES_MAX).await;
    let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    context["errors"] = body["errors"].clone();
    (status, context)
}

fn render(template: &str, status: StatusCode, context: Value) -> Response {
    let page = environment().and_then(|environment| {
        environment.get_template(template)?.render(minijinja::Value::from(Serde(context)))
    });
    let mut response = match page {
        Ok(page) => (status, Html(page)).into_response(),
        Err(error) => {
            tracing::error!(%error, template, "a page cannot be rendered");
            return Problem::internal().into_response();
        }
    };
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
    environment.add_filter("time", |text: &str| text.replace('T', " ").replace('Z', " UTC"));
    environment.add_filter("field", |pointer: &str| match pointer.trim_start_matches('/') {
        "" => "the request".to_owned(),
        name => name.to_owned(),
    });
    Ok(environment)
}
