//! The commands of operators: events, consumers, dead letters, replays.

use serde_json::{Value, json};
use skald_tests::{House, Setup, eventually, one, skald};

use super::{json, run};

#[tokio::test]
async fn events_are_listed_and_shown() {
    let house = House::start().await;
    for n in 0..3 {
        let event = json!({"type": format!("t.{n}"), "id": n.to_string(), "causationid": "0"});
        house.publish(event).await;
    }
    let listed = json(&house, &["events", "--type", "t.1"]).await;
    assert_eq!(listed["items"][0]["event"]["id"], "1");
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(json(&house, &["events", "2"]).await["event"]["id"], "1");
    let table = run(&house, &["events"]).await.ok().stdout;
    assert!(["t.0", "t.1", "t.2"].iter().all(|kind| table.contains(kind)), "{table}");
    let shown = run(&house, &["events", "1"]).await.ok().stdout;
    assert!(shown.contains("count-events"), "{shown}");
    let missing = run(&house, &["events", "99"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("99") || missing.stderr.contains("event"), "{missing:?}");
}

#[tokio::test]
async fn what_others_published_does_not_drive_the_terminal() {
    let house = House::start().await;
    house.publish(json!({"type": "t", "data": "\u{1b}[31mred\u{7}"})).await;
    let table = run(&house, &["events"]).await.ok().stdout;
    assert!(table.contains("red"), "{table:?}");
    assert!(!table.contains('\u{1b}') && !table.contains('\u{7}'), "{table:?}");
}

#[tokio::test]
async fn consumers_are_registered_paused_resumed_and_ended() {
    let house = House::start().await;
    let register = ["consumers", "register", "c", "--type", "a.>", "--kind", "pull"];
    assert_eq!(json(&house, &register).await["name"], "c");
    let listed = json(&house, &["consumers"]).await;
    let names: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert!(names.contains(&&json!("c")) && names.contains(&&json!("count-events")), "{names:?}");
    let table = run(&house, &["consumers", "list"]).await.ok().stdout;
    assert!(table.contains("count-events") && table.contains("builtin"), "{table}");
    let _ = run(&house, &["consumers", "pause", "c"]).await.ok();
    assert_eq!(json(&house, &["consumers", "show", "c"]).await["state"], "paused");
    let _ = run(&house, &["consumers", "resume", "c"]).await.ok();
    assert_eq!(house.consumer("c").await["state"], "running");
    let _ = run(&house, &["consumers", "delete", "c"]).await.ok();
    assert_eq!(run(&house, &["consumers", "show", "c"]).await.code, Some(1));
}

#[tokio::test]
async fn dead_letters_are_listed_redriven_and_given_up() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    for n in 0..3 {
        house.publish(json!({"type": "t"})).await;
        let lease = one(house.lease("c").await);
        house.nak("c", &lease, json!({"permanent": true, "error": format!("error {n}")})).await;
    }
    let listed = json(&house, &["dead-letters", "c"]).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let table = run(&house, &["dead-letters", "c", "--group"]).await.ok().stdout;
    assert!(table.contains("error 1"), "{table}");
    let dry = ["dead-letters", "redrive", "c", "--all", "--error", "error 1", "--dry-run"];
    assert_eq!(json(&house, &dry).await["redriven"], 1);
    assert_eq!(house.consumer("c").await["dead"], 3);
    let id = listed["items"][0]["id"].as_str().unwrap();
    assert_eq!(json(&house, &["dead-letters", "redrive", "c", id]).await["redriven"], 1);
    let lease = one(house.lease("c").await);
    house.ack("c", &[lease]).await;
    let _ = run(&house, &["dead-letters", "delete", "c", "--all"]).await.ok();
    assert_eq!(house.consumer("c").await["dead"], 0);
}

#[tokio::test]
async fn a_replay_is_tried_dry_started_and_shown() {
    let house = House::start().await;
    house.pull_consumer("c", "t", json!({})).await;
    for _ in 0..2 {
        house.publish(json!({"type": "t"})).await;
    }
    let mut done = 0;
    while done < 2 {
        let leases = house.lease("c").await;
        house.ack("c", &leases).await;
        done += leases.len();
    }
    let start = ["replay", "start", "--consumer", "c", "--from-seq", "1", "--mode", "force"];
    let mut dry = start.to_vec();
    dry.push("--dry-run");
    assert_eq!(json(&house, &dry).await["would_send"], 2);
    let replay = json(&house, &start).await;
    let id = replay["id"].as_str().unwrap();
    eventually("the replay is completed", async || {
        let leases = house.lease_with("c", json!({"max": 9, "wait": "100ms"})).await;
        house.ack("c", &leases).await;
        let shown = json(&house, &["replay", "show", id]).await;
        (shown["status"] == "completed").then_some(())
    })
    .await;
    assert!(run(&house, &["replay", "list"]).await.ok().stdout.contains(id));
}

