//! What became of deliveries: their status, the log of attempts, and counts by the minute.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bus::work::{Settled, Verdict, WorkId};
use bus::{Db, Span, Tx, built, bulk, sql};
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use crate::attempt::Attempt;
use crate::deliver::Note;

/// How often deliveries are looked for whose work ended without an attempt.
const SWEEP: Duration = Duration::from_secs(5);
/// Between two deletions of old deliveries.
const BREATH: Duration = Duration::from_millis(50);
/// Microseconds of a minute.
pub(crate) const MINUTE_US: i64 = 60_000_000;

/// Writes the attempts and what they mean for their deliveries. Attempts whose lease had ended are
/// written too: they were made.
pub(crate) async fn note(
    tx: &mut Tx,
    settled: &[Settled],
    notes: &[Note],
) -> Result<(), sqlx::Error> {
    let made: Vec<(WorkId, &Attempt)> = settled
        .iter()
        .zip(notes)
        .filter_map(|(row, note)| Some((row.id, &note.made.as_ref()?.1)))
        .collect();
    let causes = take_causes(tx, &made).await?;
    for chunk in bulk::chunks(&made) {
        let mut query = built(format!(
            "insert into webhook_attempt (delivery, at_us, caused_by, status_code, duration_ms,
                 response, error) values {}",
            bulk::rows(tx.dialect(), chunk.len(), 7)
        ));
        for (id, attempt) in chunk {
            let cause = causes.get(id).map_or("schedule", String::as_str);
            query = query
                .bind(id.bytes())
                .bind(attempt.at.as_micros())
                .bind(cause.to_owned())
                .bind(attempt.status.map(|status| i64::from(status.as_u16())))
                .bind(millis(attempt))
                .bind(attempt.response.clone())
                .bind(attempt.error.clone());
        }
        tx.execute(query).await?;
    }
    for (verdict, status) in [(Verdict::Done, "delivered"), (Verdict::Dead, "failed")] {
        let ids: Vec<WorkId> =
            settled.iter().filter(|row| row.verdict == verdict).map(|row| row.id).collect();
        for chunk in bulk::chunks(&ids) {
            let places = bulk::list(2, chunk.len());
            let text = format!("update webhook_delivery set status = $1 where id in ({places})");
            let mut query = built(text).bind(status);
            for id in chunk {
                query = query.bind(id.bytes());
            }
            tx.execute(query).await?;
        }
    }
    count(tx, notes).await
}

/// Why the attempts were made, where it was not their time; the next ones are again.
async fn take_causes(
    tx: &mut Tx,
    made: &[(WorkId, &Attempt)],
) -> Result<HashMap<WorkId, String>, sqlx::Error> {
    let mut causes = HashMap::new();
    for chunk in bulk::chunks(made) {
        let mut query = built(format!(
            "select id, caused_by from webhook_delivery where caused_by <> 'schedule'
             and id in ({})",
            bulk::list(1, chunk.len())
        ));
        for (id, _) in chunk {
            query = query.bind(id.bytes());
        }
        for row in tx.fetch_all(query).await? {
            causes.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?, row.get(1));
        }
    }
    let ids: Vec<&WorkId> = causes.keys().collect();
    for chunk in bulk::chunks(&ids) {
        let mut query = built(format!(
            "update webhook_delivery set caused_by = 'schedule' where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.bytes());
        }
        tx.execute(query).await?;
    }
    Ok(causes)
}

fn millis(attempt: &Attempt) -> i64 {
    i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX)
}

async fn count(tx: &mut Tx, notes: &[Note]) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<(&str, i64, i64, i64), i64> = BTreeMap::new();
    for (endpoint, attempt) in notes.iter().filter_map(|note| note.made.as_ref()) {
        let minute = attempt.at.as_micros().div_euclid(MINUTE_US) * MINUTE_US;
        let status = attempt.status.map_or(0, |status| i64::from(status.as_u16()));
        let log2 = i64::from(64 - millis(attempt).max(0).leading_zeros());
        *counts.entry((endpoint.id.as_str(), minute, status, log2)).or_default() += 1;
    }
    // In order of their keys: two nodes that count take the rows in the same order.
    let counts: Vec<_> = counts.into_iter().collect();
    for chunk in bulk::chunks(&counts) {
        let mut query = built(format!(
            "insert into webhook_minute (endpoint, minute_us, status_code, duration_log2, attempts)
             values {} on conflict (endpoint, minute_us, status_code, duration_log2)
             do update set attempts = webhook_minute.attempts + excluded.attempts",
            bulk::rows(tx.dialect(), chunk.len(), 5)
        ));
        for ((endpoint, minute, status, log2), attempts) in chunk {
            query = query
                .bind((*endpoint).to_owned())
                .bind(*minute)
                .bind(*status)
                .bind(*log2)
                .bind(*attempts);
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Until `stop`: marks deliveries as failed whose work was given up without an attempt: the event is
/// gone, or the process was killed during the last one.
pub(crate) async fn sweep(db: Db, retention: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        if let Err(error) = sweep_once(&db).await {
            tracing::warn!(%error, "looking for deliveries that were given up");
        }
        let before_us = db.clock().now().as_micros() - Span(retention).micros();
        // Until there is no more, with a pause in between, so that nobody waits.
        loop {
            match prune(&db, before_us).await {
                Ok(true) if !stop.is_cancelled() => tokio::time::sleep(BREATH).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "deleting old deliveries");
                    break;
                }
            }
        }
    }
}

const GIVEN_UP: &str = "status = 'pending' and id in (select id from work where state = 'dead'
    and queue in (select id from work_queue where kind = 'webhook'))";

async fn sweep_once(db: &Db) -> Result<(), sqlx::Error> {
    let any = built(format!("select 1 from webhook_delivery where {GIVEN_UP} limit 1"));
    if db.fetch_optional(any).await?.is_none() {
        return Ok(()); // Without taking the write lock.
    }
    let mut tx = db.begin().await?;
    let text = format!("update webhook_delivery set status = 'failed' where {GIVEN_UP}");
    tx.execute(built(text)).await?;
    tx.commit().await
}

/// Deletes deliveries made before `before_us`, with their attempts and counts; at most a few
/// thousand at a time. Says whether there may be more.
async fn prune(db: &Db, before_us: i64) -> Result<bool, sqlx::Error> {
    const MOST: i64 = 2_000;
    let any = sql("select 1 from webhook_delivery
         where created_at_us < $1 and status <> 'pending' limit 1");
    if db.fetch_optional(any.bind(before_us)).await?.is_none() {
        return Ok(false); // Without taking the write lock.
    }
    let mut tx = db.begin().await?;
    let old = "select id from webhook_delivery where created_at_us < $1 and status <> 'pending'
        order by created_at_us, id limit $2";
    let attempts = built(format!("delete from webhook_attempt where delivery in ({old})"));
    tx.execute(attempts.bind(before_us).bind(MOST)).await?;
    let deliveries = built(format!("delete from webhook_delivery where id in ({old})"));
    let deleted = tx.execute(deliveries.bind(before_us).bind(MOST)).await?.rows_affected();
    let more = i64::try_from(deleted).unwrap_or(0) >= MOST;
    if !more {
        tx.execute(sql("delete from webhook_minute where minute_us < $1").bind(before_us)).await?;
    }
    tx.commit().await?;
    Ok(more)
}
