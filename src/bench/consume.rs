//! Consumers and plain reads, from the start of a log that is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{
    BatchConsumer, Clock, Consumer, Db, Delivery, Each, Failure, Handler, Kind, Log, Platform,
    Read, Recorded, Seq, Tx, Whole, registry,
};
use schemas::{Event, Patterns};

use super::Extent;
use super::disk;
use super::jetstream::{JetStream, per_second};
use super::load::{INBOX, close_log, fill};
use super::report::{Report, Target};
use super::samples::Samples;
use super::site::{Database, Site};

/// How often a cursor is looked at: it adds this much to seconds of reading.
const LOOK: Duration = Duration::from_millis(5);
/// Events in one page of a plain read.
const PAGE: usize = 1_000;

/// Takes batches and does nothing with them.
struct DropBatches;

impl BatchConsumer for DropBatches {
    const NAME: &'static str = "drop-batches";

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(&self, _: &[Arc<Recorded>], _: i64, _: &mut Tx) -> Result<(), Failure> {
        Ok(())
    }
}

/// Takes events and does nothing with them.
struct DropEvents;

impl Consumer for DropEvents {
    type Event = Event;
    const NAME: &'static str = "drop-events";

    async fn handle(&self, _: Event, _: &mut Delivery<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    reference: Option<&JetStream>,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("consumers and reads");
    let folder = site.folder.inner()?;
    let clock = Clock::system();
    let log = site.log(folder.path(), &clock).await?;
    fill(log.as_ref(), extent.events).await?;
    let prepared = prepare(site, &log, &clock).await?;
    let stream = match reference {
        Some(reference) => Some((reference, reference.filled(extent.events).await?)),
        None => None,
    };
    disk::settle(folder.path()).await?;
    let (mut pulled, mut ordered) = (Samples::default(), Samples::default());
    let [mut batches, mut events, mut reads] = [(); 3].map(|()| Samples::default());
    for _ in 0..extent.rounds {
        if let Some((reference, stream)) = &stream {
            pulled.push(reference.pull_and_ack(stream, extent.events).await?);
            ordered.push(reference.read(stream, extent.events).await?);
            disk::settle(folder.path()).await?;
        }
        let handler: Arc<dyn Handler> = Arc::new(Whole::new(DropBatches, Kind::Rust));
        batches.push(consume(site, &prepared, &log, &clock, handler).await?);
        let handler: Arc<dyn Handler> = Arc::new(Each::new(DropEvents, Kind::Rust)?);
        events.push(consume(site, &prepared, &log, &clock, handler).await?);
        reads.push(read(&log).await?);
    }
    if let Some((reference, stream)) = stream {
        reference.delete(stream).await?;
    }
    site.drop(prepared).await?;
    close_log(log).await?;
    let unit = "events/s";
    let [least, ratio] = if site.has_server() { [40_000.0, 0.25] } else { [80_000.0, 0.4] };
    let targets = [Target::AtLeast(least), Target::Ratio(ratio)];
    report.add("consume in batches, cursor committed", unit, &batches, &pulled, &targets);
    report.add("consume one by one, cursor committed", unit, &events, &pulled, &targets);
    let reading: &[Target] = if site.has_broker() { &[] } else { &[Target::Ratio(0.6)] };
    report.add("read from the start", unit, &reads, &ordered, reading);
    Ok(())
}

/// Makes a database in which the consumers that always run have read all of the log, so that the
/// one that is measured has the machine for itself.
async fn prepare(site: &Site, log: &Arc<dyn Log>, clock: &Clock) -> anyhow::Result<Database> {
    let database = site.database(None, clock).await?;
    let db = &database.db;
    let running = platform(db, log, Vec::new()).start().await?;
    let last = log.state().await?.last;
    while registry::consumed(db).await?.is_none_or(|through| through < last) {
        tokio::time::sleep(LOOK).await;
    }
    running.stop().await;
    db.close().await;
    Ok(database)
}

/// Events per second until the cursor of a new consumer stands at the end of the log.
async fn consume(
    site: &Site,
    prepared: &Database,
    log: &Arc<dyn Log>,
    clock: &Clock,
    handler: Arc<dyn Handler>,
) -> anyhow::Result<f64> {
    let database = site.database(Some(prepared), clock).await?;
    let db = &database.db;
    let name = Arc::clone(&handler.spec().name);
    let last = log.state().await?.last;
    let started = Instant::now();
    let running = platform(db, log, vec![handler]).start().await?;
    while position(db, &name).await? < last {
        tokio::time::sleep(LOOK).await;
    }
    let rate = per_second(last.get().unsigned_abs(), started);
    running.stop().await;
    site.drop(database).await?;
    Ok(rate)
}

fn platform(db: &Db, log: &Arc<dyn Log>, handlers: Vec<Arc<dyn Handler>>) -> Platform {
    let log = Arc::clone(log);
    Platform {
        db: db.clone(),
        log,
        handlers,
        targets: Vec::new(),
        retention: Vec::new(),
        inbox: INBOX,
        alone: true,
    }
}

async fn position(db: &Db, consumer: &str) -> anyhow::Result<Seq> {
    match registry::find(db, consumer).await? {
        Some(consumer) => Ok(registry::position(db, &consumer).await?),
        None => Ok(Seq::ZERO),
    }
}

/// Events per second of reading page after page.
async fn read(log: &Arc<dyn Log>) -> anyhow::Result<f64> {
    let started = Instant::now();
    let (mut after, mut count) = (Seq::ZERO, 0);
    loop {
        let page = log.read(Read::after(after).limit(PAGE)).await?;
        if page.events.is_empty() {
            return Ok(per_second(count, started));
        }
        count += page.events.len() as u64;
        after = page.through;
    }
}
