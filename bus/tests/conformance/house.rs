//! A fresh log and a fresh database, and verbs on them.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{
    Clock, Consumer, Db, Delivery, EmbeddedLog, Failure, Handler, Kind, Log, Platform, Policy,
    Receipt, Retention, Running, Seq, registry,
};
use schemas::{Event, EventId, Patterns};
use serde_json::json;
use tempfile::TempDir;

/// A log and a database in a folder of their own.
pub struct House {
    pub log: Arc<dyn Log>,
    pub db: Db,
    pub clock: Clock,
    folder: TempDir,
}

impl House {
    pub async fn embedded() -> House {
        House::in_folder(TempDir::new().unwrap()).await
    }

    async fn in_folder(folder: TempDir) -> House {
        let clock = Clock::system();
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(folder.path(), &clock).unwrap());
        let url = format!("sqlite://{}", folder.path().join("state.db").display());
        let db = Db::open(&url, clock.clone()).await.unwrap();
        House { log, db, clock, folder }
    }

    /// Closes both and opens them again, as a restart does.
    pub async fn reopened(self) -> House {
        let House { log, db, folder, .. } = self;
        db.close().await;
        drop(log);
        House::in_folder(folder).await
    }

    pub async fn publish(&self, kind: &str, key: &str, n: i64) -> Receipt {
        self.log.publish(event(kind, key, n)).await.unwrap()
    }

    /// Runs these consumers until the answer is stopped.
    pub async fn run(&self, handlers: Vec<Arc<dyn Handler>>) -> Running {
        let platform = Platform {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            handlers,
            retention: Vec::<Retention>::new(),
            alone: true,
        };
        platform.start().await.unwrap()
    }

    pub async fn head(&self) -> Seq {
        *self.log.head().borrow()
    }

    /// Waits until a consumer has read the whole log and has nothing left to try.
    pub async fn settled(&self, consumer: &str) {
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

    pub async fn dead_letters(&self, consumer: &str) -> Vec<bus::dead_letter::DeadLetter> {
        let found = registry::find(&self.db, consumer).await.unwrap().unwrap();
        let queue = bus::work::find(&self.db, found.kind.work(), &found.queue_name()).await;
        let which = bus::dead_letter::Selection::default();
        bus::dead_letter::list(&self.db, queue.unwrap().unwrap(), &which, None, 500).await.unwrap()
    }
}

/// An event of `kind` about `key`, with the number `n`.
pub fn event(kind: &str, key: &str, n: i64) -> Event {
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
pub async fn eventually<F: Future<Output = bool>>(mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "it did not come about within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a [`Scripted`] consumer does with an event: what to answer to attempt `n` at it.
pub type Script = dyn Fn(&Event, i64) -> Result<(), Failure> + Send + Sync;

/// A consumer that follows a script and remembers, in order, what it has done.
pub struct Scripted {
    pub script: Box<Script>,
    pub done: Arc<Mutex<Vec<(String, i64)>>>,
    pub spec: bus::Spec,
}

impl Scripted {
    pub fn new(name: &str, policy: Policy, script: Box<Script>) -> Scripted {
        let spec = bus::Spec {
            name: name.into(),
            kind: Kind::Rust,
            types: Patterns::any(),
            policy,
            side_effects: bus::SideEffects::None,
            rebuilds: false,
            linger: Duration::ZERO,
        };
        Scripted { script, done: Arc::default(), spec }
    }
}

#[async_trait::async_trait]
impl Handler for Scripted {
    fn spec(&self) -> &bus::Spec {
        &self.spec
    }

    async fn handle(
        &self,
        items: &[bus::Item],
        generation: i64,
        ordered: bool,
        tx: &mut bus::Tx,
    ) -> Result<Vec<bus::Handled>, sqlx::Error> {
        let each = bus::Each::new(Steps(self), Kind::Rust).unwrap();
        each.handle(items, generation, ordered, tx).await
    }
}

/// Borrows a script for the duration of one batch.
struct Steps<'a>(&'a Scripted);

impl Consumer for Steps<'static> {
    type Event = Event;
    const NAME: &'static str = "scripted";

    async fn handle(&self, event: Event, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        (self.0.script)(&event, delivery.attempt())
    }
}
