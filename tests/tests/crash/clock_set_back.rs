//! The clock of the machine is set back by an hour while the server runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skald_tests::{House, Setup, one};

/// The library that shifts the clock of one process.
fn shifting_library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = library.into_iter().find(|path| path.is_file());
    found.expect("libfaketimeMT.so.1: run tests/run, or install the package faketime")
}

struct Shifted {
    house: House,
    offset: PathBuf,
    _folder: tempfile::TempDir,
}

impl Shifted {
    async fn start() -> Shifted {
        let folder = tempfile::TempDir::new().unwrap();
        let offset = folder.path().join("offset");
        shift(&offset, "+0");
        let house = Setup::dev()
            .environment("LD_PRELOAD", shifting_library().to_str().unwrap())
            .environment("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .environment("NO_FAKE_STAT", "1")
            .start()
            .await;
        Shifted { house, offset, _folder: folder }
    }

    async fn recorded_at(&self, receipt: &Value) -> String {
        let path = format!("/v1/events/{}", receipt["seq"]);
        let event = self.house.get(&path).await.json_of(200);
        event["recorded_at"].as_str().unwrap().to_owned()
    }
}

/// Written beside and moved over: the server never reads half of it.
fn shift(file: &Path, by: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, by).unwrap();
    fs::rename(&beside, file).unwrap();
}

#[tokio::test]
async fn times_of_recording_never_decrease() {
    let shifted = Shifted::start().await;
    let before = shifted.house.publish(json!({"type": "t"})).await;
    let before = shifted.recorded_at(&before).await;
    // First ahead, to see that the shift is felt at all, then back.
    shift(&shifted.offset, "+2h");
    let ahead = shifted.house.publish(json!({"type": "t"})).await;
    let ahead = shifted.recorded_at(&ahead).await;
    assert!(ahead[..13] > before[..13], "the clock was shifted: {before} {ahead}");
    shift(&shifted.offset, "+1h");
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
    shift(&shifted.offset, "-1h");
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
    shift(&shifted.offset, "+2h");
    let ahead = shifted.house.publish(json!({"type": "t"})).await;
    let ahead = shifted.recorded_at(&ahead).await;
    shift(&shifted.offset, "-1h");
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
