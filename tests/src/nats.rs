//! NATS servers of a test's own: one, or a cluster.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::free_port;
use crate::process::Process;
use crate::{eventually, tree};

/// How long servers may take to be well: they elect, and may do so more than once.
const WELL: Duration = Duration::from_secs(60);
/// How long a server may take to stop when asked to.
const STOP: Duration = Duration::from_secs(15);

/// Servers that hold streams, on free ports, in a folder that goes with them.
pub struct Nats {
    servers: Vec<Server>,
    http: reqwest::Client,
    _folder: TempDir,
}

struct Server {
    name: String,
    port: u16,
    monitor: u16,
    config: PathBuf,
    output: PathBuf,
    process: Process,
}

impl Server {
    fn run(config: &std::path::Path, output: &std::path::Path) -> Process {
        let mut command = Command::new(program());
        command.arg("-c").arg(config);
        Process::spawn(command, output)
    }
}

/// The server that `tests/run` installs.
fn program() -> PathBuf {
    let program = tree::root().join("target/venv/bin/nats-server");
    assert!(program.is_file(), "{} is missing: run tests/run", program.display());
    program
}

impl Nats {
    /// Starts `count` servers, as a cluster where there are several, and waits until they are well.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start(count: usize) -> Nats {
        let nats = Nats::begin(count);
        nats.well().await;
        nats
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// When they cannot be started.
    #[must_use]
    pub fn begin(count: usize) -> Nats {
        let folder = TempDir::new().expect("a folder");
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let servers = (0..count).map(|n| {
            let (name, port, monitor) = (format!("n{n}"), free_port(), free_port());
            let config = folder.path().join(format!("{name}.conf"));
            let store = folder.path().join(&name);
            let mut text = format!(
                "server_name: {name}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\n\
                 jetstream {{ store_dir: {store:?}, max_file_store: 10GB, sync_interval: always }}\n"
            );
            if count > 1 {
                let all: Vec<String> =
                    routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
                let (listen, all) = (routes[n], all.join(", "));
                let _ = writeln!(
                    text,
                    "cluster {{ name: test, listen: 127.0.0.1:{listen}, routes: [{all}] }}"
                );
            }
            fs::write(&config, text).expect("a configuration");
            let output = folder.path().join(format!("{name}.log"));
            let process = Server::run(&config, &output);
            Server { name, port, monitor, config, output, process }
        });
        let servers = servers.collect();
        egress::install_crypto_provider();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build();
        Nats { servers, http: http.expect("a client"), _folder: folder }
    }

    /// All servers, as nodes are told of them.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> =
            self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port)).collect();
        urls.join(",")
    }

    /// How many servers there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The server that leads a stream.
    ///
    /// # Panics
    /// When none does for long.
    pub async fn leader(&self, stream: &str) -> usize {
        eventually("the stream has a leader", async || {
            for server in &self.servers {
                let Some(told) = self.ask(server, "/jsz?accounts=1&streams=1").await else {
                    continue;
                };
                let leader = leader_of(&told, stream);
                let found = self.servers.iter().position(|server| Some(&*server.name) == leader);
                if found.is_some() {
                    return found;
                }
            }
            None
        })
        .await
    }

    /// The server that leads all of them, and makes streams and consumers.
    ///
    /// # Panics
    /// When none does for long.
    pub async fn meta_leader(&self) -> usize {
        eventually("the servers have a leader", async || {
            for server in &self.servers {
                let told = self.ask(server, "/jsz").await.unwrap_or_default();
                let leader = told["meta_cluster"]["leader"].as_str();
                let found = self.servers.iter().position(|server| Some(&*server.name) == leader);
                if found.is_some() {
                    return found;
                }
            }
            None
        })
        .await
    }

    /// Has a stream led by another server than this one.
    ///
    /// # Panics
    /// When it goes on leading.
    pub async fn led_elsewhere(&self, stream: &str, server: usize) {
        let at = format!("nats://127.0.0.1:{}", self.servers[server].port);
        let client = async_nats::connect(at).await.expect("a connection");
        let step_down = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        eventually("another server leads the stream", async || {
            if self.leader(stream).await != server {
                return Some(());
            }
            client.request(step_down.clone(), "".into()).await.ok();
            None
        })
        .await;
    }

    /// The ports of the clients that are connected to a server.
    pub async fn clients(&self, server: usize) -> Vec<u16> {
        let told = self.ask(&self.servers[server], "/connz").await.unwrap_or_default();
        let all = told["connections"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|client| client["port"].as_u64()?.try_into().ok()).collect()
    }

    /// Kills a server.
    pub fn kill_9(&mut self, server: usize) {
        self.servers[server].process.kill_9();
    }

    /// Asks a server to stop, and waits until it did.
    ///
    /// # Panics
    /// When it does not.
    pub async fn stop(&mut self, server: usize) {
        let process = &mut self.servers[server].process;
        process.signal(Signal::TERM);
        process.ended(STOP).await;
    }

    /// Starts a server again where it left off.
    pub fn restart(&mut self, server: usize) {
        let server = &mut self.servers[server];
        server.process = Server::run(&server.config, &server.output);
    }

    /// Stops a server where it stands, its connections open.
    pub fn pause(&self, server: usize) {
        self.servers[server].process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self, server: usize) {
        self.servers[server].process.signal(Signal::CONT);
    }

    /// Waits until every server is well and knows all that it should.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn well(&self) {
        let end = Instant::now() + WELL;
        for server in &self.servers {
            loop {
                let health = self.ask(server, "/healthz").await.unwrap_or_default();
                if health["status"] == "ok" {
                    break;
                }
                if Instant::now() > end {
                    let name = &server.name;
                    panic!("{name} is not well: {health}; they said:\n{}", self.said());
                }
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
    }

    fn said(&self) -> String {
        let each = |server: &Server| format!("{}: {}", server.name, server.process.errors());
        self.servers.iter().map(each).collect::<Vec<_>>().join("\n")
    }

    async fn ask(&self, server: &Server, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", server.monitor);
        let answer = self.http.get(url).send().await.ok()?;
        answer.json().await.ok()
    }
}

fn leader_of<'a>(told: &'a Value, stream: &str) -> Option<&'a str> {
    let accounts = told["account_details"].as_array()?.iter();
    let mut streams = accounts.filter_map(|account| account["stream_detail"].as_array()).flatten();
    let found = streams.find(|detail| detail["name"] == stream)?;
    found["cluster"]["leader"].as_str().filter(|leader| !leader.is_empty())
}
