//! `skald export` and `skald import`: a log and its database as one file, while no node runs.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bus::transfer::{self, Contents, Progress};
use bus::{Clock, Db, Log};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::database::DatabaseArgs;
use super::{Output, Stop};
use crate::config::{Flags, Settings};
use crate::server::{lock_database, open_log};

/// Where from or where to.
#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// The file.
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// The log, `embedded:FOLDER` or `nats://…` [default: as configured].
    #[arg(long, value_name = "URL")]
    log: Option<String>,
}

/// A log and its database, for this command alone.
struct Opened {
    log: Arc<dyn Log>,
    db: Db,
    _lock: Option<File>,
}

async fn open((db, settings): (Db, Settings)) -> Result<Opened, Stop> {
    let lock = lock_database(&settings).map_err(Stop::start)?;
    let log = open_log(&settings, &Clock::system()).await.map_err(Stop::start)?;
    Ok(Opened { log, db, _lock: lock })
}

/// Runs `skald export`. The file appears under its name when it is whole.
pub(super) async fn export(args: TransferArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let flags = Flags { log: args.log, ..flags };
    let Opened { log, db, _lock } = open(args.database.open_existing(flags).await?).await?;
    let unfinished = args.file.with_added_extension("part");
    let file = File::create(&unfinished);
    let file = file.with_context(|| format!("making {}", unfinished.display()))?;
    let bar = bar();
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let exported =
        transfer::export(&db, log.as_ref(), &mut out, &|progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let contents = exported.context("exporting")?;
    out.flush()?;
    out.get_ref().sync_all()?;
    std::fs::rename(&unfinished, &args.file)?;
    db.close().await;
    tell(output, "exported", &contents)
}

/// Runs `skald import`.
pub(super) async fn import(args: TransferArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let read = || {
        let file = File::open(&args.file);
        let file = file.with_context(|| format!("opening {}", args.file.display()))?;
        anyhow::Ok(BufReader::with_capacity(1 << 20, file))
    };
    let contents = transfer::check(&mut read()?).context("looking through the file")?;
    let flags = Flags { log: args.log.clone(), ..flags };
    let Opened { log, db, _lock } = open(args.database.clone().open(flags).await?).await?;
    let bar = bar();
    let imported = transfer::import(&db, log.as_ref(), &mut read()?, &contents, &|progress| {
        show(&bar, progress);
    })
    .await;
    bar.finish_and_clear();
    imported.context("importing")?;
    db.close().await;
    tell(output, "imported, read back and found equal", &contents)
}

fn tell(output: &Output, what: &str, contents: &Contents) -> Result<(), Stop> {
    let rows: u64 = contents.tables.values().map(|table| table.rows).sum();
    let text = format!(
        "{what}: {} events, {rows} rows of {} tables",
        contents.events,
        contents.tables.len()
    );
    Ok(output.either(&serde_json::to_value(contents)?, &text)?)
}

/// On stderr, and only on a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(progress.step);
    bar.set_length(progress.total.unwrap_or(progress.done));
    bar.set_position(progress.done);
}
