//! `/v1/consumers`: who gets which events, and how they are doing.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use bus::{ConsumerName, Kind, Policy, Read, Registration, Seq, SideEffects, Span, registry, work};
use bytes::Bytes;
use consumers::push;
use schemas::{Filter, Patterns, Timestamp};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::{Fields, NoBody};
use crate::api::leases::LEASE_MAX;
use crate::api::listing::{Items, Limit, Version, cursor};
use crate::api::problem::Problem;
use crate::keys::Principal;

/// A consumer and how it is doing.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConsumerBody {
    name: String,
    #[schema(value_type = Vec<String>)]
    types: Patterns,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    filter: Option<Filter>,
    #[schema(value_type = String)]
    kind: Kind,
    /// `running` or `paused`.
    state: &'static str,
    /// Events that have not been tried.
    waiting: i64,
    /// Events under lease.
    in_flight: i64,
    /// Events that failed and are tried again.
    retrying: i64,
    /// Dead letters.
    dead: i64,
    /// How long the oldest event that has not been tried has been waiting; null when none is.
    oldest_waiting_seconds: Option<f64>,
    #[schema(value_type = String)]
    side_effects: SideEffects,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[schema(value_type = Object)]
    policy: Policy,
    /// The generation that answers are read from; it grows with each rebuild.
    generation: i64,
    /// How far the consumer has read the log.
    #[schema(value_type = i64)]
    position: Seq,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Where a consumer begins.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes a member of the body")]
pub(crate) enum StartBody {
    /// `now`, `first`, or a time.
    Word(String),
    /// A seq.
    Seq(i64),
}

/// A consumer to be registered.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct RegisterBody {
    types: Vec<String>,
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// `now` (default), `first`, a time, or a seq, which is a number; counts when the consumer is made.
    #[schema(value_type = Option<StartBody>)]
    from: Option<Value>,
    /// `pull` or `push`.
    kind: String,
    /// Where push consumers are posted to.
    url: Option<String>,
    /// `whsec_…`: signs pushes.
    secret: Option<String>,
    #[schema(value_type = Option<Object>)]
    policy: Option<Value>,
}

