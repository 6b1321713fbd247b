//! A fresh log and a fresh database, and verbs on them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bus::{
    Clock, Consumer, Db, Delivery, Dialect, Each, EmbeddedLog, Failure, Handler, JetStreamLog,
    JetStreamOptions, Kind, Log, Platform, Policy, Read, Receipt, Recorded, Retention, Running,
    Seq, Span, StartError, Tx, registry, sql,
};
use schemas::{Event, EventId, Patterns};
use serde_json::json;
use sqlx::{Connection as _, Row};
use tempfile::TempDir;

/// A log and a database in a folder of their own.
pub(crate) struct House {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    place: Place,
}

/// Where a house keeps its things: a folder, and on a broker an account.
struct Place {
    folder: TempDir,
    nats: Option<JetStreamOptions>,
    /// Whether it may be on a server.
    database: bool,
}

impl House {
    pub(crate) async fn start() -> House {
        let folder = TempDir::new().unwrap();
        House::at(Place { folder, nats: broker().await, database: true }).await
    }

    /// One with both in files, whatever the others have.
    pub(crate) async fn embedded() -> House {
        House::at(Place { folder: TempDir::new().unwrap(), nats: None, database: false }).await
    }

    async fn at(place: Place) -> House {
        let clock = Clock::system();
        let log: Arc<dyn Log> = match &place.nats {
            Some(options) => Arc::new(JetStreamLog::open(options).await.unwrap()),
            None => Arc::new(EmbeddedLog::open(place.folder.path(), &clock).unwrap()),
        };
        let url = database_url(&place.folder, place.database).await;
        let db = Db::open(&url, clock.clone()).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let effects = match db.dialect() {
            Dialect::Sqlite => sql(
                "create table if not exists effect (id integer primary key, key text, n bigint)",
            ),
            Dialect::Postgres => sql(
                "create table if not exists effect (id bigserial primary key, key text, n bigint)",
            ),
        };
        tx.execute(effects).await.unwrap();
        tx.commit().await.unwrap();
        House { log, db, clock, place }
    }

    /// Closes both and opens them again, as a restart does.
    pub(crate) async fn reopened(self) -> House {
        let House { log, db, place, .. } = self;
        db.close().await;
        drop(log);
        House::at(place).await
    }

    /// Another process, as far as the database can tell.
    pub(crate) async fn beside(&self) -> House {
        let url = database_url(&self.place.folder, self.place.database).await;
        let db = Db::open(&url, self.clock.clone()).await.unwrap();
        let folder = TempDir::new().unwrap();
        let place = Place { folder, nats: None, database: self.place.database };
        House { log: Arc::clone(&self.log), db, clock: self.clock.clone(), place }
    }

    pub(crate) async fn publish(&self, kind: &str, key: &str, n: i64) -> Receipt {
        self.log.publish(event(kind, key, n)).await.unwrap()
    }

    /// How to reach the broker.
    pub(crate) fn options(&self) -> JetStreamOptions {
        let options = self.place.nats.clone();
        options.expect("a broker: SKALD_TEST_NATS names it, as tests/run does")
    }

    /// A client of the broker that is no part of Skald.
    pub(crate) async fn client(&self) -> async_nats::Client {
        let options = self.options();
        let (login, server) = options.url["nats://".len()..].split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        async_nats::ConnectOptions::with_user_and_password(user.into(), password.into())
            .connect(server)
            .await
            .unwrap()
    }

