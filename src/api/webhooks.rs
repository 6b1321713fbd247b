//! `/v1/webhooks`: endpoints to which events are delivered.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use bus::{Span, Tx};
use bytes::Bytes;
use schemas::{Filter, Patterns, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use webhooks::deliveries::{self, Missed};
use webhooks::store::{self, Counted, Listing};
use webhooks::{
    ActiveSecret, Endpoint, EndpointId, Manner, PublishedKey, Scheme, events, health, seal_secrets,
};

use crate::api::State;
use crate::api::body::{Fields, NoBody, read_event};
use crate::api::listing::{Items, Limit, Version, cursor};
use crate::api::problem::Problem;
use crate::api::webhook_body::{self, Wanted};
use crate::keys::Principal;

/// Why nothing is sent to an endpoint that is disabled.
pub(crate) const DISABLED: &str = "the webhook is disabled; enable it first";
/// Endpoints of one tenant at most.
const PER_TENANT_MAX: i64 = 1_000;
/// How often a change is made of what others have written meanwhile.
const CHANGE_TRIES: usize = 16;
/// Endpoints whose public keys are shown at once.
const PUBLISHED_MAX: i64 = 500;
/// Endpoints that one transaction erases.
const ERASED_AT_ONCE: i64 = 50;

/// An endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookBody {
    id: String,
    url: String,
    #[schema(value_type = Vec<String>)]
    types: Patterns,
    #[schema(value_type = Option<Object>)]
    filter: Option<Filter>,
    description: Option<String>,
    tenant: Option<String>,
    /// Values that look like credentials are not shown.
    headers: BTreeMap<String, String>,
    #[schema(value_type = Option<String>)]
    rate: Option<bus::Rate>,
    max_concurrent: u32,
    #[schema(value_type = String)]
    timeout: Span,
    #[schema(value_type = Vec<String>)]
    retry: Vec<Span>,
    ordered: bool,
    /// `v1`: HMAC-SHA256; `v1a`: ed25519.
    signature: &'static str,
    /// What receivers verify `v1a` with, the newest first; also at `/.well-known/webhook-keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
    metadata: Option<Value>,
    /// `enabled` or `disabled`.
    state: &'static str,
    /// `requested`, `gone` (it answered 410) or `failing`.
    disabled_reason: Option<String>,
    health: HealthBody,
    /// Only when it was enabled: what `recover` can bring.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<MissedBody>,
    /// Only when it was made or rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// How an endpoint is doing.
#[derive(Serialize, ToSchema)]
struct HealthBody {
    /// `healthy` or `failing`.
    status: &'static str,
    /// Since when every attempt failed.
    #[schema(value_type = Option<String>, format = DateTime)]
    failing_since: Option<Timestamp>,
    /// How far on the way to being disabled.
    percent: i64,
    /// When it is tried again, if nothing is sent before.
    #[schema(value_type = Option<String>, format = DateTime)]
    held_until: Option<Timestamp>,
}

/// What a webhook has missed.
#[derive(Serialize, ToSchema)]
struct MissedBody {
    /// Deliveries that were given up.
    failed: i64,
    /// Events that came while it was disabled.
    skipped: i64,
    /// `since` for `recover`.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
}

/// Register a webhook
///
/// Every event accepted from now on that its types and filter let through is delivered to it.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = webhook_body::WantedBody,
    responses(
        (status = 201, description = "Made, with its secret", body = WebhookBody),
        (status = 409, description = "The tenant has as many as it may"), (status = 422)
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_body(&headers, &body)?;
    let wanted = Wanted::read(&mut fields, &state, None);
    fields.finish()?;
    let (seal, now) = (webhook_body::seal(&state)?, state.db.clock().now());
    let secret = wanted.secret.unwrap_or_else(|| wanted.manner.signature.draw()).expose();
    let active = [ActiveSecret { secret: secret.clone(), ends_at_us: None }];
    let mut tx = state.db.begin().await?;
    check_room(&mut tx, wanted.tenant.as_deref()).await?;
    let endpoint = Endpoint {
        id: EndpointId::new(),
        url: wanted.url,
        types: wanted.types,
        filter: wanted.filter,
        description: wanted.description,
        tenant: wanted.tenant,
        headers: webhooks::seal_headers(seal, &wanted.headers),
        secrets: seal_secrets(seal, &active),
        public_keys: webhooks::public_keys(&active),
        manner: wanted.manner,
        metadata: wanted.metadata,
        disabled_reason: None,
        failing_since: None,
        failures: 0,
        held_until: None,
        // Read after the write lock was taken: whatever is accepted later has a larger seq.
        from: *state.log.head().borrow(),
        version: 1,
        created_at: now,
        updated_at: now,
    };
    store::create(&mut tx, &endpoint, &principal.name).await?;
    tell(&mut tx, "created", &endpoint);
    tx.commit().await?;
    let body = WebhookBody { secret: Some(secret), ..describe(&state, endpoint.clone()) };
    Ok(version(&endpoint).answer(StatusCode::CREATED, body))
}

/// List webhooks
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    params(("tenant" = Option<String>, Query), ("state" = Option<String>, Query),
        ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page, newest first", body = Items<WebhookBody>))
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<WebhookBody>>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let enabled = match query.text("state").as_deref() {
        None => None,
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        Some(_) => {
            query.fault("state", "must be enabled or disabled");
            None
        }
    };
    let tenant = query.text("tenant");
    let before = cursor(&mut query, |text| text.parse::<EndpointId>().ok());
    let limit = Limit::of(&mut query);
    query.finish()?;
    let which = Listing { tenant, enabled, before, limit: limit.and_one() };
    let page = limit.page(store::list(&state.db, &which).await?, |last| last.id.to_string());
    Ok(Json(page.map(|endpoint| describe(&state, endpoint))))
}

/// Get a webhook
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "The webhook", body = WebhookBody), (status = 304), (status = 404))
)]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let endpoint = find(&state, &id).await?;
    let version = version(&endpoint);
    if version.is_known(&headers) {
        return Ok(version.not_modified());
    }
    Ok(version.answer(StatusCode::OK, describe(&state, endpoint)))
}

