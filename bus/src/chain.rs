//! An error in words.

use std::error::Error;
use std::fmt::Write as _;

/// An error and its causes: `reading the log: disk I/O error`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
