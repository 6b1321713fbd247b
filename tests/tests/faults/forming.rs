//! A node is started together with the servers of its broker.

use std::time::Duration;

use skald_tests::{Nats, Setup};

/// Longer than one question to the servers is waited for.
const LATE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_until_the_servers_have_found_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = Nats::begin(3);
    nats.kill_9(2);
    let setup = Setup::serve(folder.path(), super::site::KEY)
        .environment("SKALD_LOG__URL", nats.url())
        .environment("SKALD_LOG__REPLICAS", "3")
        .environment("SKALD_SECURITY__ADMIN_KEY", super::site::KEY);
    let late = async {
        tokio::time::sleep(LATE).await;
        nats.restart(2);
    };
    let (house, ()) = tokio::join!(setup.start(), late);
    house.get("/readyz").await.check(200);
}
