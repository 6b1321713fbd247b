//! What became of deliveries: their status, the log of attempts, and counts by the minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus::work::{self, NewWork, Outcome, Settled, Verdict, WorkId};
use bus::{Arrival, Db, Landed, Next, Span, Trip, Tx, built, bulk, sql};
use schemas::Timestamp;
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use crate::attempt::Attempt;
use crate::deliver::{DeliverWebhooks, Note};
use crate::deliveries;
use crate::new_delivery::{self, NewDelivery};
use crate::outbound::Outbound;
use crate::store;

/// How often deliveries are looked for whose work ended without an attempt.
const SWEEP: Duration = Duration::from_secs(5);
/// Between two deletions of old deliveries.
const BREATH: Duration = Duration::from_millis(50);
/// The cause of an attempt that was made because it was its time.
const SCHEDULE: &str = "schedule";
/// Microseconds of a minute.
pub(crate) const MINUTE_US: i64 = 60_000_000;

/// What was made of an endpoint.
pub(crate) type Made<'a> = &'a (Arc<Outbound>, Attempt);

/// Writes the attempts and what they mean for their deliveries. Attempts whose lease had ended are
/// written too: they were made.
pub(crate) async fn note(
    tx: &mut Tx,
    settled: &[Settled],
    notes: &[Note],
) -> Result<(), sqlx::Error> {
    let mut made: Vec<(WorkId, &Attempt)> = settled
        .iter()
        .zip(notes)
        .filter_map(|(row, note)| Some((row.id, &note.made.as_ref()?.1)))
        .collect();
    let causes = take_causes(tx, &made).await?;
    made.retain(|(id, _)| causes.contains_key(id)); // Others are gone with their endpoint.
    insert_attempts(tx, &made, &causes).await?;
    for (verdict, status) in [(Verdict::Done, "delivered"), (Verdict::Dead, "failed")] {
        let ids: Vec<WorkId> =
            settled.iter().filter(|row| row.verdict == verdict).map(|row| row.id).collect();
        for chunk in bulk::lists(&ids) {
            let places = bulk::list(2, chunk.len());
            let text = format!("update webhook_delivery set status = $1 where id in ({places})");
            let mut query = built(text).bind(status);
            for id in chunk {
                query = query.bind(id.bytes());
            }
            tx.execute(query).await?;
        }
    }
    Ok(())
}

/// The attempt at an event that was sent out without a row, if it has ended.
pub(crate) fn made(landed: &Landed<DeliverWebhooks>) -> Option<Made<'_>> {
    match &landed.arrival {
        Arrival::Ended(_, note) => note.made.as_ref(),
        Arrival::Late(_) | Arrival::Waiting => None,
    }
}

/// Writes deliveries that had no rows, as far as they have come. What is not `held` has rows that
/// another process wrote, or is gone with its endpoint: its attempt was made all the same.
pub(crate) async fn land(
    tx: &mut Tx,
    landed: &[Landed<DeliverWebhooks>],
    held: &[bool],
) -> Result<(), sqlx::Error> {
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for (one, held) in landed.iter().zip(held) {
        let Some((outbound, _)) = &one.errand else { continue };
        let attempt = made(one).map(|(_, attempt)| attempt);
        if !held {
            others.extend(attempt.map(|attempt| (one.trip.id, attempt)));
            continue;
        }
        let status = match &one.arrival {
            Arrival::Ended(Outcome::Done { .. }, _) => "delivered",
            Arrival::Ended(Outcome::Failed { error, delay, .. }, _) => {
                let failed = work_of(tx, one, outbound, error, *delay);
                let status = if failed.dead { "failed" } else { "pending" };
                tx.enqueue(failed);
                status
            }
            Arrival::Waiting | Arrival::Ended(Outcome::Released { .. }, _) => {
                tx.enqueue(fresh_work(one, outbound));
                "pending"
            }
            Arrival::Late(lease) => {
                let leased = Some(lease.clone());
                tx.enqueue(NewWork { leased, ..fresh_work(one, outbound) });
                "pending"
            }
        };
        rows.push((
            NewDelivery::of(one.trip.id, &outbound.endpoint().id, &one.trip.event, status),
            attempt,
        ));
    }
    work::count_done(store::WORK, rows.iter().filter(|(row, _)| row.status == "delivered").count());
    new_delivery::insert_tried(tx, &rows).await?;
    let mut attempts = Vec::new();
    for (id, attempt) in others {
        if deliveries::find_in(tx, id).await?.is_some() {
            attempts.push((id, attempt));
        }
    }
    insert_attempts(tx, &attempts, &HashMap::new()).await?;
    tx.flush().await
}

