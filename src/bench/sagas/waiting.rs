//! What sagas cost that wait for a signal: memory, and time until the first one is served after a
//! start.

use std::time::{Duration, Instant};

use orchestrator::{Engine, NewSaga};
use serde_json::json;

use super::super::client::{Connection, get, with_body};
use super::super::folder::Folder;
use super::super::process::Process;
use super::super::report::{Report, Target};
use super::super::{Extent, disk};
use super::define;
use crate::config::Settings;
use crate::server::{Node, Profile};

/// Starts under way at once.
const AT_ONCE: usize = 512;
const SETTLE: Duration = Duration::from_secs(2);
const MEMORY_MIB: f64 = 300.0;
const SERVED_MS: f64 = 3_000.0;
const OK: u16 = 200;

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = folder.inner()?;
    let settings = Settings {
        listen: "127.0.0.1:0".to_owned(),
        ..Settings::in_folder(&folder.path().join("data"))
    };
    let node = Node::start(settings, Profile::Dev, Vec::new(), Vec::new()).await?;
    define(
        node.sagas(),
        "saga: waiting\nsteps:\n  - { step: go, wait_for: { signal: go, timeout: 30d } }\n",
    )
    .await?;
    let started = Instant::now();
    start_all(node.sagas(), extent.waiting).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of at most millions")]
    let rate = extent.waiting as f64 / started.elapsed().as_secs_f64();
    report.add_value("sagas begun, that then wait", "sagas/s", rate, &[]);
    node.stop().await;
    disk::settle(folder.path()).await?;

    let started = Instant::now();
    let server = Process::dev(folder.path()).await?;
    let mut connection = Connection::open(server.address()).await?;
    let signal = with_body("POST", "/v1/sagas/w7/signals/go", "application/json", "{}");
    let status = connection.send(&signal).await?;
    anyhow::ensure!(status == OK, "the signal was answered with {status}");
    anyhow::ensure!(connection.send(&get("/v1/sagas/w7?wait=10s")).await? == OK);
    let served = started.elapsed().as_secs_f64() * 1_000.0;
    tokio::time::sleep(SETTLE).await;
    let (held, most) = server.memory_mib()?;
    server.stop().await?;
    let count = extent.waiting;
    let what = format!("start until the first of {count} waiting sagas is served");
    report.add_value(what, "ms", served, &[Target::AtMost(SERVED_MS)]);
    let what = format!("memory, {count} sagas waiting for a signal");
    report.add_value(what, "MiB", held, &[Target::AtMost(MEMORY_MIB)]);
    report.add_value("the most that it held", "MiB", most, &[]);
    Ok(())
}

/// Starts so many; each is on its journal when this returns.
async fn start_all(engine: &Engine, count: usize) -> anyhow::Result<()> {
    let mut starters = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let engine = engine.clone();
        starters.spawn(async move {
            for n in (first..count).step_by(AT_ONCE) {
                let new = NewSaga {
                    definition: "waiting".to_owned(),
                    id: Some(format!("w{n}")),
                    input: json!({"order": n}),
                    by: "bench".to_owned(),
                    ..NewSaga::default()
                };
                engine.start(new).await?;
            }
            Ok::<(), orchestrator::StartError>(())
        });
    }
    while let Some(starter) = starters.join_next().await {
        starter??;
    }
    Ok(())
}
