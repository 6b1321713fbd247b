//! `/v1/analytics`: questions to the rollups.

use axum::Json;
use axum::extract::{RawQuery, State as Extract};
use consumers::analytics::{Interval, Timeseries};
use jiff::tz::TimeZone;
use schemas::{Pattern, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::State;
use crate::api::body::Fields;
use crate::api::problem::Problem;

/// A day, in microseconds: how far back a series goes when it is not said.
const DAY_US: i64 = 86_400_000_000;

/// A series.
#[derive(Serialize, ToSchema)]
pub(crate) struct SeriesBody {
    interval: &'static str,
    points: Vec<PointBody>,
}

/// One point.
#[derive(Serialize, ToSchema)]
pub(crate) struct PointBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    value: i64,
}

/// Events over time
///
/// By the time of recording. The last day by hours, where the query does not say otherwise.
#[utoipa::path(
    get, path = "/v1/analytics/timeseries", tag = "analytics",
    params(
        ("metric" = String, Query, description = "`events`"),
        ("type" = Option<String>, Query, description = "A type or a pattern"),
        ("interval" = Option<String>, Query, description = "minute, hour, day, week or month"),
        ("timezone" = Option<String>, Query, description = "An IANA name, default UTC"),
        ("from" = Option<String>, Query), ("to" = Option<String>, Query),
    ),
    responses((status = 200, description = "The series", body = SeriesBody), (status = 422))
)]
pub(crate) async fn timeseries(
    Extract(state): Extract<State>,
    RawQuery(query): RawQuery,
) -> Result<Json<SeriesBody>, Problem> {
    let mut query = Fields::of_query(query.as_deref())?;
    match query.text("metric").as_deref() {
        Some("events") => {}
        Some(_) => query.fault("metric", "must be events"),
        None => {
            query.require("metric", None::<()>);
        }
    }
    let types: Option<Pattern> = query.parsed("type");
    let interval = query.parsed("interval").unwrap_or(Interval::Hour);
    let zone = match query.text("timezone") {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(&name).unwrap_or_else(|_| {
            query.fault("timezone", "must be the name of an IANA time zone");
            TimeZone::UTC
        }),
    };
    let to: Option<Timestamp> = query.parsed("to");
    // Up to and including this moment, where no end was named.
    let to = to.unwrap_or_else(|| Timestamp::from_micros(state.db.clock().now().as_micros() + 1));
    let from: Option<Timestamp> = query.parsed("from");
    let from = from.unwrap_or_else(|| Timestamp::from_micros(to.as_micros() - DAY_US));
    if !query.is_faulty() && from >= to {
        query.fault("from", "must be before to");
    }
    query.finish()?;
    let series = Timeseries { types, interval, zone, from, to };
    let points = series.read(&state.db).await?;
    let points = points.into_iter().map(|point| PointBody { at: point.at, value: point.value });
    Ok(Json(SeriesBody { interval: interval.as_str(), points: points.collect() }))
}
