//! `skald sagas`: definitions in files, and sagas of a server.

use serde_json::json;
use skald_tests::{House, Participant, eventually, skald};

use super::{json, run};

fn definition(p: &Participant) -> String {
    format!(
        "saga: order
steps:
  - step: charge
    post: '{}/{{{{ input.how }}}}'
    retry: {{ attempts_max: 1 }}
    on_unknown: stuck
    undo: {{ post: '{}' }}
  - step: approve
    wait_for: {{ signal: approved, timeout: 1h }}
output: '{{{{ steps.approve.output.by }}}}'
",
        p.url(""),
        p.url("/u")
    )
}

#[tokio::test]
async fn files_are_checked_drawn_and_walked() {
    let house = House::start().await;
    let p = Participant::start().await;
    let tabbed = house.folder().join("tabbed.yaml");
    std::fs::write(&tabbed, "saga: x\nsteps:\n\t- step: a\n").unwrap();
    let refused = run(&house, &["sagas", "check", tabbed.to_str().unwrap()]).await;
    assert!(refused.stderr.contains("line 3: YAML is indented with spaces"), "{refused:?}");
    let file = |name: &str, text: &str| {
        std::fs::write(house.folder().join(name), text).unwrap();
    };
    file("good.yaml", &definition(&p));
    file(
        "bad.yaml",
        "saga: x\nsteps:\n  - step: a\n    psot: http://x\n  - step: a\n    sleep: soon\n",
    );
    let here = async |arguments: &[&str]| skald(house.folder(), arguments, &[]).await;
    let _ = here(&["sagas", "check", "good.yaml"]).await.ok();
    let bad = here(&["sagas", "check", "bad.yaml"]).await;
    assert_ne!(bad.code, Some(0));
    let told = format!("{}{}", bad.stdout, bad.stderr);
    for wanted in ["line 4", "did you mean `post`", "line 6", "is there twice, first on line 3"] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    let svg = here(&["sagas", "draw", "good.yaml"]).await.ok().stdout;
    assert!(svg.starts_with("<svg") && svg.contains("charge") && svg.contains("approve"), "{svg}");
    let text = here(&["sagas", "draw", "good.yaml", "--format", "mermaid"]).await.ok().stdout;
    assert!(text.contains("flowchart") && text.contains("charge"), "{text}");
    let walk = ["sagas", "walk", "good.yaml", "--input", r#"{"how":"x"}"#];
    let walked = here(&walk).await;
    assert_eq!(walked.code, Some(1), "nothing was walked to completion: {walked:?}");
    let walked = walked.stdout;
    assert!(
        walked.contains("without any fault: output") && walked.contains("--outputs"),
        "{walked}"
    );
    let told = here(&["--json", "sagas", "walk", "good.yaml"]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("\"error\":\"") && told.stdout.contains("input.how"), "{told:?}");
    let outputs = [&walk[..], &["--outputs", r#"{"approve":{"by":"ann"}}"#]].concat();
    let walked = here(&outputs).await.ok().stdout;
    for ending in [" completed", " compensated"] {
        assert!(walked.contains(ending), "{walked}");
    }
    assert!(!walked.contains("without any fault"), "{walked}");
}

#[tokio::test]
async fn sagas_are_started_shown_and_settled() {
    let house = House::start().await;
    let p = Participant::start().await;
    let file = house.folder().join("order.yaml");
    std::fs::write(&file, definition(&p)).unwrap();
    let registered = json(&house, &["sagas", "register", file.to_str().unwrap()]).await;
    assert_eq!(registered["version"], 1);
    let start = ["sagas", "start", "order", "--id"];
    let ok = |id| [&start[..], &[id, "--input", r#"{"how":"x"}"#]].concat();
    let _ = run(&house, &ok("one")).await.ok();
    eventually("it waits", async || {
        let saga = json(&house, &["sagas", "show", "one"]).await;
        (saga["steps"][1]["status"] == "acting").then_some(())
    })
    .await;
    let shown = run(&house, &["sagas", "show", "one"]).await.ok().stdout;
    for wanted in ["one", "order v1", "RUNNING", "charge", "done", "approve", "acting"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let signal = ["sagas", "signal", "one", "approved", "--body", r#"{"by":"ann"}"#];
    let _ = run(&house, &signal).await.ok();
    assert_eq!(json(&house, &["sagas", "show", "one"]).await["output"], "ann");
    let journal = run(&house, &["sagas", "journal", "one"]).await.ok().stdout;
    assert!(journal.contains("acting") && journal.contains("completed"), "{journal}");

    let stuck = [&start[..], &["two", "--wait", "--input", r#"{"how":"status/500"}"#]].concat();
    let waited = run(&house, &stuck).await;
    assert!(waited.code == Some(1) && waited.stdout.contains("STUCK"), "{waited:?}");
    let listed = run(&house, &["sagas", "list", "--status", "stuck"]).await.ok().stdout;
    assert!(listed.contains("two") && !listed.contains("one"), "{listed}");
    let retry = ["sagas", "retry", "two", "--reason", "they say it is well"];
    let _ = run(&house, &retry).await.ok();
    eventually("it is stuck again", async || {
        (json(&house, &["sagas", "show", "two"]).await["status"] == "stuck").then_some(())
    })
    .await;
    let skip = ["sagas", "skip", "two", "charge", "--reason", "by phone", "--output", "{}"];
    assert_eq!(json(&house, &skip).await["steps"][0]["status"], "skipped");
    let cancel = ["sagas", "cancel", "two", "--reason", "not wanted"];
    let _ = run(&house, &cancel).await.ok();
    let journal = json(&house, &["sagas", "journal", "two"]).await;
    for (kind, name, value) in [
        ("retried", "reason", "they say it is well"),
        ("skipped_by_hand", "reason", "by phone"),
        ("skipped_by_hand", "by", "local"),
        ("compensating", "error", "not wanted"),
        ("compensating", "by", "local"),
    ] {
        let entries = journal["items"].as_array().unwrap();
        let found = entries.iter().any(|entry| entry["kind"] == kind && entry[name] == value);
        assert!(found, "{kind} {name}: {journal:#}");
    }
    let _ = run(&house, &ok("three")).await.ok();
    let compensate = ["sagas", "compensate", "three", "--reason", "sold out"];
    let _ = run(&house, &compensate).await.ok();
    let waited = json!({"ids": ["two", "three"], "timeout": "10s"});
    house.post("/v1/wait", waited).await.check(200);
    assert_eq!(json(&house, &["sagas", "show", "two"]).await["status"], "cancelled");
    assert_eq!(json(&house, &["sagas", "show", "three"]).await["status"], "compensated");
    let missing = run(&house, &["sagas", "show", "none"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
}

#[tokio::test]
async fn faults_that_only_the_server_finds_have_the_lines_of_the_file() {
    let house = House::start().await;
    let file = house.folder().join("order.yaml");
    let text =
        "saga: order\n\nsteps:\n  - step: a\n    post: http://127.0.0.1:1/x\n    no_undo: x\n";
    std::fs::write(&file, text).unwrap();
    let refused = run(&house, &["sagas", "register", file.to_str().unwrap()]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("line 4"), "{refused:?}");
}

#[tokio::test]
async fn a_step_that_is_done_shows_its_output_whole_and_not_the_error_before() {
    let house = House::start().await;
    let p = Participant::start().await;
    let file = house.folder().join("once.yaml");
    let text =
        format!("saga: once\nsteps:\n  - {{ step: a, post: '{}', no_undo: x }}\n", p.url("/a"));
    std::fs::write(&file, text).unwrap();
    let _ = run(&house, &["sagas", "register", file.to_str().unwrap()]).await.ok();
    let start = ["sagas", "start", "once", "--id", "o-1", "--wait"];
    let shown = run(&house, &start).await.ok().stdout;
    assert!(shown.contains("COMPLETED") && !shown.contains('…'), "{shown}");
}
