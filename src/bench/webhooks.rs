//! Webhooks: deliveries a second with durable outcomes, beside a bare client that posts the same to
//! the same sink; time from accept to arrival, also beside a thousand endpoints that hang; fan-out
//! among a hundred thousand endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::webhooks::{ActiveSecret, Endpoint, EndpointId, Manner, Scheme, seal_secrets, store};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use egress::{Egress, EgressPolicy, PrivateNetworks};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;

mod pending;

use super::client::{Connection, with_body};
use super::report::{Report, Target};
use super::samples::{self, Samples};
use super::sink::Sink;
use super::{Extent, Folder, disk};
use crate::config::Settings;
use crate::server::{Node, Profile};

/// Events of one request.
const BATCH: usize = 100;
/// Requests at once, of publishers; and of the bare client.
const PUBLISHERS: usize = 4;
const BARE_AT_ONCE: usize = 64;
/// Deliveries at once to an endpoint that is measured, as many as the bare client has.
const AT_ONCE: u32 = 64;
/// Endpoints of the fan-out, and those that match.
const ENDPOINTS: usize = 100_000;
const MATCHING: usize = 10;
const HANGING: usize = 1_000;
/// At once to each of these: both ends of a connection are open files of this one process.
const HANGING_EACH: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(180);

/// One subject of `bench webhooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Deliveries a second, to one endpoint and to ten.
    Deliveries,
    /// From accept to arrival.
    Latency,
    /// The same, beside endpoints that hang.
    Hanging,
    /// Among a hundred thousand endpoints.
    FanOut,
    /// A million that are pending when a server starts.
    Pending,
}

pub(super) async fn measure(
    extent: Extent,
    only: &[Part],
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    let quick = extent.rounds == 1;
    disk::settle(folder.path()).await?;
    let syncs = disk::syncs_per_second(folder.path(), Duration::from_secs(1)).await?;
    report.remark(format!("one fsync takes {:.2} ms here", 1_000.0 / syncs));
    for part in Part::value_variants() {
        if !only.is_empty() && !only.contains(part) {
            continue;
        }
        match part {
            Part::Deliveries => {
                throughput(extent, if quick { 10_000 } else { 60_000 }, folder, report).await?;
            }
            Part::Latency => latency(extent, folder, report).await?,
            Part::Hanging => beside_hanging(extent, folder, report).await?,
            Part::FanOut => fan_out(if quick { 2_000 } else { 20_000 }, folder, report).await?,
            Part::Pending => {
                let deliveries = if quick { 100_000 } else { 1_000_000 };
                pending::measure(deliveries, folder, report).await?;
            }
        }
    }
    Ok(())
}

/// A server in this program, in a folder of its own that goes with it.
struct Server {
    node: Node,
    address: SocketAddr,
    folder: Folder,
}

impl Server {
    async fn start(folder: &Folder) -> anyhow::Result<Server> {
        let folder = folder.inner()?;
        let settings =
            Settings { listen: "127.0.0.1:0".to_owned(), ..Settings::in_folder(folder.path()) };
        let node = Node::start(settings, Profile::Dev, Vec::new(), Vec::new()).await?;
        let address = node.address();
        Ok(Server { node, address, folder })
    }

    async fn call(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = with_body("POST", path, "application/json", &body.to_string());
        let status = Connection::open(self.address).await?.send(&request).await?;
        ensure!((200..300).contains(&status), "POST {path} was answered {status}");
        Ok(())
    }

