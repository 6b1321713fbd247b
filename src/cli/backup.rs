//! `skald backup` and `skald restore`: the files of the embedded profile, copied while it runs, and put
//! back while it does not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bus::backup::{self, Backup, Places};
use bus::{Clock, EmbeddedLog};
use clap::Args;
use indicatif::ProgressBar;

use super::{Output, Stop, load};
use crate::config::{Flags, Settings};
use crate::server::{KEY_FILE, lock_database, sqlite_path};

/// Between two frames of what turns while it is at work.
const TURN: std::time::Duration = std::time::Duration::from_millis(100);

/// Where the backup is, and what it is of.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The backup's folder.
    folder: PathBuf,
    /// The data folder [default: as configured].
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
}

/// Runs `skald backup`.
pub(super) async fn take(args: BackupArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let (_, places) = places(&args, flags).map_err(Stop::NotStarted)?;
    let now = Clock::system().now();
    let folder = args.folder.clone();
    let taken = at_work("copying", move || backup::take(&places, &folder, now)).await;
    tell("taken", &taken.context("taking the backup")?, &args.folder, output)
}

/// Runs `skald restore`.
pub(super) async fn put_back(args: BackupArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let (settings, places) = places(&args, flags).map_err(Stop::NotStarted)?;
    let _lock = lock_database(&settings).map_err(Stop::start)?;
    let folder = args.folder.clone();
    let back = at_work("putting back", move || backup::put_back(&folder, &places)).await;
    tell("put back", &back.context("restoring the backup")?, &args.folder, output)
}

/// The files of the settings, which must be those of the embedded profile.
fn places(args: &BackupArgs, flags: Flags) -> anyhow::Result<(Settings, Places)> {
    let flags = Flags { data: args.data.clone(), ..flags };
    let settings =
        load(&flags).map_err(|stop| anyhow!(stop.message().unwrap_or_default()))?.settings;
    let elsewhere =
        "this is for the embedded profile; docs/operations.md has the backups of the others";
    let log = settings.log.url.strip_prefix("embedded:").context(elsewhere)?;
    let state = sqlite_path(&settings).context(elsewhere)?.to_owned();
    let places = Places {
        state,
        log: EmbeddedLog::file_in(Path::new(log)),
        key: settings.data.join(KEY_FILE),
    };
    Ok((settings, places))
}

/// Runs it on a thread that may wait for the disk, and shows on a terminal that it is at work.
async fn at_work<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(TURN);
    let done = tokio::task::spawn_blocking(work).await;
    bar.finish_and_clear();
    match done {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn tell(what: &str, backup: &Backup, folder: &Path, output: &Output) -> Result<(), Stop> {
    let bytes: u64 = backup.files.iter().map(|file| file.bytes).sum();
    let text = format!(
        "{what}: {} events up to {}, {bytes} bytes in {} files, of {}; {}",
        backup.events,
        backup.last_seq,
        backup.files.len(),
        backup.taken_at,
        folder.display()
    );
    Ok(output.either(backup, &text)?)
}