/// Change a webhook
///
/// What is given is changed, `null` puts back what is assumed, the rest stays.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    request_body = webhook_body::WantedBody,
    responses((status = 200, description = "Changed", body = WebhookBody), (status = 404), (status = 412), (status = 422))
)]
pub(crate) async fn patch(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let patched = |known: Endpoint| {
        let mut fields = Fields::of_body(&headers, &body)?;
        if fields.value("secret").is_some() {
            fields.fault("secret", "is changed by rotate");
        }
        let wanted = Wanted::read(&mut fields, &state, Some(&known));
        fields.finish()?;
        let seal = webhook_body::seal(&state)?;
        // What was counted against another address is no longer true.
        let same = wanted.url == known.url;
        let counted = if same { Counted::Kept } else { Counted::Forgotten };
        let to = Endpoint {
            url: wanted.url,
            types: wanted.types,
            filter: wanted.filter,
            description: wanted.description,
            tenant: wanted.tenant,
            headers: webhooks::seal_headers(seal, &wanted.headers),
            manner: wanted.manner,
            metadata: wanted.metadata,
            ..known
        };
        Ok((to, counted))
    };
    let to = change(&state, &id, &headers, &principal, "updated", patched).await?;
    Ok(version(&to).answer(StatusCode::OK, describe(&state, to)))
}

/// Delete a webhook
///
/// Its deliveries go with it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 204), (status = 404), (status = 412))
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    let id = parse(&id)?;
    let mut tx = state.db.begin().await?;
    let known = store::find_in(&mut tx, &id).await?.ok_or_else(missing)?;
    version(&known).check(&headers)?;
    store::delete(&mut tx, &known.id).await?;
    tell(&mut tx, "deleted", &known);
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Erase a tenant's webhooks
///
/// All its endpoints and deliveries.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}", tag = "webhooks", params(("tenant" = String, Path)),
    responses((status = 204))
)]
pub(crate) async fn erase(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    let which = Listing { tenant: Some(tenant), limit: ERASED_AT_ONCE, ..Listing::default() };
    loop {
        let found = store::list(&state.db, &which).await?;
        if found.is_empty() {
            return Ok(StatusCode::NO_CONTENT);
        }
        let mut tx = state.db.begin().await?;
        for endpoint in &found {
            store::delete(&mut tx, &endpoint.id).await?;
            tell(&mut tx, "deleted", endpoint);
        }
        tx.commit().await?;
    }
}

/// Show the secret
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/secret", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "`{\"secret\"}`, the newest; with `public_key` where it has one", body = Object), (status = 404))
)]
pub(crate) async fn secret(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let endpoint = find(&state, &id).await?;
    let secrets = open(&state, &endpoint)?;
    let secret = secrets.first().map(|one| &one.secret);
    let mut body = json!({ "secret": secret });
    if let (Scheme::V1a, Some(public)) = (endpoint.manner.signature, endpoint.public_keys.first()) {
        body["public_key"] = json!(public.key);
    }
    Ok(Json(body))
}

