//! Deliveries as people see them, and how one is sent again.

use std::collections::HashSet;
use std::time::Duration;

use bus::dead_letter::{self, Selection};
use bus::pull::LeaseError;
use bus::work::{self, WorkId};
use bus::{Db, Log, Query, Read, Seq, Tx, built, bulk, signals, sql};
use schemas::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::endpoint::{Endpoint, EndpointId};
use crate::new_delivery::work_for;
use crate::{on_their_way, store};

/// Longest time without looking: deliveries may end on another node.
const LOOK: Duration = Duration::from_secs(1);

/// One event on its way to one endpoint.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id, printed with `dlv`.
    pub id: WorkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Where the event stands in the log.
    pub seq: Seq,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// `pending`, `delivered`, `failed` or `skipped`.
    pub status: String,
    /// When it is tried next, if it is.
    pub next_attempt_at: Option<Timestamp>,
    /// When the event was fanned out.
    pub created_at: Timestamp,
}

/// One attempt, as it was noted.
#[derive(Clone, Debug)]
pub struct PastAttempt {
    /// When it was made.
    pub at: Timestamp,
    /// `schedule`, `resend`, `recover` or `replay`.
    pub caused_by: String,
    /// The response's status.
    pub status_code: Option<i64>,
    /// How long it took.
    pub duration_ms: i64,
    /// The first 4 KiB of the response.
    pub response: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Which deliveries to list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Of this endpoint.
    pub endpoint: EndpointId,
    /// In this status only.
    pub status: Option<String>,
    /// Fanned out since.
    pub since: Option<Timestamp>,
    /// Those made before this one.
    pub before: Option<WorkId>,
    /// Most.
    pub limit: i64,
}

/// The next attempt is no earlier than the endpoint is to be left alone, and none while it is disabled.
const COLUMNS: &str = "select d.id, d.endpoint, d.seq, d.event_id, d.type, d.status,
    (select case when e.held_until_us > w.due_at_us then e.held_until_us else w.due_at_us end
        from work w join webhook_endpoint e on e.id = d.endpoint
        where w.id = d.id and w.state = 'ready' and e.state = 'enabled'), d.created_at_us
    from webhook_delivery d";

/// One delivery.
///
/// # Errors
/// Those of the database and the log.
pub async fn find(db: &Db, log: &dyn Log, id: WorkId) -> Result<Option<Delivery>, LeaseError> {
    // In this order: what gets its row in between is seen by the second look.
    let on_its_way = on_their_way::find(db, log, id).await?;
    let query = built(format!("{COLUMNS} where d.id = $1")).bind(id.bytes());
    let written = db.fetch_optional(query).await?.as_ref().map(read).transpose()?;
    Ok(written.or(on_its_way))
}

/// One delivery, as `tx` sees it.
pub(crate) async fn find_in(tx: &mut Tx, id: WorkId) -> Result<Option<Delivery>, sqlx::Error> {
    let query = built(format!("{COLUMNS} where d.id = $1")).bind(id.bytes());
    tx.fetch_optional(query).await?.as_ref().map(read).transpose()
}

