//! Events of the past, delivered to one endpoint again: recovery of what failed or was missed, and
//! replays of whatever is asked for.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bus::replay::{self, DryRun, NewReplay, Replay, ReplayError, To};
use bus::work::{self, NewWork, QueueId, WorkId};
use bus::{Db, Log, Read, Recorded, ReplayTarget, Seq, Taken, Tx, built, bulk};
use schemas::Patterns;

use crate::endpoint::{Endpoint, EndpointId};
use crate::new_delivery::{self, NewDelivery};
use crate::store;

/// Events looked at together.
const PAGE: usize = 1_000;

/// Which of the events that are meant for the endpoint are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Those that were given up.
    Failed,
    /// Those of which no attempt was made: skipped, or accepted before the endpoint wanted them.
    Missing,
    /// Both of these.
    Undelivered,
    /// These, and those that were delivered.
    All,
}

const NAMES: [(Only, &str); 4] = [
    (Only::Failed, "failed"),
    (Only::Missing, "missing"),
    (Only::Undelivered, "undelivered"),
    (Only::All, "all"),
];

impl Only {
    /// Whether an event is meant whose delivery is in this status; `None`: there is none.
    fn means(self, status: Option<&str>) -> bool {
        match status {
            Some("pending") => false, // It is under way.
            Some("failed") => self != Only::Missing,
            None | Some("skipped") => self != Only::Failed,
            Some(_) => self == Only::All,
        }
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(only, _)| only == self).map_or("", |(_, name)| *name))
    }
}

/// Not the name of an [`Only`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be failed, missing or all")]
pub struct InvalidOnly;

impl FromStr for Only {
    type Err = InvalidOnly;

    fn from_str(text: &str) -> Result<Only, InvalidOnly> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(only, _)| *only).ok_or(InvalidOnly)
    }
}

/// Counts what a replay to `endpoint` would do, and does nothing.
///
/// # Errors
/// [`ReplayError`].
pub async fn dry_run(
    db: &Db,
    log: &dyn Log,
    endpoint: &Endpoint,
    new: &NewReplay,
    only: Only,
) -> Result<DryRun, ReplayError> {
    let until = replay::end(log, new);
    let mut after = new.from.previous();
    let mut result = DryRun::default();
    while after < until {
        let types = types(endpoint, new);
        let read = Read::after(after).until(until).types(types).limit(PAGE);
        let page = log.read(read).await?;
        let wanted: Vec<&Arc<Recorded>> = meant(endpoint, &page.events).collect();
        let known = known(&mut db.begin().await?, &endpoint.id, &wanted).await?;
        for event in &wanted {
            let status = known.get(&event.seq).map(|(_, status)| status.as_str());
            result.total += 1;
            result.done_already += i64::from(status == Some("delivered"));
            result.would_send += i64::from(only.means(status));
        }
        after = page.through;
    }
    Ok(result)
}

/// Starts a replay to `endpoint`; `cause` is `replay` or `recover`.
///
/// # Errors
/// [`ReplayError`].
pub async fn start(
    db: &Db,
    log: &dyn Log,
    endpoint: &Endpoint,
    new: &NewReplay,
    errand: (&str, Only),
    by: &str,
) -> Result<Replay, ReplayError> {
    let total = dry_run(db, log, endpoint, new, errand.1).await?.total;
    let (types, errand) = (types(endpoint, new), format!("{} {}", errand.0, errand.1));
    let to = To { name: endpoint.id.as_str(), types, total, errand: Some(&errand) };
    replay::start_to(db, log, to, new, by).await
}

fn types(endpoint: &Endpoint, new: &NewReplay) -> Patterns {
    new.types.clone().map_or_else(|| endpoint.types.clone(), Patterns::from)
}

/// Those of `events` that the endpoint wants today.
fn meant<'a>(
    endpoint: &'a Endpoint,
    events: &'a [Arc<Recorded>],
) -> impl Iterator<Item = &'a Arc<Recorded>> {
    events
        .iter()
        .filter(|event| endpoint.types.matches(&event.event.kind) && endpoint.wants(&event.event))
}

/// What there is of these events: the delivery and its status by seq, of those that are on their
/// way without a row too.
async fn known(
    tx: &mut Tx,
    endpoint: &EndpointId,
    events: &[&Arc<Recorded>],
) -> Result<HashMap<Seq, (WorkId, String)>, sqlx::Error> {
    let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
    // In this order: what lands in between is seen by the second look.
    let on_their_way = match work::find_in(tx, store::WORK, endpoint.as_str()).await? {
        Some(queue) => work::dispatched(tx, queue).await?,
        None => HashSet::new(),
    };
    let mut known = new_delivery::known(tx, endpoint, &seqs).await?;
    for event in events.iter().filter(|event| on_their_way.contains(&event.seq)) {
        let pending = || (new_delivery::id_of(endpoint, event), "pending".to_owned());
        known.entry(event.seq).or_insert_with(pending);
    }
    Ok(known)
}

