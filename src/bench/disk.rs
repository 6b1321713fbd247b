//! The disk itself: how fast it syncs, which no durable log can beat one event at a time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Bytes written before each sync: a page of a write-ahead log.
const BYTES: usize = 4_096;

/// Writes out all that waits for the disk of `folder`, so that no sample pays for the one before: a
/// sync on a journaling file system also waits for what others wrote.
pub(super) async fn settle(folder: &Path) -> anyhow::Result<()> {
    let folder = File::open(folder)?;
    Ok(tokio::task::spawn_blocking(move || rustix::fs::syncfs(&folder)).await??)
}

/// Appends and syncs per second of a small file in `folder`, for `length`.
pub(super) async fn syncs_per_second(folder: &Path, length: Duration) -> anyhow::Result<f64> {
    let path = folder.join("sync");
    tokio::task::spawn_blocking(move || {
        let mut file = File::create(&path).context("making a file to sync")?;
        let (started, mut syncs) = (Instant::now(), 0_u32);
        while started.elapsed() < length {
            file.write_all(&[7; BYTES])?;
            file.sync_data()?;
            syncs += 1;
        }
        let rate = f64::from(syncs) / started.elapsed().as_secs_f64();
        std::fs::remove_file(&path)?;
        Ok(rate)
    })
    .await?
}
