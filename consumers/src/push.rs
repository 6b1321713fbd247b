//! Push consumers: each event is posted to the consumer's URL.
//!
//! `PushWorker` leases rows that are due, as many as may be on their way at once, posts each in a
//! task of its own, and writes the outcomes in bulk. A URL that hangs holds its own places only: a
//! queue's limit is part of the claim.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::pull::Lease;
use bus::work::{self, Claim, LeaseToken, Outcome, WorkId};
use bus::{Clock, Db, Log, Registration, Seal, Span, pull, registry};
use bytes::Bytes;
use egress::{Egress, Secret};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Posts on their way at once, over all consumers of this node.
const IN_FLIGHT_MAX: usize = 256;
/// Rows claimed at once.
const CLAIM_MAX: usize = 64;
/// Longest timeout of one post; the lease outlasts it.
pub const TIMEOUT_MAX: Span = Span(Duration::from_secs(60));
/// How long a row is leased: longer than any post takes, so that it is not posted twice at once.
const LEASE: Duration = Duration::from_secs(90);
/// Posts to one consumer at once, where its policy does not say.
pub const CONCURRENT_DEFAULT: u32 = 10;
/// Longest wait without looking.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a response that an error tells of.
const SHOWN_BYTES: usize = 200;

/// Posts what push consumers are due.
pub struct PushWorker {
    /// The state.
    pub db: Db,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The way out.
    pub egress: Egress,
    /// Opens the secrets that sign.
    pub seal: Option<Seal>,
    /// This process, whose leases are free again when it has ended.
    pub node: bus::NodeId,
    /// Ends it.
    pub stop: CancellationToken,
}

type Answer = (WorkId, LeaseToken, Outcome);

impl PushWorker {
    /// Runs until `stop`; posts on their way are waited for.
    pub async fn run(self) {
        let mut woken = self.db.signals().subscribe(bus::signals::WORK);
        let mut posts: JoinSet<Answer> = JoinSet::new();
        let (answers, inbox) = mpsc::channel(IN_FLIGHT_MAX);
        let settler = tokio::spawn(settle(self.db.clone(), Arc::clone(&self.log), inbox));
        while !self.stop.is_cancelled() {
            woken.borrow_and_update();
            let room = IN_FLIGHT_MAX.saturating_sub(posts.len()).min(CLAIM_MAX);
            let wait = match self.begin(room, &mut posts).await {
                Ok(0) => self.until_due().await,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(%error, "leasing events to push");
                    LOOK
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                Some(Ok(answer)) = posts.join_next() => {
                    let _ = answers.send(answer).await;
                }
                _ = woken.changed(), if room > 0 => {}
                () = tokio::time::sleep(wait), if room > 0 => {}
            }
            while let Some(Ok(answer)) = posts.try_join_next() {
                let _ = answers.send(answer).await;
            }
        }
        while let Some(Ok(answer)) = posts.join_next().await {
            let _ = answers.send(answer).await;
        }
        drop(answers);
        let _ = settler.await;
    }

    async fn begin(
        &self,
        room: usize,
        posts: &mut JoinSet<Answer>,
    ) -> Result<usize, pull::LeaseError> {
        if room == 0 {
            return Ok(0);
        }
        let owner = Some(self.node.as_str());
        let claim = Claim { kind: "push", queue: None, max: room, lease: LEASE, owner };
        let claimed = work::claim(&self.db, &claim).await?;
        if claimed.is_empty() {
            return Ok(0);
        }
        let leases = pull::with_events(&self.db, self.log.as_ref(), claimed).await?;
        let mut consumers: HashMap<String, Option<Arc<Registration>>> = HashMap::new();
        let count = leases.len();
        for lease in leases {
            let name = lease.work.queue_name.clone();
            let consumer = match consumers.get(&name) {
                Some(known) => known.clone(),
                None => {
                    let found = registry::find(&self.db, &name).await?.map(Arc::new);
                    consumers.insert(name, found.clone());
                    found
                }
            };
            let egress = self.egress.clone();
            let seal = self.seal.clone();
            let at = Clock::wall_seconds();
            posts.spawn(async move {
                let outcome = match consumer {
                    Some(consumer) => post(&egress, seal.as_ref(), &consumer, &lease, at).await,
                    None => Outcome::Released { delay: LOOK },
                };
                (lease.work.id, lease.work.token, outcome)
            });
        }
        Ok(count)
    }

