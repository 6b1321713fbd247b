//! Posts a batch until the server has said yes or no for good.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;

use super::super::client::Client;
use super::super::problem::{Pointed, Problem};
use super::lines::{Batch, Line};

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
#[derive(Default)]
pub(super) struct Sent {
    /// How many events it had.
    pub(super) events: usize,
    /// How many events the server took that it did not have.
    pub(super) published: usize,
    /// How many were there already.
    pub(super) duplicates: usize,
    /// Lines that are no events for the file or for the server, each with what is wrong with it.
    pub(super) refused: Vec<(u64, String)>,
    /// How many events were not taken although nothing is wrong with them, and why.
    pub(super) unsent: Option<(usize, anyhow::Error)>,
    /// Bytes of the file.
    pub(super) bytes: u64,
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

    /// Posts a batch. Ids make repeating harmless: what had arrived is a duplicate. Events that the
    /// server refuses by name are left out, and the others are posted again.
    pub(super) async fn send(&self, batch: Batch) -> Sent {
        let Batch { mut events, refused, bytes } = batch;
        let mut sent = Sent { events: events.len(), refused, bytes, ..Sent::default() };
        while !events.is_empty() {
            match self.post_until_answered(&events).await {
                Ok(duplicates) => {
                    sent.published += events.len() - duplicates;
                    sent.duplicates += duplicates;
                    break;
                }
                Err(error) => match named(&error, events.len()) {
                    Some(faults) => {
                        events = without(events, &faults, &mut sent.refused);
                    }
                    None => {
                        let error = self.place(error, &events);
                        sent.unsent = Some((events.len(), error));
                        break;
                    }
                },
            }
        }
        sent
    }

    /// How many of the events were there already.
    async fn post_until_answered(&self, events: &[Line]) -> anyhow::Result<usize> {
        let body = bytes::Bytes::from(array(events));
        let mut wait = WAIT_MIN;
        let mut tries = 1;
        loop {
            match self.post(body.clone()).await {
                Ok(duplicates) => return Ok(duplicates),
                Err(Failure::Passing(_, asked)) if tries < TRIES_MAX => {
                    tokio::time::sleep(asked.unwrap_or(wait)).await;
                    wait = (wait * 2).min(WAIT_MAX);
                    tries += 1;
                }
                Err(Failure::Passing(error, _) | Failure::Lasting(error)) => return Err(error),
            }
        }
    }

    async fn post(&self, body: bytes::Bytes) -> Result<usize, Failure> {
        let request = self
            .client
            .request(Method::POST, self.client.address(&["events"]))
            .header("content-type", "application/cloudevents-batch+json")
            .timeout(TIMEOUT)
            .body(body);
        let unanswered = |error| Failure::Passing(self.client.unanswered(error), None);
        let answer = request.send().await.map_err(unanswered)?;
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

    /// The error with its place in the file in front.
    fn place(&self, error: anyhow::Error, events: &[Line]) -> anyhow::Error {
        let number = |line: Option<&Line>| line.map_or(0, |line| line.number);
        let (first, last) = (number(events.first()), number(events.last()));
        error.context(format!("{}:{first}-{last}", self.name))
    }
}

fn array(events: &[Line]) -> String {
    let bytes: usize = events.iter().map(|line| line.event.len() + 1).sum();
    let mut array = String::with_capacity(bytes + 2);
    for (index, line) in events.iter().enumerate() {
        array.push(if index == 0 { '[' } else { ',' });
        array.push_str(&line.event);
    }
    array.push(']');
    array
}

/// What is wrong with which events of a batch of `count`, by their places in it; `None` when the
/// refusal is about something else than single events.
fn named(error: &anyhow::Error, count: usize) -> Option<BTreeMap<usize, String>> {
    let problem = error.downcast_ref::<Problem>()?;
    let mut faults: BTreeMap<usize, String> = BTreeMap::new();
    for Pointed { pointer, detail } in &problem.errors {
        let (index, rest) = place_of(pointer).filter(|(index, _)| *index < count)?;
        let told = faults.entry(index).or_default();
        let and = if told.is_empty() { "" } else { "; " };
        let place = if rest.is_empty() { String::new() } else { format!("/{rest}: ") };
        told.push_str(&format!("{and}{place}{detail}"));
    }
    (!faults.is_empty()).then_some(faults)
}

/// The events but those with faults, which go to `refused`.
fn without(
    events: Vec<Line>,
    faults: &BTreeMap<usize, String>,
    refused: &mut Vec<(u64, String)>,
) -> Vec<Line> {
    let mut kept = Vec::with_capacity(events.len());
    for (index, line) in events.into_iter().enumerate() {
        match faults.get(&index) {
            Some(fault) => refused.push((line.number, fault.clone())),
            None => kept.push(line),
        }
    }
    kept
}

/// `/2/type` of a batch as the place of the event and what is left.
fn place_of(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix('/')?;
    let (index, rest) = rest.split_once('/').unwrap_or((rest, ""));
    Some((index.parse().ok()?, rest))
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

    fn refusal(pointers: &[&str]) -> anyhow::Error {
        let detail = "no".to_owned();
        let errors = pointers
            .iter()
            .map(|pointer| Pointed { pointer: (*pointer).to_owned(), detail: detail.clone() });
        Problem { status: 422, errors: errors.collect(), ..Problem::default() }.into()
    }

    #[test]
    fn events_that_a_refusal_names_are_left_out() {
        let faults = named(&refusal(&["/2/type", "/0", "/2/tenant"]), 3).unwrap();
        let told: Vec<_> = faults.iter().map(|(index, told)| (*index, told.as_str())).collect();
        assert_eq!(told, [(0, "no"), (2, "/type: no; /tenant: no")]);
        let lines = [4, 7, 9].map(|number| Line { number, event: number.to_string() });
        let mut refused = Vec::new();
        let kept = without(Vec::from(lines), &faults, &mut refused);
        assert_eq!(array(&kept), "[7]");
        assert_eq!(refused.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [4, 9]);
    }

    #[test]
    fn a_refusal_of_the_whole_batch_names_no_event() {
        for pointers in [&[][..], &[""], &["/3/type"], &["/0", "/x"]] {
            assert_eq!(named(&refusal(pointers), 3), None, "{pointers:?}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passes) in [(429, true), (503, true), (422, false), (401, false), (500, false)]
        {
            assert_eq!(may_pass(StatusCode::from_u16(status).unwrap()), passes, "{status}");
        }
    }
}
