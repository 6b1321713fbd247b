//! Deliveries that a process had sent out without rows when it ended: they become rows, and are
//! tried again under the same ids.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bus::pull::LeaseError;
use bus::work::{Stranded, WorkId};
use bus::{Dispatcher, Log, Seq, Tx};
use tokio_util::sync::CancellationToken;

use crate::deliver::DeliverWebhooks;
use crate::endpoint::{Endpoint, EndpointId};
use crate::new_delivery::{self, NewDelivery};
use crate::store;

/// How often they are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// Until `stop`: takes over what processes that are gone had sent out, this one's last life included.
pub(crate) async fn take_over(
    log: Arc<dyn Log>,
    dispatcher: Dispatcher<DeliverWebhooks>,
    stop: CancellationToken,
) {
    loop {
        let looked = async {
            if let Some((mut tx, stranded)) = dispatcher.abandoned().await? {
                for one in &stranded {
                    write_rows(&mut tx, log.as_ref(), one).await?;
                }
                tx.commit().await?;
            }
            Ok::<(), LeaseError>(())
        };
        if let Err(error) = looked.await {
            let error = bus::chain(&error);
            tracing::warn!(error, "taking over deliveries of a process that is gone");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Rows for those of the events that have none. Some were tried, others only waited: what is known of
/// none is not held against the delivery.
async fn write_rows(tx: &mut Tx, log: &dyn Log, stranded: &Stranded) -> Result<(), LeaseError> {
    let Ok(id) = stranded.name.parse::<EndpointId>() else { return Ok(()) };
    let Some(endpoint) = store::find_in(tx, &id).await? else { return Ok(()) };
    let known = new_delivery::known(tx, &id, &stranded.seqs).await?;
    let mut left = stranded.seqs.clone();
    left.retain(|seq| !known.contains_key(seq));
    let events = log.get(&left).await?;
    let mut rows = Vec::with_capacity(events.len());
    for event in &events {
        let id = new_delivery::id_of(&endpoint.id, event);
        rows.push(NewDelivery::of(id, &endpoint.id, event, "pending"));
    }
    new_delivery::insert(tx, &rows).await?;
    for (row, event) in rows.iter().zip(&events) {
        tx.enqueue(new_delivery::work_for(&endpoint, stranded.queue, row.id, event));
    }
    let found: HashSet<Seq> = events.iter().map(|event| event.seq).collect();
    left.retain(|seq| !found.contains(seq));
    tell_gone(tx, &endpoint, &left).await?;
    Ok(tx.flush().await?)
}

/// Retention waits for cursors, which had passed these; only days without any process come to that.
async fn tell_gone(tx: &mut Tx, endpoint: &Endpoint, gone: &[Seq]) -> Result<(), sqlx::Error> {
    let lost = |seq: &Seq| {
        let webhook = endpoint.id.as_str();
        tracing::error!(webhook, %seq, "an event left the log before it was delivered");
        let (event_id, kind, status) = ("unknown", "unknown", "failed");
        NewDelivery { id: WorkId::new(), endpoint: &endpoint.id, seq: *seq, event_id, kind, status }
    };
    new_delivery::insert(tx, &gone.iter().map(lost).collect::<Vec<_>>()).await
}
