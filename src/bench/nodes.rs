//! Two nodes beside one, with a consumer that works for a millisecond on each batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{BatchConsumer, Clock, Failure, Handler, Kind, Platform, Recorded, Tx, Whole, registry};
use schemas::Patterns;

use super::Extent;
use super::jetstream::per_second;
use super::load::{INBOX, fill};
use super::report::{Report, Target};
use super::site::Site;

/// CPU time that the consumer takes for each batch.
const WORK: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(5);

/// Keeps a core busy for each batch.
struct Busy;

impl BatchConsumer for Busy {
    const NAME: &'static str = "busy";

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(&self, _: &[Arc<Recorded>], _: i64, _: &mut Tx) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < WORK {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    if !site.has_broker() || !site.has_server() {
        return Ok(());
    }
    report.begin("two nodes beside one");
    let clock = Clock::system();
    let log = site.log(site.folder.path(), &clock).await?;
    fill(log.as_ref(), extent.events).await?;
    let one = consume(site, 1, &clock).await?;
    let two = consume(site, 2, &clock).await?;
    let unit = "events/s";
    report.add_value("one node, 1 ms of work a batch", unit, one, &[]);
    // Broker, database and both nodes on two cores have no room to be faster together.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = Target::AtLeast(one * 1.6);
    let targets: &[Target] = if cores < 4 { &[] } else { &[wanted] };
    report.add_value("two nodes, the same machine", unit, two, targets);
    Ok(())
}

/// Events per second until `nodes` have brought a new consumer to the end of the log.
async fn consume(site: &Site, nodes: usize, clock: &Clock) -> anyhow::Result<f64> {
    let database = site.database(None, clock).await?;
    let mut running = Vec::new();
    let mut logs = Vec::new();
    let started = Instant::now();
    for _ in 0..nodes {
        let log = site.node_log().await?;
        let handler: Arc<dyn Handler> = Arc::new(Whole::new(Busy, Kind::Rust));
        let platform = Platform {
            db: database.db.clone(),
            log: Arc::clone(&log),
            handlers: vec![handler],
            targets: Vec::new(),
            retention: Vec::new(),
            inbox: INBOX,
            alone: false,
        };
        running.push(platform.start().await?);
        logs.push(log);
    }
    let last = logs[0].state().await?.last;
    loop {
        if let Some(busy) = registry::find(&database.db, "busy").await?
            && registry::position(&database.db, &busy).await? >= last
        {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let rate = per_second(last.get().unsigned_abs(), started);
    for node in running {
        node.stop().await;
    }
    site.drop(database).await?;
    Ok(rate)
}
