//! A file of JSON lines as batches of checked events.

use anyhow::Context as _;
use schemas::Faults;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use super::line;

/// Events in one request at most.
const EVENTS_MAX: usize = 500;
/// Bytes after which a batch is full, well below the 16 MiB that the server takes.
const BYTES_FULL: usize = 4 << 20;
/// Bytes of one line at most: more than the 1 MiB of the largest event, in any notation.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// Events that are sent together, and the lines between them that are none.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order of the file.
    pub(super) events: Vec<Line>,
    /// Other lines, each with what is wrong with it.
    pub(super) refused: Vec<(u64, String)>,
    /// Bytes of the file that it stands for.
    pub(super) bytes: u64,
}

/// An event, and the number of its line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    /// A JSON object.
    pub(super) event: String,
}

/// Reads batches.
pub(super) struct Lines<R> {
    name: String,
    input: BufReader<R>,
    number: u64,
    /// Why reading failed, until the batch before was handed out.
    failed: Option<anyhow::Error>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads `input`, which messages call `name`.
    pub(super) fn new(name: String, input: R) -> Lines<R> {
        let input = BufReader::with_capacity(64 << 10, input);
        Lines { name, input, number: 0, failed: None }
    }

    /// The next batch; `None` at the end. Lines of white space only are passed over.
    ///
    /// # Errors
    /// Reading fails; what was read before has been handed out.
    pub(super) async fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let (mut batch, mut event_bytes) = (Batch::default(), 0);
        // Refused lines count: where a batch ends does not depend on them.
        while batch.events.len() + batch.refused.len() < EVENTS_MAX && event_bytes < BYTES_FULL {
            if self.failed.is_some() {
                break;
            }
            match self.next_line(&mut batch.bytes).await {
                Ok(None) => break,
                Ok(Some(Ok(text))) if text.trim().is_empty() => {}
                Ok(Some(read)) => {
                    let event = read.and_then(|text| line::event(self.number, &text));
                    match event {
                        Ok(event) => {
                            event_bytes += event.len();
                            batch.events.push(Line { number: self.number, event });
                        }
                        Err(faults) => batch.refused.push((self.number, faults.to_string())),
                    }
                }
                Err(error) => self.failed = Some(error),
            }
        }
        if !batch.events.is_empty() || !batch.refused.is_empty() {
            return Ok(Some(batch));
        }
        self.failed.take().map_or(Ok(None), Err)
    }

    /// The next line without its end, or what keeps it from being read as text; `None` at the end
    /// of the file.
    async fn next_line(
        &mut self,
        bytes: &mut u64,
    ) -> anyhow::Result<Option<Result<String, Faults>>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX);
        let length = limited.read_until(b'\n', &mut line).await;
        let length = length.with_context(|| format!("reading {}", self.name))? as u64;
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        *bytes += length;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if length == LINE_BYTES_MAX {
            *bytes += self.skip_line().await?;
            let limit = LINE_BYTES_MAX >> 20;
            return Ok(Some(Err(Faults::one("", format!("is longer than {limit} MiB")))));
        }
        let text = String::from_utf8(line);
        Ok(Some(text.map_err(|error| Faults::one("", format!("is not UTF-8: {error}")))))
    }

    /// Passes over the rest of a line, without keeping it; how many bytes those were.
    async fn skip_line(&mut self) -> anyhow::Result<u64> {
        let mut skipped = 0;
        loop {
            let there = self.input.fill_buf().await;
            let there = there.with_context(|| format!("reading {}", self.name))?;
            let end = there.iter().position(|&byte| byte == b'\n');
            let length = end.map_or(there.len(), |at| at + 1);
            self.input.consume(length);
            skipped += length as u64;
            if end.is_some() || length == 0 {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines<&[u8]> {
        Lines::new("events.jsonl".to_owned(), text.as_bytes())
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|line| line.number).collect()
    }

    #[tokio::test]
    async fn a_file_becomes_batches_that_know_their_lines() {
        let text = "{\"type\":\"a\"}\n\n".repeat(EVENTS_MAX + 1);
        let mut lines = lines(&text);
        let first = lines.next_batch().await.unwrap().unwrap();
        assert_eq!(first.events.len(), EVENTS_MAX);
        assert_eq!(&numbers(&first)[..3], [1, 3, 5]);
        let second = lines.next_batch().await.unwrap().unwrap();
        assert_eq!(numbers(&second), [1_001]);
        assert_eq!(first.bytes + second.bytes, text.len() as u64);
        assert!(lines.next_batch().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn bad_lines_stand_beside_the_good_ones_of_their_batch() {
        let long = "x".repeat(usize::try_from(LINE_BYTES_MAX).unwrap() + 9);
        let large = format!("{{\"type\":\"a\",\"data\":\"{}\"}}", "x".repeat(1 << 20));
        let mut text = b"{\"type\":\"a\"}\nnonsense\n{\"type\":\"\"}\n\xff\n".to_vec();
        text.extend(format!("{long}\n{large}\n{{\"type\":\"b\"}}").into_bytes());
        let mut lines = Lines::new("events.jsonl".to_owned(), &text[..]);
        let batch = lines.next_batch().await.unwrap().unwrap();
        assert_eq!(numbers(&batch), [1, 7]);
        let told =
            [(2, ""), (3, "/type: "), (4, "is not UTF-8"), (5, "is longer"), (6, "the limit")];
        assert_eq!(batch.refused.len(), told.len(), "{:?}", batch.refused);
        for ((number, fault), (line, part)) in batch.refused.iter().zip(told) {
            assert!(*number == line && fault.contains(part), "{number}: {fault}");
        }
        assert_eq!(batch.bytes, text.len() as u64);
    }

    #[tokio::test]
    async fn what_was_read_before_reading_failed_is_handed_out() {
        let mut lines = Lines::new("events.jsonl".to_owned(), broken());
        assert_eq!(numbers(&lines.next_batch().await.unwrap().unwrap()), [1]);
        assert!(lines.next_batch().await.is_err());
    }

    /// Text, then an error.
    fn broken() -> impl AsyncRead + Unpin {
        let gone = || std::io::Error::other("the disk is gone");
        let text = futures::stream::iter([Ok(&b"{\"type\":\"a\"}\n"[..]), Err(gone())]);
        tokio_util::io::StreamReader::new(text)
    }

    #[tokio::test]
    async fn an_empty_file_has_no_batch() {
        assert!(lines("").next_batch().await.unwrap().is_none());
        assert!(lines("\n \n").next_batch().await.unwrap().is_none());
    }
}
