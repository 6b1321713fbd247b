//! Consumers and plain reads, from the start of a log that is there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{
    BatchConsumer, Clock, Consumer, Db, Delivery, Each, EmbeddedLog, Failure, Handler, Kind, Log,
    Platform, Read, Recorded, Seq, Tx, Whole, registry,
};
use schemas::{Event, Patterns};

use super::Extent;
use super::disk;
use super::folder::Folder;
use super::jetstream::{JetStream, per_second};
use super::load::{INBOX, close_log, fill, open_database, open_log};
use super::report::{Report, Target};
use super::samples::Samples;

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
    folder: &Folder,
    reference: Option<&JetStream>,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("consumers and reads");
    let folder = folder.inner()?;
    let clock = Clock::system();
    let log = open_log(folder.path(), &clock)?;
    fill(&log, extent.events).await?;
    prepare(folder.path(), &log, &clock).await?;
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
        batches.push(consume(&folder, &log, &clock, handler).await?);
        let handler: Arc<dyn Handler> = Arc::new(Each::new(DropEvents, Kind::Rust)?);
        events.push(consume(&folder, &log, &clock, handler).await?);
        reads.push(read(&log).await?);
    }
    if let Some((reference, stream)) = stream {
        reference.delete(stream).await?;
    }
    close_log(log).await?;
    let unit = "events/s";
    let targets = [Target::AtLeast(80_000.0), Target::Ratio(0.4)];
    report.add("consume in batches, cursor committed", unit, &batches, &pulled, &targets);
    report.add("consume one by one, cursor committed", unit, &events, &pulled, &targets);
    report.add("read from the start", unit, &reads, &ordered, &[Target::Ratio(0.6)]);
    Ok(())
}

/// Makes a database in which the consumers that always run have read all of the log, so that the
/// one that is measured has the machine for itself.
async fn prepare(folder: &Path, log: &Arc<EmbeddedLog>, clock: &Clock) -> anyhow::Result<()> {
    let db = open_database(folder, clock).await?;
    let running = platform(&db, log, Vec::new()).start().await?;
    let last = *log.head().borrow();
    while registry::consumed(&db).await?.is_none_or(|through| through < last) {
        tokio::time::sleep(LOOK).await;
    }
    running.stop().await;
    db.close().await;
    Ok(())
}

/// Events per second until the cursor of a new consumer stands at the end of the log.
async fn consume(
    prepared: &Folder,
    log: &Arc<EmbeddedLog>,
    clock: &Clock,
    handler: Arc<dyn Handler>,
) -> anyhow::Result<f64> {
    let folder = prepared.inner()?;
    std::fs::copy(prepared.path().join("state.db"), folder.path().join("state.db"))?;
    let db = open_database(folder.path(), clock).await?;
    let name = Arc::clone(&handler.spec().name);
    let last = *log.head().borrow();
    let started = Instant::now();
    let running = platform(&db, log, vec![handler]).start().await?;
    while position(&db, &name).await? < last {
        tokio::time::sleep(LOOK).await;
    }
    let rate = per_second(last.get().unsigned_abs(), started);
    running.stop().await;
    db.close().await;
    Ok(rate)
}

fn platform(db: &Db, log: &Arc<EmbeddedLog>, handlers: Vec<Arc<dyn Handler>>) -> Platform {
    let log: Arc<dyn Log> = Arc::clone(log) as Arc<dyn Log>;
    Platform { db: db.clone(), log, handlers, retention: Vec::new(), inbox: INBOX, alone: true }
}

async fn position(db: &Db, consumer: &str) -> anyhow::Result<Seq> {
    match registry::find(db, consumer).await? {
        Some(consumer) => Ok(registry::position(db, &consumer).await?),
        None => Ok(Seq::ZERO),
    }
}

/// Events per second of reading page after page.
async fn read(log: &Arc<EmbeddedLog>) -> anyhow::Result<f64> {
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
