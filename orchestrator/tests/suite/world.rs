//! An engine on a database of its own: a file, or one on the server that `SKALD_TEST_POSTGRES` names.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bus::{Clock, Db, Dialect, NodeId};
use egress::{Egress, EgressPolicy};
use orchestrator::planner::Input;
use orchestrator::{
    Definition, Definitions, Engine, InputError, NewSaga, Options, Participants, Running, State,
    Status,
};
use serde_json::Value;
use sqlx::Connection as _;
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) engine: Engine,
    running: Running,
    folder: TempDir,
}

async fn database_url(folder: &TempDir) -> String {
    let Ok(server) = std::env::var("SKALD_TEST_POSTGRES") else {
        return format!("sqlite://{}", folder.path().join("state.db").display());
    };
    let name = folder.path().file_name().unwrap().to_string_lossy().to_lowercase();
    let name = format!("t_{}", name.trim_start_matches('.'));
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
    format!("{server}/{name}")
}

async fn engine(db: &Db) -> (Engine, Running) {
    let participants =
        Participants::new(Egress::new(EgressPolicy::DEFAULT).unwrap(), HashMap::new());
    let options = Options { env: BTreeMap::new(), retention: Duration::from_secs(3_600) };
    let definitions = Definitions::new(db.clone());
    Engine::start_on(definitions, NodeId::new(), participants, options).await.unwrap()
}

impl World {
    pub(crate) async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&database_url(&folder).await, Clock::system()).await.unwrap();
        let (engine, running) = engine(&db).await;
        World { db, engine, running, folder }
    }

    /// Another engine takes over, with nothing in memory.
    pub(crate) async fn restart(self) -> World {
        let World { db, running, folder, .. } = self;
        running.stop().await;
        let mut tx = db.begin().await.unwrap();
        tx.execute(bus::sql("update saga_shard set node = null")).await.unwrap();
        tx.commit().await.unwrap();
        let (engine, running) = engine(&db).await;
        World { db, engine, running, folder }
    }

    pub(crate) async fn define(&self, source: &str) {
        let definition = Definition::of_yaml(source).unwrap_or_else(|faults| panic!("{faults}"));
        self.engine.definitions().put(definition, "test").await.unwrap();
    }

    pub(crate) async fn begin(&self, definition: &str, id: &str, input: Value) {
        let new = NewSaga {
            definition: definition.to_owned(),
            id: Some(id.to_owned()),
            input,
            by: "test".to_owned(),
            ..NewSaga::default()
        };
        self.engine.start(new).await.unwrap();
    }

    pub(crate) async fn signal(&self, id: &str, name: &str) -> Result<(), InputError> {
        let input = Input::Signal { name: name.to_owned(), body: Value::Null };
        self.engine.input(id, input).await
    }

    pub(crate) async fn state(&self, id: &str) -> State {
        self.engine.read(id).await.unwrap().unwrap().state
    }

    /// Waits until it rests; how it does.
    pub(crate) async fn rests(&self, id: &str) -> Status {
        self.engine.wait(&[id.to_owned()], Duration::from_secs(20)).await.unwrap();
        self.state(id).await.status
    }

    /// Runs a script that differs between the databases.
    pub(crate) async fn script(&self, sqlite: &str, postgres: &str) {
        let script = match self.db.dialect() {
            Dialect::Sqlite => sqlite,
            Dialect::Postgres => postgres,
        };
        let mut tx = self.db.begin().await.unwrap();
        let script = sqlx::raw_sql(sqlx::AssertSqlSafe(script.to_owned()));
        script.execute(tx.connection().await.unwrap()).await.unwrap();
        tx.commit().await.unwrap();
    }
}
