//! Every setting, as the rest of the program reads it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use bus::Span;
use egress::Network;
use serde::Serialize;

use super::{ByteSize, RetentionRule, Secret, redact};

/// Every setting, checked. Serializes for printing: secrets and passwords are hidden.
#[derive(Clone, Serialize)]
pub struct Settings {
    /// Where HTTP is answered: `address:port` or `host:port`; port 0 takes a free one.
    pub listen: String,
    /// The folder of everything that is kept in files.
    pub data: PathBuf,
    /// `[log]`
    pub log: Log,
    /// `[database]`
    pub database: Database,
    /// `[security]`
    pub security: Security,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[sagas]`
    pub sagas: Sagas,
    /// `[http]`
    pub http: Http,
    /// `[otel]`
    pub otel: Otel,
    /// `[logs]`
    pub logs: Logs,
}

/// The log of events.
#[derive(Clone, Serialize)]
pub struct Log {
    /// `embedded:FOLDER`, `nats://…` or `tls://…`.
    #[serde(serialize_with = "redact::serialize")]
    pub url: String,
    /// On NATS: the name of the stream.
    pub stream: String,
    /// On NATS: copies of the stream.
    pub replicas: usize,
    /// On NATS: how long consumers know an event again that the broker has forgotten.
    pub inbox: Span,
    /// On NATS: a credentials file.
    pub credentials: Option<PathBuf>,
    /// On NATS: a file with the seed of an NKey.
    pub nkey: Option<PathBuf>,
    /// On NATS: a file with a token.
    pub token: Option<PathBuf>,
    /// On NATS: what TLS needs beside the system's roots.
    pub tls: Tls,
    /// What is deleted when; without a rule nothing is.
    pub retention: Vec<RetentionRule>,
}

/// Files for TLS, as PEM.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tls {
    /// Certificates of authorities to trust.
    pub ca: Option<PathBuf>,
    /// Our certificate, for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The state database.
#[derive(Clone, Serialize)]
pub struct Database {
    /// `sqlite://PATH` or `postgres://…`.
    #[serde(serialize_with = "redact::serialize")]
    pub url: String,
}

/// Keys.
#[derive(Clone, Serialize)]
pub struct Security {
    /// An `sk_…` that always holds, with every scope.
    pub admin_key: Option<Secret>,
    /// 32 bytes as base64, under which secrets are stored.
    pub encryption_key: Option<Secret>,
    /// The one before it, which opens what it sealed and seals nothing any more.
    pub encryption_key_before: Option<Secret>,
}

/// Outbound HTTP to addresses that others chose.
#[derive(Clone, Serialize)]
pub struct Webhooks {
    /// Networks that are not public and may be reached all the same.
    #[serde(serialize_with = "networks")]
    pub allow_private_networks: Vec<Network>,
    /// A forward proxy, `http://HOST:PORT` or `socks5://HOST:PORT`.
    #[serde(serialize_with = "redact::serialize_some")]
    pub proxy: Option<String>,
    /// How long deliveries and their attempts are kept.
    pub retention: Span,
}

/// Sagas.
#[derive(Clone, Serialize)]
pub struct Sagas {
    /// Names of environment variables that definitions may read as `env.NAME`.
    pub env: Vec<String>,
    /// Networks that are not public and whose participants may be called all the same.
    #[serde(serialize_with = "networks")]
    pub allow_private_networks: Vec<Network>,
    /// How long ended sagas are kept; stuck ones are kept for ever.
    pub retention: Span,
}

/// Inbound HTTP.
#[derive(Clone, Serialize)]
pub struct Http {
    /// How long one request may take; long polls and streams have limits of their own.
    pub timeout: Span,
    /// Requests answered at once; those above get 429 with `Retry-After`.
    pub in_flight_max: usize,
    /// Bytes of their bodies; those above get 429 with `Retry-After`. At least 16 MiB, the largest publish.
    pub in_flight_bytes_max: ByteSize,
}

/// Traces.
#[derive(Clone, Serialize)]
pub struct Otel {
    /// Where OTLP/HTTP is received, without `/v1/traces`; no traces are sent without it.
    #[serde(serialize_with = "redact::serialize_some")]
    pub endpoint: Option<String>,
    /// `service.name` of the traces.
    pub service_name: String,
}