    async fn until_due(&self) -> Duration {
        let due = work::next_due(&self.db, "push", None).await.ok().flatten();
        let now = self.db.clock().now().as_micros();
        due.map_or(LOOK, |due| {
            let us = u64::try_from(due.as_micros() - now).unwrap_or(0);
            Duration::from_micros(us).clamp(Duration::from_millis(1), LOOK)
        })
    }
}

/// Writes outcomes, as many together as have come in.
async fn settle(db: Db, log: Arc<dyn Log>, mut inbox: mpsc::Receiver<Answer>) {
    let mut answers = Vec::new();
    while inbox.recv_many(&mut answers, IN_FLIGHT_MAX).await > 0 {
        while let Err(error) = pull::answer(&db, log.as_ref(), None, &answers).await {
            // The outcome is known and must not be lost: the lease outlasts a short outage.
            tracing::warn!(%error, "writing what became of pushes");
            tokio::time::sleep(LOOK).await;
        }
        answers.clear();
    }
}

async fn post(
    egress: &Egress,
    seal: Option<&Seal>,
    consumer: &Registration,
    lease: &Lease,
    at: i64,
) -> Outcome {
    let failed =
        |error: String, permanent: bool, delay| Outcome::Failed { error, permanent, delay };
    let url = consumer.url.as_deref().unwrap_or_default();
    let target = match egress.check_url(url) {
        Ok(target) => target,
        Err(error) => return failed(chain(&error), false, None),
    };
    let body = Bytes::from(lease.event.event.to_json());
    let headers = match headers(consumer, seal, lease, at, &body) {
        Ok(headers) => headers,
        Err(error) => return failed(error, false, None), // A key that is missing may come back.
    };
    let timeout = lease.work.policy.timeout.min(TIMEOUT_MAX).0;
    let request = egress::Request { method: Method::POST, url: target, headers, body, timeout };
    match egress.send_for_status(request).await {
        Ok(response) if response.status.is_success() => match response.cut {
            None => Outcome::Done { output: None },
            Some(error) => failed(chain(&error), false, None),
        },
        Ok(response) => {
            let busy = matches!(
                response.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            let delay = response.retry_after(at).filter(|_| busy);
            failed(told(&response), response.status == StatusCode::GONE, delay)
        }
        Err(error) => failed(chain(&error), false, None),
    }
}

/// As webhooks have them (Standard Webhooks 1.0): the id is the same over all attempts.
fn headers(
    consumer: &Registration,
    seal: Option<&Seal>,
    lease: &Lease,
    at: i64,
    body: &[u8],
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let id = lease.work.id.prefixed("msg");
    let mut add = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
        headers.insert(HeaderName::from_static(name), value);
        Ok::<(), String>(())
    };
    add("content-type", "application/cloudevents+json")?;
    add("webhook-id", &id)?;
    add("webhook-timestamp", &at.to_string())?;
    if let Some(secret) = &consumer.secret {
        let seal = seal.ok_or("the secret is sealed, and there is no security.encryption_key")?;
        let secret = seal.open(secret).map_err(|error| error.to_string())?;
        let secret: Secret = secret.parse().map_err(|_| "the secret is broken".to_owned())?;
        add("webhook-signature", &secret.sign(&id, at, body))?;
    }
    if let Some(parent) = lease.event.event.traceparent() {
        add("traceparent", parent)?;
    }
    Ok(headers)
}

fn told(response: &egress::Response) -> String {
    let shown = &response.body[..response.body.len().min(SHOWN_BYTES)];
    let text = String::from_utf8_lossy(shown);
    let text = text.trim();
    let status = response.status.as_u16();
    if text.is_empty() {
        format!("answered {status}")
    } else {
        format!("answered {status}: {text}")
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
