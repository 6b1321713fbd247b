//! The node of the demonstration: a process of its own, so that it can be killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::receipts::IssueReceipt;
use super::shop::Shop;
use crate::Skald;
use crate::cli::Stop;
use crate::config::{Flags, Settings};
use crate::server::Profile;

/// The address that is taken if nobody has it.
const ADDRESS: &str = "127.0.0.1:8080";
const START_MAX: Duration = Duration::from_secs(30);

/// How the process of the node is started by the demonstration.
#[derive(Debug, Args)]
pub(in crate::cli) struct NodeArgs {
    #[arg(long)]
    listen: String,
    #[arg(long)]
    data: String,
}

/// Runs the node: `skald dev` with a consumer of the demonstration inside.
pub(in crate::cli) async fn run(args: NodeArgs) -> Result<(), Stop> {
    let flags = Flags { listen: Some(args.listen), data: Some(args.data), ..Flags::default() };
    let settings: Settings = crate::cli::load(&flags)?.settings;
    let node = Skald::new(settings, Profile::Dev).consumer(IssueReceipt);
    node.run().await.map_err(|error| Stop::Failed(error.into()))
}

/// The process.
pub(super) struct Node {
    child: Child,
    address: String,
    folder: PathBuf,
    shop: [(&'static str, String); 3],
}

impl Node {
    pub(super) async fn start(folder: &Path, shop: &Shop) -> anyhow::Result<Node> {
        let address = free_address().await.context("looking for a free port")?;
        let shop = [
            ("PAYMENT_URL", shop.payment.url.clone()),
            ("STOCK_URL", shop.stock.url.clone()),
            ("DELIVERY_URL", shop.delivery.url.clone()),
        ];
        let child = spawn(folder, &address, &shop).await?;
        Ok(Node { child, address, folder: folder.to_owned(), shop })
    }

    /// Where it answers.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it tells goes there.
    pub(super) fn log_file(&self) -> PathBuf {
        log_file(&self.folder)
    }

    /// SIGKILL: it does not get to close a file.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing the node")
    }

    /// The same again, with the same files.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.folder, &self.address, &self.shop).await?;
        Ok(())
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("skald.log")
}

async fn free_address() -> std::io::Result<String> {
    let wanted = TcpListener::bind(ADDRESS).await;
    let listener = match wanted {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("127.0.0.1:0").await?,
    };
    Ok(listener.local_addr()?.to_string())
}

async fn spawn(
    folder: &Path,
    address: &str,
    shop: &[(&'static str, String)],
) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let told = File::options().create(true).append(true).open(log_file(folder));
    let mut child = Command::new(program)
        .args(["demo-node", "--listen", address, "--data"])
        .arg(folder.join("skald"))
        .current_dir(folder) // No `skald.toml` of somebody else's.
        .envs(shop.iter().map(|(name, url)| (*name, url.as_str())))
        .env("SKALD_SAGAS__ENV", "PAYMENT_URL,STOCK_URL,DELIVERY_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(told.context("opening the node's log file")?)
        .kill_on_drop(true)
        .spawn()
        .context("starting the node")?;
    let output = child.stdout.take().context("reading from the node")?;
    let mut lines = BufReader::new(output).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("listening on ") {
                return Ok(());
            }
        }
        bail!("the node ended at its start: see {}", log_file(folder).display())
    };
    tokio::time::timeout(START_MAX, listening).await.context("the node does not start")??;
    // Whatever else it prints is read, or it would wait for a reader one day.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}
