//! What a server holds in memory and how fast it starts, idle and with a long log.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Clock, Db, EmbeddedLog, Log, Seq, registry};

use super::Extent;
use super::client::{Connection, get, with_body};
use super::disk;
use super::folder::Folder;
use super::load::{close_log, fill};
use super::process::Process;
use super::report::{Report, Target};
use super::samples::Samples;

/// Time after which a server that has nothing to do has settled.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(200);
/// How long the consumers that come with the program may take over the log.
const PATIENCE: Duration = Duration::from_secs(300);
const OK: u16 = 200;

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("memory and start time");
    idle(folder, report).await?;
    long_log(extent, folder, report).await
}

async fn idle(folder: &Folder, report: &mut Report) -> anyhow::Result<()> {
    let folder = folder.inner()?;
    let server = Process::dev(folder.path()).await?;
    tokio::time::sleep(SETTLE).await;
    let (held, _) = server.memory_mib()?;
    report.add_value("memory, idle", "MiB", held, &[Target::AtMost(40.0)]);
    server.stop().await
}

async fn long_log(extent: Extent, folder: &Folder, report: &mut Report) -> anyhow::Result<()> {
    let folder = folder.inner()?;
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data)?;
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&data, &Clock::system())?);
    fill(log.as_ref(), extent.waiting as u64).await?;
    close_log(log).await?;
    disk::settle(folder.path()).await?;

    let server = Process::dev(folder.path()).await?;
    stand_still(server.address()).await?;
    caught_up(&data, extent.waiting).await?;
    let (_, most) = server.memory_mib()?;
    server.stop().await?;

    let (mut start, mut memory) = (Samples::default(), Samples::default());
    for _ in 0..extent.rounds.max(3) {
        let started = Instant::now();
        let server = Process::dev(folder.path()).await?;
        ready(server.address()).await?;
        start.push(started.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(SETTLE).await;
        memory.push(server.memory_mib()?.0);
        server.stop().await?;
    }
    let (events, none) = (extent.waiting, Samples::default());
    let what = format!("memory, {events} events waiting for a paused consumer");
    report.add(what, "MiB", &memory, &none, &[Target::AtMost(150.0)]);
    let what = format!("memory at most, while built-in consumers read {events} events");
    report.add_value(what, "MiB", most, &[Target::AtMost(150.0)]);
    let what = format!("start until ready, log of {events} events");
    report.add(what, "ms", &start, &none, &[Target::AtMost(300.0)]);
    Ok(())
}

/// Registers a consumer that wants everything from the start, and pauses it.
async fn stand_still(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let body = r#"{"kind":"pull","types":[">"],"from":"first"}"#;
    let put = with_body("PUT", "/v1/consumers/waiting", "application/json", body);
    let status = connection.send(&put).await?;
    anyhow::ensure!((200..300).contains(&status), "registering a consumer: {status}");
    let pause = with_body("POST", "/v1/consumers/waiting/pause", "application/json", "");
    let status = connection.send(&pause).await?;
    anyhow::ensure!((200..300).contains(&status), "pausing a consumer: {status}");
    Ok(())
}

/// Waits until the consumers that come with the program have read the whole log.
async fn caught_up(data: &Path, events: usize) -> anyhow::Result<()> {
    let last = Seq::new(i64::try_from(events)?);
    let url = format!("sqlite://{}", data.join("state.db").display());
    let db = Db::open(&url, Clock::system()).await?;
    let started = Instant::now();
    loop {
        let mut behind = false;
        for consumer in registry::list(&db).await?.iter().filter(|consumer| !consumer.paused) {
            behind |= registry::position(&db, consumer).await? < last;
        }
        if !behind {
            db.close().await;
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the built-in consumers do not keep up");
        tokio::time::sleep(LOOK).await;
    }
}

async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    while connection.send(&get("/readyz")).await? != OK {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