/// List consumers
#[utoipa::path(
    get, path = "/v1/consumers", tag = "consumers",
    params(("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page, newest first", body = Items<ConsumerBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<ConsumerBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let before = cursor(&mut query, |text| {
        let (at, name) = text.split_once('.')?;
        Some((Timestamp::from_micros(at.parse().ok()?), name.to_owned()))
    });
    let limit = Limit::of(&mut query);
    query.finish()?;
    let found = registry::list_newest_first(&state.db, before, limit.and_one()).await?;
    let page = limit.page(found, |last| format!("{}.{}", last.created_at.as_micros(), last.name));
    let mut items = Vec::with_capacity(page.items.len());
    for consumer in page.items {
        items.push(describe(&state, consumer).await?);
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Get a consumer
#[utoipa::path(
    get, path = "/v1/consumers/{name}", tag = "consumers", params(("name" = String, Path)),
    responses((status = 200, description = "The consumer", body = ConsumerBody), (status = 304), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let consumer = find(&state, &name).await?;
    let version = version(&consumer);
    if version.is_known(&headers) {
        return Ok(version.not_modified());
    }
    Ok(version.answer(StatusCode::OK, describe(&state, consumer).await?))
}

/// Register a consumer
///
/// For a program in any language. Changing one keeps its position.
#[utoipa::path(
    put, path = "/v1/consumers/{name}", tag = "consumers", params(("name" = String, Path)),
    request_body = RegisterBody,
    responses(
        (status = 201, description = "Made", body = ConsumerBody),
        (status = 200, description = "Changed, or as it was", body = ConsumerBody),
        (status = 409, description = "The name belongs to another kind of consumer"),
        (status = 412), (status = 422)
    )
)]
pub(crate) async fn put(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let name: ConsumerName = name.parse().map_err(|error: bus::InvalidName| {
        Problem::fault("", format!("the consumer's name: {error}"))
    })?;
    let (wanted, start) = read(&state, &name, &headers, &body).await?;
    if state.parts.iter().any(|part| **part == *name.as_str()) {
        return Err(Problem::conflict(format!("`{name}` is part of the program")));
    }
    let mut tx = state.db.begin().await?;
    registry::lock(&mut tx).await?;
    let known = registry::find_in(&mut tx, name.as_str()).await?;
    let created = known.is_none();
    match known {
        None if headers.contains_key("if-match") => {
            return Err(Problem::precondition("there is no such consumer yet"));
        }
        None => {
            // Read after the write lock was taken: whatever is accepted later has a larger seq.
            let start = start.unwrap_or_else(|| *state.log.head().borrow());
            registry::create(&mut tx, &wanted, start, &principal.name).await?;
        }
        Some(known) if headers.get("if-none-match").is_some_and(|tag| tag == "*") => {
            return Err(Problem::precondition(format!("there is a consumer `{}`", known.name)));
        }
        Some(known) if known.kind != wanted.kind => {
            let kind = known.kind.as_str();
            return Err(Problem::conflict(format!("`{name}` is a {kind} consumer")));
        }
        Some(known) => {
            version(&known).check(&headers)?;
            let wanted = Registration {
                paused: known.paused,
                generation: known.generation,
                version: known.version,
                secret: unchanged(&state, &known, &wanted).or(wanted.secret.clone()),
                ..wanted
            };
            if !same(&known, &wanted) {
                registry::update(&mut tx, &wanted, &principal.name).await?;
            }
        }
    }
    tx.commit().await?;
    let consumer = find(&state, name.as_str()).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(version(&consumer).answer(status, describe(&state, consumer).await?))
}

/// End a consumer
///
/// Its position, its retries and its dead letters go with it. One that is part of the running
/// program cannot be ended; one that was part of an earlier version can.
#[utoipa::path(
    delete, path = "/v1/consumers/{name}", tag = "consumers", params(("name" = String, Path)),
    responses((status = 204), (status = 404), (status = 409), (status = 412))
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    let mut tx = state.db.begin().await?;
    registry::lock(&mut tx).await?;
    let known = registry::find_in(&mut tx, &name).await?;
    let known = known.ok_or_else(|| Problem::not_found("consumer of this name"))?;
    if state.parts.iter().any(|part| **part == *name) {
        return Err(Problem::conflict("this consumer is part of the program; pause it instead"));
    }
    version(&known).check(&headers)?;
    registry::delete(&mut tx, &known).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a consumer
///
/// What is under way is finished; events wait until it is resumed.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/pause", tag = "consumers", params(("name" = String, Path)),
    responses((status = 200, description = "Paused", body = ConsumerBody), (status = 404))
)]
pub(crate) async fn pause(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    _: NoBody,
) -> Result<Response, Problem> {
    set_paused(&state, &name, true, &principal).await
}

/// Resume a consumer
#[utoipa::path(
    post, path = "/v1/consumers/{name}/resume", tag = "consumers", params(("name" = String, Path)),
    responses((status = 200, description = "Running", body = ConsumerBody), (status = 404))
)]
pub(crate) async fn resume(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    _: NoBody,
) -> Result<Response, Problem> {
    set_paused(&state, &name, false, &principal).await
}

async fn set_paused(
    state: &State,
    name: &str,
    paused: bool,
    principal: &Principal,
) -> Result<Response, Problem> {
    let mut tx = state.db.begin().await?;
    registry::lock(&mut tx).await?;
    let known = registry::find_in(&mut tx, name).await?;
    let known = known.ok_or_else(|| Problem::not_found("consumer of this name"))?;
    if known.paused != paused {
        let wanted = Registration { paused, ..known };
        registry::update(&mut tx, &wanted, &principal.name).await?;
        tx.commit().await?;
    } else {
        drop(tx);
    }
    let consumer = find(state, name).await?;
    Ok(version(&consumer).answer(StatusCode::OK, describe(state, consumer).await?))
}

pub(crate) async fn find(state: &State, name: &str) -> Result<Registration, Problem> {
    let found = registry::find(&state.db, name).await?;
    found.ok_or_else(|| Problem::not_found("consumer of this name"))
}

fn version(of: &Registration) -> Version {
    Version { version: of.version, updated_at: of.updated_at }
}

