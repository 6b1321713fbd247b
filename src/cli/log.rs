//! `skald log`: on log and database themselves, while no node runs.

use bus::Clock;
use bus::identity::adopt;
use clap::{Args, Subcommand};

use super::database::DatabaseArgs;
use super::{Output, Stop};
use crate::config::Flags;
use crate::server::open_log;

/// What to do.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The log, `embedded:FOLDER` or `nats://…` [default: as configured].
    #[arg(long, global = true, value_name = "URL")]
    log: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take on a log that was made again or has lost events, as it is: consumers read another log
    /// from its beginning, and one that lost its end from there on.
    Adopt,
}

/// Runs `skald log`.
pub(super) async fn run(args: LogArgs, flags: Flags, output: &Output) -> Result<(), Stop> {
    let flags = Flags { log: args.log, ..flags };
    let (db, settings) = args.database.open_existing(flags).await?;
    let done = match args.action {
        Action::Adopt => {
            let log = open_log(&settings, &Clock::system()).await.map_err(Stop::start)?;
            let adopted = adopt(&db, log.as_ref()).await.map_err(Stop::start)?;
            let which = if adopted.replaced { "another log than before" } else { "the same log" };
            let text = format!(
                "the log is `{}`, {which}; {} cursors were moved",
                adopted.identity, adopted.cursors
            );
            output.either(&serde_json::to_value(&adopted)?, &text)
        }
    };
    db.close().await;
    Ok(done?)
}
