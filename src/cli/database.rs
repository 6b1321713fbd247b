//! The state database, for commands that work on it without a server.

use bus::{Clock, Db};
use clap::Args;

use super::{Stop, load};
use crate::config::{Flags, Settings};
use crate::server::{open_database, sqlite_path};

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
    /// Opens the database of the settings, which makes it where it is missing and brings it to this
    /// version.
    pub(super) async fn open(self, flags: Flags) -> Result<(Db, Settings), Stop> {
        open(self.settings(flags)?).await
    }

    /// The same for what a new database has nothing for: one that is missing is refused.
    pub(super) async fn open_existing(self, flags: Flags) -> Result<(Db, Settings), Stop> {
        let settings = self.settings(flags)?;
        if let Some(missing) = sqlite_path(&settings).filter(|path| !path.exists()) {
            let path = missing.display();
            let why = format!("there is no database {path}; name it with --data or --database");
            return Err(Stop::NotStarted(anyhow::anyhow!(why)));
        }
        open(settings).await
    }

    fn settings(self, flags: Flags) -> Result<Settings, Stop> {
        let flags = Flags { database: self.database, data: self.data, ..flags };
        Ok(load(&flags)?.settings)
    }
}

async fn open(settings: Settings) -> Result<(Db, Settings), Stop> {
    let db = open_database(&settings, Clock::system()).await.map_err(Stop::start)?;
    Ok((db, settings))
}
