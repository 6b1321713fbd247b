//! Deliveries that were sent out and have no rows yet, as people see them: pending.

use std::collections::HashMap;
use std::sync::Arc;

use bus::pull::LeaseError;
use bus::work::{self, WorkId};
use bus::{Db, Log, Recorded, Seq};

use crate::deliveries::Delivery;
use crate::endpoint::EndpointId;
use crate::new_delivery::id_of;
use crate::store;

/// Those to `endpoint`, or all; some may have got their rows meanwhile.
pub(crate) async fn of(
    db: &Db,
    log: &dyn Log,
    endpoint: Option<&EndpointId>,
) -> Result<Vec<Delivery>, LeaseError> {
    wanted(db, log, endpoint, |_| true).await
}

/// The one of this id, if there is one.
pub(crate) async fn find(
    db: &Db,
    log: &dyn Log,
    id: WorkId,
) -> Result<Option<Delivery>, LeaseError> {
    let found = wanted(db, log, None, |seq| id.may_stand_for(seq)).await?;
    Ok(found.into_iter().find(|one| one.id == id))
}

async fn wanted(
    db: &Db,
    log: &dyn Log,
    endpoint: Option<&EndpointId>,
    wants: impl Fn(Seq) -> bool,
) -> Result<Vec<Delivery>, LeaseError> {
    let name = endpoint.map(EndpointId::as_str);
    let mut sent_out = work::all_dispatched(db, store::WORK, name).await?;
    sent_out.iter_mut().for_each(|(_, seqs)| seqs.retain(|seq| wants(*seq)));
    let mut seqs: Vec<Seq> = sent_out.iter().flat_map(|(_, seqs)| seqs).copied().collect();
    seqs.sort_unstable();
    seqs.dedup();
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let events: HashMap<Seq, Arc<Recorded>> =
        log.get(&seqs).await?.into_iter().map(|event| (event.seq, event)).collect();
    let mut found = Vec::new();
    for (name, seqs) in sent_out {
        let Ok(endpoint) = name.parse::<EndpointId>() else { continue };
        let events = seqs.iter().filter_map(|seq| events.get(seq));
        found.extend(events.map(|event| pending(&endpoint, event)));
    }
    Ok(found)
}

fn pending(endpoint: &EndpointId, event: &Recorded) -> Delivery {
    Delivery {
        id: id_of(endpoint, event),
        endpoint: endpoint.clone(),
        seq: event.seq,
        event_id: event.event.id.to_string(),
        kind: event.event.kind.to_string(),
        status: "pending".to_owned(),
        next_attempt_at: None,
        created_at: event.recorded_at,
    }
}
