//! The position of an event in the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A sequence number of the log: 1 for its first event, growing, never used twice. 0 stands before
/// the first event. Numbers may be missing where events were pruned.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(i64);

impl Seq {
    /// Before the first event.
    pub const ZERO: Seq = Seq(0);
    /// After every event.
    pub const MAX: Seq = Seq(i64::MAX);

    /// The sequence number `n`; negative numbers become 0.
    #[must_use]
    pub const fn new(n: i64) -> Seq {
        Seq(if n < 0 { 0 } else { n })
    }

    /// As a number, as it stands in the database.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }

    /// The position before this one, not below 0.
    #[must_use]
    pub const fn previous(self) -> Seq {
        Seq::new(self.0 - 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not a sequence number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a sequence number is a whole number from 0 up, not `{0}`")]
pub struct InvalidSeq(String);

impl FromStr for Seq {
    type Err = InvalidSeq;

    fn from_str(text: &str) -> Result<Seq, InvalidSeq> {
        match text.parse::<i64>() {
            Ok(n) if n >= 0 => Ok(Seq(n)),
            _ => Err(InvalidSeq(text.chars().take(40).collect())),
        }
    }
}
