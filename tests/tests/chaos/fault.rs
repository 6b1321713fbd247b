//! What is done to the processes of a stage.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::stage::Stage;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9` of a node, started again after a while.
    NodeKilled,
    /// SIGSTOP of a node, then SIGCONT.
    NodePaused,
    /// `kill -9` of one of the three services.
    ServiceKilled,
    /// SIGSTOP of one of the three services, then SIGCONT.
    ServicePaused,
    /// The webhook receiver refuses everything for a while.
    ReceiverDown,
    /// The first node's wall clock goes ahead by hours, or back.
    ClockShifted,
    /// `kill -9` of the NATS server that leads the stream.
    LeaderKilled,
    /// SIGSTOP of any NATS server, then SIGCONT.
    BrokerPaused,
    /// Postgres is stopped, and started again.
    PostgresRestarted,
}

impl Fault {
    /// What can befall one node on files.
    pub(crate) const EMBEDDED: &[Fault] = &[
        Fault::NodeKilled,
        Fault::NodePaused,
        Fault::ServiceKilled,
        Fault::ServicePaused,
        Fault::ReceiverDown,
        Fault::ClockShifted,
    ];

    /// What can befall several on servers.
    pub(crate) const DISTRIBUTED: &[Fault] = &[
        Fault::NodeKilled,
        Fault::NodePaused,
        Fault::ServiceKilled,
        Fault::ServicePaused,
        Fault::ReceiverDown,
        Fault::ClockShifted,
        Fault::LeaderKilled,
        Fault::BrokerPaused,
        Fault::PostgresRestarted,
    ];

    /// Does it, and undoes it after a while.
    pub(crate) async fn strike(self, stage: &mut Stage, random: &mut StdRng) {
        let away = Duration::from_millis(random.random_range(100..3_000));
        let (node, service) =
            (random.random_range(0..stage.nodes.len()), random.random_range(0..3));
        match self {
            Fault::NodeKilled => {
                stage.nodes[node].kill_9();
                sleep(away).await;
                stage.nodes[node].restart().await;
            }
            Fault::NodePaused => {
                stage.nodes[node].pause();
                sleep(away * 3).await; // Long enough to be taken for dead, now and then.
                stage.nodes[node].resume();
            }
            Fault::ServiceKilled => {
                stage.services[service].kill_9();
                sleep(away).await;
                stage.services[service].restart().await;
            }
            Fault::ServicePaused => {
                stage.services[service].pause();
                sleep(away).await;
                stage.services[service].resume();
            }
            Fault::ReceiverDown => {
                stage.hook.refuse(true);
                sleep(away).await;
                stage.hook.refuse(false);
            }
            Fault::ClockShifted => {
                stage.clock.shift(&format!("{:+}m", random.random_range(-180..180)));
            }
            Fault::LeaderKilled => {
                let Some(nats) = &mut stage.nats else { return };
                let leader = nats.leader("EVENTS").await;
                nats.kill_9(leader);
                sleep(away).await;
                nats.restart(leader);
            }
            Fault::BrokerPaused => {
                let Some(nats) = &stage.nats else { return };
                let server = random.random_range(0..nats.len());
                nats.pause(server);
                sleep(away).await;
                nats.resume(server);
            }
            Fault::PostgresRestarted => {
                let Some(postgres) = &mut stage.postgres else { return };
                postgres.stop().await;
                sleep(away).await;
                postgres.restart().await;
            }
        }
    }
}

/// How often each kind struck, and how long it took until all was well again.
#[derive(Default)]
pub(crate) struct Tally {
    kinds: BTreeMap<Fault, (usize, Duration)>,
}

impl Tally {
    pub(crate) fn note(&mut self, fault: Fault, took: Duration) {
        let (count, longest) = self.kinds.entry(fault).or_default();
        *count += 1;
        *longest = took.max(*longest);
    }

    pub(crate) fn table(&self) -> Vec<String> {
        let line = |(fault, (count, longest)): (&Fault, &(usize, Duration))| {
            let name = format!("{fault:?}");
            format!(
                "{name:<18} {count:>4} times, well again after {:>5.1} s at most",
                longest.as_secs_f64()
            )
        };
        self.kinds.iter().map(line).collect()
    }
}
