//! A whole Skald in a folder of its own.

use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::{Client, binary, eventually, left_behind};

/// How a house is started.
#[derive(Clone)]
pub struct Setup {
    verb: &'static str,
    program: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    key: Option<String>,
    ignores_file_size_signal: bool,
}

impl Setup {
    /// `skald dev`
    #[must_use]
    pub fn dev() -> Setup {
        Setup {
            verb: "dev",
            program: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            data: None,
            key: None,
            ignores_file_size_signal: false,
        }
    }

    /// `skald serve`, called with a key.
    #[must_use]
    pub fn serve(data: &Path, key: &str) -> Setup {
        Setup { verb: "serve", key: Some(key.to_owned()), ..Setup::dev() }.data(data)
    }

    /// A program that has a node inside and takes its settings from the environment alone;
    /// called with a key where it asks for one.
    #[must_use]
    pub fn program(program: &Path, key: Option<&str>) -> Setup {
        let setup = Setup { program: Some(program.to_owned()), ..Setup::dev() };
        Setup { key: key.map(str::to_owned), ..setup }
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Setup {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Keeps its data in this folder, not in one of its own.
    #[must_use]
    pub fn data(mut self, folder: &Path) -> Setup {
        self.data = Some(folder.to_owned());
        self
    }

    /// A file that may not grow is an error of the write, not the end of the process.
    #[must_use]
    pub fn ignoring_file_size_signal(mut self) -> Setup {
        self.ignores_file_size_signal = true;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> House {
        let folder = TempDir::new().expect("a folder");
        let data = self.data.clone().unwrap_or_else(|| folder.path().join("data"));
        let process = Process::start(self.command(&data), &folder.path().join("stderr")).await;
        let client = Client::new(process.base.clone());
        let client = self.key.as_deref().map_or(client.clone(), |key| client.with_key(key));
        let mut house =
            House { client, process, setup: self, data, folder, claimed: HashSet::new() };
        house.ready().await;
        house
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = if self.ignores_file_size_signal {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]).arg(binary::path());
            shell
        } else {
            Command::new(self.program.clone().unwrap_or_else(binary::path))
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SKALD_") {
                command.env_remove(name);
            }
        }
        if self.program.is_some() {
            command.env("SKALD_LISTEN", "127.0.0.1:0").env("SKALD_DATA", data);
        } else {
            command.arg(self.verb).args(["--listen", "127.0.0.1:0", "--data"]).arg(data);
        }
        command.args(&self.arguments);
        command.env("RUST_LIB_BACKTRACE", "0"); // Errors are told by their causes.
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A running server with a folder of its own; also a [`Client`] of it.
pub struct House {
    client: Client,
    process: Process,
    setup: Setup,
    data: PathBuf,
    folder: TempDir,
    claimed: HashSet<String>,
}

impl House {
    /// `skald dev` in a fresh folder, ready.
    pub async fn start() -> House {
        Setup::dev().start().await
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder for the test's own files, gone with the house.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it wrote to its error output, the end of it.
    #[must_use]
    pub fn errors(&self) -> String {
        self.process.errors()
    }

    /// Says that what this consumer has left at the end is meant to be there.
    pub fn claim(&mut self, consumer: &str) {
        self.claimed.insert(consumer.to_owned());
    }

    /// Kills the process, as a power cut would.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// The local ports of its connections.
    #[must_use]
    pub fn connected_from(&self) -> Vec<u16> {
        self.process.connected_from()
    }

    /// Stops it where it stands (SIGSTOP), until [`House::resume`].
    ///
    /// # Panics
    /// When it is not running.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on as if nothing had been (SIGCONT).
    ///
    /// # Panics
    /// When it is not running.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Asks it to stop, and waits until it did, in order and in time.
    ///
    /// # Panics
    /// When it takes more than 10 s or ends with another code than 0.
    pub async fn terminate(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.ended(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0), "{}", self.errors());
    }

    /// Starts the process again on the same folder; kills it first if it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process.kill_9();
        let stderr = self.folder.path().join("stderr");
        self.process = Process::start(self.setup.command(&self.data), &stderr).await;
        self.client.follow(self.process.base.clone());
        self.ready().await;
    }

    /// Lets no file of the process grow beyond `bytes`; `None` lifts the limit.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        self.process.limit_file_size(bytes);
    }

    async fn ready(&mut self) {
        let client = self.client.clone();
        eventually("the server is ready", async || {
            assert!(self.process.is_running(), "the server ended:\n{}", self.process.errors());
            let answer = client.call(http::Method::GET, "/readyz").try_send().await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }
}

impl Deref for House {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for House {
    /// A test that passes must not leave work under way or dead letters that it did not claim.
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "explains the failing test")]
            {
                eprintln!("--- the server said:\n{}", self.process.errors());
            }
        } else if self.process.is_running() {
            let base = self.client.base();
            let left = left_behind::look(&base, self.client.key(), &self.claimed);
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}
