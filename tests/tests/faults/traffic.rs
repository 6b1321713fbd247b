//! Producers and workers that try another node when one does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use skald_tests::{Client, eventually_within};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::load::journal::Journal;
use crate::load::producers::{Producer, Published};
use crate::load::workers::{Unanswered, round};

/// How long each producer waits for an answer before it asks the other node: one gives up soon.
const PATIENCE: [Duration; 3] =
    [Duration::from_secs(25), Duration::from_secs(25), Duration::from_secs(3)];
const WORKERS: usize = 3;
/// Between two calls of a producer: a load that two cores carry beside everything else.
const PAUSE: Duration = Duration::from_millis(80);
/// Before a call is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// What the nodes answered that was no success.
#[derive(Default)]
pub(crate) struct Refusals {
    /// 503 to producers.
    pub(crate) publishes: AtomicUsize,
    /// 503 to workers.
    pub(crate) leases: AtomicUsize,
}

/// A load that goes on until it is ended.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) refusals: Arc<Refusals>,
    /// How often each producer was told that its events stand there.
    accepted: [Arc<AtomicUsize>; PATIENCE.len()],
    producing: Vec<JoinHandle<Producer>>,
    working: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(crate) fn start(nodes: &[Client; 2], seed: u64) -> Traffic {
        let mut traffic = Traffic {
            stop: Arc::default(),
            journal: Arc::default(),
            refusals: Arc::default(),
            accepted: Default::default(),
            producing: Vec::new(),
            working: Vec::new(),
        };
        for (name, patience) in PATIENCE.into_iter().enumerate() {
            let producer = Producer::new(name, seed);
            let accepted = Arc::clone(&traffic.accepted[name]);
            let task = traffic.load(nodes, name).produce(producer, patience, accepted);
            traffic.producing.push(tokio::spawn(task));
        }
        for worker in 0..WORKERS {
            let random = StdRng::seed_from_u64(seed ^ (100 + worker as u64));
            traffic.working.push(tokio::spawn(traffic.load(nodes, worker).work(random)));
        }
        traffic
    }

    fn load(&self, nodes: &[Client; 2], at: usize) -> Load {
        Load {
            nodes: nodes.clone(),
            at: at % 2,
            stop: Arc::clone(&self.stop),
            journal: Arc::clone(&self.journal),
            refusals: Arc::clone(&self.refusals),
        }
    }

    /// Waits until every producer is served: none waits for what was lost before.
    pub(crate) async fn flows(&self, within: Duration) {
        let now = || self.accepted.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = now();
        eventually_within(within, "every producer is served", async || {
            now().iter().zip(&before).all(|(now, before)| now > before).then_some(())
        })
        .await;
    }

    /// Ends the load; what was not answered is published once more.
    pub(crate) async fn end(self, node: &Client) -> Arc<Journal> {
        self.stop.store(true, Ordering::Relaxed);
        for producer in join_all(self.producing).await {
            producer.expect("no panic").finish(node, &self.journal).await;
        }
        for worker in join_all(self.working).await {
            worker.expect("no panic");
        }
        self.journal
    }
}

/// One producer's or worker's way to the nodes.
struct Load {
    nodes: [Client; 2],
    at: usize,
    stop: Arc<AtomicBool>,
    journal: Arc<Journal>,
    refusals: Arc<Refusals>,
}

impl Load {
    async fn produce(
        mut self,
        mut producer: Producer,
        patience: Duration,
        accepted: Arc<AtomicUsize>,
    ) -> Producer {
        while !self.stop.load(Ordering::Relaxed) {
            let call = producer.publish(&self.nodes[self.at], &self.journal);
            match timeout(patience, call).await {
                Ok(Published::Accepted(_)) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                    continue;
                }
                Ok(Published::Refused(answer)) => {
                    answer.check(503);
                    assert_ne!(answer.header("retry-after"), "", "{}", answer.text());
                    self.refusals.publishes.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Published::Gone) | Err(_) => {}
            }
            self.turn().await;
        }
        producer
    }

    async fn work(mut self, mut random: StdRng) {
        while !self.stop.load(Ordering::Relaxed) {
            let call = round(&self.nodes[self.at], &self.journal, &mut random, (20, "200ms"));
            match timeout(Duration::from_secs(3), call).await {
                Ok(Ok(())) => continue,
                Ok(Err(Unanswered::Later)) => {
                    self.refusals.leases.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Err(Unanswered::Gone)) | Err(_) => {}
            }
            self.turn().await;
        }
    }

    /// To the other node.
    async fn turn(&mut self) {
        self.at = 1 - self.at;
        sleep(AGAIN).await;
    }
}
