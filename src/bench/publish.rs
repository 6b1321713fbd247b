//! Durable publishing: many callers, batches, a few callers, one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus::{Clock, EmbeddedLog, Log as _};
use tokio::task::JoinSet;

use super::Extent;
use super::disk;
use super::folder::Folder;
use super::jetstream::{JetStream, per_second};
use super::load::{Events, close_log, open_log};
use super::report::{Report, Target};
use super::samples::Samples;

/// Callers of the rows with many, and with a few.
const MANY: usize = 1_024;
const FEW: usize = 64;
/// Events in one call of `publish_all`, and calls under way at once.
const BATCH: u64 = 256;
const BATCHES: usize = 8;

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    reference: Option<&JetStream>,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("durable publishing");
    let (mut nats, mut disk) = (Samples::default(), Samples::default());
    let [mut many, mut batches, mut few, mut alone] = [(); 4].map(|()| Samples::default());
    for _ in 0..extent.rounds {
        if let Some(reference) = reference {
            nats.push(reference.publish(extent.sample).await?);
            disk::settle(folder.path()).await?;
        }
        many.push(publish(folder, MANY, 1, extent.sample).await?);
        batches.push(publish(folder, BATCHES, BATCH, extent.sample).await?);
        few.push(publish(folder, FEW, 1, extent.sample).await?);
        disk.push(disk::syncs_per_second(folder.path(), extent.sample / 2).await?);
        alone.push(publish(folder, 1, 1, extent.sample / 2).await?);
    }
    let unit = "events/s";
    report.add("publish, 1,024 callers", unit, &many, &nats, &[Target::Ratio(1.0)]);
    report.add("publish_all of 256, 8 callers", unit, &batches, &nats, &[Target::Ratio(1.0)]);
    report.add("publish, 64 callers", unit, &few, &nats, &[Target::Ratio(0.35)]);
    report.add("publish, one caller (reference: syncs/s of the disk)", unit, &alone, &disk, &[]);
    Ok(())
}

/// Events per second while `callers` publish `events` each, again as soon as they are answered.
async fn publish(
    parent: &Folder,
    callers: usize,
    events: u64,
    length: Duration,
) -> anyhow::Result<f64> {
    let folder = parent.inner()?;
    let log = open_log(folder.path(), &Clock::system())?;
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
    disk::settle(parent.path()).await?;
    Ok(rate)
}

async fn call(
    log: Arc<EmbeddedLog>,
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
