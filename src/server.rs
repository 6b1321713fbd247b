//! Starts and stops a node: opens log and database, runs the consumers, answers HTTP.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bus::seal::KEY_BYTES;
use bus::{
    Clock, Db, DbError, Dialect, EmbeddedLog, Handler, JetStreamLog, JetStreamOptions, Kind, Log,
    NodeId, Platform, Seal, Whole,
};
use consumers::analytics::CountEvents;
use consumers::push::PushWorker;
use egress::{Egress, EgressError, EgressPolicy, PrivateNetworks};
use orchestrator::{
    Definition, Definitions, Engine, Methods, Nats, Options, Participants, RegisterError,
    StartSagas,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use webhooks::{DeliverWebhooks, DirectLane, FanOutWebhooks, ReplayToWebhooks};

use crate::api::{self, Access, Bodies, Shared, State};
use crate::config::Settings;
use crate::connections::{Limits, answer};
use crate::keys::KeyRing;
use crate::telemetry;

/// How long open requests may take to end once the server was asked to stop. With the consumers'
/// time to end (3 s) and that of pushes (1 s) it stays under 10 s.
const DRAIN: Duration = Duration::from_secs(5);
/// The key of stored secrets that `dev` makes, in the data folder.
pub(crate) const KEY_FILE: &str = "encryption.key";

/// What is assumed where the settings do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A developer's machine: no keys on loopback, private addresses may be called.
    Dev,
    /// Everywhere else: keys, and only the configured networks.
    Serve,
}