/// Notes that these deliveries, if they are any, are not pending any more: their replay was cancelled
/// before they began. They are what their attempts say, and `skipped` without one, so that another
/// recovery brings them.
///
/// # Errors
/// Those of the database.
pub async fn take_back(tx: &mut Tx, ids: &[WorkId]) -> Result<(), sqlx::Error> {
    for chunk in bulk::chunks(ids) {
        let mut query = built(format!(
            "update webhook_delivery set caused_by = 'schedule', status = case
                 when first_at_us is not null and first_error is null then 'delivered'
                 when exists (select 1 from webhook_attempt a
                     where a.delivery = webhook_delivery.id and a.error is null) then 'delivered'
                 when first_at_us is not null then 'failed'
                 when exists (select 1 from webhook_attempt a
                     where a.delivery = webhook_delivery.id) then 'failed'
                 else 'skipped' end
             where status = 'pending' and id in ({})",
            bulk::list(1, chunk.len())
        ));
        for id in chunk {
            query = query.bind(id.bytes());
        }
        tx.execute(query).await?;
    }
    Ok(())
}

/// Hands events of the past to endpoints.
pub struct ReplayToWebhooks;

#[async_trait]
impl ReplayTarget for ReplayToWebhooks {
    async fn exists(&self, db: &Db, name: &str) -> Result<bool, sqlx::Error> {
        let Ok(id) = name.parse() else { return Ok(false) };
        Ok(store::find(db, &id).await?.is_some())
    }

    async fn hand_over(
        &self,
        tx: &mut Tx,
        replay: &Replay,
        events: &[Arc<Recorded>],
    ) -> Result<Taken, sqlx::Error> {
        let Ok(id) = replay.consumer.parse::<EndpointId>() else { return Ok(Taken::default()) };
        let Some(endpoint) = store::find_in(tx, &id).await? else { return Ok(Taken::default()) };
        let (cause, only) = replay
            .errand
            .as_deref()
            .and_then(|errand| errand.split_once(' '))
            .and_then(|(cause, only)| Some((cause.to_owned(), only.parse().ok()?)))
            .unwrap_or_else(|| ("replay".to_owned(), Only::Undelivered));
        let wanted: Vec<&Arc<Recorded>> = meant(&endpoint, events).collect();
        let known = known(tx, &id, &wanted).await?;
        let chosen: Vec<&Arc<Recorded>> = wanted
            .iter()
            .filter(|event| only.means(known.get(&event.seq).map(|(_, status)| status.as_str())))
            .copied()
            .collect();
        let policy = endpoint.manner.policy();
        let queue = work::define(tx, store::WORK, id.as_str(), &policy, &[]).await?;
        let again = Again { endpoint: &endpoint, queue, cause, tag: replay.id.as_str() };
        again.deliver(tx, &chosen, &known).await?;
        let handed = i64::try_from(chosen.len()).unwrap_or(0);
        Ok(Taken { handed, skipped: i64::try_from(wanted.len()).unwrap_or(0) - handed })
    }
}

/// Deliveries to one endpoint, made or made pending again.
struct Again<'a> {
    endpoint: &'a Endpoint,
    queue: QueueId,
    cause: String,
    tag: &'a str,
}

impl Again<'_> {
    async fn deliver(
        &self,
        tx: &mut Tx,
        events: &[&Arc<Recorded>],
        known: &HashMap<Seq, (WorkId, String)>,
    ) -> Result<(), sqlx::Error> {
        let rows: Vec<NewDelivery<'_>> = events
            .iter()
            .map(|event| {
                let endpoint = &self.endpoint.id;
                let id = known.get(&event.seq).map(|(id, _)| *id);
                let id = id.unwrap_or_else(|| new_delivery::id_of(endpoint, event));
                NewDelivery::of(id, endpoint, event, "pending")
            })
            .collect();
        new_delivery::insert_again(tx, &rows, &self.cause).await?;
        // What is left of the attempts before makes room for the new row.
        for chunk in bulk::chunks(&rows) {
            let mut query = built(format!(
                "delete from work where state in ('done', 'dead', 'discarded') and id in ({})",
                bulk::list(1, chunk.len())
            ));
            for row in chunk {
                query = query.bind(row.id.bytes());
            }
            tx.execute(query).await?;
        }
        for (row, event) in rows.iter().zip(events) {
            let work = new_delivery::work_for(self.endpoint, self.queue, row.id, event);
            tx.enqueue(NewWork { tag: Some(self.tag.to_owned()), ..work });
        }
        tx.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replay_means_what_it_says() {
        let statuses = [Some("pending"), Some("failed"), Some("skipped"), None, Some("delivered")];
        for (only, wanted) in [
            (Only::Failed, [false, true, false, false, false]),
            (Only::Missing, [false, false, true, true, false]),
            (Only::Undelivered, [false, true, true, true, false]),
            (Only::All, [false, true, true, true, true]),
        ] {
            assert_eq!(statuses.map(|status| only.means(status)), wanted, "{only}");
            assert_eq!(only.to_string().parse(), Ok(only));
        }
    }
}
