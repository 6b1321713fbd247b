//! Who publishes orders, who packs them, and who is told of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use egress::Secret;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use skald_tests::{Client, Lease, eventually_within};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::stage::Stage;

/// The type of orders.
pub(crate) const PLACED: &str = "com.acme.order.placed";
/// The consumer that packs them.
pub(crate) const PACKER: &str = "pack-order";
/// Between two orders, and before one that was not answered is published again.
const PACE: Duration = Duration::from_millis(80);
/// How long a client waits for an answer before it asks another node.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all may take to come to rest when nothing fails any more.
const REST: Duration = Duration::from_secs(150);

/// What is in stock for the order of this number; a third of them fail.
pub(crate) fn completes(n: usize) -> bool {
    !n.is_multiple_of(3)
}

fn order(n: usize) -> Value {
    let stock = if completes(n) { "fine" } else { "sold_out" };
    json!({"type": PLACED, "source": "/shop", "id": format!("o{n}"), "subject": format!("o{n}"),
        "data": {"id": format!("o{n}"), "stock": stock}})
}

/// A customer's webhook receiver, which checks every signature.
pub(crate) struct Hook {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    secret: OnceLock<Secret>,
    refuses: AtomicBool,
    /// How often each event came, by its id.
    events: Mutex<BTreeMap<String, usize>>,
    forged: AtomicUsize,
}

impl Hook {
    pub(crate) async fn open() -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let seen: Arc<Seen> = Arc::default();
        let router = Router::new().fallback(take).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Hook { url, seen }
    }

    pub(crate) fn trust(&self, secret: &str) {
        let _ = self.seen.secret.set(secret.parse().unwrap());
    }

    /// Whether it answers 500 to everything from now on.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.seen.refuses.store(refuses, Ordering::Relaxed);
    }

    fn events(&self) -> BTreeMap<String, usize> {
        self.seen.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn take(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if seen.refuses.load(Ordering::Relaxed) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let (id, at) = (header("webhook-id"), header("webhook-timestamp").parse().unwrap());
    let secret = seen.secret.get().unwrap();
    if !secret.verify(id, at, &body, header("webhook-signature")) {
        seen.forged.fetch_add(1, Ordering::Relaxed);
        return StatusCode::UNAUTHORIZED;
    }
    let event: Value = serde_json::from_slice(&body).unwrap();
    let id = event["id"].as_str().unwrap().to_owned();
    *seen.events.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
    StatusCode::NO_CONTENT
}

/// Orders under way.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Published>,
    packing: JoinHandle<()>,
    packed: Arc<Mutex<Packed>>,
}

/// What the producer saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    pub(crate) orders: usize,
    unanswered: usize,
    refused: usize,
}

/// What the packer saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    /// By the event's id: acks that were ok, and acks that nobody answered.
    pub(crate) acks: BTreeMap<String, (usize, usize)>,
    leases: usize,
}

/// What was seen when all had come to rest.
pub(crate) struct Done {
    pub(crate) published: Published,
    pub(crate) packed: Packed,
    pub(crate) received: BTreeMap<String, usize>,
    pub(crate) forged: usize,
}

impl Flow {
    pub(crate) async fn start(stage: &Stage) -> Flow {
        let (stop, packed) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let publishing = tokio::spawn(publish(stage.clients(), Arc::clone(&stop)));
        let packing = tokio::spawn(pack(stage.clients(), Arc::clone(&packed)));
        Flow { stop, publishing, packing, packed }
    }

