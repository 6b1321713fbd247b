//! Durable publishing: many callers, batches, a few callers, one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus::{Clock, Log};
use tokio::task::JoinSet;

use super::Extent;
use super::disk;
use super::jetstream::{JetStream, per_second};
use super::load::{Events, close_log};
use super::report::{Report, Target};
use super::samples::Samples;
use super::site::Site;

/// Callers of the rows with many, and with a few.
const MANY: usize = 1_024;
const FEW: usize = 64;
/// Events in one call of `publish_all`, and calls under way at once.
const BATCH: u64 = 256;
const BATCHES: usize = 8;

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    reference: Option<&JetStream>,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("durable publishing");
    let folder = &site.folder;
    let (mut nats, mut disk) = (Samples::default(), Samples::default());
    let [mut many, mut batches, mut few, mut alone] = [(); 4].map(|()| Samples::default());
    for _ in 0..extent.rounds {
        if let Some(reference) = reference {
            nats.push(match site.has_broker() {
                true => reference.publish_events(extent.sample).await?,
                false => reference.publish(extent.sample).await?,
            });
            disk::settle(folder.path()).await?;
        }
        many.push(publish(site, MANY, 1, extent.sample).await?);
        batches.push(publish(site, BATCHES, BATCH, extent.sample).await?);
        few.push(publish(site, FEW, 1, extent.sample).await?);
        disk.push(disk::syncs_per_second(folder.path(), extent.sample / 2).await?);
        alone.push(publish(site, 1, 1, extent.sample / 2).await?);
    }
    let unit = "events/s";
    let (all, batch, some): (_, &[Target], _) = match site.has_broker() {
        true => (Target::Ratio(0.85), &[], Target::Ratio(0.35)),
        false => (Target::Ratio(1.0), &[Target::Ratio(1.0)], Target::Ratio(0.35)),
    };
    report.add("publish, 1,024 callers", unit, &many, &nats, &[all]);
    report.add("publish_all of 256, 8 callers", unit, &batches, &nats, batch);
    report.add("publish, 64 callers", unit, &few, &nats, &[some]);
    report.add("publish, one caller (reference: syncs/s of the disk)", unit, &alone, &disk, &[]);
    Ok(())
}

/// Events per second while `callers` publish `events` each, again as soon as they are answered.
async fn publish(
    site: &Site,
    callers: usize,
    events: u64,
    length: Duration,
) -> anyhow::Result<f64> {
    let folder = site.folder.inner()?;
    let log = site.log(folder.path(), &Clock::system()).await?;
    let answered = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(call(Arc::clone(&log), events, started + length, Arc::clone(&answered)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let rate = per_second(answered.load(Ordering::Relaxed), started);
    close_log(log).await?;
    drop(folder);
    disk::settle(site.folder.path()).await?;
    Ok(rate)
}

async fn call(
    log: Arc<dyn Log>,
    count: u64,
    until: Instant,
    answered: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let events = Events::new();
    while Instant::now() < until {
        if count == 1 {
            log.publish(events.one()).await?;
        } else {
            log.publish_all(events.many(count)).await?;
        }
        answered.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}
