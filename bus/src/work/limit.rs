//! Limits: rates and concurrency, shared by all nodes, taken in the claim itself.

use std::collections::HashMap;

use schemas::Timestamp;
use sqlx::Row;

use super::QueueId;
use crate::db::{built, sql};
use crate::{Dialect, Policy, Rate, Tx, bulk};

/// A limit that several queues may share: "so many a day, over all of them".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedLimit {
    /// So many per time, and this many at once after a pause.
    Rate(Rate, u32),
    /// So many at the same time.
    Concurrency(u32),
}

/// Makes the limit `name`, or brings it up to date. Queues take part in it by naming it in
/// [`super::define`].
///
/// # Errors
/// Those of the database.
pub async fn define_limit(tx: &mut Tx, name: &str, limit: &SharedLimit) -> Result<(), sqlx::Error> {
    let name = name.to_owned();
    let limit = match limit {
        SharedLimit::Rate(rate, burst) => Limit::Rate {
            name,
            interval_ns: rate.interval_ns(),
            burst: i64::from(*burst),
            arrival_ns: 0,
        },
        SharedLimit::Concurrency(max) => Limit::concurrency(name, i64::from(*max)),
    };
    limit.define(tx).await
}

/// A queue whose concurrency is narrowed.
#[derive(Clone, Debug)]
pub struct Narrowed {
    /// Its name.
    pub queue: String,
    /// Nothing starts before.
    pub until: Timestamp,
    /// How many at a time start from then on; as the policy says when `None`.
    pub at_once: Option<u32>,
}

