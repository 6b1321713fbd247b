//! A file of JSON lines as batches of checked events.

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use super::line;

/// Events in one request at most.
const EVENTS_MAX: usize = 500;
/// Bytes after which a batch is full, well below the 16 MiB that the server takes.
const BYTES_FULL: usize = 4 << 20;
/// Bytes of one line at most: more than the 1 MiB of the largest event, in any notation.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// Faulty lines of one batch that are told.
const FAULTS_TOLD: usize = 20;

/// Events that are sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// A JSON array.
    pub(super) body: String,
    /// The line of each event.
    pub(super) lines: Vec<u64>,
    /// Bytes of the file that it stands for.
    pub(super) bytes: u64,
}

/// Reads batches.
pub(super) struct Lines<R> {
    name: String,
    input: BufReader<R>,
    number: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads `input`, which messages call `name`.
    pub(super) fn new(name: String, input: R) -> Lines<R> {
        Lines { name, input: BufReader::with_capacity(64 << 10, input), number: 0 }
    }

    /// The next batch; `None` at the end. Lines of white space only are passed over.
    ///
    /// # Errors
    /// Reading fails, or lines are no events: each is named, and none of its batch is sent.
    pub(super) async fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let (mut batch, mut faults) = (Batch::default(), Vec::new());
        let mut read = 0; // faulty lines count: where a batch ends does not depend on them
        while read < EVENTS_MAX && batch.body.len() < BYTES_FULL {
            let Some(text) = self.next_line(&mut batch.bytes).await? else { break };
            if text.trim().is_empty() {
                continue;
            }
            read += 1;
            match line::event(self.number, &text) {
                Ok(event) => {
                    batch.body.push(if batch.lines.is_empty() { '[' } else { ',' });
                    batch.body.push_str(&event);
                    batch.lines.push(self.number);
                }
                Err(error) => faults.push(format!("{}:{}: {error}", self.name, self.number)),
            }
        }
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(FAULTS_TOLD);
            faults.truncate(FAULTS_TOLD);
            if more > 0 {
                faults.push(format!("… and {more} more"));
            }
            anyhow::bail!(faults.join("\n"));
        }
        batch.body.push(']');
        Ok((!batch.lines.is_empty()).then_some(batch))
    }

    /// The next line without its end; `None` at the end of the file.
    async fn next_line(&mut self, bytes: &mut u64) -> anyhow::Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX);
        let length = limited.read_until(b'\n', &mut line).await;
        let length = length.with_context(|| format!("reading {}", self.name))? as u64;
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        *bytes += length;
        let place = || format!("{}:{}", self.name, self.number);
        anyhow::ensure!(length < LINE_BYTES_MAX, "{}: the line is too long", place());
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        String::from_utf8(line).map(Some).with_context(|| format!("{}: not UTF-8", place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines<&[u8]> {
        Lines::new("events.jsonl".to_owned(), text.as_bytes())
    }

    #[tokio::test]
    async fn a_file_becomes_batches_that_know_their_lines() {
        let text = "{\"type\":\"a\"}\n\n".repeat(EVENTS_MAX + 1);
        let mut lines = lines(&text);
        let first = lines.next_batch().await.unwrap().unwrap();
        assert_eq!(first.lines.len(), EVENTS_MAX);
        assert_eq!(&first.lines[..3], [1, 3, 5]);
        let events: Vec<serde_json::Value> = serde_json::from_str(&first.body).unwrap();
        assert_eq!(events.len(), EVENTS_MAX);
        let second = lines.next_batch().await.unwrap().unwrap();
        assert_eq!(second.lines, [1_001]);
        assert_eq!(first.bytes + second.bytes, text.len() as u64);
        assert!(lines.next_batch().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn every_bad_line_of_a_batch_is_named() {
        let error = lines("{\"type\":\"a\"}\nnonsense\n{\"type\":\"\"}").next_batch().await;
        let told = error.unwrap_err().to_string();
        let told: Vec<_> = told.lines().collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("events.jsonl:2: "), "{told:?}");
        assert!(told[1].starts_with("events.jsonl:3: /type: "), "{told:?}");
    }

    #[tokio::test]
    async fn an_empty_file_has_no_batch() {
        assert!(lines("").next_batch().await.unwrap().is_none());
        assert!(lines("\n \n").next_batch().await.unwrap().is_none());
    }
}
