//! The clock of the machine is set back by an hour while the server runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skald_tests::{House, Receiver, Setup, ShiftedClock, one};

struct Shifted {
    house: House,
    clock: ShiftedClock,
    _folder: tempfile::TempDir,
}

impl Shifted {
    async fn start() -> Shifted {
        let folder = tempfile::TempDir::new().unwrap();
        let clock = ShiftedClock::new(folder.path());
        let house = clock.for_process(Setup::dev()).start().await;
        Shifted { house, clock, _folder: folder }
    }

    async fn recorded_at(&self, receipt: &Value) -> String {
        let path = format!("/v1/events/{}", receipt["seq"]);
        let event = self.house.get(&path).await.json_of(200);
        event["recorded_at"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn times_of_recording_never_decrease() {
    let shifted = Shifted::start().await;
    let before = shifted.house.publish(json!({"type": "t"})).await;
    let before = shifted.recorded_at(&before).await;
    // First ahead, to see that the shift is felt at all, then back.
    shifted.clock.shift("+2h");
    let ahead = shifted.house.publish(json!({"type": "t"})).await;
    let ahead = shifted.recorded_at(&ahead).await;
    assert!(ahead[..13] > before[..13], "the clock was shifted: {before} {ahead}");
    shifted.clock.shift("+1h");
    let mut last = ahead;
    for _ in 0..20 {
        let receipt = shifted.house.publish(json!({"type": "t"})).await;
        let at = shifted.recorded_at(&receipt).await;
        assert!(at >= last, "{at} after {last}");
        last = at;
    }
}

#[tokio::test]
async fn retries_and_leases_come_due_in_time() {
    let shifted = Shifted::start().await;
    let house = &shifted.house;
    let policy = json!({"backoff_min": "1s", "backoff_max": "1s"});
    house.pull_consumer("c", "t", policy).await;
    house.publish(json!({"type": "t"})).await;
    let terms = json!({"max": 1, "lease": "2s", "wait": "20s"});
    let forgotten = one(house.lease_with("c", terms.clone()).await);
    shifted.clock.shift("-1h");
    let started = Instant::now();
    let again = one(house.lease_with("c", terms.clone()).await);
    assert!(started.elapsed() < Duration::from_secs(10), "a lease ended late");
    assert_eq!(again.seq, forgotten.seq);
    assert_eq!(house.nak("c", &again, json!({})).await, "ok");
    let started = Instant::now();
    let retried = one(house.lease_with("c", terms).await);
    assert!(started.elapsed() < Duration::from_secs(10), "a retry came late");
    assert_eq!(house.ack("c", &[retried]).await, ["ok"]);
}

#[tokio::test]
async fn a_start_with_the_clock_set_back_goes_on_after_the_last_time_recorded() {
    let mut shifted = Shifted::start().await;
    shifted.clock.shift("+2h");
    let ahead = shifted.house.publish(json!({"type": "t"})).await;
    let ahead = shifted.recorded_at(&ahead).await;
    shifted.clock.shift("-1h");
    shifted.house.restart().await;
    let after = shifted.house.publish(json!({"type": "t"})).await;
    assert!(shifted.recorded_at(&after).await >= ahead);
    shifted.house.pull_consumer("c", "t", json!({})).await;
    let mut seen = 0;
    while seen < 2 {
        let leases = shifted.house.lease("c").await;
        assert!(!leases.is_empty());
        seen += leases.len();
        shifted.house.ack("c", &leases).await;
    }
}

#[tokio::test]
async fn signatures_carry_the_time_of_the_machine_although_it_was_ahead() {
    let mut shifted = Shifted::start().await;
    shifted.clock.shift("+2d");
    shifted.house.publish(json!({"type": "t"})).await;
    shifted.clock.shift("+0");
    shifted.house.restart().await;
    let receiver = Receiver::answering(&[200]).await;
    let webhook = json!({"types": ["t"], "url": receiver.url()});
    shifted.house.post("/v1/webhooks", webhook).await.check(201);
    let push = json!({"types": ["t"], "kind": "push", "url": receiver.url()});
    shifted.house.put("/v1/consumers/p", push).await.check(201);
    shifted.house.publish(json!({"type": "t"})).await;
    let now = bus::Clock::wall_seconds();
    for posted in receiver.wait_for(2).await {
        let at: i64 = posted.header("webhook-timestamp").parse().unwrap();
        assert!(at.abs_diff(now) < 300, "{at} at {now}, as receivers allow");
    }
}
