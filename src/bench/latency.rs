//! How long an event takes from its publication to the commit of its consumer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::{
    BatchConsumer, Clock, Db, Failure, Handled, Handler, Item, Kind, Log, Platform, Recorded, Seq,
    Spec, Tx, Whole,
};
use futures::stream::{FuturesUnordered, StreamExt as _};
use schemas::Patterns;
use tokio::time::MissedTickBehavior;

use super::Extent;
use super::disk;
use super::load::{Events, INBOX, close_log};
use super::report::{Report, Target};
use super::samples::percentile;
use super::site::Site;

/// Between two events: 1,000 a second.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which events were handled in batches of which the commit is seen later, and when those committed
/// that did.
#[derive(Default)]
struct Commits {
    handled: Vec<Seq>,
    committed: Vec<(Seq, Instant)>,
}

/// Does nothing with its events but note them.
struct Note(Arc<Mutex<Commits>>);

impl BatchConsumer for Note {
    const NAME: &'static str = "note";

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(&self, events: &[Arc<Recorded>], _: i64, _: &mut Tx) -> Result<(), Failure> {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.handled = events.iter().map(|event| event.seq).collect();
        Ok(())
    }
}

/// Sees the moment of the commit: a runner asks for room before each batch, and so right after the
/// one before was committed.
struct Watched {
    inner: Whole<Note>,
    commits: Arc<Mutex<Commits>>,
}

#[async_trait]
impl Handler for Watched {
    fn spec(&self) -> &Spec {
        self.inner.spec()
    }

    async fn handle(
        &self,
        items: &[Item],
        generation: i64,
        ordered: bool,
        tx: &mut Tx,
    ) -> Result<Vec<Handled>, sqlx::Error> {
        self.inner.handle(items, generation, ordered, tx).await
    }

    async fn has_room(&self, _: &Db) -> Result<bool, sqlx::Error> {
        let now = Instant::now();
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let handled = std::mem::take(&mut commits.handled);
        commits.committed.extend(handled.into_iter().map(|seq| (seq, now)));
        Ok(true)
    }
}

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("latency");
    disk::settle(site.folder.path()).await?;
    let folder = site.folder.inner()?;
    let clock = Clock::system();
    let log = site.log(folder.path(), &clock).await?;
    let database = site.database(None, &clock).await?;
    let commits = Arc::<Mutex<Commits>>::default();
    let inner = Whole::new(Note(Arc::clone(&commits)), Kind::Rust);
    let running = Platform {
        db: database.db.clone(),
        log: Arc::clone(&log),
        handlers: vec![Arc::new(Watched { inner, commits: Arc::clone(&commits) })],
        targets: Vec::new(),
        retention: Vec::new(),
        inbox: INBOX,
        alone: true,
    };
    let running = running.start().await?;
    let published = publish(log.as_ref(), extent.paced).await?;
    let committed = all_committed(&commits, published.len()).await?;
    running.stop().await;
    site.drop(database).await?;
    close_log(log).await?;

    let at: std::collections::HashMap<Seq, Instant> = published.into_iter().collect();
    let mut waits: Vec<f64> = committed
        .iter()
        .filter_map(|(seq, committed)| Some(committed.duration_since(*at.get(seq)?)))
        .map(|wait| wait.as_secs_f64() * 1_000.0)
        .collect();
    waits.sort_unstable_by(f64::total_cmp);
    let [half, most] = if site.has_broker() { [8.0, 40.0] } else { [5.0, 25.0] };
    for (name, share, most) in [("half", 0.5, half), ("99 of 100", 0.99, most)] {
        let what = format!("publish to consumer's commit, 1,000 events/s: {name} within");
        if let Some(wait) = percentile(&waits, share) {
            report.add_value(what, "ms", wait, &[Target::AtMost(most)]);
        }
    }
    Ok(())
}

/// Publishes at a steady pace, without waiting for answers; returns when each event was due to be
/// published, which is no later than when it was: a publisher that lags does not hide it.
async fn publish(log: &dyn Log, length: Duration) -> anyhow::Result<Vec<(Seq, Instant)>> {
    let events = Events::new();
    let mut calls = FuturesUnordered::new();
    let mut published = Vec::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    loop {
        tokio::select! {
            due = ticks.tick() => {
                let due = due.into_std();
                if due.duration_since(started) >= length {
                    break;
                }
                let event = events.one();
                calls.push(async move { (log.publish(event).await, due) });
            }
            Some((receipt, due)) = calls.next() => {
                published.push((receipt?.seq, due));
            }
        }
    }
    while let Some((receipt, due)) = calls.next().await {
        published.push((receipt?.seq, due));
    }
    Ok(published)
}

async fn all_committed(
    commits: &Mutex<Commits>,
    count: usize,
) -> anyhow::Result<Vec<(Seq, Instant)>> {
    let waiting = Instant::now();
    loop {
        {
            let mut commits = commits.lock().unwrap_or_else(PoisonError::into_inner);
            if commits.committed.len() >= count {
                return Ok(std::mem::take(&mut commits.committed));
            }
        }
        anyhow::ensure!(waiting.elapsed() < PATIENCE, "the consumer does not keep up");
        tokio::time::sleep(INTERVAL).await;
    }
}