#[tokio::test]
async fn a_trace_shows_what_came_of_an_event() {
    let house = House::start().await;
    house.publish(json!({"type": "first", "id": "1"})).await;
    house.publish(json!({"type": "second", "id": "2", "causationid": "1"})).await;
    eventually("the trace shows it", async || {
        let told = run(&house, &["trace", "1"]).await.ok().stdout;
        told.contains("second").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_in_one_line() {
    let house = House::start().await;
    let arguments = ["events", "--url", "http://127.0.0.1:1"];
    let done = skald(house.folder(), &arguments, &[]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(done.stderr.trim().lines().count(), 1, "{done:?}");
    assert!(done.stderr.contains("127.0.0.1:1"), "{done:?}");
    assert!(done.stderr.contains("`skald dev` starts one") && done.stderr.contains("SKALD_URL"));
    assert_eq!(done.stderr.matches("Connection refused").count(), 1, "{done:?}");
}

#[tokio::test]
async fn addresses_and_keys_that_are_none_are_told_by_their_names() {
    let house = House::start().await;
    let base = house.base();
    for (arguments, environment, told) in [
        (&["events"][..], ("SKALD_URL", ""), "SKALD_URL"),
        (&["events", "--url", "foo"], ("SKALD_KEY", ""), "start with http://"),
        (&["events", "--url", &base], ("SKALD_KEY", "sk_\n"), "SKALD_KEY"),
    ] {
        let done = skald(house.folder(), arguments, &[environment]).await;
        assert!(done.code != Some(0) && done.stderr.contains(told), "{done:?}");
    }
    let none = ["events", "--url", &base, "--key", ""];
    let _ = skald(house.folder(), &none, &[("SKALD_KEY", "")]).await.ok();
    for (arguments, told) in [
        (&["dead-letters", "redrive", "c"][..], "--all"),
        (&["replay", "start", "--consumer", "c"], "--since"),
    ] {
        let done = run(&house, arguments).await;
        assert!(done.code == Some(2) && done.stderr.contains(told), "{done:?}");
    }
}

#[tokio::test]
async fn a_key_alone_is_on_stdout_and_who_has_none_is_told_where_to_give_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let create = ["keys", "create", "a", "--scope", "admin", "--data", data.to_str().unwrap()];
    let made = skald(folder.path(), &create, &[]).await.ok();
    let key = made.stdout.trim_end();
    assert!(key.starts_with("sk_") && !key.contains(char::is_whitespace), "{made:?}");
    assert!(made.stderr.contains("not shown again"), "{made:?}");
    let house = Setup::serve(&data, key).start().await;
    let refused = run(&house, &["events"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("--key or SKALD_KEY"));
    let _ = run(&house, &["events", "--key", key]).await.ok();
}

#[tokio::test]
async fn large_numbers_are_shown_as_they_were_written() {
    let house = House::start().await;
    let event = r#"{"type": "t", "data": {"n": 12345678901234567890123}}"#;
    let call = house.call(http::Method::POST, "/v1/events");
    call.typed("application/json", event).send().await.check(202);
    for arguments in [&["events"][..], &["events", "1"]] {
        let shown = run(&house, arguments).await.ok().stdout;
        assert!(shown.contains("12345678901234567890123"), "{shown}");
    }
    let ahead = run(&house, &["tail", "--from", "9"]).await.refusal();
    assert!(ahead.contains("ahead of the log, which ends at 1"), "{ahead}");
}

#[tokio::test]
async fn a_replay_whose_events_end_dead_is_no_success() {
    let mut house = House::start().await;
    house.claim("c");
    house.pull_consumer("c", "t", json!({})).await;
    house.publish(json!({"type": "t"})).await;
    let refuse = async || {
        let lease = one(house.lease_with("c", json!({"wait": "10s"})).await);
        house.nak("c", &lease, json!({"permanent": true, "error": "no"})).await;
    };
    refuse().await;
    let start =
        ["replay", "start", "--consumer", "c", "--from-seq", "1", "--mode", "force", "--wait"];
    let (done, ()) = tokio::join!(run(&house, &start), refuse());
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("DEAD"), "{done:?}");
}

#[tokio::test]
async fn the_server_may_come_from_the_environment() {
    let house = House::start().await;
    let base = house.base();
    let done = skald(house.folder(), &["consumers"], &[("SKALD_URL", base.as_str())]).await.ok();
    assert!(done.stdout.contains("count-events"), "{done:?}");
}