/// The sealed secret as it is stored, if it is the one that is wanted: sealed anew it would read as
/// a change.
fn unchanged(state: &State, known: &Registration, wanted: &Registration) -> Option<String> {
    let seal = state.seal.as_ref()?;
    let open = |of: &Registration| seal.open(of.secret.as_deref()?).ok();
    let same = open(known).is_some() && open(known) == open(wanted);
    known.secret.clone().filter(|_| same)
}

fn same(known: &Registration, wanted: &Registration) -> bool {
    known.types == wanted.types
        && known.filter == wanted.filter
        && known.url == wanted.url
        && known.secret == wanted.secret
        && known.policy == wanted.policy
}

/// Reads the body: the consumer, and where it starts (`None` for now).
async fn read(
    state: &State,
    name: &ConsumerName,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(Registration, Option<Seq>), Problem> {
    let mut fields = Fields::of_body(headers, body)?;
    let types = read_types(&mut fields);
    let filter = fields.value("filter").and_then(|filter| {
        Filter::parse(&filter).map_err(|faults| fields.faults_of("filter", faults)).ok()
    });
    let kind = match fields.text("kind").as_deref() {
        Some("pull") => Some(Kind::Pull),
        Some("push") => Some(Kind::Push),
        Some(_) => {
            fields.fault("kind", "must be pull or push");
            None
        }
        None => fields.require("kind", None),
    };
    let push = kind == Some(Kind::Push);
    let policy = fields.object("policy", |policy| read_policy(policy, push));
    let policy =
        policy.unwrap_or_else(|| read_policy(&mut Fields::new(Default::default(), ""), push));
    let url = fields.text("url");
    if push {
        fields.require("url", url.as_ref());
        if let Some(Err(error)) = url.as_ref().map(|url| state.egress.check_url(url)) {
            fields.fault("url", error.to_string());
        }
    } else if kind.is_some() && url.is_some() {
        fields.fault("url", "only push consumers have one");
    }
    let secret = read_secret(state, &mut fields, push);
    let start = read_start(state, &mut fields).await?;
    fields.finish()?;
    let registration = Registration {
        name: name.to_string(),
        kind: kind.unwrap_or(Kind::Pull),
        types: types.unwrap_or_else(Patterns::any),
        filter,
        url,
        secret,
        policy,
        paused: false,
        side_effects: if push { SideEffects::Http } else { SideEffects::None },
        generation: 1,
        rebuilds: false,
        version: 1,
        created_at: state.db.clock().now(),
        updated_at: state.db.clock().now(),
    };
    Ok((registration, start))
}

fn read_types(fields: &mut Fields) -> Option<Patterns> {
    let patterns = fields.list("types", Patterns::MAX, |item| match item {
        Value::String(text) => {
            text.parse().map_err(|error: schemas::InvalidPattern| error.to_string())
        }
        _ => Err("must be a string".to_owned()),
    });
    let patterns = fields.require("types", patterns)?;
    Patterns::new(patterns).map_err(|error| fields.fault("types", error.to_string())).ok()
}

fn read_policy(fields: &mut Fields, push: bool) -> Policy {
    let default = Policy {
        max_concurrent: push.then_some(push::CONCURRENT_DEFAULT),
        timeout: if push { Span(Duration::from_secs(15)) } else { Policy::DEFAULT.timeout },
        ..Policy::DEFAULT
    };
    let small = |fields: &mut Fields, name, most| {
        fields.number(name, 1, most).and_then(|number| u32::try_from(number).ok())
    };
    let policy = Policy {
        attempts_max: small(fields, "attempts_max", 100).unwrap_or(default.attempts_max),
        age_max: fields.parsed("age_max"),
        backoff_min: fields.parsed("backoff_min").unwrap_or(default.backoff_min),
        backoff_max: fields.parsed("backoff_max").unwrap_or(default.backoff_max),
        timeout: fields.parsed("timeout").unwrap_or(default.timeout),
        rate: fields.parsed("rate"),
        burst: small(fields, "burst", 10_000).unwrap_or(default.burst),
        max_concurrent: small(fields, "max_concurrent", 10_000).or(default.max_concurrent),
        ordered: fields.flag("ordered"),
    };
    for (field, detail) in policy.faults() {
        fields.fault(field, detail);
    }
    let timeout_max = if push { push::TIMEOUT_MAX } else { LEASE_MAX };
    if policy.timeout > timeout_max {
        fields.fault("timeout", format!("must not exceed {timeout_max}"));
    }
    policy
}

fn read_secret(state: &State, fields: &mut Fields, push: bool) -> Option<String> {
    let secret = fields.text("secret")?;
    if !push {
        fields.fault("secret", "only push consumers have one");
    } else if let Err(error) = secret.parse::<egress::Secret>() {
        fields.fault("secret", error.to_string());
    }
    let Some(seal) = &state.seal else {
        fields.fault("secret", "secrets cannot be stored without security.encryption_key");
        return None;
    };
    Some(seal.seal(&secret))
}

/// Where a new consumer starts; `None` for the end of the log.
async fn read_start(state: &State, fields: &mut Fields) -> Result<Option<Seq>, Problem> {
    const RULE: &str = "must be now, first, a seq or a time";
    Ok(match fields.value("from") {
        None => None,
        Some(Value::String(text)) if text == "now" => None,
        Some(Value::String(text)) if text == "first" => Some(Seq::ZERO),
        Some(Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(at) => Some(state.log.position_at(at).await?),
            Err(_) => {
                fields.fault("from", RULE);
                None
            }
        },
        Some(Value::Number(number)) => {
            let seq = number.as_i64().filter(|seq| *seq >= 0);
            let Some(start) = seq.map(|seq| Seq::new(seq - 1).max(Seq::ZERO)) else {
                fields.fault("from", RULE);
                return Ok(None);
            };
            // What another node has written may not have come here yet.
            let head = *state.log.head().borrow();
            let last = if start > head { state.log.state().await?.last } else { head };
            if start > last {
                fields.fault("from", format!("is ahead of the log, which ends at {last}"));
            }
            Some(start)
        }
        Some(_) => {
            fields.fault("from", RULE);
            None
        }
    })
}

pub(crate) async fn describe(
    state: &State,
    consumer: Registration,
) -> Result<ConsumerBody, Problem> {
    let figures = Figures::read(state, &consumer).await?;
    Ok(ConsumerBody {
        state: if consumer.paused { "paused" } else { "running" },
        waiting: figures.waiting,
        in_flight: figures.in_flight,
        retrying: figures.retrying,
        dead: figures.dead,
        oldest_waiting_seconds: figures.oldest_waiting_seconds,
        position: figures.position,
        name: consumer.name,
        types: consumer.types,
        filter: consumer.filter,
        kind: consumer.kind,
        side_effects: consumer.side_effects,
        url: consumer.url,
        policy: consumer.policy,
        generation: consumer.generation,
        updated_at: consumer.updated_at,
    })
}

/// How a consumer is doing.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) waiting: i64,
    pub(crate) in_flight: i64,
    pub(crate) retrying: i64,
    pub(crate) dead: i64,
    pub(crate) oldest_waiting_seconds: Option<f64>,
    position: Seq,
}

