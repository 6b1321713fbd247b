//! How endpoints are doing: pauses that they asked for, warnings, and the end of patience.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bus::work::{self, Narrowed};
use bus::{Dialect, Span, Tx, built, bulk, sql};
use schemas::Timestamp;
use serde_json::json;
use sqlx::Row;

use crate::attempt::Attempt;
use crate::endpoint::{Endpoint, EndpointId};
use crate::events;
use crate::outcome::Made;
use crate::store::{self, Counted};

/// Failures one after the other from which on one request at a time probes the endpoint.
pub const OPENS_AT: i64 = 10;
/// The first pause after that many; each further failure doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause between probes.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The pause after a 429 or 503 that names none.
const BUSY: Duration = Duration::from_secs(1);
/// How long every attempt has to fail until an endpoint is disabled.
pub const DISABLE_AFTER: Duration = Duration::from_hours(5 * 24);
/// Where on the way to that a warning is given, in percent.
const WARNINGS: [i64; 2] = [75, 50];

/// How an endpoint is doing, for people.
#[must_use]
pub fn percent(endpoint: &Endpoint, now: Timestamp) -> i64 {
    endpoint.failing_since.map_or(0, |since| percent_since(since.as_micros(), now.as_micros()))
}

fn percent_since(since_us: i64, now_us: i64) -> i64 {
    let whole = Span(DISABLE_AFTER).micros();
    ((now_us - since_us).clamp(0, whole) * 100) / whole
}

/// What a batch of attempts says of one endpoint.
#[derive(Default)]
struct Seen {
    /// When the last one was begun that delivered.
    delivered_at_us: Option<i64>,
    /// Failures since the last success.
    failures: i64,
    /// When the last of them was begun.
    last_at_us: i64,
    gone: bool,
    pause: Option<Duration>,
}

/// What a batch of attempts says for and against their endpoints.
pub(crate) struct Heard<'a> {
    seen: BTreeMap<&'a EndpointId, Seen>,
    recovering: Vec<EndpointId>,
}

