//! Reaching the servers, and the stream that is the log.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{
    Context, ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamError,
    GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::chain;
use crate::log::BoxError;

/// How long the broker knows a message id again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);
/// How long one attempt to publish waits for its acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(4);
/// Publishes of this process that wait for their acknowledgement at once.
const ACKS_MAX: usize = 4_096;
/// A server that stands still, with its connections open, is left after it owes three answers.
const PING: Duration = Duration::from_secs(2);
/// How long a server may take to greet: the next one is tried then. As the Go client has it.
const GREETING: Duration = Duration::from_secs(2);
/// Longest wait between two attempts to connect again.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How long servers of one cluster may take to find each other before a start gives up.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);
/// How often it looks meanwhile.
const CLUSTER_LOOK: Duration = Duration::from_millis(500);

/// Where the servers are, how to get in, and which stream is the log.
#[derive(Clone, Debug, Default)]
pub struct JetStreamOptions {
    /// `nats://[USER:PASSWORD@]HOST:PORT`, or `tls://…`; several with commas between them.
    pub url: String,
    /// The name of the stream.
    pub stream: String,
    /// Copies of the stream, 1 to 5; 3 survive the loss of one server.
    pub replicas: usize,
    /// A credentials file (a JWT and its NKey).
    pub credentials: Option<PathBuf>,
    /// A file with the seed of an NKey.
    pub nkey: Option<PathBuf>,
    /// A file with an access token.
    pub token: Option<PathBuf>,
    /// Certificates of authorities to trust beside the system's, as PEM.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate and its key, as PEM, for servers that ask for one.
    pub tls_client: Option<(PathBuf, PathBuf)>,
}

/// Connecting failed; the message says what and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A file of the credentials.
    #[error("reading {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// The servers.
    #[error("connecting to {url}")]
    Connect {
        /// Where, without the password.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The stream is there and is not one that can be the log.
    #[error("the stream {stream} cannot be the log: {why}")]
    Unfit {
        /// Its name.
        stream: String,
        /// What does not fit.
        why: String,
    },
    /// The stream could not be made, looked at or changed.
    #[error("preparing the stream {stream}")]
    Stream {
        /// Its name.
        stream: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// A client that connects again by itself for as long as it lives.
pub(super) async fn connect(options: &JetStreamOptions) -> Result<Client, ConnectError> {
    let mut connect = ConnectOptions::new()
        .name("skald")
        .connection_timeout(GREETING)
        .ping_interval(PING)
        .reconnect_delay_callback(|attempts| {
            let doubled = 50 << attempts.min(6);
            Duration::from_millis(doubled).min(RECONNECT_MAX)
        })
        .event_callback(|event| async move { tell(&event) });
    if let Some(path) = &options.credentials {
        let credentials = connect.credentials_file(path).await;
        connect = credentials.map_err(|error| ConnectError::File(path.clone(), error))?;
    }
    if let Some(path) = &options.nkey {
        connect = connect.nkey(read(path)?);
    }
    if let Some(path) = &options.token {
        connect = connect.token(read(path)?);
    }
    if let Some(path) = &options.tls_ca {
        connect = connect.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &options.tls_client {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    let fail = |source| {
        let url = options.url.split(',').map(without_password).collect::<Vec<_>>().join(",");
        ConnectError::Connect { url, source }
    };
    let servers = servers(&options.url).map_err(|error| fail(error.into()))?;
    connect = with_login(connect, &servers);
    connect.connect(servers).await.map_err(|error| fail(error.into()))
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, std::io::Error> {
    url.split(',').map(|server| server.trim().parse()).collect()
}

/// What stands before the `@`: a user and a password, or a token. One for all servers.
fn with_login(connect: ConnectOptions, servers: &[ServerAddr]) -> ConnectOptions {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let Some(server) = servers.iter().find(|server| server.has_user_pass()) else {
        return connect;
    };
    let user = decoded(server.username().unwrap_or_default());
    match server.password() {
        Some(password) => connect.user_and_password(user, decoded(password)),
        None => connect.token(user),
    }
}

fn read(path: &PathBuf) -> Result<String, ConnectError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| ConnectError::File(path.clone(), error))?;
    Ok(text.trim().to_owned())
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("disconnected from NATS"),
        Event::Closed => tracing::debug!("closed the connection to NATS"),
        Event::LameDuckMode => tracing::info!("a NATS server is about to stop"),
        event => tracing::warn!(%event, "NATS"),
    }
}

fn without_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://***@{host}"),
        None => url.to_owned(),
    }
}

/// JetStream on this connection.
pub(super) fn context(client: Client) -> Context {
    ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .ack_timeout(ACK_TIMEOUT)
        .max_ack_inflight(ACKS_MAX)
        .build(client)
}

