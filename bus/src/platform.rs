//! Runs everything of this room on one node: consumers, retries, relay, replays, housekeeping.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::consumer::{BatchConsumer, Consumer};
use crate::handler::{Each, Handler, Kind};
use crate::housekeeping::Housekeeping;
use crate::ingest::Ingest;
use crate::lineage::IndexLineage;
use crate::node::{self, NodeId, Presence, RENEW};
use crate::pull::Feeder;
use crate::registry::{self, Registration, queue_name};
use crate::replayer::Replayer;
use crate::retries::Retries;
use crate::runner::Runner;
use crate::{
    Db, Log, LogIdentityError, ReplayTarget, Retention, Whole, identity, outbox, signals, work,
};

/// How long tasks may take to end when asked to.
const GRACE: Duration = Duration::from_secs(3);

/// The consumers that every node runs, on one log or the other: nobody else can have their names.
pub const PARTS: [&str; 2] = [<IndexLineage as BatchConsumer>::NAME, <Ingest as Consumer>::NAME];

/// What a node runs.
pub struct Platform {
    /// The state.
    pub db: Db,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The consumers that are part of this program.
    pub handlers: Vec<Arc<dyn Handler>>,
    /// What else events can be replayed to.
    pub targets: Vec<Arc<dyn ReplayTarget>>,
    /// How long events are kept.
    pub retention: Vec<Retention>,
    /// How long consumers know an event again on a log that may hold it twice.
    pub inbox: Duration,
    /// Whether no other process shares log and database: what the one before held is free at once.
    pub alone: bool,
}

/// A node that runs.
pub struct Running {
    stop: CancellationToken,
    db: Db,
    node: NodeId,
    tasks: JoinSet<()>,
}

/// The node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The database.
    #[error("preparing the consumers in the database")]
    Database(#[from] sqlx::Error),
    /// The cursors belong to another log.
    #[error(transparent)]
    Identity(#[from] LogIdentityError),
    /// A consumer names no valid pattern.
    #[error(transparent)]
    Pattern(#[from] schemas::InvalidPattern),
    /// Two consumers have the same name.
    #[error("there are two consumers with the name `{0}`")]
    SameName(String),
}

impl Platform {
    /// Starts all tasks.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(mut self) -> Result<Running, StartError> {
        identity::check(&self.db, self.log.as_ref()).await?;
        self.handlers.push(Arc::new(Whole::new(IndexLineage, Kind::Builtin)));
        if self.log.is_shared() {
            self.handlers.push(Arc::new(Each::new(Ingest, Kind::Builtin)?));
        }
        for (index, handler) in self.handlers.iter().enumerate() {
            let name = &handler.spec().name;
            if self.handlers[..index].iter().any(|other| other.spec().name == *name) {
                return Err(StartError::SameName(name.to_string()));
            }
            registry::ensure(&self.db, handler.spec()).await?;
        }
        let node = NodeId::new();
        if self.alone {
            node::free_all(&self.db).await?;
        }
        let presence = Presence::new(node.clone(), &self.handlers);
        node::join(&self.db, &presence).await?;

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(node::beat(self.db.clone(), presence, stop.clone()));
        tasks.spawn(carry(self.db.clone(), Arc::clone(&self.log), stop.clone()));
        let relay = outbox::Relay {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            node: node.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(relay.run());
        let replayer = Replayer {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            node: node.clone(),
            handlers: self.handlers.clone(),
            targets: self.targets,
            stop: stop.clone(),
        };
        tasks.spawn(replayer.run());
        let housekeeping = Housekeeping {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            node: node.clone(),
            retention: self.retention.clone(),
            inbox: self.inbox,
            stop: stop.clone(),
        };
        tasks.spawn(housekeeping.run());
        let supervisor = Supervisor {
            db: self.db,
            log: self.log,
            handlers: self.handlers,
            node: node.clone(),
            stop: stop.clone(),
            running: HashMap::new(),
            tasks: JoinSet::new(),
        };
        let db = supervisor.db.clone();
        tasks.spawn(supervisor.run());
        Ok(Running { stop, db, node, tasks })
    }
}

impl Running {
    /// This node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Ends when a task has panicked that should go on until [`Running::stop`].
    pub async fn broken(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                return tracing::error!(%error, "a task of the bus has ended");
            }
        }
        std::future::pending::<()>().await;
    }

    /// Asks all tasks to end, each at a point where nothing is left half done, and waits for them;
    /// then gives up what this node had, so that others have it at once.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time; what they began is taken again");
            self.tasks.shutdown().await;
        }
        let left = tokio::time::timeout(GRACE, node::leave(&self.db, &self.node)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!("what this node had is taken over when its lease has ended");
        }
    }
}

