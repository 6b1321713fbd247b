//! The configuration: layers, origins and faults.

use std::fs;

use serde_json::{Value, json};
use skald_tests::skald;
use tempfile::TempDir;

/// A folder with this `skald.toml`.
fn folder_with(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("skald.toml"), config).unwrap();
    folder
}

#[tokio::test]
async fn settings_in_effect_tell_where_they_came_from() {
    let folder = folder_with("listen = \"127.0.0.1:7001\"\n\n[logs]\nformat = \"json\"\n");
    let environment = [("SKALD_HTTP__TIMEOUT", "7s")];
    let printed = skald(folder.path(), &["config", "--json"], &environment).await.ok().stdout;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["settings"]["listen"], "127.0.0.1:7001");
    assert_eq!(printed["settings"]["logs"]["format"], "json");
    assert_eq!(printed["settings"]["http"]["timeout"], "7s");
    let origins = &printed["origins"];
    assert_eq!(
        (&origins["listen"]["from"], &origins["listen"]["line"]),
        (&json!("file"), &json!(1))
    );
    assert_eq!(origins["logs.format"]["line"], 4, "{origins}");
    assert_eq!(origins["http.timeout"]["name"], "SKALD_HTTP__TIMEOUT", "{origins}");

    let table = skald(folder.path(), &["config"], &environment).await.ok().stdout;
    let line = table.lines().find(|line| line.trim_start().starts_with("logs.format")).unwrap();
    assert!(line.contains("json") && line.contains("skald.toml:4"), "{table}");
    assert!(table.contains("SKALD_HTTP__TIMEOUT") && table.contains("default"), "{table}");
}

#[tokio::test]
async fn the_environment_stands_above_the_file() {
    let folder = folder_with("listen = \"127.0.0.1:7001\"\n");
    let environment = [("SKALD_LISTEN", "127.0.0.1:7002")];
    let printed = skald(folder.path(), &["config", "--json"], &environment).await.ok().stdout;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["settings"]["listen"], "127.0.0.1:7002");
}

#[tokio::test]
async fn secrets_are_not_printed() {
    let key = "sk_secret_0123456789abcdef";
    let folder = folder_with(&format!("[security]\nadmin_key = \"{key}\"\n"));
    for arguments in [&["config"][..], &["config", "--json"]] {
        let done = skald(folder.path(), arguments, &[]).await.ok();
        assert!(!done.stdout.contains("0123456789") && !done.stderr.contains("0123456789"));
    }
}

#[tokio::test]
async fn a_bad_setting_names_its_key_and_line() {
    for (config, line, key) in [
        ("\nlisten = \"nowhere\"\n", 2, "listen"),
        ("[log]\n\nurl = 7\n", 3, "log.url"),
        ("[[log.retention]]\ntype = \"a..b\"\nmax_age = \"1d\"\n", 2, "log.retention[0].type"),
        ("[http]\ntimeout = \"soon\"\n", 2, "http.timeout"),
        ("frobnicate = 1\n", 1, "frobnicate"),
        ("[database]\nurl = \"mysql://a/b\"\n", 2, "database.url"),
    ] {
        let folder = folder_with(config);
        for arguments in [&["config"][..], &["dev", "--data", "d"]] {
            let refusal = skald(folder.path(), arguments, &[]).await.refusal();
            assert!(refusal.contains(&format!("skald.toml:{line}")), "{refusal}");
            assert!(refusal.contains(key), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_toml_names_its_line() {
    let folder = folder_with("listen = \"127.0.0.1:1\"\n[log\n");
    let done = skald(folder.path(), &["config"], &[]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("skald.toml:2"), "{done:?}");
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let folder = folder_with("listen = \"x\"\n[http]\ntimeout = \"y\"\n");
    let done = skald(folder.path(), &["config"], &[("SKALD_LOGS__FORMAT", "z")]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    for told in ["skald.toml:1", "skald.toml:3", "SKALD_LOGS__FORMAT"] {
        assert!(done.stderr.contains(told), "{told}: {done:?}");
    }
}

#[tokio::test]
async fn a_variable_that_is_no_setting_is_refused() {
    let folder = TempDir::new().unwrap();
    let refusal = skald(folder.path(), &["config"], &[("SKALD_LSTEN", "x")]).await.refusal();
    assert!(refusal.contains("SKALD_LSTEN") && refusal.contains("SKALD_LISTEN"), "{refusal}");
}

#[tokio::test]
async fn a_named_file_that_is_not_there_is_refused() {
    let folder = TempDir::new().unwrap();
    let arguments = ["config", "--config", "nowhere.toml"];
    let refusal = skald(folder.path(), &arguments, &[]).await.refusal();
    assert!(refusal.contains("nowhere.toml"), "{refusal}");
}
