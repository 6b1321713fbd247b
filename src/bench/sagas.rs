//! Sagas of three steps, durable and with their life-cycle events: how many a second when 200 are
//! under way at once, how long one alone takes, and what it costs that a million wait.

mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator::{
    Call, Definition, Engine, NewSaga, RustMethods, RustSaga, StepError, Steps, Undo, undo,
};

use super::process::Process;
use super::report::{Report, Target};
use super::site::Site;
use super::{Extent, Folder, disk, samples};
use crate::server::{Node, Profile};

/// Sagas under way at once.
const AT_ONCE: usize = 200;
/// Sagas of a second that are wanted, and the share of it for those that are undone.
const WANTED: f64 = 4_000.0;
const WANTED_UNDONE: f64 = 0.6 * WANTED;
const WANTED_HTTP: f64 = 1_500.0;
/// Sagas one after the other.
const ALONE: usize = 300;
/// Milliseconds of the median one.
const WANTED_ALONE_MS: f64 = 3.0;

/// One subject of `bench sagas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Steps in this program.
    Rust,
    /// Steps over HTTP.
    Http,
    /// A million that wait for a signal; of the embedded profile alone.
    Waiting,
}

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
    only: &[Part],
    site: &Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = &site.folder;
    report.begin("sagas");
    disk::settle(folder.path()).await?;
    let syncs = disk::syncs_per_second(folder.path(), Duration::from_secs(1)).await?;
    report.remark(format!("one fsync takes {:.2} ms here", 1_000.0 / syncs));
    let wants = |part| only.is_empty() || only.contains(&part);
    if wants(Part::Rust) || wants(Part::Http) {
        // Of the distributed profile half is wanted.
        let share = if site.is_embedded() { 1.0 } else { 0.5 };
        let saga = RustMethods::new(DoNothing)?;
        let settings = site.settings(folder.path());
        let node = Node::start(settings, Profile::Dev, Vec::new(), vec![Arc::new(saga)]).await?;
        if wants(Part::Rust) {
            in_this_program(extent, &node, share, report).await?;
        }
        if wants(Part::Http) {
            over_http(extent, &node, share, folder, report).await?;
        }
        node.stop().await;
    }
    if wants(Part::Waiting) && site.is_embedded() {
        waiting::measure(extent, folder, report).await?;
    }
    Ok(())
}

async fn in_this_program(
    extent: Extent,
    node: &Node,
    share: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = DoNothing::NAME;
    at_once(node.sagas(), Duration::from_millis(500), name, false).await?;
    let done = at_once(node.sagas(), extent.sample, name, false).await?;
    let wanted = [Target::AtLeast(WANTED * share)];
    report.add_value("3 steps, 200 at once", "sagas/s", done, &wanted);
    let undone = at_once(node.sagas(), extent.sample, name, true).await?;
    let wanted = [Target::AtLeast(WANTED_UNDONE * share)];
    report.add_value("the third refused, two undone", "sagas/s", undone, &wanted);
    let mut took = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let started = Instant::now();
        run(node.sagas(), name, false).await?;
        took.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    took.sort_unstable_by(f64::total_cmp);
    for (name, share, targets) in [
        ("one alone, p50", 0.5, &[Target::AtMost(WANTED_ALONE_MS)][..]),
        ("one alone, p99", 0.99, &[]),
    ] {
        report.add_value(name, "ms", samples::percentile(&took, share).unwrap_or(0.0), targets);
    }
    Ok(())
}

/// Steps that call a server which does nothing, in a process of its own.
async fn over_http(
    extent: Extent,
    node: &Node,
    share: f64,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    let there = folder.inner()?;
    let noop = Process::noop(there.path()).await?;
    let url = format!("http://{}/v1/events", noop.address());
    let step =
        |name: &str| format!("  - {{ step: {name}, post: '{url}', undo: {{ post: '{url}' }} }}\n");
    let steps = ["first", "second", "third"].map(step).concat();
    define(node.sagas(), &format!("saga: call-nothing\nsteps:\n{steps}")).await?;
    at_once(node.sagas(), Duration::from_millis(500), "call-nothing", false).await?;
    let done = at_once(node.sagas(), extent.sample, "call-nothing", false).await?;
    let wanted = [Target::AtLeast(WANTED_HTTP * share)];
    report.add_value("3 HTTP steps, 200 at once", "sagas/s", done, &wanted);
    noop.stop().await
}

async fn define(engine: &Engine, text: &str) -> anyhow::Result<()> {
    let definition = Definition::of_yaml(text).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    engine.definitions().put(definition, "bench").await?;
    Ok(())
}

/// Sagas ended per second, with so many under way all the time.
async fn at_once(
    engine: &Engine,
    length: Duration,
    definition: &'static str,
    refused: bool,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut runners = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let engine = engine.clone();
        runners.spawn(async move {
            let mut ended = 0_u32;
            while started.elapsed() < length {
                run(&engine, definition, refused).await?;
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
async fn run(engine: &Engine, definition: &str, refused: bool) -> anyhow::Result<()> {
    let new = NewSaga {
        definition: definition.to_owned(),
        input: refused.into(),
        by: "bench".to_owned(),
        ..NewSaga::default()
    };
    let (row, _) = engine.start(new).await?;
    let pending = engine.wait(&[row.id], Duration::from_secs(30)).await?;
    anyhow::ensure!(pending.is_empty(), "a saga did not end");
    Ok(())
}
