//! How attempts at one endpoint went, from the counts by the minute.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Db, Span, sql};
use sqlx::Row;

use crate::endpoint::EndpointId;
use crate::outcome::MINUTE_US;

/// How attempts went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Attempts by status code; 0 where no response came.
    pub by_status: BTreeMap<i64, i64>,
    /// How many took up to 2 to the power of the key, in milliseconds.
    by_log2: BTreeMap<i64, i64>,
}

impl Statistics {
    /// All attempts.
    #[must_use]
    pub fn attempts(&self) -> i64 {
        self.by_status.values().sum()
    }

    /// Those that were delivered.
    #[must_use]
    pub fn delivered(&self) -> i64 {
        self.by_status.range(200..300).map(|(_, attempts)| attempts).sum()
    }

    /// The duration in milliseconds that `percent` of the attempts did not exceed, rounded up to a
    /// power of two; `None` when there was none.
    #[must_use]
    pub fn latency_ms(&self, percent: i64) -> Option<i64> {
        let wanted = (self.attempts() * percent + 99) / 100;
        let mut seen = 0;
        self.by_log2.iter().find_map(|(log2, attempts)| {
            seen += attempts;
            (seen >= wanted).then(|| 1_i64 << (*log2).clamp(0, 62))
        })
    }
}

/// The statistics of the last `window`.
///
/// # Errors
/// Those of the database.
pub async fn read(
    db: &Db,
    endpoint: &EndpointId,
    window: Duration,
) -> Result<Statistics, sqlx::Error> {
    let since_us = db.clock().now().as_micros() - Span(window).micros();
    let query = sql("select status_code, duration_log2, cast(sum(attempts) as bigint)
         from webhook_minute where endpoint = $1 and minute_us > $2 group by 1, 2")
    .bind(endpoint.as_str().to_owned())
    .bind(since_us - MINUTE_US);
    let mut statistics = Statistics::default();
    for row in db.fetch_all(query).await? {
        let (status, log2, attempts): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        *statistics.by_status.entry(status).or_default() += attempts;
        *statistics.by_log2.entry(log2).or_default() += attempts;
    }
    Ok(statistics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_counts() {
        let statistics = Statistics {
            by_status: BTreeMap::from([(0, 1), (200, 97), (204, 1), (500, 1)]),
            by_log2: BTreeMap::from([(2, 50), (5, 49), (10, 1)]),
        };
        assert_eq!((statistics.attempts(), statistics.delivered()), (100, 98));
        let latency = [50, 95, 99, 100].map(|percent| statistics.latency_ms(percent));
        assert_eq!(latency, [Some(4), Some(32), Some(32), Some(1024)]);
        assert_eq!(Statistics::default().latency_ms(50), None);
    }
}
