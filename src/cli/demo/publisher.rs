//! The shop that publishes its orders and does not give up when nobody answers.

use std::time::Duration;

use indicatif::ProgressBar;
use reqwest::Method;
use tokio::sync::watch;

use crate::cli::client::{Client, parse};
use crate::cli::problem::Problem;

/// Between two orders: a few seconds for all, long enough to see the crash in the middle.
const PACE: Duration = Duration::from_millis(20);
/// Before an order that was not answered is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// What the shop was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Published {
    /// Events that were new.
    pub(super) accepted: usize,
    /// Events that the log had already.
    pub(super) duplicates: usize,
    /// Calls without an answer, made again until there was one.
    pub(super) unanswered: usize,
}

/// Publishes these events one after the other; `count` tells how far it is.
pub(super) async fn run(
    client: Client,
    lines: Vec<&'static str>,
    bar: ProgressBar,
    count: watch::Sender<usize>,
) -> anyhow::Result<Published> {
    let mut published = Published::default();
    for line in lines {
        let duplicate = loop {
            match publish(&client, line).await {
                Ok(duplicate) => break duplicate,
                // The server refuses it: sending it again would not help.
                Err(error) if error.is::<Problem>() => return Err(error),
                Err(_) => {
                    published.unanswered += 1;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if duplicate {
            published.duplicates += 1;
        } else {
            published.accepted += 1;
        }
        bar.inc(1);
        count.send_modify(|count| *count += 1);
        tokio::time::sleep(PACE).await;
    }
    Ok(published)
}

async fn publish(client: &Client, line: &'static str) -> anyhow::Result<bool> {
    let request = client.request(Method::POST, client.address(&["events"]));
    let request = request.header("content-type", "application/cloudevents+json").body(line);
    let answer = client.checked(request.timeout(Duration::from_secs(10))).await?;
    Ok(parse(&answer.text().await?)?["duplicate"] == true)
}