/// The program's own log lines, on stderr.
#[derive(Clone, Serialize)]
pub struct Logs {
    /// For people or for machines.
    pub format: LogFormat,
    /// Which lines: a level, or directives such as `info,bus=debug`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One compact line each, for people.
    Pretty,
    /// One JSON object each.
    Json,
}

/// What clients of servers say of themselves at `info` is said better by the rooms that use them.
const FILTER: &str = "info,async_nats=warn,sqlx::postgres::notice=warn";

impl Settings {
    /// The defaults, for a data folder.
    #[must_use]
    pub fn in_folder(data: &Path) -> Settings {
        Settings {
            listen: "127.0.0.1:8080".to_owned(),
            data: data.to_owned(),
            log: Log {
                url: format!("embedded:{}", data.display()),
                stream: "EVENTS".to_owned(),
                replicas: 1,
                inbox: Span(Duration::from_secs(7 * 86_400)),
                credentials: None,
                nkey: None,
                token: None,
                tls: Tls::default(),
                retention: Vec::new(),
            },
            database: Database { url: sqlite_url(&data.join("state.db")) },
            security: Security {
                admin_key: None,
                encryption_key: None,
                encryption_key_before: None,
            },
            webhooks: Webhooks {
                allow_private_networks: Vec::new(),
                proxy: None,
                retention: Span(Duration::from_secs(30 * 86_400)),
            },
            sagas: Sagas {
                env: Vec::new(),
                allow_private_networks: Vec::new(),
                retention: Span(Duration::from_secs(30 * 86_400)),
            },
            // Longer than any answer should take, shorter than the patience of most clients (60 s).
            http: Http {
                timeout: Span(Duration::from_secs(30)),
                in_flight_max: 1024,
                in_flight_bytes_max: ByteSize(256 << 20),
            },
            otel: Otel { endpoint: None, service_name: "skald".to_owned() },
            logs: Logs { format: LogFormat::Pretty, filter: FILTER.to_owned() },
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::in_folder(Path::new(".skald"))
    }
}

impl fmt::Debug for Settings {
    /// As it is printed: without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Log {
    /// The rules as the log takes them.
    #[must_use]
    pub fn retention_rules(&self) -> Vec<bus::Retention> {
        self.retention.iter().map(bus::Retention::from).collect()
    }
}

impl Security {
    /// The bytes of `encryption_key`.
    #[must_use]
    pub fn encryption_key_bytes(&self) -> Option<[u8; 32]> {
        bytes(self.encryption_key.as_deref()?)
    }

    /// The bytes of `encryption_key_before`.
    #[must_use]
    pub fn encryption_key_before_bytes(&self) -> Option<[u8; 32]> {
        bytes(self.encryption_key_before.as_deref()?)
    }
}

fn bytes(key: &str) -> Option<[u8; 32]> {
    base64::engine::general_purpose::STANDARD.decode(key).ok()?.try_into().ok()
}

/// The URL of an SQLite file. What follows `sqlite://` is read as a host name first, and a host name
/// has no spaces; `./` in front makes all of it a path.
fn sqlite_url(path: &Path) -> String {
    let text = path.display().to_string();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let here = if path.is_absolute() || text.bytes().all(is_name) { "" } else { "./" };
    format!("sqlite://{here}{text}")
}

fn networks<S: serde::Serializer>(networks: &[Network], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_settings_hold_no_secret() {
        let mut settings = Settings::default();
        settings.security.admin_key = Some(Secret::new("sk_verysecretverysecret"));
        settings.database.url = "postgres://app:hunter2@db/skald".to_owned();
        let printed = format!("{settings:?}");
        assert!(!printed.contains("verysecret") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn places_follow_the_data_folder() {
        let settings = Settings::in_folder(Path::new("/var/lib/skald"));
        assert_eq!(settings.log.url, "embedded:/var/lib/skald");
        assert_eq!(settings.database.url, "sqlite:///var/lib/skald/state.db");
        let settings = Settings::in_folder(Path::new("my data"));
        assert_eq!(settings.database.url, "sqlite://./my data/state.db");
    }
}
