//! A participant of sagas as a process of its own, with books in a file: `examples/orders/participant.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::Process;

/// A running participant. Dropped, it is killed.
pub struct Service {
    process: Process,
    program: PathBuf,
    arguments: Vec<String>,
    stderr: PathBuf,
    /// How often it was killed.
    pub deaths: usize,
}

impl Service {
    /// Starts one that keeps its books in `folder` and, where a broker is given, answers the commands
    /// of the participant `name` there.
    pub async fn start(program: &Path, folder: &Path, name: &str, nats: Option<&str>) -> Service {
        let books = folder.join(format!("{name}.db")).display().to_string();
        let mut arguments = vec!["0".to_owned(), books];
        if let Some(url) = nats {
            arguments.extend([url.to_owned(), name.to_owned()]);
        }
        let stderr = folder.join(format!("{name}.log"));
        let mut command = Command::new(program);
        command.args(&arguments);
        let process = Process::start(command, &stderr).await;
        // The same port when it comes back.
        arguments[0] = process.base.rsplit(':').next().unwrap_or_default().to_owned();
        Service { process, program: program.to_owned(), arguments, stderr, deaths: 0 }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.process.base
    }

    /// Kills it.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
        self.deaths += 1;
    }

    /// Stops it where it stands, until [`Service::resume`].
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again on the same books.
    pub async fn restart(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.process = Process::start(command, &self.stderr).await;
    }

    /// What it did: saga, step, what is in effect, and how many entries that took.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn books(&self) -> Vec<(String, String, i64, i64)> {
        let answer = reqwest::get(self.url()).await.expect("the books");
        let rows: Vec<Value> = answer.json().await.expect("JSON");
        let read = |row: &Value| serde_json::from_value(row.clone()).expect("a row of the books");
        rows.iter().map(read).collect()
    }
}
