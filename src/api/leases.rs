//! Pull consumers: leases on events, and the answers to them.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::HeaderMap;
use bus::work::{self, LeaseToken, Outcome, QueueId, Verdict, WorkId};
use bus::{Kind, Registration, Seq, Span, pull};
use bytes::Bytes;
use schemas::{Event, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::Fields;
use crate::api::consumers::find;
use crate::api::problem::Problem;

/// Events leased, or leases answered, in one call at most.
const LEASES_MAX: usize = 1_000;
/// Longest wait for an event.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest lease: a week, as pull queues elsewhere have it.
pub(crate) const LEASE_MAX: Span = Span(Duration::from_secs(7 * 86_400));
/// What the ids of leases start with.
pub(crate) const PREFIX: &str = "lse";

/// Leases.
#[derive(Serialize, ToSchema)]
pub(crate) struct LeasesBody {
    leases: Vec<LeaseBody>,
}

/// An event under lease.
#[derive(Serialize, ToSchema)]
pub(crate) struct LeaseBody {
    id: String,
    /// Proof of the lease; given back with the answer.
    token: String,
    /// Which attempt this is, from 1.
    attempt: i64,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[schema(value_type = i64)]
    seq: Seq,
    #[schema(value_type = Object)]
    event: Event,
}

/// What became of answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ResultsBody {
    leases: Vec<ResultBody>,
}

/// What became of one answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct ResultBody {
    id: String,
    /// `ok`, or `expired` when the lease had ended or the token was not its own: nothing changed.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// How many to lease.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct LeaseRequest {
    /// 1 to 1,000, default 1.
    max: Option<i64>,
    /// How long the lease lasts, default the policy's `timeout`.
    lease: Option<String>,
    /// How long to wait for the first event, default not at all, at most 60 s.
    wait: Option<String>,
}

/// Answers to leases; which members count depends on the answer.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct AnswerRequest {
    leases: Vec<AnswerItem>,
    /// For `extend`: how long the leases last from now.
    lease: Option<String>,
}

/// The answer to one lease.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body, which `Fields` reads with all its faults at once"
)]
pub(crate) struct AnswerItem {
    id: String,
    token: String,
    /// For `ack`: kept for those who wait for it.
    #[schema(value_type = Option<Object>)]
    output: Option<serde_json::Value>,
    /// For `nak`: the wait before the next attempt; the policy's back-off when absent.
    delay: Option<String>,
    /// For `nak`: why.
    error: Option<String>,
    /// For `nak`: whether trying again cannot help; the event is a dead letter then.
    permanent: Option<bool>,
}