    /// Publishes batches, as fast as it is answered.
    async fn publish(&self, batches: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let batches = Arc::new(batches);
        let mut publishers = JoinSet::new();
        for number in 0..PUBLISHERS {
            let (address, batches) = (self.address, Arc::clone(&batches));
            publishers.spawn(async move {
                let mut connection = Connection::open(address).await?;
                for request in batches.iter().skip(number).step_by(PUBLISHERS) {
                    let status = connection.send(request).await?;
                    ensure!(status == 202, "publishing was answered {status}");
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(publisher) = publishers.join_next().await {
            publisher??;
        }
        Ok(())
    }

    /// Waits until so many are noted as delivered in the database.
    async fn all_noted(&self, deliveries: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let noted = self.count("status = 'delivered'").await?;
            if noted >= deliveries {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{noted} of {deliveries} are noted as delivered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deliveries in the database of which this holds.
    async fn count(&self, condition: &str) -> anyhow::Result<usize> {
        let text = format!("select count(*) from webhook_delivery where {condition}");
        let row = self.node.db().fetch_optional(bus::built(text)).await?;
        Ok(usize::try_from(row.map_or(0, |row| sqlx::Row::get::<i64, _>(&row, 0)))?)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop_and_keep().await.map(drop)
    }

    /// Stops it; its folder stays as long as what is returned.
    async fn stop_and_keep(self) -> anyhow::Result<Folder> {
        self.node.stop().await;
        Ok(self.folder)
    }
}

/// Requests that publish so many events, made before anything is timed.
fn batches(kind: &str, events: usize) -> Vec<Vec<u8>> {
    let batch = |batch: usize| {
        let events = (0..BATCH).map(|number| event(kind, &format!("{kind}-{batch}-{number}")));
        let body = Value::from(events.collect::<Vec<_>>()).to_string();
        with_body("POST", "/v1/events", "application/cloudevents-batch+json", &body)
    };
    (0..events / BATCH).map(batch).collect()
}

fn event(kind: &str, id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/bench", "type": kind,
        "datacontenttype": "application/json", "data": {"order": id, "note": "x".repeat(200)}})
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

async fn throughput(
    extent: Extent,
    events: usize,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("deliveries");
    let [mut bare, mut one, mut ten] = [(); 3].map(|()| Samples::default());
    for _ in 0..extent.rounds {
        bare.push(posted_bare(extent.sample).await?);
        one.push(delivered(1, events, folder).await?);
        ten.push(delivered(10, events / 4, folder).await?);
    }
    let what = "accepted and delivered to one (reference: a bare client, 64 at once)";
    let targets = [Target::AtLeast(6_000.0), Target::Ratio(0.4)];
    report.add(what, "events/s", &one, &bare, &targets);
    let what = "10 endpoints, each event to all (reference: the same)";
    report.add(what, "deliveries/s", &ten, &bare, &[Target::AtLeast(15_000.0)]);
    Ok(())
}

/// Posts of a signed body a second, with nothing around them.
async fn posted_bare(length: Duration) -> anyhow::Result<f64> {
    let sink = Sink::start().await?;
    let policy = EgressPolicy {
        allow_private: PrivateNetworks::All,
        idle_connections_per_host_max: BARE_AT_ONCE,
        ..EgressPolicy::DEFAULT
    };
    let egress = Egress::new(policy)?;
    let url = egress.check_url(&sink.url())?;
    let secret: egress::Secret = Scheme::V1.draw().expose().parse()?;
    let body = Bytes::from(event("bench.t", "e-0").to_string());
    let begun = Instant::now();
    let mut posters = JoinSet::new();
    for _ in 0..BARE_AT_ONCE {
        let (egress, url, body, secret) =
            (egress.clone(), url.clone(), body.clone(), secret.clone());
        posters.spawn(async move {
            while begun.elapsed() < length {
                let signature = secret.sign("dlv_0", 1_700_000_000, &body);
                let mut headers = HeaderMap::new();
                headers.insert(
                    HeaderName::from_static("webhook-signature"),
                    HeaderValue::from_str(&signature)?,
                );
                let (method, url) = (Method::POST, url.clone());
                let timeout = Duration::from_secs(15);
                let body = body.clone();
                egress.send(egress::Request { method, url, headers, body, timeout }).await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(poster) = posters.join_next().await {
        poster??;
    }
    Ok(per_second(sink.requests(), begun.elapsed()))
}

/// Deliveries a second, from the first request until the last outcome is in the database.
async fn delivered(endpoints: usize, events: usize, folder: &Folder) -> anyhow::Result<f64> {
    let (server, sink) = (Server::start(folder).await?, Sink::start().await?);
    for _ in 0..endpoints {
        let body = json!({"url": sink.url(), "types": ["bench.t"], "max_concurrent": AT_ONCE});
        server.call("/v1/webhooks", &body).await?;
    }
    let (batches, total) = (batches("bench.t", events), endpoints * events);
    let begun = Instant::now();
    server.publish(batches).await?;
    sink.reaches(total, PATIENCE).await?;
    server.all_noted(total).await?;
    let rate = per_second(total, begun.elapsed());
    server.stop().await?;
    Ok(rate)
}

/// From accept to arrival of events that come at a fixed rate, in milliseconds, sorted.
async fn paced(
    server: &Server,
    sink: &Sink,
    rate: u32,
    length: Duration,
) -> anyhow::Result<Vec<f64>> {
    let events = u64::from(rate) * length.as_secs();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let idle = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let mut sent = JoinSet::new();
    for number in 0..events {
        ticks.tick().await;
        let (address, idle) = (server.address, Arc::clone(&idle));
        sent.spawn(async move {
            let id = format!("timed-{number}");
            let body = event("bench.t", &id).to_string();
            let request = with_body("POST", "/v1/events", "application/cloudevents+json", &body);
            let kept = idle.lock().await.pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(address).await?,
            };
            let begun = Instant::now();
            let status = connection.send(&request).await?;
            ensure!(status == 202, "publishing was answered {status}");
            idle.lock().await.push(connection);
            Ok::<_, anyhow::Error>((id, begun))
        });
    }
    let mut begun = Vec::new();
    while let Some(one) = sent.join_next().await {
        begun.push(one??);
    }
    sink.reaches(usize::try_from(events)?, PATIENCE).await?;
    let arrivals = sink.arrivals();
    let mut took = Vec::with_capacity(begun.len());
    for (id, begun) in begun {
        let arrived = arrivals.get(&id).context("a delivery did not arrive")?;
        took.push(arrived.saturating_duration_since(begun).as_secs_f64() * 1_000.0);
    }
    took.sort_unstable_by(f64::total_cmp);
    Ok(took)
}

async fn latency(extent: Extent, folder: &Folder, report: &mut Report) -> anyhow::Result<()> {
    report.begin("from accept to arrival");
    let (server, sink) = (Server::start(folder).await?, Sink::start().await?);
    let body = json!({"url": sink.url(), "types": ["bench.t"], "max_concurrent": AT_ONCE});
    server.call("/v1/webhooks", &body).await?;
    let took = paced(&server, &sink, 1_000, extent.paced).await?;
    for (name, share, target) in
        [("1,000 events/s, p50", 0.5, 4.0), ("1,000 events/s, p99", 0.99, 15.0)]
    {
        let value = samples::percentile(&took, share).unwrap_or(0.0);
        report.add_value(name, "ms", value, &[Target::AtMost(target)]);
    }
    server.stop().await
}

async fn beside_hanging(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("beside 1,000 endpoints that hang");
    let (server, sink) = (Server::start(folder).await?, Sink::start().await?);
    add(&server, HANGING, |_| (sink.hanging_url(), "bench.fill".to_owned())).await?;
    add(&server, 1, |_| (sink.url(), "bench.t".to_owned())).await?;
    // All places of those that hang are taken before anything is measured.
    server.publish(batches("bench.fill", BATCH)).await?;
    let begun = Instant::now();
    while sink.hanging() < HANGING * 5 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    report.remark(format!("{} requests hang at once", sink.hanging()));
    // And all that waits behind them is written down.
    while server.count("true").await? < HANGING * BATCH && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = paced(&server, &sink, 200, extent.paced).await?;
    let value = samples::percentile(&took, 0.99).unwrap_or(0.0);
    report.add_value("a healthy one at 200 events/s, p99", "ms", value, &[Target::AtMost(250.0)]);
    server.stop().await
}

/// Makes endpoints straight in the database, many in one transaction.
async fn add(
    server: &Server,
    count: usize,
    of: impl Fn(usize) -> (String, String),
) -> anyhow::Result<()> {
    let db = server.node.db();
    let seal = bus::Seal::new(
        &std::fs::read(server.folder.path().join("encryption.key"))?
            .try_into()
            .map_err(|_| anyhow::anyhow!("the key is not 32 bytes long"))?,
    );
    for from in (0..count).step_by(1_000) {
        let mut tx = db.begin().await?;
        for number in from..count.min(from + 1_000) {
            let (url, pattern) = of(number);
            let secret = Scheme::V1.draw().expose();
            let active = [ActiveSecret { secret, ends_at_us: None }];
            let now = db.clock().now();
            let endpoint = Endpoint {
                id: EndpointId::new(),
                url,
                types: schemas::Patterns::new(vec![pattern.parse()?])?,
                filter: None,
                description: None,
                tenant: None,
                headers: None,
                secrets: seal_secrets(&seal, &active),
                public_keys: Vec::new(),
                manner: Manner { max_concurrent: HANGING_EACH, ..Manner::default() },
                metadata: None,
                disabled_reason: None,
                failing_since: None,
                failures: 0,
                held_until: None,
                from: *server.node.log().head().borrow(),
                version: 1,
                created_at: now,
                updated_at: now,
            };
            store::create(&mut tx, &endpoint, "bench").await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

async fn fan_out(events: usize, folder: &Folder, report: &mut Report) -> anyhow::Result<()> {
    report.begin("fan-out among 100,000 endpoints");
    let (server, sink) = (Server::start(folder).await?, Sink::start().await?);
    let url = sink.hanging_url();
    add(&server, ENDPOINTS, |number| {
        let kind =
            if number < MATCHING { "bench.t".to_owned() } else { format!("bench.n{number}") };
        (url.clone(), kind)
    })
    .await?;
    // The first event makes the consumer read all endpoints.
    server.publish(batches("bench.first", BATCH)).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let batches = batches("bench.t", events);
    let begun = Instant::now();
    server.publish(batches).await?;
    // Those of the last event come last; to count all of them, again and again, takes a core of its own.
    let last = *server.node.log().head().borrow();
    while server.count(&format!("seq = {last}")).await? < MATCHING {
        ensure!(begun.elapsed() < PATIENCE, "event {last} has no deliveries yet");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = per_second(events, begun.elapsed());
    // Those that were sent out at once get their rows when they hang.
    let all = events * MATCHING;
    let mut rows = server.count("true").await?;
    while rows < all {
        ensure!(begun.elapsed() < PATIENCE, "{rows} deliveries of {all}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        rows = server.count("true").await?;
    }
    ensure!(rows == all, "{rows} deliveries, not {all}");
    let name = "events of which ten endpoints get each";
    report.add_value(name, "events/s", rate, &[Target::AtLeast(5_000.0)]);
    server.stop().await
}
