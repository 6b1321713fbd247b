//! `skald publish`: a file of JSON lines, in batches, as often as it takes.
//!
//! [`lines`] reads and checks a batch → [`sender`] posts several at once and tries again what may
//! succeed later → [`refused`] keeps the lines that are no events → the counts add up to what was
//! published, what was there already and what failed.

use std::cell::Cell;
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::output::printable;
use super::{Output, ServerArgs, Stop};

mod event_id;
mod line;
mod lines;
mod refused;
mod sender;

use lines::Lines;
use refused::Refused;
use sender::{Sender, Sent};

/// How long batches under way have for their answers after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of standard input that are read ahead.
const STDIN_BUFFER: usize = 64 << 10;

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

/// How it ended.
struct Ended {
    counts: Counts,
    /// Events whose batches were answered.
    answered: usize,
    refused: Refused,
    /// Why the rest of the file was not published, and what is not known.
    stopped: Vec<anyhow::Error>,
}

/// Runs `skald publish`.
pub(super) async fn run(args: PublishArgs, output: &Output) -> Result<(), Stop> {
    let (name, size, input) = open(args.file).await.map_err(Stop::NotStarted)?;
    let sender = Sender::new(args.server.client()?, name.clone());
    let bar = bar(size);
    let lines = Lines::new(name.clone(), input);
    let ended = publish(name, lines, &sender, usize::from(args.in_flight), &bar).await;
    bar.finish_and_clear();
    let Ended { counts, refused, stopped, .. } = ended;
    let Counts { published, duplicates, failed } = counts;
    let told = format!("{published} published, {duplicates} were there already, {failed} failed");
    output.either(&counts, &told)?;
    let mut errors: Vec<_> = stopped.iter().map(|error| format!("{error:#}")).collect();
    if refused.count() > 0 {
        errors.insert(0, refused.to_string());
    }
    if errors.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", errors.join("\n")).into()) }
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

/// The name for messages, the size if it is known, and the content.
async fn open(file: PathBuf) -> anyhow::Result<(String, Option<u64>, Input)> {
    if file.as_os_str() == "-" {
        return Ok(("-".to_owned(), None, Box::new(standard_input())));
    }
    let name = printable(&file.display().to_string());
    let content = tokio::fs::File::open(&file).await.with_context(|| format!("reading {name}"))?;
    let size = content.metadata().await.ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    Ok((name, size, Box::new(content)))
}

/// Standard input, read on a thread that nobody waits for: a program that keeps it open without a
/// word must not keep this one from its end, as tokio's own would.
fn standard_input() -> impl AsyncRead + Send + Unpin {
    let (sender, mut chunks) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut buffer = vec![0; STDIN_BUFFER];
            let chunk = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::from(buffer).slice(..length)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    StreamReader::new(stream::poll_fn(move |context| chunks.poll_recv(context)))
}

/// Sends batch after batch until the file ends, something is wrong for good, or Ctrl-C; then waits
/// for those under way. Lines that are no events are passed over.
async fn publish(
    name: String,
    lines: Lines<Input>,
    sender: &Sender,
    in_flight_max: usize,
    bar: &ProgressBar,
) -> Ended {
    let (counts, refused) = (Counts::default(), Refused::new(name));
    let mut ended = Ended { counts, answered: 0, refused, stopped: Vec::new() };
    let (enough, begun) = (CancellationToken::new(), Cell::new(0));
    let batches = stream::try_unfold(lines, async |mut lines| {
        Ok(lines.next_batch().await?.map(|batch| (batch, lines)))
    });
    let batches = batches.take_until(enough.clone().cancelled_owned());
    let sending = batches.map_ok(|batch| {
        begun.set(begun.get() + batch.events.len());
        async { Ok(sender.send(batch).await) }
    });
    let mut sending = pin!(sending.try_buffer_unordered(in_flight_max));
    let mut interrupted = pin!(interrupts(&enough));
    loop {
        let sent = tokio::select! {
            sent = sending.next() => sent,
            () = &mut interrupted => break,
        };
        match sent {
            Some(Ok(sent)) => ended.add(sent, bar, &enough),
            Some(Err(error)) => ended.stopped.push(error),
            None => break,
        }
    }
    ended.close(begun.get(), enough.is_cancelled());
    ended
}

/// Sets `enough` at the first Ctrl-C; comes back when those under way have had their time, or at
/// the second.
async fn interrupts(enough: &CancellationToken) {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    enough.cancel();
    let _ = tokio::time::timeout(GRACE, tokio::signal::ctrl_c()).await; // either is the end
}

impl Ended {
    fn add(&mut self, sent: Sent, bar: &ProgressBar, enough: &CancellationToken) {
        let Sent { events, published, duplicates, refused, unsent, bytes } = sent;
        self.answered += events;
        self.counts.published += published;
        self.counts.duplicates += duplicates;
        self.counts.failed += refused.len();
        self.refused.extend(refused);
        if let Some((events, error)) = unsent {
            self.counts.failed += events;
            self.stopped.push(error);
            enough.cancel();
        }
        bar.inc(bytes);
        bar.set_message(format!("{} events", self.counts.published + self.counts.duplicates));
    }

    /// Tells what of the file was left: some of the `begun` events may have no answer.
    fn close(&mut self, begun: usize, early: bool) {
        let unanswered = begun - self.answered;
        if unanswered > 0 {
            self.counts.failed += unanswered;
            let told = "events were under way, and it is not known whether they arrived";
            self.stopped.push(anyhow::anyhow!("{unanswered} {told}"));
        }
        if early {
            let told = "stopped before the end of the file; published again, it adds only what is \
                        missing";
            self.stopped.push(anyhow::anyhow!(told));
        }
    }
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