/// A page of deliveries, the newest first.
///
/// # Errors
/// Those of the database and the log.
pub async fn list(db: &Db, log: &dyn Log, which: &Listing) -> Result<Vec<Delivery>, LeaseError> {
    let pending = which.status.as_deref().is_none_or(|status| status == "pending");
    let mut found = Vec::new();
    if pending {
        found = on_their_way::of(db, log, Some(&which.endpoint)).await?;
        found.retain(|one| {
            which.before.is_none_or(|before| one.id < before)
                && which.since.is_none_or(|since| one.created_at >= since)
        });
        let written = written_of(db, &found).await?;
        found.retain(|one| !written.contains(&one.id));
    }
    found.extend(list_written(db, which).await?);
    found.sort_unstable_by_key(|one| std::cmp::Reverse(one.id));
    found.truncate(usize::try_from(which.limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Those of the deliveries that have rows.
async fn written_of(db: &Db, of: &[Delivery]) -> Result<HashSet<WorkId>, sqlx::Error> {
    let mut written = HashSet::new();
    for chunk in bulk::chunks(of) {
        let places = bulk::list(1, chunk.len());
        let mut query = built(format!("select id from webhook_delivery where id in ({places})"));
        for one in chunk {
            query = query.bind(one.id.bytes());
        }
        for row in db.fetch_all(query).await? {
            written.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?);
        }
    }
    Ok(written)
}

async fn list_written(db: &Db, which: &Listing) -> Result<Vec<Delivery>, sqlx::Error> {
    let mut text = format!("{COLUMNS} where d.endpoint = $1 and d.created_at_us >= $2");
    let since = which.since.map_or(0, Timestamp::as_micros);
    let mut places = 2;
    let mut place = |condition: &str| {
        places += 1;
        text.push_str(&format!(" and {condition} ${places}"));
    };
    if which.status.is_some() {
        place("d.status =");
    }
    if which.before.is_some() {
        place("d.id <");
    }
    text.push_str(&format!(" order by d.id desc limit ${}", places + 1));
    let mut query: Query = built(text).bind(which.endpoint.as_str().to_owned()).bind(since);
    if let Some(status) = &which.status {
        query = query.bind(status.clone());
    }
    if let Some(before) = which.before {
        query = query.bind(before.bytes());
    }
    db.fetch_all(query.bind(which.limit)).await?.iter().map(read).collect()
}

/// What came of these events: up to `limit` deliveries.
///
/// # Errors
/// Those of the database and the log.
pub async fn of_events(
    db: &Db,
    log: &dyn Log,
    seqs: &[Seq],
    limit: i64,
) -> Result<Vec<Delivery>, LeaseError> {
    let mut on_their_way = on_their_way::of(db, log, None).await?;
    on_their_way.retain(|one| seqs.contains(&one.seq));
    let mut found = Vec::new();
    for chunk in bulk::chunks(seqs) {
        let places = bulk::list(2, chunk.len());
        let text =
            format!("{COLUMNS} where d.seq in ({places}) order by d.seq, d.endpoint limit $1");
        let mut query = built(text).bind(limit);
        for seq in chunk {
            query = query.bind(seq.get());
        }
        for row in db.fetch_all(query).await? {
            found.push(read(&row)?);
        }
    }
    let written = written_of(db, &on_their_way).await?;
    on_their_way.retain(|one| !written.contains(&one.id));
    found.append(&mut on_their_way);
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Waits until every one of `ids` has ended, or `timeout` has passed: those that have not ended. One
/// that was never there has ended.
///
/// # Errors
/// Those of the database and the log.
pub async fn wait(
    db: &Db,
    log: &dyn Log,
    ids: &[WorkId],
    timeout: Duration,
) -> Result<HashSet<WorkId>, LeaseError> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut ended = db.signals().subscribe(signals::OUTCOME);
    loop {
        ended.borrow_and_update();
        let pending = pending(db, log, ids).await?;
        if pending.is_empty() {
            return Ok(pending);
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(pending),
            _ = ended.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn pending(db: &Db, log: &dyn Log, ids: &[WorkId]) -> Result<HashSet<WorkId>, LeaseError> {
    let mut found: HashSet<WorkId> = HashSet::new();
    for id in ids {
        found.extend(on_their_way::find(db, log, *id).await?.map(|one| one.id));
    }
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "select id, status from webhook_delivery where id in ({})",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.bytes());
        }
        for row in db.fetch_all(query).await? {
            let id = WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?;
            if row.get::<String, _>(1) == "pending" {
                found.insert(id);
            } else {
                found.remove(&id);
            }
        }
    }
    Ok(found)
}

/// What an endpoint has missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Deliveries that were given up.
    pub failed: i64,
    /// Events that came while it was disabled.
    pub skipped: i64,
    /// When the event of the oldest of them was recorded.
    pub since: Option<Timestamp>,
}

/// What `endpoint` has missed and may want to recover.
///
/// # Errors
/// Those of the database and the log.
pub async fn missed(db: &Db, log: &dyn Log, endpoint: &EndpointId) -> Result<Missed, LeaseError> {
    let query = sql("select status, count(*), min(seq) from webhook_delivery
         where endpoint = $1 and status in ('failed', 'skipped') group by status")
    .bind(endpoint.as_str().to_owned());
    let (mut missed, mut oldest) = (Missed::default(), None);
    for row in db.fetch_all(query).await? {
        match row.get::<String, _>(0).as_str() {
            "failed" => missed.failed = row.get(1),
            _ => missed.skipped = row.get(1),
        }
        let seq = Seq::new(row.get(2));
        oldest = Some(oldest.map_or(seq, |known: Seq| known.min(seq)));
    }
    if let Some(seq) = oldest {
        // Of those that the log has no more, nothing can be recovered.
        let read = Read::after(seq.previous()).limit(1);
        missed.since = log.read(read).await?.events.first().map(|event| event.recorded_at);
    }
    Ok(missed)
}

/// The attempts of a delivery, the oldest first.
///
/// # Errors
/// Those of the database.
pub async fn attempts(db: &Db, id: WorkId) -> Result<Vec<PastAttempt>, sqlx::Error> {
    let query =
        sql("select 0 as id, first_at_us, 'schedule', first_status_code, first_duration_ms,
             first_response, first_error
         from webhook_delivery where id = $1 and first_at_us is not null
         union all
         select id, at_us, caused_by, status_code, duration_ms, response, error
         from webhook_attempt where delivery = $1 order by 1")
        .bind(id.bytes());
    let read = |row: &AnyRow| PastAttempt {
        at: Timestamp::from_micros(row.get(1)),
        caused_by: row.get(2),
        status_code: row.get(3),
        duration_ms: row.get(4),
        response: row.get(5),
        error: row.get(6),
    };
    Ok(db.fetch_all(query).await?.iter().map(read).collect())
}

/// What sending again came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resent {
    /// It is due now.
    Due,
    /// It is on its way at this moment.
    OnItsWay,
    /// The event is no longer in the log.
    EventGone,
}

/// Sends a delivery again, now, with all its attempts before it; one that waits for its next
/// attempt is sent at once instead. `cause` is `resend`, `recover` or `replay`.
///
/// # Errors
/// Those of the database.
pub async fn send_again(
    tx: &mut Tx,
    log: &dyn Log,
    endpoint: &Endpoint,
    delivery: &Delivery,
    cause: &'static str,
) -> Result<Resent, LeaseError> {
    let id = delivery.id;
    let policy = endpoint.manner.policy();
    let queue = work::define(tx, store::WORK, endpoint.id.as_str(), &policy, &[]).await?;
    let state = sql("select state from work where id = $1").bind(id.bytes());
    let state: Option<String> = tx.fetch_optional(state).await?.map(|row| row.get(0));
    if state.is_none() && work::dispatched(tx, queue).await?.contains(&delivery.seq) {
        return Ok(Resent::OnItsWay);
    }
    match state.as_deref() {
        Some("leased") => return Ok(Resent::OnItsWay),
        Some("dead") => {
            let only = Selection { ids: vec![id], ..Selection::default() };
            dead_letter::redrive(tx, queue, &only, None).await?;
        }
        Some("ready" | "behind") => {
            let now_us = tx.clock().now().as_micros();
            let query = sql("update work set due_at_us = $2 where id = $1 and state = 'ready'");
            tx.execute(query.bind(id.bytes()).bind(now_us)).await?;
            tx.wake(signals::WORK);
        }
        _ => {
            let events = log.get(&[delivery.seq]).await?;
            let Some(event) = events.first() else { return Ok(Resent::EventGone) };
            tx.execute(sql("delete from work where id = $1").bind(id.bytes())).await?;
            tx.enqueue(work_for(endpoint, queue, id, event));
        }
    }
    let query = sql("update webhook_delivery set status = 'pending', caused_by = $2 where id = $1");
    tx.execute(query.bind(id.bytes()).bind(cause)).await?;
    tx.flush().await?;
    Ok(Resent::Due)
}

fn read(row: &AnyRow) -> Result<Delivery, sqlx::Error> {
    let endpoint: String = row.get(1);
    let invalid = |error: crate::InvalidEndpointId| sqlx::Error::Decode(error.into());
    let status: String = row.get(5);
    Ok(Delivery {
        id: WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?,
        endpoint: endpoint.parse().map_err(invalid)?,
        seq: Seq::new(row.get(2)),
        event_id: row.get(3),
        kind: row.get(4),
        next_attempt_at: row
            .get::<Option<i64>, _>(6)
            .filter(|_| status == "pending")
            .map(Timestamp::from_micros),
        status,
        created_at: Timestamp::from_micros(row.get(7)),
    })
}