/// The node could not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The log.
    #[error(transparent)]
    Log(#[from] bus::embedded::OpenError),
    /// The log on a broker.
    #[error(transparent)]
    Broker(#[from] bus::jetstream::ConnectError),
    /// Another process has the database's file.
    #[error("the database {} is in use by another skald process", .0.display())]
    InUse(PathBuf),
    /// The lock beside the database's file.
    #[error("the database's folder cannot be used: {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// The database.
    #[error("the database cannot be opened")]
    Database(#[from] DbError),
    /// The database, once it was open.
    #[error("reading the database")]
    Query(#[from] sqlx::Error),
    /// The consumers.
    #[error("starting the consumers")]
    Start(#[from] bus::StartError),
    /// A saga written in Rust.
    #[error("registering a saga")]
    Saga(#[source] RegisterError),
    /// The way out.
    #[error("preparing outbound HTTP")]
    Egress(#[from] EgressError),
    /// The key that `dev` keeps in its data folder.
    #[error("the encryption key {} cannot be used", .0.display())]
    Key(PathBuf, #[source] std::io::Error),
    /// The address.
    #[error("listening on {0}")]
    Listen(String, #[source] std::io::Error),
    /// A task that should go on has ended.
    #[error("the task for {0} has ended, which should not happen; start the process again")]
    Broken(&'static str),
    /// Beyond this machine without keys.
    #[error(
        "refusing to listen on {0} without an API key: make one with `skald keys create`, given the same --data or --database, or listen on 127.0.0.1"
    )]
    NoKeys(SocketAddr),
}

/// Runs a node until SIGTERM or Ctrl-C. One whose tasks do not all go on ends with an error, and not
/// half at work: what it had is taken over, or up again by its next start.
///
/// # Errors
/// [`ServeError`].
pub async fn run(
    settings: Settings,
    profile: Profile,
    handlers: Vec<Arc<dyn Handler>>,
    sagas: Vec<Arc<dyn Methods>>,
) -> Result<(), ServeError> {
    allow_connections();
    let mut node = Node::start(settings, profile, handlers, sagas).await?;
    announce(&node);
    tokio::select! {
        () = stopped() => tracing::info!("stopping"),
        what = node.broken() => return Err(ServeError::Broken(what)),
    }
    node.stop().await;
    Ok(())
}

/// Lets the process have as many connections as it may: each endpoint that hangs holds some.
fn allow_connections() {
    let allowed = getrlimit(Resource::Nofile);
    let all = Rlimit { current: allowed.maximum, maximum: allowed.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// A node that runs.
pub struct Node {
    address: SocketAddr,
    db: Db,
    log: Arc<dyn Log>,
    platform: bus::Running,
    push: JoinHandle<()>,
    sagas: orchestrator::Running,
    engine: Engine,
    deliver: JoinHandle<()>,
    http: JoinHandle<()>,
    stop: CancellationToken,
    stop_push: CancellationToken,
    _lock: Option<File>,
}

/// The consumers that come with Skald.
fn built_in(
    sagas: &Definitions,
    env: &BTreeMap<String, String>,
    lane: DirectLane,
) -> [Arc<dyn Handler>; 3] {
    [
        Arc::new(Whole::new(CountEvents, Kind::Builtin)),
        Arc::new(Whole::new(StartSagas::new(sagas.clone(), env), Kind::Builtin)),
        Arc::new(Whole::new(FanOutWebhooks::new(lane), Kind::Builtin)),
    ]
}

/// What the workers need that post events to others.
struct Posts {
    db: Db,
    log: Arc<dyn Log>,
    egress: Egress,
    seal: Option<Seal>,
    node: NodeId,
    lane: DirectLane,
    retention: Duration,
    stop: CancellationToken,
}

impl Posts {
    /// Starts what posts to push consumers, and to webhooks.
    fn start(self) -> (JoinHandle<()>, JoinHandle<()>) {
        let Posts { db, log, egress, seal, node, lane, retention, stop } = self;
        let push = PushWorker {
            db: db.clone(),
            log: Arc::clone(&log),
            egress: egress.clone(),
            seal: seal.clone(),
            node: node.clone(),
            stop: stop.clone(),
        };
        let deliver = DeliverWebhooks { db, log, egress, seal }.run(node, lane, retention, stop);
        (tokio::spawn(push.run()), tokio::spawn(deliver))
    }
}

impl Node {
    /// Starts a node with `handlers` beside the consumers that come with Skald.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn start(
        settings: Settings,
        profile: Profile,
        mut handlers: Vec<Arc<dyn Handler>>,
        methods: Vec<Arc<dyn Methods>>,
    ) -> Result<Node, ServeError> {
        egress::install_crypto_provider();
        let metrics = telemetry::metrics(); // Before anything that is counted.
        let clock = Clock::system();
        let lock = lock_database(&settings)?;
        let (log, nats) = open_log_and_nats(&settings, &clock).await?;
        let db = open_database(&settings, clock).await?;
        let keys = KeyRing::new(db.clone(), settings.security.admin_key.as_deref());
        let (listener, address) = listen(&settings, profile, &keys).await?;
        let egress = egress_to(&settings, private_networks(&settings, profile))?;
        let seal = seal(&settings, profile)?;
        let definitions = Definitions::new(db.clone());
        let env = saga_env(&settings);
        let lane = DirectLane::default();
        handlers.extend(built_in(&definitions, &env, lane.clone()));
        let own = handlers.iter().map(|handler| Arc::clone(&handler.spec().name));
        let parts = own.chain(bus::PARTS.map(Arc::from)).collect();
        let platform = Platform {
            db: db.clone(),
            log: Arc::clone(&log),
            handlers,
            targets: vec![Arc::new(ReplayToWebhooks)],
            retention: settings.log.retention_rules(),
            inbox: settings.log.inbox.0,
            // A log in a folder and a database in a file are locked: this is the only process.
            alone: !(log.is_shared() && db.dialect() == Dialect::Postgres),
        };
        let platform = platform.start().await?;
        let stop_push = CancellationToken::new();
        let (push, deliver) = Posts {
            db: db.clone(),
            log: Arc::clone(&log),
            egress: egress.clone(),
            seal: seal.clone(),
            node: platform.node().clone(),
            lane,
            retention: settings.webhooks.retention.0,
            stop: stop_push.clone(),
        }
        .start();
        let called = egress_to(&settings, participant_networks(&settings, profile))?;
        let methods = register(&definitions, methods).await?;
        let participants = Participants::new(called.clone(), methods).with_nats(nats);
        let options = Options { env, retention: settings.sagas.retention.0 };
        let node = platform.node().clone();
        let (engine, sagas) = Engine::start_on(definitions, node, participants, options).await?;
        let stop = CancellationToken::new();
        let state = State::new(Shared {
            db: db.clone(),
            log: Arc::clone(&log),
            egress,
            participants: called,
            sagas: engine.clone(),
            access: access(profile, address),
            keys,
            parts,
            seal,
            metrics,
            places: Semaphore::new(settings.http.in_flight_max),
            streams: Arc::new(Semaphore::new(settings.http.in_flight_max)),
            bodies: Bodies::new(settings.http.in_flight_bytes_max.0),
            timeout: settings.http.timeout.0,
            stop: stop.clone(),
        });
        let front = api::Front::new(state);
        let http = tokio::spawn(answer(listener, front, Limits::of_process(), stop.clone()));
        Ok(Node {
            address,
            db,
            log,
            platform,
            push,
            deliver,
            sagas,
            engine,
            http,
            stop,
            stop_push,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log it runs on.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// The sagas of the node.
    #[must_use]
    pub fn sagas(&self) -> &Engine {
        &self.engine
    }

    /// The database it runs on.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Ends when a task has that should go on until [`Node::stop`]; answers which. It panicked, most likely.
    async fn broken(&mut self) -> &'static str {
        tokio::select! {
            () = self.platform.broken() => "consumers, the relay or housekeeping",
            () = self.sagas.broken() => "sagas",
            _ = &mut self.push => "push consumers",
            _ = &mut self.deliver => "webhooks",
            _ = &mut self.http => "HTTP",
        }
    }

    /// Takes no new request, ends the open ones, then the consumers, then log and database: within
    /// 10 s.
    pub async fn stop(self) {
        self.stop.cancel();
        let served = tokio::time::timeout(DRAIN, self.http).await;
        self.stop_push.cancel();
        self.sagas.stop().await;
        self.platform.stop().await;
        let ended = async { tokio::join!(self.push, self.deliver) };
        if tokio::time::timeout(Duration::from_secs(1), ended).await.is_err() {
            tracing::warn!("some posts were cut off; they are posted again after the next start");
        }
        self.db.close().await;
        if served.is_err() {
            tracing::warn!("some requests did not end in time and were cut off");
        }
    }
}

/// What seals stored secrets: the configured key; in `dev` without one, a key that is made once and
/// kept in the data folder, for the owner alone.
fn seal(settings: &Settings, profile: Profile) -> Result<Option<Seal>, ServeError> {
    if let Some(key) = settings.security.encryption_key_bytes() {
        let seal = Seal::new(&key);
        let before = settings.security.encryption_key_before_bytes();
        return Ok(Some(before.map_or_else(|| seal.clone(), |key| seal.clone().opening(&key))));
    }
    if profile == Profile::Serve {
        return Ok(None);
    }
    let path = settings.data.join(KEY_FILE);
    let fail = |error| ServeError::Key(path.clone(), error);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| {
                fail(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "it is not 32 bytes long",
                ))
            })?;
            Ok(Some(Seal::new(&key)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            use std::io::Write as _;
            use std::os::unix::fs::OpenOptionsExt as _;
            std::fs::create_dir_all(&settings.data).map_err(fail)?;
            let key: [u8; KEY_BYTES] = rand::random();
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(fail)?;
            Ok(Some(Seal::new(&key)))
        }
        Err(error) => Err(fail(error)),
    }
}

/// Opens the log that `log.url` names.
///
/// # Errors
/// [`ServeError::Log`] and [`ServeError::Broker`].
pub async fn open_log(settings: &Settings, clock: &Clock) -> Result<Arc<dyn Log>, ServeError> {
    Ok(open_log_and_nats(settings, clock).await?.0)
}

/// The log and, where it is on a broker, the way to participants there.
async fn open_log_and_nats(
    settings: &Settings,
    clock: &Clock,
) -> Result<(Arc<dyn Log>, Option<Nats>), ServeError> {
    let log = &settings.log;
    if let Some(folder) = log.url.strip_prefix("embedded:") {
        return Ok((Arc::new(EmbeddedLog::open(Path::new(folder), clock)?), None));
    }
    let options = JetStreamOptions {
        url: log.url.clone(),
        stream: log.stream.clone(),
        replicas: log.replicas,
        credentials: log.credentials.clone(),
        nkey: log.nkey.clone(),
        token: log.token.clone(),
        tls_ca: log.tls.ca.clone(),
        tls_client: log.tls.certificate.clone().zip(log.tls.key.clone()),
    };
    let log = JetStreamLog::open(&options).await?;
    let nats = Nats::new(log.client(), options.replicas);
    Ok((Arc::new(log), Some(nats)))
}

/// Keeps a second process off a database that is a file: its log may be one that many may use.
///
/// # Errors
/// [`ServeError::InUse`] and [`ServeError::Folder`].
pub fn lock_database(settings: &Settings) -> Result<Option<File>, ServeError> {
    let Some(path) = sqlite_path(settings) else { return Ok(None) };
    let path = path.with_extension("lock");
    let fail = |error| ServeError::Folder(path.clone(), error);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(fail)?;
    let file = File::create(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse(path.with_extension("db"))),
        Err(TryLockError::Error(error)) => Err(fail(error)),
    }
}

pub(crate) fn sqlite_path(settings: &Settings) -> Option<&Path> {
    let url = &settings.database.url;
    url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).map(Path::new)
}

/// Opens the database that `database.url` names, making its folder where it is a file.
///
/// # Errors
/// [`ServeError::Database`].
pub async fn open_database(settings: &Settings, clock: Clock) -> Result<Db, ServeError> {
    let url = &settings.database.url;
    if let Some(parent) = sqlite_path(settings).and_then(Path::parent)
        && let Err(error) = std::fs::create_dir_all(parent)
    {
        let source = sqlx::Error::Io(error);
        return Err(DbError::Connect { url: url.clone(), source }.into());
    }
    Ok(Db::open(url, clock).await?)
}

async fn listen(
    settings: &Settings,
    profile: Profile,
    keys: &KeyRing,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let fail = |error| ServeError::Listen(settings.listen.clone(), error);
    let listener = TcpListener::bind(&settings.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    if !address.ip().is_loopback() && keys.is_empty().await? {
        return Err(ServeError::NoKeys(address));
    }
    if profile == Profile::Serve && keys.is_empty().await? {
        tracing::warn!("there is no API key yet: make one with `skald keys create`");
    }
    Ok((listener, address))
}

fn private_networks(settings: &Settings, profile: Profile) -> PrivateNetworks {
    match profile {
        Profile::Dev => PrivateNetworks::All,
        Profile::Serve => {
            let networks = settings.webhooks.allow_private_networks.iter();
            PrivateNetworks::Only(networks.cloned().collect())
        }
    }
}

fn access(profile: Profile, address: SocketAddr) -> Access {
    let open = profile == Profile::Dev && address.ip().is_loopback();
    if open { Access::Loopback } else { Access::Keys }
}

fn egress_to(settings: &Settings, allow_private: PrivateNetworks) -> Result<Egress, EgressError> {
    // Checked when the settings were read.
    let proxy = settings.webhooks.proxy.as_deref().and_then(|text| text.parse().ok());
    Egress::new(EgressPolicy { allow_private, proxy, ..EgressPolicy::DEFAULT })
}

/// What participants of sagas may be reached beside the public ones.
fn participant_networks(settings: &Settings, profile: Profile) -> PrivateNetworks {
    match private_networks(settings, profile) {
        PrivateNetworks::Only(mut networks) => {
            networks.extend(settings.sagas.allow_private_networks.iter().cloned());
            PrivateNetworks::Only(networks)
        }
        all @ PrivateNetworks::All => all,
    }
}

/// Registers the sagas that are written in Rust, and answers their methods by name.
async fn register(
    definitions: &Definitions,
    methods: Vec<Arc<dyn Methods>>,
) -> Result<HashMap<String, Arc<dyn Methods>>, ServeError> {
    let mut named = HashMap::new();
    for methods in methods {
        let read = Definition::of_node(&orchestrator::Node::of_value(&methods.document()));
        let definition = read.map_err(|faults| ServeError::Saga(RegisterError::Faults(faults)))?;
        let (known, _) = definitions.put(definition, "program").await.map_err(ServeError::Saga)?;
        named.insert(known.definition.name.to_string(), methods);
    }
    Ok(named)
}

/// What definitions may read of the environment: what the configuration lists, where it is set.
fn saga_env(settings: &Settings) -> BTreeMap<String, String> {
    let read = |name: &String| Some((name.clone(), std::env::var(name).ok()?));
    settings.sagas.env.iter().filter_map(read).collect()
}

/// The one line on stdout: where to go. Programs that start this one read it too.
fn announce(node: &Node) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "listening on http://{}", node.address());
    let _ = writeln!(out, "reference:   http://{}/docs", node.address());
    let _ = out.flush();
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_one_of_whose_tasks_has_ended_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::in_folder(folder.path());
        settings.listen = "127.0.0.1:0".to_owned();
        let node = Node::start(settings, Profile::Dev, Vec::new(), Vec::new());
        let mut node = node.await.unwrap();
        let well = tokio::time::timeout(Duration::from_millis(300), node.broken()).await;
        assert!(well.is_err(), "{well:?}");
        node.deliver.abort();
        assert_eq!(node.broken().await, "webhooks");
    }
}
