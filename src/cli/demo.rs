//! `skald demo`: two hundred orders on their way through everything, and a crash in the middle.
//!
//! [`run`] starts a shop's three services, a customer's webhook receiver, a consumer over HTTP and a
//! node as a process of its own; the orders are published, the node is killed and started again, what
//! could not be read is put right, and `summary` compares the books. Each of the others is one file.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::Client;
use super::{Output, Stop};

pub(super) mod node;
mod orders;
mod packer;
mod publisher;
mod receipts;
mod receiver;
mod shop;
mod summary;

use node::Node;
use packer::Packed;
use receiver::Receiver;
use shop::Shop;
use summary::{Summary, Witnesses, all};

/// The saga of an order.
const DEFINITION: &str = include_str!("../../examples/orders/order.yaml");
/// How long the last order may take to get through everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after the summary, instead of staying up for a look around.
    #[arg(long)]
    exit: bool,
    /// An empty folder for everything that is kept [default: one that is removed at the end].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Runs `skald demo`.
pub(super) async fn run(args: DemoArgs, output: &Output) -> Result<(), Stop> {
    let temporary = tempfile::tempdir().map_err(Stop::start)?;
    let folder = match &args.data {
        Some(folder) => empty(folder).map_err(Stop::NotStarted)?,
        None => temporary.path().to_owned(),
    };
    let mut scene = Scene::open(&folder, *output).await.map_err(Stop::NotStarted)?;
    let summary = scene.play().await?;
    summary.print(output)?;
    if !args.exit {
        scene.look_around(&folder).await?;
        tokio::signal::ctrl_c().await?;
    }
    if summary.adds_up() { Ok(()) } else { Err(anyhow::anyhow!("this does not add up").into()) }
}

/// The folder, made if it is not there.
fn empty(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    ensure!(folder.read_dir()?.next().is_none(), "{} is not empty", folder.display());
    Ok(folder)
}

/// Everything that takes part.
struct Scene {
    output: Output,
    shop: Shop,
    receiver: Receiver,
    node: Node,
    client: Client,
    packed: Packed,
}

impl Scene {
    async fn open(folder: &Path, output: Output) -> anyhow::Result<Scene> {
        let shop = Shop::open(folder).await.context("starting the shop's services")?;
        let receiver = Receiver::open().await.context("starting the webhook receiver")?;
        let node = Node::start(folder, &shop).await?;
        let client = Client::new(node.url().parse()?, None)?;
        let scene = Scene { output, shop, receiver, node, client, packed: Packed::default() };
        scene.tell(&format!("Skald runs at {}", scene.node.url()))?;
        scene.tell("payment, stock and delivery are three services with a database each")?;
        Ok(scene)
    }

    fn tell(&self, line: &str) -> std::io::Result<()> {
        if self.output.is_json() { Ok(()) } else { self.output.line(line) }
    }

    async fn play(&mut self) -> anyhow::Result<Summary> {
        self.register().await?;
        let packer = tokio::spawn(packer::run(self.client.clone(), Packed::clone(&self.packed)));
        let published = self.publish().await?;
        self.quiet().await?;
        let redriven = self.repair().await?;
        self.quiet().await?;
        packer.abort();
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let received = self.receiver.received();
        let seen = Witnesses { published, redriven, packed, received, shop: &self.shop };
        Summary::of(&self.client, seen).await
    }

    /// What a team would do once: a saga, a webhook endpoint, a consumer.
    async fn register(&self) -> anyhow::Result<()> {
        let address = self.client.address(&["sagas", "definitions", "place-order"]);
        let request = self.client.request(Method::PUT, address);
        let request = request.header("content-type", "application/yaml").body(DEFINITION);
        self.client.checked(request).await.context("registering the saga")?;
        let endpoint = json!({"url": self.receiver.url, "types": [orders::PLACED]});
        let endpoint = self.client.send(Method::POST, &["webhooks"], Some(&endpoint)).await?;
        let secret = endpoint["secret"].as_str().context("an endpoint without a secret")?;
        self.receiver.trust(secret.parse()?);
        packer::register(&self.client).await?;
        self.tell("registered: the saga place-order, a webhook endpoint, two consumers")?;
        Ok(())
    }