    /// The nodes that have a partition of a consumer, and how many each.
    pub(crate) async fn shares(&self, consumer: &str) -> Vec<i64> {
        let query = sql("select count(*) from consumer_partition where consumer = $1
             and node is not null group by node order by node")
        .bind(consumer.to_owned());
        self.db.fetch_all(query).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// All events in the log, in order.
    pub(crate) async fn events(&self) -> Vec<Arc<Recorded>> {
        let (mut events, mut after, last) = (Vec::new(), Seq::ZERO, self.head().await);
        while after < last {
            let page =
                self.log.read(Read::after(after).types(Patterns::everything())).await.unwrap();
            assert!(page.through > after, "a page must lead on");
            events.extend(page.events);
            after = page.through;
        }
        events
    }

    /// Runs these consumers until the answer is stopped.
    pub(crate) async fn run(&self, handlers: Vec<Arc<dyn Handler>>) -> Running {
        self.node(handlers, true).await
    }

    /// Runs these consumers on one node of several.
    pub(crate) async fn run_beside(&self, handlers: Vec<Arc<dyn Handler>>) -> Running {
        self.node(handlers, false).await
    }

    async fn node(&self, handlers: Vec<Arc<dyn Handler>>, alone: bool) -> Running {
        self.try_node(handlers, alone).await.unwrap()
    }

    /// The same, where the start may be refused.
    pub(crate) async fn try_node(
        &self,
        handlers: Vec<Arc<dyn Handler>>,
        alone: bool,
    ) -> Result<Running, StartError> {
        let platform = Platform {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            handlers,
            targets: Vec::new(),
            retention: Vec::<Retention>::new(),
            inbox: Duration::from_secs(3_600),
            alone,
        };
        platform.start().await
    }

    pub(crate) async fn head(&self) -> Seq {
        self.log.state().await.unwrap().last
    }

    /// Waits until a consumer has read the whole log and has nothing left to try.
    pub(crate) async fn settled(&self, consumer: &str) {
        eventually(|| async {
            let found = registry::find(&self.db, consumer).await.unwrap().unwrap();
            let position = registry::position(&self.db, &found).await.unwrap();
            position >= self.head().await && self.open_rows(&found).await == 0
        })
        .await;
    }

    async fn open_rows(&self, of: &bus::Registration) -> i64 {
        let queue = bus::work::find(&self.db, of.kind.work(), &of.queue_name()).await.unwrap();
        let counts = bus::work::counts(&self.db, queue.unwrap()).await.unwrap();
        let open = |state: &str| ["ready", "retrying", "leased", "behind"].contains(&state);
        counts.iter().filter(|(state, ..)| open(state)).map(|(_, rows, _)| rows).sum()
    }

    /// The numbers that consumers have written, in the order of writing.
    pub(crate) async fn effects(&self, key: &str) -> Vec<i64> {
        let query = sql("select n from effect where key = $1 order by id").bind(key.to_owned());
        self.db.fetch_all(query).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn queue(&self, consumer: &str) -> bus::work::QueueId {
        let found = registry::find(&self.db, consumer).await.unwrap().unwrap();
        let queue = bus::work::find(&self.db, found.kind.work(), &found.queue_name()).await;
        queue.unwrap().unwrap()
    }

    pub(crate) async fn dead_letters(&self, consumer: &str) -> Vec<bus::dead_letter::DeadLetter> {
        let found = registry::find(&self.db, consumer).await.unwrap().unwrap();
        let queue = bus::work::find(&self.db, found.kind.work(), &found.queue_name()).await;
        let which = bus::dead_letter::Selection::default();
        bus::dead_letter::list(&self.db, queue.unwrap().unwrap(), &which, None, 500)
            .await
            .unwrap()
            .items
    }
}

/// An account of its own on the broker that `SKALD_TEST_NATS` names as `HOST:PORT`, if it names one,
/// with streams of `SKALD_TEST_NATS_REPLICAS` copies. The account `counter` there tells which ones
/// have been taken.
async fn broker() -> Option<JetStreamOptions> {
    let server = std::env::var("SKALD_TEST_NATS").ok()?;
    let login =
        async_nats::ConnectOptions::with_user_and_password("counter".into(), "counter".into());
    let client = login.connect(server.as_str()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let counter = async_nats::jetstream::stream::Config {
        name: "COUNTER".to_owned(),
        subjects: vec!["count".to_owned()],
        max_messages: 1,
        ..Default::default()
    };
    let count = async || {
        context.get_or_create_stream(counter.clone()).await.map_err(|error| error.to_string())?;
        let sent = context.publish("count", "".into()).await.map_err(|error| error.to_string())?;
        sent.await.map_err(|error| error.to_string())
    };
    // All tests ask for it at once, of a cluster that has just come together: not each is answered.
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let taken = loop {
        match count().await {
            Ok(taken) => break taken.sequence,
            Err(error) => assert!(tokio::time::Instant::now() < end, "the counter: {error}"),
        }
    };
    let replicas = std::env::var("SKALD_TEST_NATS_REPLICAS");
    Some(JetStreamOptions {
        url: format!("nats://t{taken}:t{taken}@{server}"),
        stream: "EVENTS".to_owned(),
        replicas: replicas.map_or(1, |replicas| replicas.parse().unwrap()),
        ..JetStreamOptions::default()
    })
}

/// A database of its own: on the server that `SKALD_TEST_POSTGRES` names (`postgres://…` without a
/// database, parameters behind a `?`), else a file in the folder.
async fn database_url(folder: &TempDir, on_server: bool) -> String {
    let server = std::env::var("SKALD_TEST_POSTGRES").ok().filter(|_| on_server);
    let Some(server) = server else {
        return format!("sqlite://{}", folder.path().join("state.db").display());
    };
    let name = folder.path().file_name().unwrap().to_string_lossy().to_lowercase();
    let name = format!("t_{}", name.trim_start_matches('.'));
    let (server, parameters) = server.split_once('?').unwrap_or((&server, ""));
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    let _ = sqlx::raw_sql(create).execute(&mut admin).await; // There already after a restart.
    format!("{server}/{name}?{parameters}")
}

/// An event of `kind` about `key`, with the number `n`.
pub(crate) fn event(kind: &str, key: &str, n: i64) -> Event {
    Event::new(
        kind.parse().unwrap(),
        "/tests".parse().unwrap(),
        EventId::from_uuid(uuid::Uuid::now_v7()),
    )
    .with_subject(key)
    .with_json(json!({ "n": n, "key": key }))
    .unwrap()
}

/// Waits for something that other tasks bring about.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "it did not come about within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a consumer answers to an attempt at an event.
pub(crate) type Script = Arc<dyn Fn(&Event, i64) -> Result<(), Failure> + Send + Sync>;

/// Three attempts, milliseconds apart.
pub(crate) const QUICK: Policy = Policy {
    attempts_max: 3,
    backoff_min: Span(Duration::from_millis(1)),
    backoff_max: Span(Duration::from_millis(5)),
    ..Policy::DEFAULT
};

/// A consumer that writes a row per event and then answers as its script says.
pub(crate) struct Scripted(pub(crate) Script);

impl Consumer for Scripted {
    type Event = Event;
    const NAME: &'static str = "scripted";
    const POLICY: Policy = QUICK;

    async fn handle(&self, event: Event, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        effect(&event, delivery).await?;
        (self.0)(&event, delivery.attempt())
    }
}

/// The same, in order by key.
pub(crate) struct InOrder(pub(crate) Script);

impl Consumer for InOrder {
    type Event = Event;
    const NAME: &'static str = "in-order";
    const POLICY: Policy = Policy { ordered: true, ..QUICK };

    async fn handle(&self, event: Event, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        effect(&event, delivery).await?;
        (self.0)(&event, delivery.attempt())
    }
}

#[derive(serde::Deserialize)]
pub(crate) struct Numbered {
    pub(crate) n: i64,
    pub(crate) key: String,
}

/// The number in an event.
pub(crate) fn n_of(event: &Event) -> i64 {
    event.data_as::<Numbered>().unwrap().n
}

async fn effect(event: &Event, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
    write_effect(event, delivery.tx()).await
}

/// Writes the number of `event` under its key.
pub(crate) async fn write_effect(event: &Event, tx: &mut Tx) -> Result<(), Failure> {
    let Numbered { n, key } = event.data_as()?;
    tx.execute(sql("insert into effect (key, n) values ($1, $2)").bind(key).bind(n)).await?;
    Ok(())
}

/// A consumer that does as `script` says.
pub(crate) fn scripted(
    script: impl Fn(&Event, i64) -> Result<(), Failure> + Send + Sync + 'static,
) -> Arc<dyn Handler> {
    Arc::new(Each::new(Scripted(Arc::new(script)), Kind::Rust).unwrap())
}

/// A consumer that does as `script` says, in order by key.
pub(crate) fn in_order(
    script: impl Fn(&Event, i64) -> Result<(), Failure> + Send + Sync + 'static,
) -> Arc<dyn Handler> {
    Arc::new(Each::new(InOrder(Arc::new(script)), Kind::Rust).unwrap())
}
