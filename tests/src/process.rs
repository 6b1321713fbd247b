//! One run of a program: the binary, or a server that it needs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::sync::mpsc;

use crate::eventually_within;

const LISTENING: &str = "listening on ";

/// A running server. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    stderr: PathBuf,
    pub(crate) base: String,
}

impl Process {
    /// Starts a server that does not tell where it listens. What it says goes to a file.
    pub(crate) fn spawn(mut command: Command, output: &Path) -> Process {
        let log = File::options().create(true).append(true).open(output).expect("a log file");
        let errors = log.try_clone().expect("a log file");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, stderr: output.to_owned(), base: String::new() }
    }

    /// Starts it and waits for the line that tells where it listens. Its errors go to a file.
    pub(crate) async fn start(mut command: Command, stderr: &Path) -> Process {
        let errors = File::options().create(true).append(true).open(stderr).expect("a log file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("the binary starts");
        let output = child.stdout.take().expect("a pipe");
        let (line_seen, mut lines) = mpsc::unbounded_channel();
        // Reads to the end, so that the server never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = line_seen.send(line);
            }
        });
        let stderr = stderr.to_owned();
        let mut process = Process { child, stderr, base: String::new() };
        let listening = async {
            while let Some(line) = lines.recv().await {
                if let Some((_, url)) = line.split_once(LISTENING) {
                    return url
                        .split_whitespace()
                        .next()
                        .map(|url| url.trim_end_matches('/').to_owned());
                }
            }
            None
        };
        match tokio::time::timeout(crate::DEADLINE, listening).await {
            Ok(Some(base)) => process.base = base,
            Ok(None) => panic!("the server did not start:\n{}", process.errors()),
            Err(_) => panic!("the server does not say where it listens:\n{}", process.errors()),
        }
        process
    }

    /// The end of what it wrote to its error output.
    pub(crate) fn errors(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let start = text.len().saturating_sub(4_000);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal to a running process");
    }

    /// Lets no file of the process grow beyond `bytes`; `None` lifts the limit.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a limit on a running process");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, within: std::time::Duration) -> ExitStatus {
        let errors = self.errors();
        let what = format!("the server ends; it said:\n{errors}");
        eventually_within(within, &what, async || self.child.try_wait().expect("a child")).await
    }

    /// The local ports of its TCP connections.
    pub(crate) fn connected_from(&self) -> Vec<u16> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let links = open.into_iter().flatten().flatten();
        let own: Vec<String> = links
            .filter_map(|link| {
                let target = std::fs::read_link(link.path()).ok()?;
                let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(inode.to_owned())
            })
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let port = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let inode = columns.get(9)?;
            let (_, port) = columns.get(1)?.split_once(':')?;
            own.iter().any(|own| own == inode).then(|| u16::from_str_radix(port, 16).ok())?
        };
        table.lines().filter_map(port).collect()
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("a process id");
        Pid::from_raw(id).expect("a process id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}
