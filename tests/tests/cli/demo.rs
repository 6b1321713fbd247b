//! `skald demo`: everything adds up, crash or no crash.

use serde_json::Value;
use skald_tests::skald;

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_demonstration_promises_holds() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let demo = ["--json", "demo", "--exit", "--data", data.to_str().unwrap()];
    let told = skald(folder.path(), &demo, &[]).await.ok();
    let summary: Value = serde_json::from_str(&told.stdout).unwrap();
    let lines = summary["lines"].as_array().unwrap();
    let named: Vec<&str> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
    let all =
        ["events", "dead letters", "issue-receipt", "pack-order", "sagas", "ledgers", "webhooks"];
    assert_eq!(named, all);
    assert!(lines.iter().all(|line| line["holds"] == true), "{summary:#}");
    assert!(lines[0]["seen"].as_str().unwrap().starts_with("190 accepted of 200"), "{summary:#}");

    // The folder is kept, and no second demonstration mixes with it.
    let refusal = skald(folder.path(), &demo, &[]).await.refusal();
    assert!(refusal.contains("is not empty"), "{refusal}");
}
