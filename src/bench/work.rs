//! The work engine: rows put in, leased and finished, each step durable.

use std::time::{Duration, Instant};

use bus::work::{self, Claim, NewWork, Outcome, QueueId};
use bus::{Clock, Db, Policy, Rate};
use schemas::Timestamp;

use super::Extent;
use super::disk;
use super::report::{Report, Target};
use super::site::Site;

/// Rows in one transaction.
const BATCH: usize = 1_000;
/// Rows per second through all three steps, in a file and on a server.
const WANTED: f64 = 25_000.0;
const WANTED_OF_SERVER: f64 = 8_000.0;
const KIND: &str = "bench";
const QUEUE: &str = "measured";
const LIMITED: &str = "limited";
const LEASE: Duration = Duration::from_secs(60);

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("the work engine");
    disk::settle(site.folder.path()).await?;
    let database = site.database(None, &Clock::system()).await?;
    let db = &database.db;
    let wanted = if site.has_server() { WANTED_OF_SERVER } else { WANTED };
    let queue = define(db, QUEUE, &Policy::DEFAULT).await?;
    let limited = define(db, LIMITED, &limits()?).await?;

    let empty = through(db, queue, QUEUE, extent.rows).await?;
    add(report, "on an empty table", empty, &[Target::AtLeast(wanted)]);
    let within_limits = through(db, limited, LIMITED, extent.rows).await?;
    add(report, "with a rate and a concurrency limit", within_limits, &[]);

    let other = define(db, "other", &Policy::DEFAULT).await?;
    wait(db, other, Due::Later, extent.waiting / 2).await?;
    wait(db, queue, Due::Later, extent.waiting / 4).await?;
    wait(db, queue, Due::Now, extent.waiting / 4).await?;
    disk::settle(site.folder.path()).await?;
    let full = through(db, queue, QUEUE, extent.rows).await?;
    let name = format!("with {} rows waiting", extent.waiting);
    add(report, &name, full, &[Target::AtLeast(wanted)]);
    site.drop(database).await
}

/// Limits that never hold anything up here: only what they cost is measured.
fn limits() -> anyhow::Result<Policy> {
    let rate: Rate = "100000/s".parse()?;
    Ok(Policy { rate: Some(rate), burst: 10_000, max_concurrent: Some(10_000), ..Policy::DEFAULT })
}

async fn define(db: &Db, name: &str, policy: &Policy) -> anyhow::Result<QueueId> {
    let mut tx = db.begin().await?;
    let queue = work::define(&mut tx, KIND, name, policy, &[]).await?;
    tx.commit().await?;
    Ok(queue)
}

/// How long the rows took in each step.
#[derive(Clone, Copy)]
struct Times {
    rows: usize,
    enqueue: Duration,
    claim: Duration,
    finish: Duration,
}

impl Times {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn rate(&self, of: Duration) -> f64 {
        self.rows as f64 / of.as_secs_f64()
    }
}

fn add(report: &mut Report, how: &str, times: Times, targets: &[Target]) {
    let unit = "rows/s";
    let all = times.enqueue + times.claim + times.finish;
    report.add_value(format!("work, {how}"), unit, times.rate(all), targets);
    report.add_value("  enqueue", unit, times.rate(times.enqueue), &[]);
    report.add_value("  claim", unit, times.rate(times.claim), &[]);
    report.add_value("  finish", unit, times.rate(times.finish), &[]);
}

/// Takes `rows` through all three steps, a batch at a time.
async fn through(db: &Db, queue: QueueId, name: &str, rows: usize) -> anyhow::Result<Times> {
    let mut times =
        Times { rows: 0, enqueue: Duration::ZERO, claim: Duration::ZERO, finish: Duration::ZERO };
    while times.rows < rows {
        let started = Instant::now();
        put(db, queue, None, BATCH).await?;
        let put = Instant::now();
        let claim =
            Claim { kind: KIND, queue: Some(name), max: BATCH, lease: LEASE, owner: Some("bench") };
        let claimed = work::claim(db, &claim).await?;
        let leased = Instant::now();
        let done = |row: &work::Claimed| (row.id, row.token, Outcome::Done { output: None });
        let answers: Vec<_> = claimed.iter().map(done).collect();
        let mut tx = db.begin().await?;
        work::settle(&mut tx, None, &answers).await?;
        tx.commit().await?;
        times.finish += leased.elapsed();
        times.claim += leased - put;
        times.enqueue += put - started;
        anyhow::ensure!(claimed.len() == BATCH, "claimed {} of {BATCH} rows", claimed.len());
        times.rows += BATCH;
    }
    Ok(times)
}

#[derive(Clone, Copy)]
enum Due {
    Now,
    Later,
}

/// Leaves `rows` in the table.
async fn wait(db: &Db, queue: QueueId, due: Due, rows: usize) -> anyhow::Result<()> {
    const DAY_US: i64 = 24 * 3_600_000_000;
    let due_at = match due {
        Due::Now => None,
        Due::Later => Some(Timestamp::from_micros(db.clock().now().as_micros() + DAY_US)),
    };
    for first in (0..rows).step_by(BATCH) {
        put(db, queue, due_at, BATCH.min(rows - first)).await?;
    }
    Ok(())
}

async fn put(
    db: &Db,
    queue: QueueId,
    due_at: Option<Timestamp>,
    rows: usize,
) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    for _ in 0..rows {
        tx.enqueue(NewWork { due_at, ..NewWork::in_queue(queue) });
    }
    tx.commit().await?;
    Ok(())
}