/// Narrows the concurrency of queues of `kind`, which must have a limit of it. Another policy does not
/// end it; [`widen`] does.
///
/// # Errors
/// Those of the database.
pub async fn narrow(tx: &mut Tx, kind: &str, queues: &[Narrowed]) -> Result<(), sqlx::Error> {
    for chunk in bulk::lists(queues) {
        let mut query = built(format!(
            "update work_limit set closed_until_us = v.column2, narrowed_max = v.column3
             from {} where name = v.column1",
            bulk::table(tx.dialect(), chunk.len(), 3)
        ));
        for Narrowed { queue, until, at_once } in chunk {
            query = query
                .bind(Limit::concurrency_name(&format!("{kind}/{queue}")))
                .bind(until.as_micros())
                .bind(at_once.map(i64::from));
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Ends what [`narrow`] began.
///
/// # Errors
/// Those of the database.
pub async fn widen(tx: &mut Tx, kind: &str, name: &str) -> Result<(), sqlx::Error> {
    let queue = sql("update work_queue set next_due_us = 0 where kind = $1 and name = $2");
    tx.execute(queue.bind(kind.to_owned()).bind(name.to_owned())).await?;
    let limit =
        sql("update work_limit set closed_until_us = 0, narrowed_max = null where name = $1");
    tx.execute(limit.bind(Limit::concurrency_name(&format!("{kind}/{name}")))).await?;
    tx.wake(crate::signals::WORK);
    Ok(())
}

/// One limit as it stands in `work_limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Rate { name: String, interval_ns: i64, burst: i64, arrival_ns: i64 },
    Concurrency { name: String, max: i64, in_flight: i64, closed_until_us: i64, narrowed: bool },
}

impl Limit {
    /// The limits that a policy asks for, named after `base`.
    pub(super) fn of_policy(base: &str, policy: &Policy) -> Vec<Limit> {
        let rate = policy.rate.as_ref().map(|rate| Limit::Rate {
            name: Limit::rate_name(base),
            interval_ns: rate.interval_ns(),
            burst: i64::from(policy.burst),
            arrival_ns: 0,
        });
        let concurrency = policy
            .max_concurrent
            .map(|max| Limit::concurrency(Limit::concurrency_name(base), i64::from(max)));
        rate.into_iter().chain(concurrency).collect()
    }

    fn concurrency(name: String, max: i64) -> Limit {
        Limit::Concurrency { name, max, in_flight: 0, closed_until_us: 0, narrowed: false }
    }

    pub(super) fn rate_name(base: &str) -> String {
        format!("{base}:rate")
    }

    pub(super) fn concurrency_name(base: &str) -> String {
        format!("{base}:concurrency")
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Limit::Rate { name, .. } | Limit::Concurrency { name, .. } => name,
        }
    }

    /// Whether each start counts, or whoever starts now is a probe: then one place does not serve
    /// several in turn.
    pub(super) fn counts_starts(&self, now_us: i64) -> bool {
        match self {
            Limit::Rate { .. } => true,
            Limit::Concurrency { closed_until_us, narrowed, .. } => {
                *narrowed || *closed_until_us > now_us
            }
        }
    }

    /// How many may start now.
    pub(super) fn allows(&self, now_us: i64) -> i64 {
        match self {
            Limit::Rate { interval_ns, burst, arrival_ns, .. } => {
                let now = now_us.saturating_mul(1_000);
                let span = interval_ns.saturating_mul(*burst);
                // An arrival further ahead than a whole burst comes from a clock that was ahead.
                let ahead = (arrival_ns - now).clamp(0, span);
                (span - ahead) / interval_ns
            }
            Limit::Concurrency { closed_until_us, .. } if *closed_until_us > now_us => 0,
            Limit::Concurrency { max, in_flight, .. } => (max - in_flight).max(0),
        }
    }

    /// Notes that `started` have started.
    pub(super) fn take(&mut self, started: i64, now_us: i64) {
        match self {
            Limit::Rate { interval_ns, burst, arrival_ns, .. } => {
                let now = now_us.saturating_mul(1_000);
                let span = interval_ns.saturating_mul(*burst);
                let from = (*arrival_ns).clamp(now, now.saturating_add(span));
                *arrival_ns = from.saturating_add(interval_ns.saturating_mul(started));
            }
            Limit::Concurrency { in_flight, .. } => *in_flight += started,
        }
    }

    /// When at least one more may start; `None` while only an ending can tell.
    pub(super) fn opens_at_us(&self, now_us: i64) -> Option<i64> {
        match self {
            Limit::Rate { interval_ns, burst, arrival_ns, .. } => {
                let span = interval_ns.saturating_mul(*burst);
                Some((arrival_ns - span + interval_ns) / 1_000 + 1)
            }
            Limit::Concurrency { closed_until_us, .. } => {
                (*closed_until_us > now_us).then_some(*closed_until_us)
            }
        }
    }

    /// Makes the limit, or brings it up to date. A rate that becomes another holds nothing back for
    /// longer than a whole burst of its own.
    pub(super) async fn define(&self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let (name, interval, burst, max) = match self {
            Limit::Rate { name, interval_ns, burst, .. } => {
                (name, Some(*interval_ns), Some(*burst), None)
            }
            Limit::Concurrency { name, max, .. } => (name, None, None, Some(*max)),
        };
        let span = interval.unwrap_or(0).saturating_mul(burst.unwrap_or(0));
        let latest = tx.clock().now().as_micros().saturating_mul(1_000).saturating_add(span);
        let query = sql("insert into work_limit (name, interval_ns, burst, concurrent_max)
             values ($1, $2, $3, $4)
             on conflict (name) do update set interval_ns = excluded.interval_ns,
                 burst = excluded.burst, concurrent_max = excluded.concurrent_max,
                 arrival_ns = case when work_limit.arrival_ns > $5 then $5
                     else work_limit.arrival_ns end")
        .bind(name.clone())
        .bind(interval)
        .bind(burst)
        .bind(max)
        .bind(latest);
        tx.execute(query).await.map(|_| ())
    }

    /// Counts anew what is under way in `queue`, which is locked: what was leased while there was no such
    /// limit is given back to it, and what was leased under it may have ended while there was none.
    pub(super) async fn count_in_flight(
        &self,
        tx: &mut Tx,
        queue: QueueId,
    ) -> Result<(), sqlx::Error> {
        let Limit::Concurrency { name, .. } = self else { return Ok(()) };
        let query = sql("update work_limit set in_flight =
                 (select count(*) from work where queue = $2 and state = 'leased')
                 + (select coalesce(sum(places), 0) from work_place where queue = $2)
             where name = $1");
        tx.execute(query.bind(name.clone()).bind(queue.0)).await.map(|_| ())
    }

    fn read(row: &sqlx::any::AnyRow) -> Limit {
        let name: String = row.get(0);
        match row.get::<Option<i64>, _>(1) {
            Some(interval_ns) => Limit::Rate {
                name,
                interval_ns: interval_ns.max(1),
                burst: row.get::<Option<i64>, _>(2).unwrap_or(1).max(1),
                arrival_ns: row.get(3),
            },
            None => Limit::Concurrency {
                name,
                max: row.get::<Option<i64>, _>(4).unwrap_or(i64::MAX),
                in_flight: row.get(5),
                closed_until_us: row.get(6),
                narrowed: row.get::<i64, _>(7) == 1,
            },
        }
    }
}

/// Reads limits by name, locked until the transaction ends. In order of name, so that two claims
/// cannot wait for each other.
pub(super) async fn load(
    tx: &mut Tx,
    mut names: Vec<String>,
) -> Result<HashMap<String, Limit>, sqlx::Error> {
    names.sort_unstable();
    names.dedup();
    let lock = if tx.dialect() == Dialect::Postgres { " for update" } else { "" };
    let mut limits = HashMap::new();
    for chunk in bulk::lists(&names) {
        let mut query = built(format!(
            "select name, interval_ns, burst, arrival_ns,
                 coalesce(narrowed_max, concurrent_max), in_flight, closed_until_us,
                 case when narrowed_max is null then 0 else 1 end
             from work_limit where name in ({}) order by name{lock}",
            bulk::list(1, chunk.len())
        ));
        for name in chunk {
            query = query.bind(name.clone());
        }
        for row in tx.fetch_all(query).await? {
            let limit = Limit::read(&row);
            limits.insert(limit.name().to_owned(), limit);
        }
    }
    Ok(limits)
}

/// Writes back what [`Limit::take`] noted.
pub(super) async fn store(tx: &mut Tx, limits: &[&Limit]) -> Result<(), sqlx::Error> {
    for chunk in bulk::lists(limits) {
        let mut query = built(format!(
            "update work_limit set arrival_ns = v.column2, in_flight = v.column3
             from {} where name = v.column1",
            bulk::table(tx.dialect(), chunk.len(), 3)
        ));
        for limit in &chunk {
            let (arrival, in_flight) = match limit {
                Limit::Rate { arrival_ns, .. } => (*arrival_ns, 0),
                Limit::Concurrency { in_flight, .. } => (0, *in_flight),
            };
            query = query.bind(limit.name().to_owned()).bind(arrival).bind(in_flight);
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Gives places back: `(limit name, how many)`. Rates are not given back.
pub(super) async fn give_back(
    tx: &mut Tx,
    places: &HashMap<String, i64>,
) -> Result<(), sqlx::Error> {
    let mut places: Vec<(&String, &i64)> = places.iter().collect();
    places.sort_unstable();
    for chunk in bulk::lists(&places) {
        let mut query = built(format!(
            "update work_limit set in_flight = in_flight - v.column2
             from {} where name = v.column1 and concurrent_max is not null",
            bulk::table(tx.dialect(), chunk.len(), 2)
        ));
        for (name, count) in &chunk {
            query = query.bind((*name).clone()).bind(**count);
        }
        tx.execute(query).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(interval_us: i64, burst: i64) -> Limit {
        Limit::Rate { name: "r".into(), interval_ns: interval_us * 1_000, burst, arrival_ns: 0 }
    }

    #[test]
    fn a_burst_starts_at_once_and_then_one_per_interval() {
        let mut limit = rate(1_000, 5);
        assert_eq!(limit.allows(1_000_000), 5);
        limit.take(5, 1_000_000);
        assert_eq!(limit.allows(1_000_000), 0);
        assert_eq!(limit.allows(1_001_000), 1);
        assert_eq!(limit.allows(1_002_500), 2);
        assert_eq!(limit.allows(9_000_000), 5);
        assert_eq!(limit.opens_at_us(1_003_000), Some(1_001_001));
    }

    #[test]
    fn what_is_closed_opens_at_its_time_and_not_wider_than_it_is() {
        let limit = Limit::Concurrency {
            name: "c".into(),
            max: 1,
            in_flight: 0,
            closed_until_us: 5_000,
            narrowed: false,
        };
        assert!(limit.counts_starts(4_999) && !limit.counts_starts(5_000));
        assert_eq!((limit.allows(4_999), limit.opens_at_us(4_999)), (0, Some(5_000)));
        assert_eq!((limit.allows(5_000), limit.opens_at_us(5_000)), (1, None));
    }

    #[test]
    fn less_than_one_a_second_is_kept_too() {
        let mut limit = rate(2_000_000, 1);
        limit.take(1, 10_000_000);
        assert_eq!(limit.allows(11_900_000), 0);
        assert_eq!(limit.allows(12_000_000), 1);
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_close_a_rate_for_longer_than_its_burst() {
        let mut limit = rate(1_000, 2);
        limit.take(2, 9_000_000_000);
        assert_eq!(limit.allows(1_000_000), 0);
        limit.take(0, 1_000_000);
        assert_eq!(limit.allows(1_002_000), 2);
    }
}
