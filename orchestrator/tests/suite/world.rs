//! An engine on a database of its own: a file, or one on the server that `SKALD_TEST_POSTGRES` names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus::{Clock, Db, Dialect, NodeId};
use egress::{Egress, EgressPolicy};
use orchestrator::planner::Input;
use orchestrator::{
    Definition, Definitions, Engine, InputError, Methods, NewSaga, Options, Participants, Running,
    RustMethods, RustSaga, State, Status,
};
use serde_json::Value;
use sqlx::Connection as _;
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) engine: Engine,
    node: NodeId,
    running: Running,
    methods: HashMap<String, Arc<dyn Methods>>,
    folder: TempDir,
}

fn url_of_file(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("state.db").display())
}

async fn database_url(folder: &TempDir) -> String {
    let Ok(server) = std::env::var("SKALD_TEST_POSTGRES") else {
        return url_of_file(folder);
    };
    let name = folder.path().file_name().unwrap().to_string_lossy().to_lowercase();
    let name = format!("t_{}", name.trim_start_matches('.'));
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
    format!("{server}/{name}")
}

async fn engine(
    db: &Db,
    node: NodeId,
    methods: &HashMap<String, Arc<dyn Methods>>,
) -> (Engine, Running) {
    let egress = Egress::new(EgressPolicy::DEFAULT).unwrap();
    let participants = Participants::new(egress, methods.clone());
    let options = Options { env: BTreeMap::new(), retention: Duration::from_secs(3_600) };
    Engine::start_on(Definitions::new(db.clone()), node, participants, options).await.unwrap()
}

impl World {
    pub(crate) async fn start() -> World {
        World::with_methods(HashMap::new()).await
    }

    /// With a saga written in Rust.
    pub(crate) async fn with<S: RustSaga>(saga: &Arc<S>) -> World {
        let methods = RustMethods::shared(Arc::clone(saga)).unwrap_or_else(|f| panic!("{f}"));
        let document = orchestrator::Node::of_value(methods.definition().document());
        let definition = Definition::of_node(&document).unwrap();
        let methods: Arc<dyn Methods> = Arc::new(methods);
        let world = World::with_methods(HashMap::from([(S::NAME.to_owned(), methods)])).await;
        world.engine.definitions().put(definition, "test").await.unwrap();
        world
    }

    async fn with_methods(methods: HashMap<String, Arc<dyn Methods>>) -> World {
        let folder = tempfile::tempdir().unwrap();
        let url = database_url(&folder).await;
        World::of(&url, methods, folder).await
    }

    /// On a file, wherever others are.
    pub(crate) async fn on_file() -> World {
        let folder = tempfile::tempdir().unwrap();
        let url = url_of_file(&folder);
        World::of(&url, HashMap::new(), folder).await
    }

    async fn of(url: &str, methods: HashMap<String, Arc<dyn Methods>>, folder: TempDir) -> World {
        let db = Db::open(url, Clock::system()).await.unwrap();
        let node = NodeId::new();
        let (engine, running) = engine(&db, node.clone(), &methods).await;
        World { db, engine, node, running, methods, folder }
    }

    /// Another engine takes over, with nothing in memory, after this one has ended.
    pub(crate) async fn restart(self) -> World {
        let World { db, running, methods, folder, .. } = self;
        running.stop().await;
        let node = NodeId::new();
        hand_over(&db, &node, "true").await;
        let (engine, running) = engine(&db, node.clone(), &methods).await;
        World { db, engine, node, running, methods, folder }
    }

    /// Another engine takes over while this one runs and is not told.
    pub(crate) async fn another_takes_over(&self) -> (Engine, Running) {
        let node = NodeId::new();
        hand_over(&self.db, &node, "true").await;
        engine(&self.db, node, &self.methods).await
    }

    /// The shard of a saga goes to a node that does nothing.
    pub(crate) async fn hand_away(&self, saga: &str) {
        hand_over(&self.db, &NodeId::new(), &shard_of(saga)).await;
    }

    /// It comes back.
    pub(crate) async fn hand_back(&self, saga: &str) {
        hand_over(&self.db, &self.node, &shard_of(saga)).await;
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

fn shard_of(saga: &str) -> String {
    format!("shard = {}", bus::partition_of_key(saga))
}

async fn hand_over(db: &Db, node: &NodeId, which: &str) {
    let text = format!("update saga_shard set node = $1, fence = fence + 1 where {which}");
    let mut tx = db.begin().await.unwrap();
    let changed = tx.execute(bus::built(text).bind(node.as_str().to_owned())).await.unwrap();
    assert!(changed.rows_affected() > 0);
    tx.commit().await.unwrap();
}
