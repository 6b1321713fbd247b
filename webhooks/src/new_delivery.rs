//! Deliveries as they are made: their ids, their rows and the rows of work beside them.

use std::collections::{BTreeMap, HashMap};

use bus::work::{self, NewWork, QueueId, WorkId};
use bus::{Query, Recorded, Seq, Tx, built, bulk};
use sha2::{Digest as _, Sha256};
use sqlx::Row;

use crate::attempt::Attempt;
use crate::endpoint::{Endpoint, EndpointId};

/// A delivery to come.
pub(crate) struct NewDelivery<'a> {
    pub(crate) id: WorkId,
    pub(crate) endpoint: &'a EndpointId,
    pub(crate) seq: Seq,
    pub(crate) event_id: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) status: &'static str,
}

impl<'a> NewDelivery<'a> {
    pub(crate) fn of(
        id: WorkId,
        endpoint: &'a EndpointId,
        event: &'a Recorded,
        status: &'static str,
    ) -> NewDelivery<'a> {
        NewDelivery {
            id,
            endpoint,
            seq: event.seq,
            event_id: event.event.id.as_str(),
            kind: event.event.kind.as_str(),
            status,
        }
    }

    fn bind(&self, query: Query, cause: &str, now_us: i64) -> Query {
        query
            .bind(self.id.bytes())
            .bind(self.endpoint.as_str().to_owned())
            .bind(self.seq.get())
            .bind(self.event_id.to_owned())
            .bind(self.kind.to_owned())
            .bind(self.status)
            .bind(cause.to_owned())
            .bind(now_us)
    }
}

/// The id of a delivery: the same whenever, and by whomever, it is made, so that the receiver knows
/// an event that was posted before anything was written about it. Later events have greater ids.
pub(crate) fn id_of(endpoint: &EndpointId, event: &Recorded) -> WorkId {
    let mut hash = Sha256::new();
    hash.update(endpoint.as_str());
    hash.update(event.seq.get().to_be_bytes());
    WorkId::derived(event.recorded_at, event.seq, &hash.finalize().into())
}

const COLUMNS: [&str; 8] =
    ["id", "endpoint", "seq", "event_id", "type", "status", "caused_by", "created_at_us"];
/// Those of the attempt that was made before there was a row.
const FIRST_ATTEMPT: [&str; 5] =
    ["first_at_us", "first_status_code", "first_duration_ms", "first_response", "first_error"];

/// Writes deliveries; those that are there already stay as they are.
pub(crate) async fn insert(tx: &mut Tx, rows: &[NewDelivery<'_>]) -> Result<(), sqlx::Error> {
    write(tx, rows, "schedule", "nothing").await
}

/// Writes deliveries that had no rows, each with the attempt that was made, if it was. One that is
/// there after all only gets the attempt. Of several for one event, sent out twice as its consumer was
/// asked to handle it anew, the one that was tried counts.
pub(crate) async fn insert_tried(
    tx: &mut Tx,
    rows: &[(NewDelivery<'_>, Option<&Attempt>)],
) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let mut once = BTreeMap::new();
    for one in rows {
        let known = once.entry(one.0.id).or_insert(one);
        if known.1.is_none() {
            *known = one;
        }
    }
    let rows: Vec<_> = once.into_values().collect();
    let columns = [&COLUMNS[..], &FIRST_ATTEMPT].concat();
    let set = FIRST_ATTEMPT.map(|column| format!("{column} = excluded.{column}")).join(", ");
    let dialect = tx.dialect();
    let statements = bulk::large_chunks(&rows).map(|chunk| {
        let query = built(format!(
            "insert into webhook_delivery ({}) values {}
             on conflict (endpoint, seq) do update set {set}
                 where webhook_delivery.first_at_us is null",
            columns.join(", "),
            bulk::rows(dialect, chunk.len(), columns.len())
        ));
        chunk.iter().fold(query, |query, (row, attempt)| {
            row.bind(query, "schedule", now_us)
                .bind(attempt.map(|attempt| attempt.at.as_micros()))
                .bind(attempt.and_then(Attempt::status_code))
                .bind(attempt.map(Attempt::millis))
                .bind(attempt.and_then(|attempt| attempt.response.clone()))
                .bind(attempt.and_then(|attempt| attempt.error.clone()))
        })
    });
    tx.execute_each(statements).await
}

/// Writes deliveries, or makes those that are there like these.
pub(crate) async fn insert_again(
    tx: &mut Tx,
    rows: &[NewDelivery<'_>],
    cause: &str,
) -> Result<(), sqlx::Error> {
    write(tx, rows, cause, "update set status = excluded.status, caused_by = excluded.caused_by")
        .await
}

async fn write(
    tx: &mut Tx,
    rows: &[NewDelivery<'_>],
    cause: &str,
    on_conflict: &str,
) -> Result<(), sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let dialect = tx.dialect();
    let statements = bulk::large_chunks(rows).map(|chunk| {
        let query = built(format!(
            "insert into webhook_delivery ({}) values {}
             on conflict (endpoint, seq) do {on_conflict}",
            COLUMNS.join(", "),
            bulk::rows(dialect, chunk.len(), COLUMNS.len())
        ));
        chunk.iter().fold(query, |query, row| row.bind(query, cause, now_us))
    });
    tx.execute_each(statements).await
}

/// The row of work of a delivery, due now.
pub(crate) fn work_for(
    endpoint: &Endpoint,
    queue: QueueId,
    id: WorkId,
    event: &Recorded,
) -> NewWork {
    NewWork {
        id,
        seq: Some(event.seq),
        key: endpoint.manner.ordered.then(|| work::key_of(&event.event).into_owned()),
        tenant: endpoint.tenant.clone(),
        ..NewWork::in_queue(queue)
    }
}

/// What there is of these events: the delivery and its status by seq.
pub(crate) async fn known(
    tx: &mut Tx,
    endpoint: &EndpointId,
    seqs: &[Seq],
) -> Result<HashMap<Seq, (WorkId, String)>, sqlx::Error> {
    let mut known = HashMap::new();
    for chunk in bulk::chunks(seqs) {
        let mut query = built(format!(
            "select seq, id, status from webhook_delivery where endpoint = $1 and seq in ({})",
            bulk::list(2, chunk.len())
        ));
        query = query.bind(endpoint.as_str().to_owned());
        for seq in chunk {
            query = query.bind(seq.get());
        }
        for row in tx.fetch_all(query).await? {
            let id = WorkId::from_bytes(&row.get::<Vec<u8>, _>(1))?;
            known.insert(Seq::new(row.get(0)), (id, row.get(2)));
        }
    }
    Ok(known)
}
