//! Posts a batch until the server has said yes or no for good.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;

use super::super::client::Client;
use super::super::problem::Problem;
use super::lines::Batch;

/// Tries of one batch; with the waits between them about a minute.
const TRIES_MAX: u32 = 10;
/// The first wait; it doubles with every try.
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest wait that a server may ask for.
const ASKED_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What became of a batch.
pub(super) struct Sent {
    pub(super) events: usize,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// How many were there already, or why none was taken.
    pub(super) outcome: anyhow::Result<usize>,
}

/// Posts batches of a file.
pub(super) struct Sender {
    client: Client,
    /// The file, for messages.
    name: String,
}

/// Why a try failed.
enum Failure {
    /// It may succeed later; when the server says so, after this wait.
    Passing(anyhow::Error, Option<Duration>),
    /// It never will.
    Lasting(anyhow::Error),
}

#[derive(Deserialize)]
struct Receipts {
    events: Vec<Receipt>,
}

#[derive(Deserialize)]
struct Receipt {
    #[serde(default)]
    duplicate: bool,
}

impl Sender {
    /// Posts through `client` what stands in the file `name`.
    pub(super) fn new(client: Client, name: String) -> Sender {
        Sender { client, name }
    }

    /// Posts a batch. Ids make repeating harmless: what had arrived is a duplicate.
    pub(super) async fn send(&self, batch: Batch) -> Sent {
        let (events, bytes) = (batch.lines.len(), batch.bytes);
        let body = bytes::Bytes::from(batch.body);
        let mut wait = WAIT_MIN;
        let mut tries = 1;
        let outcome = loop {
            match self.post(body.clone()).await {
                Ok(duplicates) => break Ok(duplicates),
                Err(Failure::Passing(_, asked)) if tries < TRIES_MAX => {
                    tokio::time::sleep(asked.unwrap_or(wait)).await;
                    wait = (wait * 2).min(WAIT_MAX);
                    tries += 1;
                }
                Err(Failure::Passing(error, _) | Failure::Lasting(error)) => {
                    break Err(self.place(error, &batch.lines));
                }
            }
        };
        Sent { events, bytes, outcome }
    }

    async fn post(&self, body: bytes::Bytes) -> Result<usize, Failure> {
        let request = self
            .client
            .request(Method::POST, self.client.address(&["events"]))
            .header("content-type", "application/cloudevents-batch+json")
            .timeout(TIMEOUT)
            .body(body);
        let answer = request.send().await.map_err(|error| {
            let error = anyhow::Error::new(error).context("calling the server");
            Failure::Passing(error, None)
        })?;
        let status = answer.status();
        if !status.is_success() {
            let asked = asked_wait(&answer);
            let body = answer.bytes().await.unwrap_or_default();
            let problem = Problem::read(status, &body).into();
            return Err(if may_pass(status) {
                Failure::Passing(problem, asked)
            } else {
                Failure::Lasting(problem)
            });
        }
        let receipts: Receipts = answer
            .json()
            .await
            .context("reading the answer")
            .map_err(|error| Failure::Passing(error, None))?;
        Ok(receipts.events.iter().filter(|receipt| receipt.duplicate).count())
    }

    /// The error with the places in the file in front: pointers of a refusal become lines.
    fn place(&self, error: anyhow::Error, lines: &[u64]) -> anyhow::Error {
        let name = &self.name;
        let (first, last) = (lines.first().unwrap_or(&0), lines.last().unwrap_or(&0));
        match error.downcast::<Problem>() {
            Ok(mut problem) if !problem.errors.is_empty() => {
                for fault in &mut problem.errors {
                    fault.pointer = line_of(&fault.pointer, lines)
                        .map_or_else(|| fault.pointer.clone(), |place| format!("{name}:{place}"));
                }
                problem.into()
            }
            Ok(problem) => anyhow::Error::new(problem).context(format!("{name}:{first}-{last}")),
            Err(error) => error.context(format!("{name}:{first}-{last}")),
        }
    }
}

/// `/2/type` of a batch as `17: /type` of the file.
fn line_of(pointer: &str, lines: &[u64]) -> Option<String> {
    let rest = pointer.strip_prefix('/')?;
    let (index, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let line = lines.get(index.parse::<usize>().ok()?)?;
    Some(if rest.is_empty() { line.to_string() } else { format!("{line}: /{rest}") })
}

/// Whether the same request may get another answer later.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}

/// The wait that the server asks for, in seconds; a date is not read, the usual wait serves.
fn asked_wait(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(ASKED_WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_of_a_batch_become_lines_of_the_file() {
        let lines = [4, 7, 9];
        assert_eq!(line_of("/2/type", &lines).as_deref(), Some("9: /type"));
        assert_eq!(line_of("/0", &lines).as_deref(), Some("4"));
        assert_eq!(line_of("/3/type", &lines), None);
        assert_eq!(line_of("", &lines), None);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passes) in [(429, true), (503, true), (422, false), (401, false), (500, false)]
        {
            assert_eq!(may_pass(StatusCode::from_u16(status).unwrap()), passes, "{status}");
        }
    }
}
