//! Webhooks: deliveries a second with durable outcomes, beside a bare client that posts the same to
//! the same sink; time from accept to arrival, also beside a thousand endpoints that hang; fan-out
//! among a hundred thousand endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::webhooks::{ActiveSecret, Endpoint, EndpointId, Manner, Scheme, seal_secrets, store};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use egress::{Egress, EgressPolicy, PrivateNetworks};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Connection, with_body};
use super::report::{Report, Target};
use super::sink::{HANG, Sink};
use super::{Extent, Folder, disk, samples};
use crate::config::Settings;
use crate::server::{Node, Profile};

/// Events of one request.
const BATCH: usize = 100;
/// Requests at once, of publishers; and of the bare client.
const PUBLISHERS: usize = 4;
const BARE_AT_ONCE: usize = 64;
/// Deliveries at once to the one endpoint that is measured: it says that it can take as many.
const AT_ONCE: u32 = 256;
/// Endpoints of the fan-out, and those that match.
const ENDPOINTS: usize = 100_000;
const MATCHING: usize = 10;
const HANGING: usize = 1_000;
/// At once to each of these: both ends of a connection are open files of this one process.
const HANGING_EACH: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    let quick = extent.rounds == 1;
    disk::settle(folder.path()).await?;
    let syncs = disk::syncs_per_second(folder.path(), Duration::from_secs(1)).await?;
    report.remark(format!("one fsync takes {:.2} ms here", 1_000.0 / syncs));
    let events = if quick { 10_000 } else { 60_000 };
    throughput(extent, events, folder, report).await?;
    latency(extent, folder, report).await?;
    beside_hanging(extent, folder, report).await?;
    fan_out(if quick { 2_000 } else { 20_000 }, folder, report).await
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

    /// Publishes so many events, as fast as it is answered.
    async fn publish(&self, kind: &str, events: usize) -> anyhow::Result<()> {
        let mut publishers = JoinSet::new();
        for number in 0..PUBLISHERS {
            let (address, kind) = (self.address, kind.to_owned());
            publishers.spawn(async move {
                let mut connection = Connection::open(address).await?;
                for batch in (number..events / BATCH).step_by(PUBLISHERS) {
                    let ids = (0..BATCH).map(|n| format!("e-{batch}-{n}"));
                    let request = batch_of(&kind, ids);
                    let status = connection.send(&request).await?;
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

    /// Waits until nothing is pending, as the database says.
    async fn all_noted(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let any = bus::sql(
                "select 1 from webhook_delivery d join webhook_endpoint e
                on e.id = d.endpoint where d.status = 'pending' limit 1",
            );
            if self.node.db().fetch_optional(any).await?.is_none() {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "deliveries are pending");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        Ok(self.node.stop().await?)
    }
}

fn batch_of(kind: &str, ids: impl Iterator<Item = String>) -> Vec<u8> {
    let events: Vec<Value> = ids.map(|id| event(kind, &id)).collect();
    let body = Value::from(events).to_string();
    with_body("POST", "/v1/events", "application/cloudevents-batch+json", &body)
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
    let bare = bare(extent.sample).await?;
    report.add_value("a bare client, 64 at once", "posts/s", bare, &[]);
    let one = delivered(1, events, folder).await?;
    let targets = [Target::AtLeast(6_000.0), Target::AtLeast(0.4 * bare)];
    report.add_value("accepted and delivered to one", "events/s", one, &targets);
    let ten = delivered(10, events / 4, folder).await?;
    let name = "10 endpoints, each event to all";
    report.add_value(name, "deliveries/s", ten, &[Target::AtLeast(15_000.0)]);
    Ok(())
}

/// Posts of a signed body a second, with nothing around them.
async fn bare(length: Duration) -> anyhow::Result<f64> {
    let sink = Sink::start().await?;
    let policy = EgressPolicy {
        allow_private: PrivateNetworks::All,
        idle_connections_per_host_max: BARE_AT_ONCE,
        ..EgressPolicy::DEFAULT
    };
    let egress = Egress::new(policy)?;
    let url = egress.check_url(&sink.url("/hook"))?;
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
        let body =
            json!({"url": sink.url("/hook"), "types": ["bench.t"], "max_concurrent": AT_ONCE});
        server.call("/v1/webhooks", &body).await?;
    }
    let (begun, total) = (Instant::now(), endpoints * events);
    server.publish("bench.t", events).await?;
    sink.reaches(total, PATIENCE).await?;
    server.all_noted().await?;
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
    let body = json!({"url": sink.url("/hook"), "types": ["bench.t"], "max_concurrent": AT_ONCE});
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
    add(&server, HANGING, |_| (sink.url(HANG), "bench.fill".to_owned())).await?;
    add(&server, 1, |_| (sink.url("/hook"), "bench.t".to_owned())).await?;
    // All places of those that hang are taken before anything is measured.
    server.publish("bench.fill", BATCH).await?;
    let begun = Instant::now();
    while sink.hanging() < HANGING * 5 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    report.remark(format!("{} requests hang at once", sink.hanging()));
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
    let url = sink.url(HANG);
    add(&server, ENDPOINTS, |number| {
        let kind =
            if number < MATCHING { "bench.t".to_owned() } else { format!("bench.n{number}") };
        (url.clone(), kind)
    })
    .await?;
    // The first event makes the consumer read all endpoints.
    server.publish("bench.first", BATCH).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    server.publish("bench.t", events).await?;
    loop {
        let count = bus::sql("select count(*) from webhook_delivery");
        let row = server.node.db().fetch_optional(count).await?;
        let rows: i64 = row.map_or(0, |row| sqlx::Row::get(&row, 0));
        if usize::try_from(rows)? >= events * MATCHING {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{rows} deliveries");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = per_second(events, begun.elapsed());
    let name = "events of which ten endpoints get each";
    report.add_value(name, "events/s", rate, &[Target::AtLeast(5_000.0)]);
    server.stop().await
}
