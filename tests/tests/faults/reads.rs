//! The log is read while a server of the broker stands still.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::site::Site;

const EVENTS: usize = 24;
/// For all reads: the server that stands still does not lead the stream and has not the node's
/// connection, but may lead the brokers, who make no consumers then until they have elected another.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_while_a_server_stands_still() {
    let mut site = Site::start(3).await;
    let event = |n| json!({"type": "crash.happened", "source": "/reads", "id": format!("r{n}"), "specversion": "1.0", "data": {}});
    let events: Vec<_> = (0..EVENTS).map(event).collect();
    let receipts = site.nodes[0].publish_batch(&events).await;
    // It has nothing in memory that was there before it started.
    site.nodes[0].terminate().await;
    site.nodes[0].restart().await;

    let leader = site.nats.leader("EVENTS").await;
    let connected = site.nodes[0].connected_from();
    let mut idle = None;
    for server in (0..site.nats.len()).filter(|server| *server != leader) {
        let clients = site.nats.clients(server).await;
        if !clients.iter().any(|port| connected.contains(port)) {
            idle = Some(server);
        }
    }
    let idle = idle.expect("a node is connected to one server, and two do not lead");
    site.nats.pause(idle);
    let begun = Instant::now();
    for receipt in &receipts {
        let seq = receipt["seq"].as_i64().unwrap();
        let found = site.nodes[0].get(&format!("/v1/events/{seq}")).await;
        assert_eq!(found.status, 200, "{receipt}");
        let page = format!("/v1/events?after={}&limit=1", seq - 1);
        let page = site.nodes[0].get(&page).await;
        assert_eq!(page.status, 200, "{receipt}");
        assert_eq!(page.json()["items"][0]["seq"], seq);
    }
    let took = begun.elapsed();
    site.nats.resume(idle);
    assert!(took < LIMIT, "{EVENTS} events and pages were read in {took:?}");
}