impl Figures {
    pub(crate) async fn read(state: &State, of: &Registration) -> Result<Figures, Problem> {
        let position = registry::position(&state.db, of).await?;
        let behind = state.log.count(position, Seq::MAX, &of.types).await?;
        let mut figures = Figures {
            waiting: i64::try_from(behind).unwrap_or(i64::MAX),
            position,
            ..Figures::default()
        };
        let mut oldest = None;
        if behind > 0 {
            let read = Read::after(position).types(of.types.clone()).limit(1);
            let page = state.log.read(read).await?;
            oldest = page.events.first().map(|event| event.recorded_at.as_micros());
        }
        if let Some(queue) = work::find(&state.db, of.kind.work(), &of.queue_name()).await? {
            for (row_state, rows, created) in work::counts(&state.db, queue).await? {
                match row_state.as_str() {
                    "ready" | "behind" => {
                        figures.waiting += rows;
                        oldest = oldest.into_iter().chain(created).min();
                    }
                    "retrying" => figures.retrying += rows,
                    "leased" => figures.in_flight += rows,
                    "dead" => figures.dead += rows,
                    _ => {}
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
        let seconds = |at: i64| (state.db.clock().now().as_micros() - at).max(0) as f64 / 1e6;
        figures.oldest_waiting_seconds = oldest.map(seconds);
        Ok(figures)
    }
}