fn fresh_work(landed: &Landed<DeliverWebhooks>, outbound: &Outbound) -> NewWork {
    let Trip { id, event, .. } = &landed.trip;
    new_delivery::work_for(outbound.endpoint(), landed.queue, *id, event)
}

/// The row of an event whose first attempt has failed.
fn work_of(
    tx: &Tx,
    landed: &Landed<DeliverWebhooks>,
    outbound: &Outbound,
    error: &str,
    delay: Option<Duration>,
) -> NewWork {
    let work = NewWork { failed: Some((1, error.to_owned())), ..fresh_work(landed, outbound) };
    let policy = outbound.endpoint().manner.policy();
    match policy.after_failure(1, Duration::ZERO, false, delay, 0.5) {
        Next::RetryAfter(wait) => {
            let due_us = tx.clock().now().as_micros().saturating_add(Span(wait).micros());
            NewWork { due_at: Some(Timestamp::from_micros(due_us)), ..work }
        }
        Next::Dead => {
            let event = landed.trip.event.event.to_json();
            let payload = Some(String::from_utf8_lossy(&event).into_owned());
            NewWork { dead: true, payload, ..work }
        }
    }
}

/// Writes attempts; those without a cause were made because it was their time.
async fn insert_attempts(
    tx: &mut Tx,
    made: &[(WorkId, &Attempt)],
    causes: &HashMap<WorkId, String>,
) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(made) {
        let mut query = built(format!(
            "insert into webhook_attempt (delivery, at_us, caused_by, status_code, duration_ms,
                 response, error) values {}",
            bulk::rows(tx.dialect(), chunk.len(), 7)
        ));
        for (id, attempt) in chunk {
            let cause = causes.get(id).map_or(SCHEDULE, String::as_str);
            query = query
                .bind(id.bytes())
                .bind(attempt.at.as_micros())
                .bind(cause.to_owned())
                .bind(attempt.status_code())
                .bind(attempt.millis())
                .bind(attempt.response.clone())
                .bind(attempt.error.clone());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Why the attempts were made, of the deliveries that are there; the next ones are because it is
/// their time again.
async fn take_causes(
    tx: &mut Tx,
    made: &[(WorkId, &Attempt)],
) -> Result<HashMap<WorkId, String>, sqlx::Error> {
    let mut causes = HashMap::with_capacity(made.len());
    for chunk in bulk::lists(made) {
        let mut query = built(format!(
            "select id, caused_by from webhook_delivery where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for (id, _) in chunk {
            query = query.bind(id.bytes());
        }
        for row in tx.fetch_all(query).await? {
            causes.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?, row.get(1));
        }
    }
    let asked = causes.iter().filter(|(_, cause)| *cause != SCHEDULE);
    let ids: Vec<&WorkId> = asked.map(|(id, _)| id).collect();
    for chunk in bulk::lists(&ids) {
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

/// Counts attempts by the minute.
pub(crate) async fn count(tx: &mut Tx, made: &[Made<'_>]) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<(&str, i64, i64, i64), i64> = BTreeMap::new();
    for (outbound, attempt) in made {
        let minute = attempt.at.as_micros().div_euclid(MINUTE_US) * MINUTE_US;
        let status = attempt.status_code().unwrap_or(0);
        let log2 = i64::from(64 - attempt.millis().max(0).leading_zeros());
        *counts.entry((outbound.endpoint().id.as_str(), minute, status, log2)).or_default() += 1;
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
    // Ids begin with the time of the event, which is before the delivery was made. They are read in
    // their order, so that no index on the time is written for each delivery.
    let before = WorkId::first_after(Timestamp::from_micros(before_us)).bytes();
    let old = "select id from webhook_delivery
        where id < $1 and created_at_us < $2 and status <> 'pending' order by id limit $3";
    let old_ones = |text: &str, most: i64| {
        built(text.replace("OLD", old)).bind(before.clone()).bind(before_us).bind(most)
    };
    if db.fetch_optional(old_ones("OLD", 1)).await?.is_none() {
        return Ok(false); // Without taking the write lock.
    }
    let mut tx = db.begin().await?;
    tx.execute(old_ones("delete from webhook_attempt where delivery in (OLD)", MOST)).await?;
    // Those that were given up keep a copy of their event.
    tx.execute(old_ones("delete from work where state = 'dead' and id in (OLD)", MOST)).await?;
    let deleted = old_ones("delete from webhook_delivery where id in (OLD)", MOST);
    let deleted = tx.execute(deleted).await?.rows_affected();
    let more = i64::try_from(deleted).unwrap_or(0) >= MOST;
    if !more {
        tx.execute(sql("delete from webhook_minute where minute_us < $1").bind(before_us)).await?;
    }
    tx.commit().await?;
    Ok(more)
}
