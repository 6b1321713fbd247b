//! Two nodes, their broker and their database.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use skald_tests::{Client, House, Nats, Postgres, Setup, eventually_within};

use crate::load::workers::CONSUMER;

pub(super) const KEY: &str = "sk_fault_suite_0123456789";

/// How long anything may take that nodes do by themselves: a takeover, most of all.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(15);

/// Real processes, stopped in this order when the site goes.
pub(crate) struct Site {
    pub(crate) nodes: [House; 2],
    pub(crate) nats: Nats,
    pub(crate) postgres: Postgres,
}

impl Site {
    /// Two nodes with a ledger inside, on so many NATS servers and one Postgres.
    pub(crate) async fn start(servers: usize) -> Site {
        let nats = Nats::start(servers).await;
        let postgres = Postgres::start().await;
        let program = Path::new(env!("CARGO_BIN_EXE_ledger"));
        let setup = Setup::program(program, Some(KEY))
            .environment("SKALD_LOG__URL", nats.url())
            .environment("SKALD_LOG__REPLICAS", servers.to_string())
            .environment("SKALD_DATABASE__URL", postgres.url())
            .environment("SKALD_SECURITY__ADMIN_KEY", KEY);
        let nodes = [setup.clone().start().await, setup.start().await];
        let policy = json!({"ordered": true, "attempts_max": 100});
        nodes[0].pull_consumer(CONSUMER, "crash.>", policy).await;
        let site = Site { nodes, nats, postgres };
        site.shared().await;
        site
    }

    /// Clients of both nodes, which follow them when they are started again.
    pub(crate) fn clients(&self) -> [Client; 2] {
        self.nodes.each_ref().map(|node| Client::clone(node))
    }

    /// Waits until each node has half of the ledger's partitions.
    pub(crate) async fn shared(&self) {
        eventually_within(TAKEOVER, "the nodes share the partitions", async || {
            let shares = "select count(*) from consumer_partition
                where consumer = 'keep-ledger' and node is not null group by node";
            (self.postgres.query(shares).await == ["8", "8"]).then_some(())
        })
        .await;
    }

    /// Waits until every node says that it is ready.
    pub(crate) async fn ready(&self) {
        for node in &self.nodes {
            eventually_within(TAKEOVER, "the node is ready", async || {
                let answer = node.call(http::Method::GET, "/readyz").try_send().await.ok()?;
                answer.status.is_success().then_some(())
            })
            .await;
        }
    }
}
