//! `skald dev` and `skald serve`: run the platform until it is asked to stop.

use clap::Args;

use super::{Stop, load};
use crate::config::Flags;
use crate::server::{self, Profile, ServeError};
use crate::telemetry;

/// How to run for development.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where HTTP is answered [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The folder of everything that is kept [default: .skald].
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
}

/// How to run for production.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where HTTP is answered [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The log, `embedded:FOLDER` or `nats://HOST:PORT` [default: embedded in the data folder].
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// The database, `sqlite://PATH` or `postgres://…` [default: SQLite in the data folder].
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The folder of everything that is kept in files [default: .skald].
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
}

/// Runs `skald dev`.
pub(super) async fn dev(args: DevArgs, flags: Flags) -> Result<(), Stop> {
    let flags = Flags { listen: args.listen, data: args.data, ..flags };
    run(&flags, Profile::Dev).await
}

/// Runs `skald serve`.
pub(super) async fn serve(args: ServeArgs, flags: Flags) -> Result<(), Stop> {
    let flags = Flags {
        listen: args.listen,
        data: args.data,
        log: args.log,
        database: args.database,
        ..flags
    };
    run(&flags, Profile::Serve).await
}

async fn run(flags: &Flags, profile: Profile) -> Result<(), Stop> {
    let settings = load(flags)?.settings;
    let guard = telemetry::init(&settings).map_err(Stop::start)?;
    let ended = server::run(settings, profile, Vec::new(), Vec::new()).await;
    guard.shutdown();
    ended.map_err(|error| match error {
        ServeError::Broken(_) => Stop::Failed(error.into()),
        _ => Stop::start(error),
    })
}