impl<'a> Heard<'a> {
    pub(crate) async fn of(tx: &mut Tx, made: &[Made<'a>]) -> Result<Heard<'a>, sqlx::Error> {
        let mut seen: BTreeMap<&EndpointId, Seen> = BTreeMap::new();
        for (outbound, attempt) in made {
            seen.entry(&outbound.endpoint().id).or_default().add(attempt);
        }
        let mut recovering = failing(tx, &seen).await?;
        // What was begun before the pause says nothing of how it is now.
        recovering.retain(|(id, held_until_us)| {
            let delivered_at_us = seen.get(id).and_then(|seen| seen.delivered_at_us);
            delivered_at_us.is_some_and(|at| at >= *held_until_us)
        });
        let recovering = recovering.into_iter().map(|(id, _)| id).collect();
        Ok(Heard { seen, recovering })
    }

    /// Whether an endpoint was failing and does so no longer.
    pub(crate) fn recovers(&self, id: &EndpointId) -> bool {
        self.recovering.contains(id)
    }

    /// Writes it, with the queues of those locked that recover or fail.
    pub(crate) async fn note(self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        for id in &self.recovering {
            recover(tx, id).await?;
        }
        let bad: Vec<_> = self.seen.into_iter().filter(|(_, seen)| seen.is_bad()).collect();
        count_failures(tx, &bad).await
    }
}

/// Those of the endpoints that delivered and were failing, and until when they are held; usually none
/// is, and that needs no write.
async fn failing(
    tx: &mut Tx,
    seen: &BTreeMap<&EndpointId, Seen>,
) -> Result<Vec<(EndpointId, i64)>, sqlx::Error> {
    let delivered: Vec<&EndpointId> =
        seen.iter().filter(|(_, seen)| seen.delivered_at_us.is_some()).map(|(id, _)| *id).collect();
    let mut failing = Vec::new();
    for chunk in bulk::lists(&delivered) {
        let mut query = built(format!(
            "select id, coalesce(held_until_us, 0) from webhook_endpoint where id in ({})
             and (failures > 0 or failing_since_us is not null) order by id",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.as_str().to_owned());
        }
        for row in tx.fetch_all(query).await? {
            if let Ok(id) = row.get::<String, _>(0).parse() {
                failing.push((id, row.get(1)));
            }
        }
    }
    Ok(failing)
}

impl Seen {
    fn add(&mut self, attempt: &Attempt) {
        let at_us = attempt.at.as_micros();
        if attempt.error.is_none() {
            self.delivered_at_us = self.delivered_at_us.max(Some(at_us));
            self.failures = 0;
            return;
        }
        self.failures += 1;
        self.last_at_us = self.last_at_us.max(at_us);
        self.gone |= attempt.is_gone();
        if attempt.is_busy() {
            self.pause = self.pause.max(Some(attempt.pause.unwrap_or(BUSY)));
        }
    }

    /// Whether it says anything against the endpoint. A wish to be left alone holds whatever else was
    /// delivered meanwhile.
    fn is_bad(&self) -> bool {
        self.failures > 0 || self.gone || self.pause.is_some()
    }
}

async fn recover(tx: &mut Tx, id: &EndpointId) -> Result<(), sqlx::Error> {
    let query = sql("update webhook_endpoint set failures = 0, failing_since_us = null,
            held_until_us = null, warned_percent = 0
         where id = $1 and (failures > 0 or failing_since_us is not null)");
    tx.execute(query.bind(id.as_str().to_owned())).await?;
    work::widen(tx, store::WORK, id.as_str()).await
}

/// How an endpoint stands.
struct Standing {
    since_us: i64,
    failures: i64,
    warned: i64,
    held_until_us: i64,
}

impl Standing {
    /// After these failures.
    fn after(&self, seen: &Seen, now_us: i64) -> Standing {
        let failures = failures_after(self.failures, self.held_until_us, seen);
        let opened = if failures > self.failures { breaker_pause(failures) } else { None };
        let percent = percent_since(self.since_us, now_us);
        let level = WARNINGS.into_iter().find(|level| percent >= *level).unwrap_or(0);
        let pause = seen.pause.into_iter().chain(opened).max();
        let until_us = pause.map_or(0, |pause| now_us.saturating_add(Span(pause).micros()));
        Standing {
            since_us: self.since_us,
            failures,
            warned: level.max(self.warned),
            held_until_us: until_us.max(self.held_until_us),
        }
    }
}

/// What failures mean for an endpoint.
struct Judged<'a> {
    id: &'a EndpointId,
    gone: bool,
    before: &'a Standing,
    after: Standing,
}

/// Counts failures of endpoints, which come in order of their ids.
async fn count_failures(tx: &mut Tx, bad: &[(&EndpointId, Seen)]) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let stood = enabled(tx, bad).await?;
    let judged = bad.iter().filter_map(|(id, seen)| {
        let before = stood.get(id.as_str())?;
        Some(Judged { id, gone: seen.gone, before, after: before.after(seen, now_us) })
    });
    let judged: Vec<Judged<'_>> = judged.collect();
    write(tx, &judged).await?;
    let held_longer = |one: &&Judged<'_>| one.after.held_until_us > one.before.held_until_us;
    let narrowed = judged.iter().filter(held_longer).map(|one| Narrowed {
        queue: one.id.as_str().to_owned(),
        until: Timestamp::from_micros(one.after.held_until_us),
        at_once: (one.after.failures >= OPENS_AT).then_some(1),
    });
    work::narrow(tx, store::WORK, &narrowed.collect::<Vec<_>>()).await?;
    for Judged { id, gone, before, after } in judged {
        if gone {
            disable(tx, id, "gone").await?;
        } else if percent_since(after.since_us, now_us) >= 100 {
            disable(tx, id, "failing").await?;
        } else if after.warned > before.warned {
            let since = Timestamp::from_micros(after.since_us);
            let data =
                json!({ "id": id.as_str(), "percent": after.warned, "failing_since": since });
            events::stage(tx, "failing", data);
        }
    }
    Ok(())
}

/// How those of the endpoints stand that are not disabled; whoever else counts waits until this
/// transaction has ended.
async fn enabled(
    tx: &mut Tx,
    of: &[(&EndpointId, Seen)],
) -> Result<HashMap<String, Standing>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let lock = if tx.dialect() == Dialect::Postgres { " for update" } else { "" };
    let mut stood = HashMap::with_capacity(of.len());
    for chunk in bulk::lists(of) {
        let mut query = built(format!(
            "select id, failing_since_us, failures, warned_percent, coalesce(held_until_us, 0)
             from webhook_endpoint where id in ({}) and state = 'enabled' order by id{lock}",
            bulk::list(1, chunk.len())
        ));
        for (id, _) in chunk {
            query = query.bind(id.as_str().to_owned());
        }
        for row in tx.fetch_all(query).await? {
            let standing = Standing {
                since_us: row.get::<Option<i64>, _>(1).unwrap_or(now_us),
                failures: row.get(2),
                warned: row.get(3),
                held_until_us: row.get(4),
            };
            stood.insert(row.get(0), standing);
        }
    }
    Ok(stood)
}

async fn write(tx: &mut Tx, judged: &[Judged<'_>]) -> Result<(), sqlx::Error> {
    for chunk in bulk::lists(judged) {
        let mut query = built(format!(
            "update webhook_endpoint set failing_since_us = v.column2, failures = v.column3,
                 warned_percent = v.column4, held_until_us = v.column5
             from {} where id = v.column1",
            bulk::table(tx.dialect(), chunk.len(), 5)
        ));
        for Judged { id, after, .. } in chunk {
            query = query
                .bind(id.as_str().to_owned())
                .bind(after.since_us)
                .bind(after.failures)
                .bind(after.warned)
                .bind((after.held_until_us > 0).then_some(after.held_until_us));
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Failures in a row, the new ones included. Of those that were under way when the breaker opened
/// none makes its pause longer, and of one batch only one does.
fn failures_after(before: i64, held_until_us: i64, seen: &Seen) -> i64 {
    if before < OPENS_AT {
        return (before + seen.failures).min(OPENS_AT);
    }
    before + i64::from(seen.last_at_us >= held_until_us)
}

/// How long an endpoint is left alone after so many failures in a row.
fn breaker_pause(failures: i64) -> Option<Duration> {
    let over = u32::try_from(failures - OPENS_AT).ok()?;
    Some(PAUSE_MIN.saturating_mul(1 << over.min(16)).min(PAUSE_MAX))
}

/// Disables an endpoint: what is pending waits until it is enabled again.
async fn disable(tx: &mut Tx, id: &EndpointId, reason: &str) -> Result<(), sqlx::Error> {
    let Some(endpoint) = store::find_in(tx, id).await? else { return Ok(()) };
    let to = Endpoint { disabled_reason: Some(reason.to_owned()), ..endpoint };
    store::update(tx, &to, Counted::Kept, "skald").await?;
    events::stage(tx, "disabled", json!({ "id": id.as_str(), "reason": reason }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_ten_failures_and_waits_longer_each_time() {
        assert_eq!(breaker_pause(9), None);
        assert_eq!(breaker_pause(10), Some(Duration::from_secs(1)));
        assert_eq!(breaker_pause(13), Some(Duration::from_secs(8)));
        assert_eq!(breaker_pause(1_000), Some(PAUSE_MAX));
    }

    #[test]
    fn failures_that_were_under_way_when_the_breaker_opened_do_not_count() {
        let seen = |failures, last_at_us| Seen { failures, last_at_us, ..Seen::default() };
        assert_eq!(failures_after(0, 0, &seen(3, 1)), 3);
        assert_eq!(failures_after(3, 0, &seen(40, 1)), OPENS_AT);
        assert_eq!(failures_after(OPENS_AT, 100, &seen(9, 99)), OPENS_AT);
        assert_eq!(failures_after(OPENS_AT, 100, &seen(9, 100)), OPENS_AT + 1);
    }

    #[test]
    fn the_way_to_being_disabled_has_a_hundred_percent() {
        let day = 86_400_000_000;
        assert_eq!(percent_since(0, 0), 0);
        assert_eq!(percent_since(0, 5 * day / 2), 50);
        assert_eq!(percent_since(0, 5 * day - 1), 99);
        assert_eq!(percent_since(0, 9 * day), 100);
    }
}