/// Lease events
#[utoipa::path(
    post, path = "/v1/consumers/{name}/lease", tag = "consumers", params(("name" = String, Path)),
    request_body = LeaseRequest,
    responses((status = 200, description = "Leases, none when nothing came in time", body = LeasesBody), (status = 404), (status = 409))
)]
pub(crate) async fn lease(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<LeasesBody>, Problem> {
    let consumer = pull_consumer(&state, &name).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let most = i64::try_from(LEASES_MAX).unwrap_or(i64::MAX);
    let max = fields.number("max", 1, most).unwrap_or(1);
    let lease = fields.parsed("lease").unwrap_or(consumer.policy.timeout);
    let wait = fields.parsed("wait").unwrap_or(Span(Duration::ZERO));
    if lease.0.is_zero() || lease > LEASE_MAX {
        fields.fault("lease", format!("must be longer than 0 and at most {LEASE_MAX}"));
    }
    if wait.0 > WAIT_MAX {
        fields.fault("wait", format!("must not exceed {}", Span(WAIT_MAX)));
    }
    fields.finish()?;
    let claim = (usize::try_from(max).unwrap_or(1), lease.0);
    let leasing = pull::lease(&state.db, state.log.as_ref(), &consumer, claim, wait.0);
    let leases = tokio::select! {
        leases = leasing => leases?,
        () = state.stop.cancelled() => Vec::new(),
    };
    let leases = leases.into_iter().map(|lease| LeaseBody {
        id: lease.work.id.prefixed(PREFIX),
        token: lease.work.token.to_string(),
        attempt: lease.work.attempt,
        expires_at: lease.work.expires_at,
        seq: lease.event.seq,
        event: lease.event.event.clone(),
    });
    Ok(Json(LeasesBody { leases: leases.collect() }))
}

/// Acknowledge events
///
/// They are done.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/ack", tag = "consumers", params(("name" = String, Path)),
    request_body = AnswerRequest,
    responses((status = 200, description = "What became of each", body = ResultsBody), (status = 404), (status = 409))
)]
pub(crate) async fn ack(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ResultsBody>, Problem> {
    let queue = queue(&state, &name).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let answers = fields.objects("leases", LEASES_MAX, |item| {
        let lease = read_lease(item);
        let output = item.value("output").map(|output| output.to_string());
        lease.map(|(id, token)| (id, token, Outcome::Done { output }))
    });
    let answers = fields.require("leases", answers);
    fields.finish()?;
    settle(&state, queue, answers.unwrap_or_default()).await
}

/// Refuse events
///
/// They are tried again after a delay, or become dead letters.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/nak", tag = "consumers", params(("name" = String, Path)),
    request_body = AnswerRequest,
    responses((status = 200, description = "What became of each", body = ResultsBody), (status = 404), (status = 409))
)]
pub(crate) async fn nak(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ResultsBody>, Problem> {
    let queue = queue(&state, &name).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let answers = fields.objects("leases", LEASES_MAX, |item| {
        let lease = read_lease(item);
        let delay: Option<Span> = item.parsed("delay");
        let error = item.words("error").unwrap_or_else(|| "refused without a reason".to_owned());
        let permanent = item.flag("permanent");
        let delay = delay.map(|delay| delay.0);
        lease.map(|(id, token)| (id, token, Outcome::Failed { error, permanent, delay }))
    });
    let answers = fields.require("leases", answers);
    fields.finish()?;
    settle(&state, queue, answers.unwrap_or_default()).await
}

/// Extend leases
#[utoipa::path(
    post, path = "/v1/consumers/{name}/extend", tag = "consumers", params(("name" = String, Path)),
    request_body = AnswerRequest,
    responses((status = 200, description = "What became of each", body = ResultsBody), (status = 404), (status = 409))
)]
pub(crate) async fn extend(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ResultsBody>, Problem> {
    let queue = queue(&state, &name).await?;
    let mut fields = Fields::of_body(&headers, &body)?;
    let leases = fields.objects("leases", LEASES_MAX, read_lease);
    let leases = fields.require("leases", leases);
    let lease: Option<Span> = fields.parsed("lease");
    let lease = fields.require("lease", lease).unwrap_or(LEASE_MAX);
    if lease.0.is_zero() || lease > LEASE_MAX {
        fields.fault("lease", format!("must be longer than 0 and at most {LEASE_MAX}"));
    }
    fields.finish()?;
    let leases = leases.unwrap_or_default();
    let extended = pull::extend(&state.db, queue, &leases, lease.0).await?;
    let until: HashMap<WorkId, Option<Timestamp>> =
        extended.iter().map(|lease| (lease.id, lease.expires_at)).collect();
    let leases = leases.iter().map(|(id, _)| {
        let expires_at = until.get(id).copied().flatten();
        let result = if expires_at.is_some() { "ok" } else { "expired" };
        ResultBody { id: id.prefixed(PREFIX), result, expires_at }
    });
    Ok(Json(ResultsBody { leases: leases.collect() }))
}

async fn settle(
    state: &State,
    queue: QueueId,
    answers: Vec<(WorkId, LeaseToken, Outcome)>,
) -> Result<Json<ResultsBody>, Problem> {
    let settled = pull::answer(&state.db, state.log.as_ref(), Some(queue), &answers).await?;
    let leases = settled.iter().map(|row| ResultBody {
        id: row.id.prefixed(PREFIX),
        result: if row.verdict == Verdict::Expired { "expired" } else { "ok" },
        expires_at: None,
    });
    Ok(Json(ResultsBody { leases: leases.collect() }))
}

fn read_lease(item: &mut Fields) -> Option<(WorkId, LeaseToken)> {
    let id = item.text("id").and_then(|text| {
        WorkId::parse(PREFIX, &text).map_err(|error| item.fault("id", error.to_string())).ok()
    });
    let token = item.parsed("token");
    let (id, token) = (item.require("id", id), item.require("token", token));
    id.zip(token)
}

async fn queue(state: &State, name: &str) -> Result<QueueId, Problem> {
    let consumer = pull_consumer(state, name).await?;
    let queue = work::find(&state.db, consumer.kind.work(), &consumer.queue_name()).await?;
    queue.ok_or_else(|| Problem::not_found("queue of this consumer"))
}

async fn pull_consumer(state: &State, name: &str) -> Result<Registration, Problem> {
    let consumer = find(state, name).await?;
    if consumer.kind != Kind::Pull {
        let kind = consumer.kind.as_str();
        return Err(Problem::conflict(format!(
            "`{name}` is a {kind} consumer, not a pull consumer"
        )));
    }
    Ok(consumer)
}
