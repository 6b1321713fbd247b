//! The binary as a command that comes to its end.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::{DEADLINE, binary};

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said about it.
    pub stderr: String,
}

impl Finished {
    /// The same, which must have gone well.
    ///
    /// # Panics
    /// When it has not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Finished {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// One clear refusal: exit code 2 and a single line of error beside those of the log, no panic
    /// and no backtrace.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    #[track_caller]
    pub fn refusal(self) -> String {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        let is_log = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !is_log(line)).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines.concat()
    }
}

/// Runs `skald` with these arguments in a folder, without any `SKALD_` variables but those given.
///
/// # Panics
/// When it does not end in time.
pub async fn skald(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(binary::path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SKALD_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).current_dir(folder);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("skald {arguments:?} does not end"));
    let output = output.expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