/// Rotate the secret
///
/// The old and the new one both sign until the overlap ends.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotate", tag = "webhooks", params(("id" = String, Path)),
    request_body = webhook_body::RotateBody,
    responses((status = 200, description = "With the new secret", body = WebhookBody), (status = 404), (status = 409), (status = 422))
)]
pub(crate) async fn rotate(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let rotated = |known: Endpoint| {
        let mut fields = Fields::of_body(&headers, &body)?;
        let (scheme, given) = webhook_body::read_secret(&mut fields, known.manner.signature);
        let overlap = webhook_body::read_overlap(&mut fields);
        let secret = given.unwrap_or_else(|| scheme.draw()).expose();
        fields.finish()?;
        // One that signs already becomes the newest, and signs once.
        let mut secrets = open(&state, &known)?;
        secrets.retain(|one| one.secret != secret);
        if overlap.micros() > 0 && secrets.len() >= webhooks::SECRETS_MAX {
            let most = webhooks::SECRETS_MAX;
            return Err(Problem::conflict(format!(
                "{most} secrets sign already; wait until one ends"
            )));
        }
        // Those of earlier rotations end when it was said that they would.
        let ends_us = state.db.clock().now().as_micros().saturating_add(overlap.micros());
        for one in &mut secrets {
            one.ends_at_us.get_or_insert(ends_us);
        }
        secrets.insert(0, ActiveSecret { secret, ends_at_us: None });
        let to = Endpoint {
            secrets: seal_secrets(webhook_body::seal(&state)?, &secrets),
            public_keys: webhooks::public_keys(&secrets),
            manner: Manner { signature: scheme, ..known.manner.clone() },
            ..known
        };
        Ok((to, Counted::Kept))
    };
    let to = change(&state, &id, &headers, &principal, "rotated", rotated).await?;
    let secret = open(&state, &to)?.into_iter().next().map(|newest| newest.secret);
    let body = WebhookBody { secret, ..describe(&state, to.clone()) };
    Ok(version(&to).answer(StatusCode::OK, body))
}

/// Enable a webhook
///
/// What was pending goes on; what came meanwhile is `skipped`, and `missed` says what `recover` would
/// bring.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/enable", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "Enabled", body = WebhookBody), (status = 404))
)]
pub(crate) async fn enable(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let enabled = |known| {
        let to = Endpoint { disabled_reason: None, failing_since: None, ..known };
        Ok((to, Counted::Forgotten))
    };
    let to = change(&state, &id, &headers, &principal, "enabled", enabled).await?;
    let missed = deliveries::missed(&state.db, state.log.as_ref(), &to.id).await?;
    let Missed { failed, skipped, since } = missed;
    let missed = Some(MissedBody { failed, skipped, since });
    let body = WebhookBody { missed, ..describe(&state, to.clone()) };
    Ok(version(&to).answer(StatusCode::OK, body))
}

/// Disable a webhook
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/disable", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "Disabled", body = WebhookBody), (status = 404))
)]
pub(crate) async fn disable(
    Extract(state): Extract<State>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let disabled = |known| {
        let to = Endpoint { disabled_reason: Some("requested".to_owned()), ..known };
        Ok((to, Counted::Kept))
    };
    let to = change(&state, &id, &headers, &principal, "disabled", disabled).await?;
    Ok(version(&to).answer(StatusCode::OK, describe(&state, to)))
}

/// Public keys
///
/// With which receivers verify `v1a` signatures: a JSON Web Key Set (RFC 7517, RFC 8037), the newest
/// 500 or those of one webhook.
#[utoipa::path(
    get, path = "/.well-known/webhook-keys", tag = "webhooks", params(("webhook" = Option<String>, Query)),
    responses((status = 200, description = "`{\"keys\":[{\"kty\",\"crv\",\"x\",\"use\",\"kid\",\"public_key\"}]}`", body = Object))
)]
pub(crate) async fn public_keys(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    let of = query.parsed::<EndpointId>("webhook");
    query.finish()?;
    let now = state.db.clock().now();
    let found = store::published_keys(&state.db, of.as_ref(), now, PUBLISHED_MAX).await?;
    let keys: Vec<Value> = found.iter().filter_map(|one| json_web_key(&one.key)).collect();
    Ok(Json(json!({ "keys": keys })))
}

fn json_web_key(text: &str) -> Option<Value> {
    let key: egress::PublicKey = text.parse().ok()?;
    let x = key.base64_url();
    Some(json!({
        "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": x, "x": x,
        "public_key": text,
    }))
}

