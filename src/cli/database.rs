//! The state database, for commands that work on it without a server.

use bus::{Clock, Db};
use clap::Args;

use super::{Stop, load};
use crate::config::{Flags, Settings};
use crate::server::open_database;

/// Which database.
#[derive(Clone, Debug, Args)]
pub(super) struct DatabaseArgs {
    /// The database, `sqlite://PATH` or `postgres://…` [default: as configured].
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
    /// The data folder [default: as configured].
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<String>,
}

impl DatabaseArgs {
    /// Opens the database of the settings, which brings it to this version.
    pub(super) async fn open(self, flags: Flags) -> Result<(Db, Settings), Stop> {
        let flags = Flags { database: self.database, data: self.data, ..flags };
        let settings = load(&flags)?.settings;
        let db = open_database(&settings, Clock::system()).await.map_err(Stop::start)?;
        Ok((db, settings))
    }
}
