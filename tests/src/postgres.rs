//! A Postgres server of a test's own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::eventually;
use crate::free_port;
use crate::process::Process;

/// How long the server may take to stop when asked to.
const STOP: Duration = Duration::from_secs(20);

/// A server on a free port, in a folder that goes with it, run by `nobody` where the test is run by
/// root, whom it refuses.
pub struct Postgres {
    programs: PathBuf,
    port: u16,
    process: Process,
    folder: TempDir,
    connection: Mutex<Option<PgConnection>>,
}

/// The folder of the newest server that is installed.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let with_number = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        Some((number, version.path().join("bin")))
    });
    let installed = with_number.filter(|(_, folder)| folder.join("initdb").is_file());
    let newest = installed.max().map(|(_, folder)| folder);
    newest.expect("no /usr/lib/postgresql/*/bin/initdb: run tests/run, or install postgresql")
}

/// A command run by someone whom the server accepts.
fn as_nobody(program: &Path, home: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("HOME", home).current_dir(home);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// As text, which is what the server sends where a statement has no arguments.
async fn rows(connection: &mut PgConnection, sql: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let column = |row: &PgRow, at: usize| {
        let value = row.try_get_raw(at)?;
        value.as_str().map(str::to_owned).map_err(sqlx::Error::Decode)
    };
    let line = |row: &PgRow| {
        let columns: Result<Vec<String>, _> = (0..row.len()).map(|at| column(row, at)).collect();
        columns.map(|columns| columns.join("|"))
    };
    rows.iter().map(line).collect()
}

impl Postgres {
    /// Makes a database, starts a server on it and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub async fn start() -> Postgres {
        let (programs, port) = (programs(), free_port());
        let folder = TempDir::new().expect("a folder");
        let home = folder.path().join("home");
        fs::create_dir(&home).expect("a folder");
        if rustix::process::geteuid().is_root() {
            run(Command::new("chmod").arg("711").arg(folder.path()));
            run(Command::new("chown").arg("nobody").arg(&home));
        }
        let data = home.join("data");
        let mut make = as_nobody(&programs.join("initdb"), &home);
        run(make.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "--no-sync"]));
        let process = Postgres::serve(&programs, port, folder.path());
        let connection = Mutex::default();
        let postgres = Postgres { programs, port, process, folder, connection };
        postgres.answers().await;
        postgres
    }

    fn serve(programs: &Path, port: u16, folder: &Path) -> Process {
        let home = folder.join("home");
        let mut command = as_nobody(&programs.join("postgres"), &home);
        command.arg("-D").arg(home.join("data")).arg("-k").arg(&home);
        command.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        // The machine stays up, so what the server wrote is there when it comes back.
        command.args(["-c", "fsync=off", "-c", "max_connections=100"]);
        Process::spawn(command, &folder.join("postgres.log"))
    }

    /// As nodes are told of it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it; transactions under way are rolled back.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.process.signal(Signal::INT);
        self.process.ended(STOP).await;
    }

    /// Starts it again, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn restart(&mut self) {
        self.process = Postgres::serve(&self.programs, self.port, self.folder.path());
        self.answers().await;
    }

    /// Ends all connections of nodes; waits for one where they are not connected again yet.
    ///
    /// # Panics
    /// When no node connects.
    pub async fn drop_connections(&self) {
        eventually("nodes are connected", async || {
            let ended = self
                .query(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where pid <> pg_backend_pid() and backend_type = 'client backend'",
                )
                .await;
            (ended != ["0"]).then_some(())
        })
        .await;
    }

    /// The rows of an answer, their columns joined by `|`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn query(&self, sql: &str) -> Vec<String> {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Asks over a connection that is kept: what tests wait for, they ask for many times a second.
    async fn try_query(&self, sql: &str) -> Result<Vec<String>, sqlx::Error> {
        let mut kept = self.connection.lock().await;
        if let Some(mut connection) = kept.take()
            && let Ok(rows) = rows(&mut connection, sql).await
        {
            *kept = Some(connection);
            return Ok(rows);
        }
        // There was none, or the server has ended it meanwhile.
        let mut connection = PgConnection::connect(&self.url()).await?;
        let rows = rows(&mut connection, sql).await?;
        *kept = Some(connection);
        Ok(rows)
    }

    async fn answers(&self) {
        eventually("Postgres answers", async || self.try_query("select 1").await.ok()).await;
    }
}

impl Drop for Postgres {
    /// At once: its own processes end when it does, and are not left behind. After a failure the end
    /// of its log is told: who waited for whom in a deadlock stands nowhere else.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "Postgres said:\n{}", self.process.errors());
        }
        if self.process.is_running() {
            self.process.signal(Signal::QUIT);
            let end = std::time::Instant::now() + Duration::from_secs(5);
            while self.process.is_running() && std::time::Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
}
