//! All processes of a run, and what they are configured with.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use skald_tests::{Client, House, Nats, Postgres, Service, Setup, ShiftedClock, eventually_within};
use tempfile::TempDir;

use super::orders::{Hook, PACKER, PLACED};

const KEY: &str = "sk_chaos_suite_0123456789abcdef";
const ENCRYPTION_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// How long until everything answers again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tried often, and for longer than any fault lasts.
const RETRY: &str = "attempts_max: 100, backoff_min: 50ms, backoff_max: 1s";

/// Real processes, stopped in this order when the stage goes.
pub(crate) struct Stage {
    pub(crate) nodes: Vec<House>,
    /// Payment, stock and delivery.
    pub(crate) services: [Service; 3],
    pub(crate) nats: Option<Nats>,
    pub(crate) postgres: Option<Postgres>,
    /// The webhook receiver.
    pub(crate) hook: Hook,
    /// The clock of the first node.
    pub(crate) clock: ShiftedClock,
    _folder: TempDir,
}

impl Stage {
    /// One node on files.
    pub(crate) async fn embedded() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let clock = ShiftedClock::new(folder.path());
        let node = clock.for_process(Setup::dev()).start().await;
        Stage::with(vec![node], None, None, clock, folder).await
    }

    /// Two nodes on three NATS servers and Postgres.
    pub(crate) async fn distributed() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let clock = ShiftedClock::new(folder.path());
        let (nats, postgres) = (Nats::start(3).await, Postgres::start().await);
        let setup = |n: usize| {
            Setup::serve(&folder.path().join(format!("node-{n}")), KEY)
                .environment("SKALD_LOG__URL", nats.url())
                .environment("SKALD_LOG__REPLICAS", "3")
                .environment("SKALD_DATABASE__URL", postgres.url())
                .environment("SKALD_SECURITY__ADMIN_KEY", KEY)
                .environment("SKALD_SECURITY__ENCRYPTION_KEY", ENCRYPTION_KEY)
                .environment("SKALD_WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "127.0.0.0/8")
        };
        let nodes = vec![clock.for_process(setup(0)).start().await, setup(1).start().await];
        Stage::with(nodes, Some(nats), Some(postgres), clock, folder).await
    }

    async fn with(
        nodes: Vec<House>,
        nats: Option<Nats>,
        postgres: Option<Postgres>,
        clock: ShiftedClock,
        folder: TempDir,
    ) -> Stage {
        let program = Path::new(env!("CARGO_BIN_EXE_participant"));
        let services = [
            Service::start(program, folder.path(), "payment", None).await,
            Service::start(program, folder.path(), "stock", None).await,
            Service::start(program, folder.path(), "delivery", None).await,
        ];
        let hook = Hook::open().await;
        let stage = Stage { nodes, services, nats, postgres, hook, clock, _folder: folder };
        stage.register().await;
        stage
    }

    async fn register(&self) {
        let [payment, stock, delivery] = self.services.each_ref().map(Service::url);
        let definition = format!(
            "saga: order
start_on: {PLACED}
id: '{{{{ event.data.id }}}}'
steps:
  - step: charge
    post: '{payment}/charge'
    retry: {{ {RETRY} }}
    undo: {{ post: '{payment}/refund', {RETRY} }}
  - together:
    - {{ step: reserve, post: '{stock}/reserve', body: '{{{{ input.stock }}}}', retry: {{ {RETRY} }}, undo: {{ post: '{stock}/release', {RETRY} }} }}
    - {{ step: book, post: '{delivery}/book', retry: {{ {RETRY} }}, undo: {{ post: '{delivery}/cancel', {RETRY} }} }}
  - {{ step: confirm, publish: com.acme.order.confirmed, body: '{{{{ input.id }}}}', no_undo: said }}
"
        );
        let put = self.nodes[0].call(http::Method::PUT, "/v1/sagas/definitions/order");
        put.typed("application/yaml", definition).send().await.check(201);
        let policy = json!({"attempts_max": 100, "backoff_min": "50ms", "backoff_max": "500ms"});
        self.nodes[0].pull_consumer(PACKER, PLACED, policy).await;
        let retry = vec!["1s"; 30];
        let endpoint = json!({"url": self.hook.url, "types": [PLACED], "retry": retry});
        let endpoint = self.nodes[0].post("/v1/webhooks", endpoint).await.json_of(201);
        self.hook.trust(endpoint["secret"].as_str().unwrap());
    }

    /// Clients of all nodes, which follow them when they are started again.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| Client::clone(node)).collect()
    }

    /// Waits until every process is well again.
    pub(crate) async fn well(&self) {
        if let Some(nats) = &self.nats {
            nats.well().await;
        }
        for node in &self.nodes {
            eventually_within(PATIENCE, "a node is ready", async || {
                let answer = node.call(http::Method::GET, "/readyz").try_send().await.ok()?;
                answer.status.is_success().then_some(())
            })
            .await;
        }
    }
}
