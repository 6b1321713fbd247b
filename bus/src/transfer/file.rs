//! The file: lines of JSON, the last of which tells what all of them hold.

use std::io::{BufRead, Write};

use schemas::{EventType, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::events::Stored;
use super::{Contents, FORM, TransferError};
use crate::Seq;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first.
    Head {
        form: u32,
        /// The newest migration of the database.
        migration: i64,
        log: LogHead,
    },
    Event(Stored),
    /// What the rows that follow belong to.
    Table {
        table: String,
        columns: Vec<String>,
    },
    Row(Vec<serde_json::Value>),
    /// The last: what there is, and a hash over every line before it.
    End {
        contents: Contents,
        hash: String,
    },
}

/// The log as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LogHead {
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// Per type: up to when events are gone.
    pub(super) pruned: Vec<(String, Timestamp)>,
}

impl LogHead {
    pub(super) fn pruned(&self) -> Vec<(EventType, Timestamp)> {
        let parsed = |(kind, at): &(String, Timestamp)| Some((kind.parse().ok()?, *at));
        self.pruned.iter().filter_map(parsed).collect()
    }
}

pub(super) struct Writer<'a> {
    out: &'a mut (dyn Write + Send),
    hash: Sha256,
}

impl Writer<'_> {
    pub(super) fn new(out: &mut (dyn Write + Send)) -> Writer<'_> {
        Writer { out, hash: Sha256::new() }
    }

    pub(super) fn line(&mut self, line: &Line) -> Result<(), TransferError> {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::other)?;
        text.push(b'\n');
        self.hash.update(&text);
        Ok(self.out.write_all(&text)?)
    }

    pub(super) fn end(self, contents: &Contents) -> Result<(), TransferError> {
        let end = Line::End { contents: contents.clone(), hash: hex(&self.hash.finalize()) };
        serde_json::to_writer(&mut *self.out, &end).map_err(std::io::Error::other)?;
        self.out.write_all(b"\n")?;
        Ok(self.out.flush()?)
    }
}

pub(super) struct Head {
    pub(super) migration: i64,
    pub(super) log: LogHead,
}

pub(super) struct Reader<'a> {
    from: &'a mut (dyn BufRead + Send),
    text: Vec<u8>,
    line: u64,
}

impl Reader<'_> {
    pub(super) fn new(from: &mut (dyn BufRead + Send)) -> Reader<'_> {
        Reader { from, text: Vec::new(), line: 0 }
    }

    pub(super) fn head(&mut self) -> Result<Head, TransferError> {
        match self.next() {
            Ok(Some(Line::Head { form: FORM, migration, log })) => Ok(Head { migration, log }),
            Ok(Some(Line::Head { form, .. })) => {
                Err(TransferError::Form(format!("its form is {form}, this program reads {FORM}")))
            }
            Err(TransferError::File(error)) => Err(error.into()),
            _ => Err(TransferError::Form("it does not begin with a head".to_owned())),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Line>, TransferError> {
        self.text.clear();
        if self.from.read_until(b'\n', &mut self.text)? == 0 {
            return Ok(None);
        }
        self.line += 1;
        let line = serde_json::from_slice(&self.text);
        line.map(Some).map_err(|source| TransferError::Line { line: self.line, source })
    }
}

/// Reads a file to its end and compares it with the hash there: an import begins with nothing that
/// is not whole.
///
/// # Errors
/// [`TransferError::File`] and [`TransferError::Form`].
pub fn check(from: &mut (dyn BufRead + Send)) -> Result<Contents, TransferError> {
    let (mut hash, mut last) = (Sha256::new(), Vec::new());
    let mut text = Vec::new();
    loop {
        text.clear();
        if from.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        hash.update(&last);
        std::mem::swap(&mut last, &mut text);
    }
    match serde_json::from_slice(&last) {
        Ok(Line::End { contents, hash: told }) if told == hex(&hash.finalize()) => Ok(contents),
        Ok(Line::End { .. }) => Err(TransferError::Form("it was changed or damaged".to_owned())),
        _ => Err(TransferError::Form("its end is missing".to_owned())),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