/// The stream as it is now, made or brought up to date where that is needed. Servers that have only just
/// started may not all have found each other: what they answer then is asked again for a while.
pub(super) async fn prepare(
    context: &Context,
    options: &JetStreamOptions,
) -> Result<Info, ConnectError> {
    let until = Instant::now() + CLUSTER_PATIENCE;
    loop {
        match try_prepare(context, options).await {
            Err(error) if is_of_a_start(&error) && Instant::now() < until => {
                tracing::info!(error = chain(&error), "waiting for the servers of NATS");
                tokio::time::sleep(CLUSTER_LOOK).await;
            }
            prepared => return prepared,
        }
    }
}

/// Whether servers answer so until they have all found each other and elected a leader.
fn is_of_a_start(error: &ConnectError) -> bool {
    const PASSING: [ErrorCode; 3] = [
        ErrorCode::CLUSTER_NO_PEERS,
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_INCOMPLETE,
    ];
    let ConnectError::Stream { source, .. } = error else { return false };
    let passes = |error: &jetstream::Error| PASSING.contains(&error.error_code());
    if let Some(error) = source.downcast_ref::<CreateStreamError>() {
        return match error.kind() {
            CreateStreamErrorKind::JetStream(error) => passes(&error),
            kind => kind == CreateStreamErrorKind::TimedOut,
        };
    }
    let Some(error) = source.downcast_ref::<GetStreamError>() else { return false };
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => passes(&error),
        _ => {
            let request = error.source().and_then(|cause| cause.downcast_ref::<RequestError>());
            request.is_some_and(|error| error.kind() == RequestErrorKind::TimedOut)
        }
    }
}

async fn try_prepare(context: &Context, options: &JetStreamOptions) -> Result<Info, ConnectError> {
    let fail = |source: BoxError| ConnectError::Stream { stream: options.stream.clone(), source };
    let found = match context.get_stream(&options.stream).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error.kind()) => {
            match context.create_stream(wanted(options)).await {
                Ok(stream) => return Ok(stream.cached_info().clone()),
                // Another node was first: of two that ask for it at once, one may not be answered.
                Err(error) if may_be_there(&error.kind()) => context
                    .get_stream(&options.stream)
                    .await
                    .map_err(|_| fail(error.into()))?
                    .cached_info()
                    .clone(),
                Err(error) => return Err(fail(error.into())),
            }
        }
        Err(error) => return Err(fail(error.into())),
    };
    if let Some(why) = unfit(&found.config) {
        return Err(ConnectError::Unfit { stream: options.stream.clone(), why });
    }
    warn_of_limits(&found.config);
    let changed = changed(&found.config, options);
    if changed == found.config {
        return Ok(found);
    }
    context.update_stream(changed).await.map_err(|error| fail(error.into()))
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn may_be_there(kind: &CreateStreamErrorKind) -> bool {
    match kind {
        CreateStreamErrorKind::JetStream(error) => {
            error.error_code() == ErrorCode::STREAM_NAME_EXIST
        }
        CreateStreamErrorKind::TimedOut => true,
        _ => false,
    }
}

fn wanted(options: &JetStreamOptions) -> Config {
    let config = Config {
        name: options.stream.clone(),
        description: Some("the log of Skald".to_owned()),
        subjects: vec![super::subjects::ALL.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    changed(&config, options)
}

/// The configuration with what is ours to decide.
fn changed(config: &Config, options: &JetStreamOptions) -> Config {
    Config {
        duplicate_window: config.duplicate_window.max(DUPLICATE_WINDOW),
        num_replicas: options.replicas.max(1),
        allow_direct: true,
        allow_atomic_publish: true,
        ..config.clone()
    }
}

fn unfit(config: &Config) -> Option<String> {
    if config.subjects != [super::subjects::ALL] {
        let found = config.subjects.join(", ");
        return Some(format!("it takes the subjects {found}, and not {}", super::subjects::ALL));
    }
    if config.retention != RetentionPolicy::Limits {
        return Some("its retention policy is not `limits`".to_owned());
    }
    let closed = config.sealed || config.deny_delete || config.deny_purge;
    closed.then(|| "it is sealed, or messages cannot be deleted from it".to_owned())
}

/// Limits of the stream delete events whether or not consumers have had them.
fn warn_of_limits(config: &Config) {
    let by_age = !config.max_age.is_zero();
    let by_size = config.max_bytes > 0 || config.max_messages > 0;
    if by_age || (by_size && config.discard == DiscardPolicy::Old) {
        tracing::warn!(
            "the stream has limits of its own, which delete events that consumers may not have had; use [[log.retention]] instead"
        );
    }
}
