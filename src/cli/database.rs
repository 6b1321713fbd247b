//! The state database, for commands that work on it without a server.

use std::path::Path;

use anyhow::Context as _;
use bus::{Clock, Db};
use clap::Args;

use super::{Stop, load};
use crate::config::{Flags, Settings};

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
        make_folder(&settings.database.url).map_err(Stop::NotStarted)?;
        let db = Db::open(&settings.database.url, Clock::system()).await.map_err(Stop::start)?;
        Ok((db, settings))
    }
}

/// Makes the folder of an SQLite file: SQLite makes the file only.
fn make_folder(url: &str) -> anyhow::Result<()> {
    let Some(path) = url.strip_prefix("sqlite:") else { return Ok(()) };
    let path = Path::new(path.strip_prefix("//").unwrap_or(path));
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
