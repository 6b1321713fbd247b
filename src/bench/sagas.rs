//! Sagas of three steps in this program, durable and with their life-cycle events: how many a second
//! when 200 are under way at once, how long one alone takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator::{Call, Engine, NewSaga, RustMethods, RustSaga, StepError, Steps, Undo, undo};

use super::report::{Report, Target};
use super::{Extent, Folder, disk, samples};
use crate::config::Settings;
use crate::server::{Node, Profile};

/// Sagas under way at once.
const AT_ONCE: usize = 200;
/// Sagas of a second that are wanted, and the share of it for those that are undone.
const WANTED: f64 = 4_000.0;
const WANTED_UNDONE: f64 = 0.6 * WANTED;
/// Sagas one after the other.
const ALONE: usize = 300;
/// Milliseconds of the median one.
const WANTED_ALONE_MS: f64 = 3.0;

/// Does nothing, three times; its input says whether the third refuses.
struct DoNothing;

impl DoNothing {
    async fn act(self: Arc<Self>, _: Call<bool>) -> Result<u8, StepError> {
        Ok(1)
    }

    async fn last(self: Arc<Self>, call: Call<bool>) -> Result<u8, StepError> {
        if call.input { Err(StepError::refused("as it was asked to")) } else { Ok(1) }
    }

    async fn take_back(self: Arc<Self>, _: Undo<bool, u8>) -> Result<(), StepError> {
        Ok(())
    }
}

impl RustSaga for DoNothing {
    type Input = bool;
    const NAME: &'static str = "do-nothing";

    fn steps() -> Steps<Self> {
        Steps::new()
            .step("first", Self::act, undo(Self::take_back))
            .step("second", Self::act, undo(Self::take_back))
            .step("third", Self::last, undo(Self::take_back))
    }
}

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("sagas");
    disk::settle(folder.path()).await?;
    let syncs = disk::syncs_per_second(folder.path(), Duration::from_secs(1)).await?;
    report.remark(format!("one fsync takes {:.2} ms here", 1_000.0 / syncs));
    let settings =
        Settings { listen: "127.0.0.1:0".to_owned(), ..Settings::in_folder(folder.path()) };
    let saga = RustMethods::new(DoNothing)?;
    let node = Node::start(settings, Profile::Dev, Vec::new(), vec![Arc::new(saga)]).await?;
    at_once(node.sagas(), Duration::from_millis(500), false).await?;
    let done = at_once(node.sagas(), extent.sample, false).await?;
    report.add_value("3 steps, 200 at once", "sagas/s", done, &[Target::AtLeast(WANTED)]);
    let undone = at_once(node.sagas(), extent.sample, true).await?;
    let name = "the third refused, two undone";
    report.add_value(name, "sagas/s", undone, &[Target::AtLeast(WANTED_UNDONE)]);
    let mut took = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let started = Instant::now();
        run(node.sagas(), false).await?;
        took.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    took.sort_unstable_by(f64::total_cmp);
    for (name, share, targets) in [
        ("one alone, p50", 0.5, &[Target::AtMost(WANTED_ALONE_MS)][..]),
        ("one alone, p99", 0.99, &[]),
    ] {
        report.add_value(name, "ms", samples::percentile(&took, share).unwrap_or(0.0), targets);
    }
    node.stop().await?;
    Ok(())
}

/// Sagas ended per second, with so many under way all the time.
async fn at_once(engine: &Engine, length: Duration, refused: bool) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut runners = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let engine = engine.clone();
        runners.spawn(async move {
            let mut ended = 0_u32;
            while started.elapsed() < length {
                run(&engine, refused).await?;
                ended += 1;
            }
            Ok::<u32, anyhow::Error>(ended)
        });
    }
    let mut ended = 0;
    while let Some(runner) = runners.join_next().await {
        ended += runner??;
    }
    Ok(f64::from(ended) / started.elapsed().as_secs_f64())
}

/// One saga, from its start to its end.
async fn run(engine: &Engine, refused: bool) -> anyhow::Result<()> {
    let new = NewSaga {
        definition: DoNothing::NAME.to_owned(),
        input: refused.into(),
        by: "bench".to_owned(),
        ..NewSaga::default()
    };
    let (row, _) = engine.start(new).await?;
    let pending = engine.wait(&[row.id], Duration::from_secs(30)).await?;
    anyhow::ensure!(pending.is_empty(), "a saga did not end");
    Ok(())
}