    /// All orders; when half of them are out, the node is killed.
    async fn publish(&mut self) -> anyhow::Result<publisher::Published> {
        let lines = orders::lines();
        let half = lines.len() / 2;
        let bar = bar(lines.len());
        let (count, mut counted) = watch::channel(0);
        let publisher = publisher::run(self.client.clone(), lines, bar.clone(), count);
        let publisher = tokio::spawn(publisher);
        if counted.wait_for(|count| *count >= half).await.is_ok() {
            self.node.kill().await?;
            let dead = Instant::now();
            bar.suspend(|| self.tell(&format!("kill -9 of the node after {half} orders")))?;
            self.node.restart().await?;
            let took = dead.elapsed().as_millis();
            bar.suspend(|| self.tell(&format!("it is back after {took} ms, with the same files")))?;
        }
        let published = publisher.await?;
        bar.finish_and_clear();
        published.context("publishing the orders")
    }

    /// Waits until nobody has anything to do any more, or says who has.
    async fn quiet(&self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut calm = 0;
        loop {
            let busy = self.busy().await?;
            calm = if busy.is_empty() { calm + 1 } else { 0 };
            if calm == 3 {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "still at work after {} s: {}; the node's log is {}",
                PATIENCE.as_secs(),
                busy.join(", "),
                self.node.log_file().display()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn busy(&self) -> anyhow::Result<Vec<String>> {
        let mut busy = Vec::new();
        for consumer in all(&self.client, &["consumers"], &[]).await? {
            let count = |name: &str| consumer[name].as_i64().unwrap_or_default();
            if count("waiting") + count("in_flight") + count("retrying") > 0 {
                busy.push(consumer["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        for status in ["running", "compensating"] {
            if !all(&self.client, &["sagas"], &[("status", status)]).await?.is_empty() {
                busy.push("sagas".to_owned());
            }
        }
        for endpoint in all(&self.client, &["webhooks"], &[]).await? {
            let id = endpoint["id"].as_str().unwrap_or_default();
            let deliveries = ["webhooks", id, "deliveries"];
            if !all(&self.client, &deliveries, &[("status", "pending")]).await?.is_empty() {
                busy.push("webhooks".to_owned());
            }
        }
        Ok(busy)
    }

    /// What no consumer could read is in the old shop's words: a person would put it right, and have
    /// it handled by those who gave it up. Answers how many there were, and how many were redriven.
    async fn repair(&self) -> anyhow::Result<(usize, usize)> {
        let (mut found, mut right) = (0, 0);
        for consumer in all(&self.client, &["consumers"], &[]).await? {
            let Some(name) = consumer["name"].as_str() else { continue };
            let segments = ["consumers", name, "dead-letters"];
            for letter in all(&self.client, &segments, &[]).await? {
                found += 1;
                if !orders::is_unreadable(&letter["event"]) {
                    continue;
                }
                let edited =
                    json!({"id": letter["id"], "event": orders::repaired(&letter["event"])});
                let segments = ["consumers", name, "dead-letters", "redrive"];
                let answer = self.client.send(Method::POST, &segments, Some(&edited)).await?;
                right += usize::from(answer["redriven"] == 1);
            }
        }
        self.tell(&format!(
            "{found} dead letters: two orders of an old shop that nobody could read; edited and redriven"
        ))?;
        Ok((found, right))
    }

    /// Where to look now that it all stands still.
    async fn look_around(&self, folder: &Path) -> anyhow::Result<()> {
        let url = self.node.url();
        self.tell("\nHave a look:")?;
        self.tell(&format!("  {url}/events      every event, and what came of it"))?;
        for (id, why) in orders::worth_a_look()? {
            let conditions = [("subject", Some(id)), ("type", Some(orders::PLACED.to_owned()))];
            let found = self.client.get(&["events"], &conditions).await?;
            let seq = &found["items"][0]["seq"];
            self.tell(&format!("  {url}/events/{seq:<4} {why}"))?;
        }
        self.tell(&format!("  {url}/docs        the API"))?;
        self.tell(&format!("  skald sagas list --url {url}"))?;
        self.tell(&format!("  {}: the files, with the node's log", folder.display()))?;
        self.tell("Ctrl-C ends it.")?;
        Ok(())
    }
}

/// On stderr, and only on a terminal.
fn bar(orders: usize) -> ProgressBar {
    let bar = ProgressBar::new(orders as u64);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} orders") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
