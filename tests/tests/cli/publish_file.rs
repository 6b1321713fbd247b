//! `skald publish`: files of events.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skald_tests::{House, binary, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::{json, run};

#[tokio::test]
async fn a_file_published_twice_adds_nothing_the_second_time() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    let mut text = String::from("{\"type\":\"a\",\"id\":\"own\",\"data\":1}\n\n");
    for n in 0..2_500 {
        text.push_str(&format!("{{\"type\":\"file.line\",\"data\":{{\"n\":{n}}}}}\n"));
    }
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let first = json(&house, &["publish", file]).await;
    assert_eq!(first, json!({"published": 2_501, "duplicates": 0, "failed": 0}));
    let again = json(&house, &["publish", file]).await;
    assert_eq!(again, json!({"published": 0, "duplicates": 2_501, "failed": 0}));
    house.get("/v1/events/2501").await.check(200);
    house.get("/v1/events/2502").await.check(404);
}

#[tokio::test]
async fn with_one_batch_in_flight_the_order_of_the_file_is_kept() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    let line = |n| format!("{{\"type\":\"t\",\"data\":{n}}}\n");
    fs::write(&file, (0..2_100).map(line).collect::<String>()).unwrap();
    let file = file.to_str().unwrap();
    let _ = run(&house, &["publish", file, "--in-flight", "1"]).await.ok();
    for seq in [1, 1_000, 1_001, 2_100] {
        let event = house.get(&format!("/v1/events/{seq}")).await.json_of(200);
        assert_eq!(event["event"]["data"], seq - 1);
    }
}

#[tokio::test]
async fn bad_lines_are_named_and_counted_and_the_good_ones_are_published() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    let large = |kind| format!("{{\"type\":\"{kind}\",\"data\":\"{}\"}}", "x".repeat(1 << 20));
    let mut text =
        b"{\"type\":\"g.1\"}\n{\"type\":\"g..2\"}\n{\"type\":\"g.3\"}\n\xff\nno\n".to_vec();
    text.extend(format!("{}\n{}\n", large("l.1"), "y".repeat(9 << 20)).into_bytes());
    // What only the server refuses is named too, and no reason to refuse the others.
    text.extend(format!("{}\n{{\"type\":\"dev.skald.x\"}}\n", large("l.2")).into_bytes());
    text.extend(b"{\"type\":\"g.4\"}\n");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let done = run(&house, &["publish", file]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(done.stdout, "3 published, 0 were there already, 7 failed\n", "{done:?}");
    for (line, told) in [
        (2, "/type"),
        (4, "UTF-8"),
        (5, "expected"),
        (6, "the limit"),
        (7, "longer"),
        (8, "the limit"),
        (9, "/type: types under dev.skald"),
    ] {
        let place = format!("events.jsonl:{line}: ");
        let named = done.stderr.lines().find(|named| named.contains(&place));
        assert!(named.is_some_and(|named| named.contains(told)), "{line}: {done:?}");
    }
    let again = run(&house, &["--json", "publish", file]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    let counts: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(counts, json!({"published": 0, "duplicates": 3, "failed": 7}));
}

#[tokio::test]
async fn of_very_many_bad_lines_the_first_are_named() {
    let house = House::start().await;
    let file = house.folder().join("events.jsonl");
    fs::write(&file, "no\n".repeat(2_000) + "{\"type\":\"a\"}\n").unwrap();
    let done = run(&house, &["publish", file.to_str().unwrap()]).await;
    assert!(done.stdout.starts_with("1 published") && done.stdout.contains("2000 failed"));
    assert_eq!(done.stderr.lines().count(), 21, "{done:?}");
    assert!(done.stderr.contains("jsonl:20: ") && done.stderr.contains("1980 lines more"));
}

/// A command that publishes what it is told on its standard input.
fn publishing(house: &House) -> Child {
    let mut command = Command::new(binary::path());
    command.args(["publish", "-", "--url", &house.base()]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test]
async fn standard_input_is_published_to_its_end() {
    let house = House::start().await;
    let mut publishing = publishing(&house);
    let mut input = publishing.stdin.take().unwrap();
    let line = format!("{{\"type\":\"t\",\"data\":\"{}\"}}\n", "x".repeat(1_000));
    input.write_all(line.repeat(300).as_bytes()).await.unwrap();
    drop(input);
    let done = tokio::time::timeout(skald_tests::DEADLINE, publishing.wait_with_output()).await;
    let told = String::from_utf8(done.expect("it ends").unwrap().stdout).unwrap();
    assert_eq!(told, "300 published, 0 were there already, 0 failed\n");
}

#[tokio::test]
async fn ctrl_c_is_answered_with_what_was_published_so_far() {
    let house = House::start().await;
    let mut publishing = publishing(&house);
    let mut input = publishing.stdin.take().unwrap();
    input.write_all("{\"type\":\"t\"}\n".repeat(1_000).as_bytes()).await.unwrap();
    eventually("two batches are published", async || {
        (house.get("/v1/events/1000").await.status == 200).then_some(())
    })
    .await;
    let process = i32::try_from(publishing.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::INT).unwrap();
    // Its input is still open.
    let done = tokio::time::timeout(skald_tests::DEADLINE, publishing.wait_with_output()).await;
    let done = done.expect("it ends").unwrap();
    drop(input);
    let told = String::from_utf8_lossy(&done.stdout);
    assert_eq!(told, "1000 published, 0 were there already, 0 failed\n");
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("stopped before the end"), "{done:?}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told() {
    let house = House::start().await;
    let refusal = run(&house, &["publish", "nowhere.jsonl"]).await.refusal();
    assert!(refusal.contains("nowhere.jsonl"), "{refusal}");
}
