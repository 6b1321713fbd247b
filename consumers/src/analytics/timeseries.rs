//! Events over time.

use std::collections::BTreeMap;

use bus::{Db, registry, sql};
use jiff::tz::TimeZone;
use schemas::{EventType, Pattern, Timestamp};
use sqlx::Row;

use crate::analytics::{CountEvents, Interval};
use bus::BatchConsumer as _;

/// Points of one answer at most.
pub const POINTS_MAX: usize = 10_000;

/// A question: how many events, of which types, from when to when.
#[derive(Clone, Debug)]
pub struct Timeseries {
    /// Which types; all when `None`.
    pub types: Option<Pattern>,
    /// How long each point stands for.
    pub interval: Interval,
    /// Whose days, weeks and months.
    pub zone: TimeZone,
    /// The first moment.
    pub from: Timestamp,
    /// The moment after the last.
    pub to: Timestamp,
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where its stretch starts.
    pub at: Timestamp,
    /// Events in it.
    pub value: i64,
}

/// The question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimeseriesError {
    /// More than [`POINTS_MAX`] points.
    #[error(
        "this would be more than {POINTS_MAX} points: take a longer interval or a shorter time"
    )]
    TooManyPoints,
    /// The database.
    #[error("reading event counts")]
    Database(#[from] sqlx::Error),
}

impl Timeseries {
    /// The points, oldest first, one for every stretch that overlaps the time asked for, those
    /// without events too.
    ///
    /// # Errors
    /// [`TimeseriesError`].
    pub async fn read(&self, db: &Db) -> Result<Vec<Point>, TimeseriesError> {
        let mut points = self.stretches()?;
        let Some(start) = points.keys().next().copied() else { return Ok(Vec::new()) };
        let consumer = registry::find(db, CountEvents::NAME).await?;
        let generation = consumer.map_or(1, |consumer| consumer.generation);
        let query = sql("select type, minute_us, events from analytics_event_minute
             where generation = $1 and minute_us >= $2 and minute_us < $3")
        .bind(generation)
        .bind(start.as_micros())
        .bind(self.to.as_micros());
        for row in db.fetch_all(query).await? {
            let kind = EventType::from_trusted(row.get::<String, _>(0).into());
            let at = Timestamp::from_micros(row.get(1));
            if self.types.as_ref().is_none_or(|types| types.matches(&kind))
                && let Some((_, value)) = points.range_mut(..=at).next_back()
            {
                *value += row.get::<i64, _>(2);
            }
        }
        Ok(points.into_iter().map(|(at, value)| Point { at, value }).collect())
    }

    fn stretches(&self) -> Result<BTreeMap<Timestamp, i64>, TimeseriesError> {
        let mut points = BTreeMap::new();
        let mut next = self.interval.start(self.from, &self.zone);
        while let Some(at) = next.filter(|at| *at < self.to) {
            if points.len() == POINTS_MAX {
                return Err(TimeseriesError::TooManyPoints);
            }
            points.insert(at, 0);
            next = self.interval.next(at, &self.zone);
        }
        Ok(points)
    }
}
