//! Processes of this same program, measured from outside.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long it may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The line on stdout that tells where it listens.
pub(super) const LISTENING: &str = "listening on http://";

/// A process of this program that listens.
pub(super) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts `skald dev` with its data in `folder`.
    pub(super) async fn dev(folder: &Path) -> anyhow::Result<Process> {
        Process::dev_in(&folder.join("data"), folder).await
    }

    /// Starts `skald dev` on the data that is in `folder`.
    pub(super) async fn dev_at(folder: &Path) -> anyhow::Result<Process> {
        Process::dev_in(folder, folder).await
    }

    async fn dev_in(data: &Path, folder: &Path) -> anyhow::Result<Process> {
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data"].map(OsStr::new);
        Process::start(arguments.into_iter().chain([data.as_os_str()]), folder).await
    }

    /// Starts the server that does nothing.
    pub(super) async fn noop(folder: &Path) -> anyhow::Result<Process> {
        Process::start(["bench", "noop"].map(OsStr::new), folder).await
    }

    /// Starts it in `folder`, which also takes what it tells on stderr. Neither the environment's
    /// settings nor a configuration file reach it.
    async fn start(
        arguments: impl IntoIterator<Item = &OsStr>,
        folder: &Path,
    ) -> anyhow::Result<Process> {
        let told = std::fs::File::create(folder.join("stderr"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).current_dir(folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(told);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SKALD_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().context("starting a process of this program")?;
        let stdout = child.stdout.take().context("its output")?;
        let address = tokio::time::timeout(PATIENCE, listening(stdout)).await;
        match address {
            Ok(Ok(address)) => Ok(Process { child, address }),
            _ => {
                let told = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                anyhow::bail!("the process does not listen: {told}")
            }
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Memory it holds now, and the most that it ever held, in MiB.
    pub(super) fn memory_mib(&self) -> anyhow::Result<(f64, f64)> {
        let id = self.child.id().context("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))
            .context("reading the memory of a process, which works on Linux only")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib / 1_024.0)
        };
        let both = field("VmRSS:").zip(field("VmHWM:"));
        both.context("the status of the process tells no memory")
    }

    /// Asks it to end and waits until it has.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(id.context("the process has ended")?, Signal::TERM)?;
        tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        Ok(())
    }
}

async fn listening(stdout: tokio::process::ChildStdout) -> anyhow::Result<SocketAddr> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix(LISTENING) {
            // Read on, so that it never writes into a closed pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address.parse()?);
        }
    }
    anyhow::bail!("it ended")
}
