//! The command line.

mod backup;
mod config;
mod demo;
mod help;
mod operate;
mod publish_file;
mod sagas;
mod start;
mod webhooks;

use serde_json::Value;
use skald_tests::{Finished, House, skald};

/// Runs a command against the server of `house`.
async fn run(house: &House, arguments: &[&str]) -> Finished {
    let base = house.base();
    let mut all = arguments.to_vec();
    all.extend(["--url", base.as_str()]);
    skald(house.folder(), &all, &[]).await
}

/// The JSON of a command that must go well.
async fn json(house: &House, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let done = run(house, &all).await.ok();
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}