async fn carry(db: Db, log: Arc<dyn Log>, stop: CancellationToken) {
    log.carry(db.signals(), stop).await;
}

/// Which task: consumer, generation, and for registered ones the version they were built from.
type Key = (String, i64, i64);

/// Keeps a runner and a retry task going for every generation of every consumer there is.
struct Supervisor {
    db: Db,
    log: Arc<dyn Log>,
    handlers: Vec<Arc<dyn Handler>>,
    node: NodeId,
    stop: CancellationToken,
    running: HashMap<Key, CancellationToken>,
    tasks: JoinSet<Key>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut changed = self.db.signals().subscribe(signals::CONFIG);
        loop {
            changed.borrow_and_update();
            if let Err(error) = self.reconcile().await {
                tracing::warn!(error = %chain(&error), "looking for consumers to run");
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = changed.changed() => {}
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(key) = ended {
                        self.running.remove(&key); // It is started again if it is still wanted.
                    }
                    // Not at once: one that keeps ending must not keep a core busy.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                () = tokio::time::sleep(RENEW) => {}
            }
        }
        for token in self.running.values() {
            token.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn reconcile(&mut self) -> Result<(), sqlx::Error> {
        let consumers = registry::list(&self.db).await?;
        let generations = registry::generations(&self.db).await?;
        let mut wanted = Vec::new();
        for (name, generation) in generations {
            let Some(consumer) = consumers.iter().find(|consumer| consumer.name == name) else {
                continue;
            };
            if let Some((handler, version)) = self.handler(consumer, generation).await? {
                wanted.push(((name, generation, version), handler));
            }
        }
        self.running.retain(|key, token| {
            let keep = wanted.iter().any(|(wanted, _)| wanted == key);
            if !keep {
                token.cancel();
            }
            keep
        });
        for (key, handler) in wanted {
            if !self.running.contains_key(&key) {
                self.spawn(key, handler);
            }
        }
        Ok(())
    }

    /// The handler of a consumer and the version it was built from; `None` when its code is not
    /// part of this program.
    async fn handler(
        &self,
        consumer: &Registration,
        generation: i64,
    ) -> Result<Option<(Arc<dyn Handler>, i64)>, sqlx::Error> {
        match consumer.kind {
            Kind::Builtin | Kind::Rust => {
                let known = self.handlers.iter().find(|h| *h.spec().name == *consumer.name);
                Ok(known.map(|handler| (Arc::clone(handler), 0)))
            }
            Kind::Pull | Kind::Push => {
                let name = queue_name(&consumer.name, generation);
                let queue = work::find(&self.db, consumer.kind.work(), &name).await?;
                Ok(queue.map(|queue| {
                    let feeder: Arc<dyn Handler> = Arc::new(Feeder::new(consumer, queue));
                    (feeder, consumer.version)
                }))
            }
        }
    }

    fn spawn(&mut self, key: Key, handler: Arc<dyn Handler>) {
        let stop = self.stop.child_token();
        self.running.insert(key.clone(), stop.clone());
        let runner = Runner {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            handler: Arc::clone(&handler),
            node: self.node.clone(),
            generation: key.1,
            stop: stop.clone(),
        };
        let retries = (!handler.feeds()).then(|| Retries {
            db: self.db.clone(),
            log: Arc::clone(&self.log),
            handler,
            node: self.node.clone(),
            generation: key.1,
            stop: stop.clone(),
        });
        self.tasks.spawn(async move {
            let ended = stop.clone();
            let retries = async {
                match retries {
                    Some(retries) => retries.run().await,
                    None => ended.cancelled().await,
                }
            };
            let runner = async {
                runner.run().await;
                stop.cancel(); // A runner that ends has no consumer: its retries end with it.
            };
            // What a handler does with an event is guarded where it is called; this is for the rest of it.
            let both = AssertUnwindSafe(async { tokio::join!(runner, retries) });
            if both.catch_unwind().await.is_err() {
                tracing::error!(
                    consumer = key.0,
                    "the task of a consumer panicked, it starts again"
                );
            }
            key
        });
    }
}