/// Test a filter
#[utoipa::path(
    post, path = "/v1/webhooks/filter-test", tag = "webhooks",
    request_body = webhook_body::FilterTestBody,
    responses((status = 200, description = "`{\"matches\"}`", body = Object), (status = 422))
)]
pub(crate) async fn filter_test(headers: HeaderMap, body: Bytes) -> Result<Json<Value>, Problem> {
    let mut fields = Fields::of_body(&headers, &body)?;
    let filter = webhook_body::read_filter(&mut fields);
    let filter = fields.require("filter", filter);
    let event = read_event(&mut fields, &body);
    fields.finish()?;
    let matches = filter.zip(event).is_some_and(|(filter, event)| filter.matches(&event));
    Ok(Json(json!({ "matches": matches })))
}

pub(crate) async fn find(state: &State, id: &str) -> Result<Endpoint, Problem> {
    store::find(&state.db, &parse(id)?).await?.ok_or_else(missing)
}

fn parse(id: &str) -> Result<EndpointId, Problem> {
    id.parse().map_err(|_| missing())
}

fn missing() -> Problem {
    Problem::not_found("webhook of this id")
}

fn version(of: &Endpoint) -> Version {
    Version { version: of.version, updated_at: of.updated_at }
}

/// The secrets that sign now.
fn open(state: &State, endpoint: &Endpoint) -> Result<Vec<ActiveSecret>, Problem> {
    let opened = endpoint.open_secrets(state.seal.as_ref());
    let mut secrets = opened.map_err(|error| Problem::unavailable(error.to_string()))?;
    let now = state.db.clock().now();
    secrets.retain(|one| one.signs_at(now));
    Ok(secrets)
}

/// Changes a webhook as `make` says of what is there. Where somebody else has changed it in between, it
/// is made of that: only who has named a version is told.
async fn change(
    state: &State,
    id: &str,
    headers: &HeaderMap,
    principal: &Principal,
    what: &str,
    make: impl Fn(Endpoint) -> Result<(Endpoint, Counted), Problem>,
) -> Result<Endpoint, Problem> {
    let id = parse(id)?;
    for _ in 0..CHANGE_TRIES {
        let mut tx = state.db.begin().await?;
        let known = store::find_in(&mut tx, &id).await?.ok_or_else(missing)?;
        let (version, tenant) = (version(&known), known.tenant.clone());
        let (to, counted) = make(known)?;
        version.check(headers)?;
        if to.tenant != tenant {
            check_room(&mut tx, to.tenant.as_deref()).await?;
        }
        if store::update(&mut tx, &to, counted, &principal.name).await? {
            tell(&mut tx, what, &to);
            let written = store::find_in(&mut tx, &to.id).await?.ok_or_else(missing)?;
            tx.commit().await?;
            return Ok(written);
        }
    }
    Err(Problem::unavailable("others keep changing it at the same moment"))
}

/// Refuses another webhook of a tenant that has as many as one may have.
async fn check_room(tx: &mut Tx, tenant: Option<&str>) -> Result<(), Problem> {
    if store::count(tx, tenant).await? >= PER_TENANT_MAX {
        return Err(Problem::conflict(format!("there are {PER_TENANT_MAX} of them already")));
    }
    Ok(())
}

fn tell(tx: &mut Tx, what: &str, endpoint: &Endpoint) {
    let data = json!({
        "id": endpoint.id.as_str(), "tenant": endpoint.tenant, "url": endpoint.url,
        "types": endpoint.types, "reason": endpoint.disabled_reason,
    });
    events::stage(tx, what, data);
}

fn describe(state: &State, of: Endpoint) -> WebhookBody {
    let now = state.db.clock().now();
    let headers = of.open_headers(state.seal.as_ref()).unwrap_or_default();
    let percent = health::percent(&of, now);
    let in_use = |one: &PublishedKey| one.ends_at_us.is_none_or(|end| end > now.as_micros());
    let public_keys = of.public_keys.into_iter().filter(in_use).map(|one| one.key).collect();
    let Manner { timeout, rate, max_concurrent, retry, ordered, signature } = of.manner;
    WebhookBody {
        id: of.id.to_string(),
        url: of.url,
        types: of.types,
        filter: of.filter,
        description: of.description,
        tenant: of.tenant,
        headers: webhook_body::redacted(headers),
        rate,
        max_concurrent,
        timeout,
        retry,
        ordered,
        signature: signature.as_str(),
        public_keys,
        metadata: of.metadata,
        state: if of.disabled_reason.is_none() { "enabled" } else { "disabled" },
        disabled_reason: of.disabled_reason,
        health: HealthBody {
            status: if of.failing_since.is_none() { "healthy" } else { "failing" },
            failing_since: of.failing_since,
            percent,
            held_until: of.held_until.filter(|until| *until > now),
        },
        missed: None,
        secret: None,
        created_at: of.created_at,
        updated_at: of.updated_at,
    }
}
