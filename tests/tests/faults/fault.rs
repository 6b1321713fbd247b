//! What is done to the processes of a site, one at a time, and how long until all goes on.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;
use skald_tests::Client;
use tokio::time::{Instant, sleep, timeout};

use super::ledger;
use super::site::{Site, TAKEOVER};
use crate::load::journal::Journal;
use crate::load::producers::{Producer, Published};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` of a node.
    NodeKilled,
    /// SIGSTOP of a node in the middle of its batches, until the other has taken over, then SIGCONT.
    NodePaused,
    /// One node after the other is asked to stop and started again.
    NodesRestarted,
    /// The only NATS server is asked to stop, and started again.
    NatsRestarted,
    /// The only NATS server is killed, and started again.
    NatsKilled,
    /// `kill -9` of the server that leads the stream.
    LeaderKilled,
    /// SIGSTOP of the server that leads the stream: connections to it stay open and dead.
    LeaderPaused,
    /// SIGSTOP of a server and of a node that is connected to it.
    MinorityCutOff,
    /// Postgres is asked to stop, and started again.
    PostgresRestarted,
    /// Postgres ends all connections, several times in a row.
    ConnectionsDropped,
}

impl Fault {
    /// Those that a site with one NATS server must survive.
    pub(crate) const WITH_ONE_SERVER: &[Fault] = &[
        Fault::NodeKilled,
        Fault::NodePaused,
        Fault::NodesRestarted,
        Fault::NatsRestarted,
        Fault::NatsKilled,
        Fault::PostgresRestarted,
        Fault::ConnectionsDropped,
    ];

    /// Those that a site with three must.
    pub(crate) const WITH_THREE_SERVERS: &[Fault] = &[
        Fault::LeaderKilled,
        Fault::LeaderPaused,
        Fault::MinorityCutOff,
        Fault::NodeKilled,
        Fault::NodePaused,
        Fault::NodesRestarted,
        Fault::PostgresRestarted,
    ];

    /// How long after it all must go on again. Where the brokers first have to agree on who leads,
    /// and connections to find out that they are dead, that comes on top of what nodes do.
    pub(crate) fn limit(self) -> Duration {
        match self {
            Fault::LeaderKilled | Fault::LeaderPaused | Fault::MinorityCutOff => 2 * TAKEOVER,
            _ => TAKEOVER,
        }
    }

    /// Whether no producer that waits is told of an error: all that it needs is there, or is again
    /// soon.
    pub(crate) fn is_hidden(self) -> bool {
        matches!(self, Fault::NodesRestarted | Fault::LeaderKilled)
    }
}

/// How long after a fault all went on again.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// Events of all keys were published.
    pub(crate) published: Duration,
    /// They were done.
    pub(crate) done: Duration,
}

/// Publishes one event of each key, which come to both nodes' partitions, to see when all goes on.
pub(crate) struct Probe {
    clients: [Client; 2],
    producer: Producer,
}

impl Probe {
    pub(crate) fn new(site: &Site) -> Probe {
        Probe { clients: site.clients(), producer: Producer::new(9, 0) }
    }

    /// Publishes through one of `nodes`, whichever takes it; answers where the events stand.
    async fn publish(&mut self, nodes: &[usize], linger_ms: u64, journal: &Journal) -> Vec<i64> {
        self.producer.of_each_key(&json!({"linger_ms": linger_ms}));
        let end = Instant::now() + 2 * TAKEOVER;
        for node in nodes.iter().cycle() {
            assert!(Instant::now() < end, "nothing can be published");
            let call = self.producer.publish(&self.clients[*node], journal);
            if let Ok(Published::Accepted(seqs)) = timeout(Duration::from_secs(5), call).await {
                return seqs;
            }
            sleep(Duration::from_millis(50)).await;
        }
        unreachable!("there are nodes")
    }

    /// How long after `since` events of all keys are published and done again.
    async fn recovered(
        &mut self,
        (site, nodes): (&Site, &[usize]),
        since: Instant,
        journal: &Journal,
    ) -> Recovery {
        let seqs = self.publish(nodes, 0, journal).await;
        let published = since.elapsed();
        ledger::has(&site.postgres, &seqs, 3 * TAKEOVER).await;
        Recovery { published, done: since.elapsed() }
    }

    /// Does it, and waits until all is as before. Answers how long it took until events of all keys
    /// were done again: from the fault where nodes have to get over it by themselves, from its end
    /// where what they need was gone.
    #[expect(clippy::too_many_lines, reason = "one arm for each fault, read one at a time")]
    pub(crate) async fn go_through(
        &mut self,
        fault: Fault,
        site: &mut Site,
        random: &mut StdRng,
        journal: &Journal,
    ) -> Recovery {
        const BOTH: &[usize] = &[0, 1];
        let node = random.random_range(0..2);
        let others = &[1 - node];
        let gone = Duration::from_millis(random.random_range(500..3_000));
        let start = Instant::now();
        match fault {
            Fault::NodeKilled => {
                site.nodes[node].kill_9();
                let took = self.recovered((site, others), start, journal).await;
                site.nodes[node].restart().await;
                took
            }
            Fault::NodePaused => {
                // Half a second of work for each node, that it is stopped in.
                self.publish(BOTH, 30, journal).await;
                sleep(gone / 6).await;
                site.nodes[node].pause();
                let took = self.recovered((site, others), Instant::now(), journal).await;
                site.nodes[node].resume();
                took
            }
            Fault::NodesRestarted => {
                for node in &mut site.nodes {
                    node.terminate().await;
                    node.restart().await;
                }
                let back = Instant::now();
                self.recovered((site, BOTH), back, journal).await
            }
            Fault::NatsRestarted | Fault::NatsKilled => {
                if fault == Fault::NatsKilled {
                    site.nats.kill_9(0);
                } else {
                    site.nats.stop(0).await;
                }
                sleep(gone).await;
                site.nats.restart(0);
                site.nats.well().await;
                let back = Instant::now();
                self.recovered((site, BOTH), back, journal).await
            }
            Fault::LeaderKilled => {
                let leader = site.nats.leader("EVENTS").await;
                let start = Instant::now();
                site.nats.kill_9(leader);
                let took = self.recovered((site, BOTH), start, journal).await;
                site.nats.restart(leader);
                took
            }
            Fault::LeaderPaused => {
                let leader = site.nats.leader("EVENTS").await;
                let start = Instant::now();
                site.nats.pause(leader);
                let took = self.recovered((site, BOTH), start, journal).await;
                site.nats.resume(leader);
                took
            }
            Fault::MinorityCutOff => {
                let connected = site.nodes[node].connected_from();
                let mut server = 0;
                for candidate in 0..site.nats.len() {
                    let clients = site.nats.clients(candidate).await;
                    if clients.iter().any(|port| connected.contains(port)) {
                        server = candidate;
                    }
                }
                let start = Instant::now();
                site.nats.pause(server);
                site.nodes[node].pause();
                let took = self.recovered((site, others), start, journal).await;
                site.nats.resume(server);
                site.nodes[node].resume();
                took
            }
            Fault::PostgresRestarted => {
                site.postgres.stop().await;
                sleep(gone).await;
                site.postgres.restart().await;
                let back = Instant::now();
                self.recovered((site, BOTH), back, journal).await
            }
            Fault::ConnectionsDropped => {
                for _ in 0..3 {
                    site.postgres.drop_connections().await;
                    sleep(gone / 10).await;
                }
                self.recovered((site, BOTH), start, journal).await
            }
        }
    }
}
