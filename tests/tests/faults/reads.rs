//! The log is read while a server of the broker stands still.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::site::Site;

const EVENTS: usize = 24;
/// For all reads: no consumer is made until the servers have elected another leader, so that each
/// page waits for one in vain.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_while_a_server_stands_still() {
    let mut site = Site::start(3).await;
    let event = |n| json!({"type": "crash.happened", "source": "/reads", "id": format!("r{n}"), "specversion": "1.0", "data": {}});
    let events: Vec<_> = (0..EVENTS).map(event).collect();
    let receipts = site.nodes[0].publish_batch(&events).await;

    // The server that makes consumers, and neither leads the stream nor has the node's connection.
    let idle = site.nats.meta_leader().await;
    site.nats.led_elsewhere("EVENTS", idle).await;
    loop {
        // It has nothing in memory that was there before it started.
        site.nodes[0].terminate().await;
        site.nodes[0].restart().await;
        let connected = site.nodes[0].connected_from();
        let clients = site.nats.clients(idle).await;
        if !clients.iter().any(|port| connected.contains(port)) {
            break;
        }
    }
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
    let mut newest_first = "/v1/events?type=crash.happened&limit=1".to_owned();
    for receipt in receipts.iter().rev() {
        let page = site.nodes[0].get(&newest_first).await;
        assert_eq!(page.status, 200, "{receipt}");
        let page = page.json();
        assert_eq!(page["items"][0]["seq"], receipt["seq"]);
        let next = page["next"].as_str().unwrap_or_default();
        newest_first = format!("/v1/events?type=crash.happened&limit=1&cursor={next}");
    }
    let took = begun.elapsed();
    site.nats.resume(idle);
    assert!(took < LIMIT, "{EVENTS} events and pages were read in {took:?}");
}
