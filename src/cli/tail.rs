//! `skald tail`: events as they come.

use std::time::Duration;

use bus::Seq;
use clap::Args;
use futures::StreamExt as _;
use reqwest::Method;
use schemas::Pattern;
use serde_json::Value;

use super::client::{Client, append};
use super::output::{clipped, printable, text};
use super::problem::Problem;
use super::shown::Shown;
use super::{Output, ServerArgs, Stop};

mod sse;
pub(super) use sse::Message;
use sse::Messages;

/// Characters of an event's data on a line.
const DATA_SHOWN: usize = 160;
/// The wait before connecting again, unless the server names one.
const RETRY: Duration = Duration::from_secs(1);
/// The server sends comments when it has no events; longer silence is a dead connection.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// Which events.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Of types that match.
    #[arg(long = "type", value_name = "PATTERN")]
    types: Option<Pattern>,
    /// Begin with this event of the past instead of the next one.
    #[arg(long, value_name = "SEQ")]
    from: Option<Seq>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints events until the process is stopped.
pub(super) async fn run(args: TailArgs, output: &Output) -> Result<(), Stop> {
    let client = args.server.client()?;
    if let Some(from) = args.from {
        check_start(&client, from).await?;
    }
    let types = args.types.map(|types| types.to_string());
    let last = args.from.map(|seq| seq.previous().to_string());
    each(&client, types, last, async |message| Ok(print(message, output)?)).await
}

/// Refuses a start that the log has not come to: nothing would be printed until it has.
async fn check_start(client: &Client, from: Seq) -> Result<(), Stop> {
    let newest = client.get(&["events"], &[("limit", Some("1".to_owned()))]).await?;
    let newest = newest["items"][0]["seq"].as_i64().unwrap_or(0);
    if from.get() > newest + 1 {
        let told = format!("--from {from} is ahead of the log, which ends at {newest}");
        return Err(Stop::start(anyhow::anyhow!(told)));
    }
    Ok(())
}

/// Hands events to `take` until the process is stopped; a lost connection is made again where it
/// broke.
pub(super) async fn each(
    client: &Client,
    types: Option<String>,
    mut last: Option<String>,
    mut take: impl AsyncFnMut(&Message) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let (mut retry, mut connected) = (RETRY, false);
    loop {
        match connect(client, types.clone(), last.as_deref()).await {
            Ok(answer) => {
                connected = true;
                follow(answer, &mut last, &mut retry, &mut take).await?;
            }
            // A server that was there comes back; one that never answered is a mistake.
            Err(error) if !connected || is_refusal(&error) => return Err(error.into()),
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "connecting again"),
        }
        tokio::time::sleep(retry).await;
    }
}

async fn connect(
    client: &Client,
    types: Option<String>,
    last: Option<&str>,
) -> anyhow::Result<reqwest::Response> {
    let mut url = client.address(&["events", "stream"]);
    append(&mut url, &[("type", types)]);
    let request = client.request(Method::GET, url).header("accept", "text/event-stream");
    client
        .checked(match last {
            Some(seq) => request.header("last-event-id", seq),
            None => request,
        })
        .await
}

/// Takes the events of one connection until it breaks.
async fn follow(
    answer: reqwest::Response,
    last: &mut Option<String>,
    retry: &mut Duration,
    take: &mut impl AsyncFnMut(&Message) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut messages = Messages::default();
    let mut chunks = answer.bytes_stream();
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
        for message in messages.read(&chunk) {
            if let Some(wait) = message.retry {
                *retry = wait;
            }
            if message.id.is_some() {
                last.clone_from(&message.id);
            }
            if !message.data.is_empty() {
                take(&message).await?;
            }
        }
    }
    Ok(())
}

fn print(message: &Message, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.line(&message.data); // as the server wrote it: no number is rounded
    }
    let Ok(shown) = serde_json::from_str::<Value>(&message.data) else { return Ok(()) };
    let event = &shown["event"];
    let data = serde_json::from_str::<Shown<'_>>(&message.data).map(|shown| shown.data());
    let line = format!(
        "{} {} {} {} {}",
        text(&shown["seq"]),
        text(&shown["recorded_at"]),
        text(&event["type"]),
        text(&event["subject"]),
        clipped(&data.unwrap_or_default(), DATA_SHOWN),
    );
    output.line(&printable(&line))
}

/// Whether the server said no, so that asking again is of no use.
fn is_refusal(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<Problem>().map(|problem| problem.status);
    status.is_some_and(|status| (400..500).contains(&status) && status != 429)
}
