//! `skald publish`: a file of JSON lines, in batches, as often as it takes.
//!
//! [`lines`] reads and checks a batch → [`sender`] posts several at once and tries again what may
//! succeed later → the counts add up to what was published, what was there already and what failed.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::io::AsyncRead;

use super::output::printable;
use super::{Output, ServerArgs, Stop};

mod event_id;
mod line;
mod lines;
mod sender;

use lines::Lines;
use sender::{Sender, Sent};

/// What to publish.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// A file of JSON lines, `-` for standard input. Each line is a `CloudEvent` or {"type", "data"}.
    /// A line without an id gets one made from its text and number, so that publishing the same
    /// file again adds nothing.
    file: PathBuf,
    /// Batches sent at once; 1 keeps the order of the file.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    in_flight: u8,
    #[command(flatten)]
    server: ServerArgs,
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    published: usize,
    duplicates: usize,
    failed: usize,
}

/// Runs `skald publish`.
pub(super) async fn run(args: PublishArgs, output: &Output) -> Result<(), Stop> {
    let (name, size, input) = open(args.file).await.map_err(Stop::NotStarted)?;
    let sender = Sender::new(args.server.client()?, name.clone());
    let bar = bar(size);
    let mut lines = Lines::new(name, input);
    let (counts, errors) = publish(&mut lines, &sender, usize::from(args.in_flight), &bar).await;
    bar.finish_and_clear();
    let Counts { published, duplicates, failed } = counts;
    let told = format!("{published} published, {duplicates} were there already, {failed} failed");
    output.either(&counts, &told)?;
    if errors.is_empty() {
        return Ok(());
    }
    let errors: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(anyhow::anyhow!("{}", errors.join("\n")).into())
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

/// The name for messages, the size if it is known, and the content.
async fn open(file: PathBuf) -> anyhow::Result<(String, Option<u64>, Input)> {
    if file.as_os_str() == "-" {
        return Ok(("-".to_owned(), None, Box::new(tokio::io::stdin())));
    }
    let name = printable(&file.display().to_string());
    let content = tokio::fs::File::open(&file).await.with_context(|| format!("reading {name}"))?;
    let size = content.metadata().await.ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    Ok((name, size, Box::new(content)))
}

/// Sends batch after batch until the file ends or something is wrong for good; then waits for those
/// under way.
async fn publish(
    lines: &mut Lines<Input>,
    sender: &Sender,
    in_flight_max: usize,
    bar: &ProgressBar,
) -> (Counts, Vec<anyhow::Error>) {
    let (mut counts, mut errors) = (Counts::default(), Vec::new());
    let mut in_flight = FuturesUnordered::new();
    let mut reading = true;
    loop {
        while reading && in_flight.len() < in_flight_max {
            match lines.next_batch().await {
                Ok(Some(batch)) => in_flight.push(sender.send(batch)),
                Ok(None) => reading = false,
                Err(error) => {
                    errors.push(error);
                    reading = false;
                }
            }
        }
        let Some(Sent { events, bytes, outcome }) = in_flight.next().await else { break };
        bar.inc(bytes);
        match outcome {
            Ok(duplicates) => {
                counts.published += events - duplicates;
                counts.duplicates += duplicates;
            }
            Err(error) => {
                counts.failed += events;
                errors.push(error);
                reading = false;
            }
        }
        bar.set_message(format!("{} events", counts.published + counts.duplicates));
    }
    (counts, errors)
}

/// On stderr, and only on a terminal.
fn bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:40} {bytes}/{total_bytes} {msg} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
