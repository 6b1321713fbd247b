//! Waiting for a replay.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::super::client::Client;
use super::super::{Output, Stop};

/// How often a replay is asked how far it is.
const POLL: Duration = Duration::from_millis(500);

/// Tells of a replay that was begun; with `wait`, follows it to its end.
///
/// # Errors
/// The server's, or the replay ended otherwise than completed, or events of it ended dead.
pub(in super::super) async fn started(
    client: &Client,
    replay: Value,
    wait: bool,
    output: &Output,
) -> Result<(), Stop> {
    if !wait {
        super::show(&replay, output)?;
        return Ok(());
    }
    let id = replay["id"].as_str().unwrap_or_default().to_owned();
    let ended = follow(client, replay, &id).await?;
    super::show(&ended, output)?;
    let well = ended["status"] == "completed" && count(&ended, "dead") == 0;
    if well { Ok(()) } else { Err(Stop::Told) }
}

async fn follow(client: &Client, mut replay: Value, id: &str) -> anyhow::Result<Value> {
    let bar = bar(&replay);
    while matches!(replay["status"].as_str(), Some("running" | "paused")) {
        bar.set_position(count(&replay, "done") + count(&replay, "skipped"));
        bar.set_message(replay["status"].as_str().unwrap_or_default().to_owned());
        tokio::time::sleep(POLL).await;
        replay = client.get(&["replays", id], &[]).await?;
        bar.set_length(count(&replay, "total"));
    }
    bar.finish_and_clear();
    Ok(replay)
}

/// On stderr, and only on a terminal.
fn bar(replay: &Value) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} {per_sec}");
    let bar = ProgressBar::new(count(replay, "total"));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn count(replay: &Value, name: &str) -> u64 {
    replay[name].as_u64().unwrap_or(0)
}