    /// Ends the orders, and waits until everything has come of them that must.
    pub(crate) async fn end(self, stage: &Stage) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.publishing.await.expect("no panic");
        let ids: Vec<String> = (0..published.orders).map(|n| format!("order:o{n}")).collect();
        let node = &stage.nodes[0];
        eventually_within(REST, "all sagas have ended", async || {
            let mut pending = 0;
            for ids in ids.chunks(1_000) {
                let waited = node.post("/v1/wait", json!({"ids": ids, "timeout": "5s"})).await;
                // An order whose event is not consumed yet has no saga.
                if waited.status != 200 {
                    return None;
                }
                pending += waited.json()["pending"].as_array()?.len();
            }
            (pending == 0).then_some(())
        })
        .await;
        eventually_within(REST, "all consumers have caught up", async || {
            let list = node.get("/v1/consumers?limit=500").await.json_of(200);
            let busy = |consumer: &Value| {
                ["waiting", "in_flight", "retrying"].iter().any(|name| consumer[*name] != 0)
            };
            (!list["items"].as_array()?.iter().any(busy)).then_some(())
        })
        .await;
        eventually_within(REST, "the receiver was told of all orders", async || {
            (stage.hook.events().len() == published.orders).then_some(())
        })
        .await;
        self.packing.abort();
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let forged = stage.hook.seen.forged.load(Ordering::Relaxed);
        Done { published, packed, received: stage.hook.events(), forged }
    }
}

/// One order after the other; one that is not answered is published again, on another node.
async fn publish(nodes: Vec<Client>, stop: Arc<AtomicBool>) -> Published {
    let (mut published, mut node) = (Published::default(), 0);
    while !stop.load(Ordering::Relaxed) {
        loop {
            let call = nodes[node].call(Method::POST, "/v1/events");
            match timeout(PATIENCE, call.json(&order(published.orders)).try_send()).await {
                Ok(Ok(answer)) if answer.status == 202 => break,
                Ok(Ok(answer)) => {
                    answer.check(503);
                    published.refused += 1;
                }
                _ => published.unanswered += 1,
            }
            node = (node + 1) % nodes.len();
            sleep(PACE).await;
        }
        published.orders += 1;
        sleep(PACE).await;
    }
    published
}

/// Leases and acks for ever, wherever a node answers.
async fn pack(nodes: Vec<Client>, packed: Arc<Mutex<Packed>>) {
    for round in 0.. {
        if round_on(&nodes[round % nodes.len()], &packed).await.is_none() {
            sleep(PACE).await;
        }
    }
}

async fn round_on(node: &Client, packed: &Mutex<Packed>) -> Option<()> {
    let call = |verb: &str, body: Value| {
        let path = format!("/v1/consumers/{PACKER}/{verb}");
        let call = node.call(Method::POST, &path).json(&body);
        async move { timeout(PATIENCE, call.try_send()).await.ok()?.ok() }
    };
    let terms = json!({"max": 20, "lease": "2s", "wait": "500ms"});
    let leased = call("lease", terms).await.filter(|answer| answer.status == 200)?;
    let leases = Lease::read_all(&leased.json());
    let ids: Vec<String> = leases
        .iter()
        .map(|lease| lease.whole["event"]["id"].as_str().unwrap().to_owned())
        .collect();
    let proofs: Vec<Value> = leases.iter().map(Lease::proof).collect();
    let lock = || packed.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut packed = lock();
        packed.leases += ids.len();
        for id in &ids {
            packed.acks.entry(id.clone()).or_default().1 += 1;
        }
    }
    if proofs.is_empty() {
        return Some(());
    }
    let answered = call("ack", json!({"leases": proofs})).await;
    let answered = answered.filter(|answer| answer.status == 200)?.json();
    let mut packed = lock();
    for (id, result) in ids.iter().zip(answered["leases"].as_array().unwrap()) {
        let (ok, open) = packed.acks.entry(id.clone()).or_default();
        *open -= 1;
        *ok += usize::from(result["result"] == "ok");
    }
    Some(())
}

impl Done {
    pub(crate) fn table(&self) -> Vec<String> {
        let Published { orders, unanswered, refused } = self.published;
        let again = self.received.values().map(|times| times - 1).sum::<usize>();
        vec![
            format!(
                "{orders} orders published, {unanswered} calls not answered, {refused} refused"
            ),
            format!("{} leases for {} orders packed", self.packed.leases, self.packed.acks.len()),
            format!("{} orders by webhook, {again} of them again", self.received.len()),
        ]
    }
}
