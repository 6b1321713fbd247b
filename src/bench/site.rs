//! What is measured: a log and a database in a folder, or on the servers that the command names.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream;
use bus::{Clock, Db, EmbeddedLog, JetStreamLog, JetStreamOptions, Log};
use sqlx::Connection as _;
use uuid::Uuid;

use super::folder::Folder;
use crate::config::Settings;

/// The stream that events are published to; on a server of the user's it must not be there.
const STREAM: &str = "EVENTS";

/// Where logs and databases are made.
pub(super) struct Site {
    pub(super) folder: Folder,
    /// `nats://…`, where the log is to be there.
    log: Option<String>,
    /// `postgres://…`, where the database is to be there.
    database: Option<String>,
}

/// A database that is dropped with what was measured in it.
pub(super) struct Database {
    pub(super) db: Db,
    /// Its name on a server.
    name: Option<String>,
    _folder: Folder,
}

impl Site {
    pub(super) fn new(folder: Folder, log: Option<String>, database: Option<String>) -> Site {
        Site { folder, log, database }
    }

    /// Whether the log is on a broker.
    pub(super) fn has_broker(&self) -> bool {
        self.log.is_some()
    }

    /// Whether the database is on a server.
    pub(super) fn has_server(&self) -> bool {
        self.database.is_some()
    }

    /// Whether all of it is in files.
    pub(super) fn is_embedded(&self) -> bool {
        !self.has_broker() && !self.has_server()
    }

    /// Those of a whole node, which takes the servers as they are.
    pub(super) fn settings(&self, folder: &Path) -> Settings {
        let mut settings = Settings::in_folder(folder);
        "127.0.0.1:0".clone_into(&mut settings.listen);
        if let Some(url) = &self.log {
            settings.log.url.clone_from(url);
        }
        if let Some(url) = &self.database {
            settings.database.url.clone_from(url);
        }
        settings
    }

    /// A fresh log; `folder` is for one in a file.
    pub(super) async fn log(&self, folder: &Path, clock: &Clock) -> anyhow::Result<Arc<dyn Log>> {
        let Some(url) = &self.log else {
            return Ok(Arc::new(EmbeddedLog::open(folder, clock)?));
        };
        let context = jetstream::new(async_nats::connect(url).await?);
        if let Ok(stream) = context.get_stream(STREAM).await {
            let made_here = stream.cached_info().config.metadata.contains_key("bench");
            anyhow::ensure!(
                made_here || stream.cached_info().state.messages == 0,
                "the stream {STREAM} on {url} holds events: measure on a server or an account without"
            );
            context.delete_stream(STREAM).await?;
        }
        let config = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["events.>".to_owned()],
            metadata: [("bench".to_owned(), String::new())].into(),
            ..Default::default()
        };
        context.create_stream(config).await?;
        self.node_log().await
    }

    /// The log as one more node opens it; on a broker only.
    pub(super) async fn node_log(&self) -> anyhow::Result<Arc<dyn Log>> {
        let options = JetStreamOptions {
            url: self.log.clone().context("a log on a broker")?,
            stream: STREAM.to_owned(),
            replicas: 1,
            ..JetStreamOptions::default()
        };
        Ok(Arc::new(JetStreamLog::open(&options).await?))
    }

    /// A fresh database, or a copy of one that is closed.
    pub(super) async fn database(
        &self,
        copy_of: Option<&Database>,
        clock: &Clock,
    ) -> anyhow::Result<Database> {
        let folder = self.folder.inner()?;
        let path = folder.path().join("state.db");
        let Some(server) = &self.database else {
            if let Some(original) = copy_of {
                std::fs::copy(original._folder.path().join("state.db"), &path)?;
            }
            let db = Db::open(&format!("sqlite://{}", path.display()), clock.clone()).await?;
            return Ok(Database { db, name: None, _folder: folder });
        };
        let name = format!("skald_bench_{}", Uuid::now_v7().simple());
        let template = copy_of.and_then(|original| original.name.as_deref());
        let template = template.unwrap_or("template1");
        self.administer(&format!("create database {name} template {template}")).await?;
        let (server, parameters) = server.split_once('?').unwrap_or((server, ""));
        let server = server.rsplit_once('/').map_or(server, |(server, _)| server);
        let db = Db::open(&format!("{server}/{name}?{parameters}"), clock.clone()).await?;
        Ok(Database { db, name: Some(name), _folder: folder })
    }

    /// Closes a database and deletes it.
    pub(super) async fn drop(&self, database: Database) -> anyhow::Result<()> {
        database.db.close().await;
        if let Some(name) = &database.name {
            self.administer(&format!("drop database {name} with (force)")).await?;
        }
        Ok(())
    }

    async fn administer(&self, statement: &str) -> anyhow::Result<()> {
        let server = self.database.as_deref().unwrap_or_default();
        sqlx::any::install_default_drivers();
        let mut admin = sqlx::AnyConnection::connect(server).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut admin).await?;
        Ok(admin.close().await?)
    }
}
