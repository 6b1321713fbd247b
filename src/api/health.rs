//! `/healthz`, `/readyz` and `/metrics`: for those who watch.

use std::time::Duration;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bus::{registry, sql};
use metrics::gauge;
use sqlx::Row;

use crate::api::State;
use crate::api::consumers::Figures;
use crate::api::problem::Problem;

/// How long the log may take to answer before the server is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Alive
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200)))]
pub(crate) async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "alive" }))
}

/// Ready
///
/// The log and the database answer.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses((status = 200), (status = 503, description = "Which of them does not answer"))
)]
pub(crate) async fn readyz(Extract(state): Extract<State>) -> Response {
    let log = match tokio::time::timeout(PATIENCE, state.log.state()).await {
        Ok(log) => log.err().map(|error| error.to_string()),
        Err(_) => Some("the log does not answer".to_owned()),
    };
    let database = state.db.ping().await.err().map(|error| error.to_string());
    let stopping = state.stop.is_cancelled().then(|| "the server is stopping".to_owned());
    let reasons: Vec<String> = log.into_iter().chain(database).chain(stopping).collect();
    if reasons.is_empty() {
        return Json(serde_json::json!({ "status": "ready" })).into_response();
    }
    tracing::warn!(reasons = reasons.join("; "), "not ready");
    Problem::unavailable(reasons.join("; ")).into_response()
}

/// Metrics
///
/// In the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "text/plain"))
)]
pub(crate) async fn metrics(
    Extract(state): Extract<State>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], String), Problem> {
    refresh(&state).await?;
    let media = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((StatusCode::OK, media, crate::telemetry::render(&state.metrics)))
}

/// Sets the gauges that are read from the database, once per scrape.
#[expect(clippy::cast_precision_loss, reason = "gauges")]
async fn refresh(state: &State) -> Result<(), Problem> {
    gauge!("skald_log_last_seq").set(state.log.head().borrow().get() as f64);
    for consumer in registry::list(&state.db).await? {
        let figures = Figures::read(state, &consumer).await?;
        let name = || consumer.name.clone();
        gauge!("skald_consumer_lag_events", "consumer" => name()).set(figures.waiting as f64);
        gauge!("skald_consumer_oldest_waiting_seconds", "consumer" => name())
            .set(figures.oldest_waiting_seconds.unwrap_or(0.0));
    }
    let rows = state
        .db
        .fetch_all(sql("select q.kind, w.state, count(*) from work w
             join work_queue q on q.id = w.queue group by q.kind, w.state
             union all
             select q.kind, 'dispatched', cast(sum(d.legs) as bigint) from work_dispatch d
             join work_queue q on q.id = d.queue group by q.kind"))
        .await?;
    for kind in ["consumer", "pull", "push", "webhook"] {
        for work_state in ["ready", "leased", "behind", "done", "dead", "discarded", "dispatched"] {
            let found = rows.iter().find(|row| {
                row.get::<String, _>(0) == kind && row.get::<String, _>(1) == work_state
            });
            let count = found.map_or(0, |row| row.get::<i64, _>(2));
            gauge!("skald_work_rows", "kind" => kind, "state" => work_state).set(count as f64);
        }
    }
    let now = state.db.clock().now().as_micros();
    let open = orchestrator::store::open(&state.db).await?;
    for status in ["running", "compensating", "stuck"] {
        let found = open.iter().find(|(known, ..)| known == status);
        let count = found.map_or(0, |(_, count, _)| *count);
        let age = found.map_or(0, |(_, _, made)| now - made);
        gauge!("skald_sagas_open", "status" => status).set(count as f64);
        gauge!("skald_saga_oldest_seconds", "status" => status).set(age as f64 / 1e6);
    }
    let staged = state.db.fetch_optional(sql("select count(*) from outbox")).await?;
    gauge!("skald_outbox_rows").set(staged.map_or(0, |row| row.get::<i64, _>(0)) as f64);
    Ok(())
}
