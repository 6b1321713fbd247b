//! Why bytes are not an event.

use crate::Faults;

/// Bytes could not be read as an event, or as a batch of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The bytes are not JSON at all (over HTTP: 400). Says what and where.
    #[error("malformed JSON: {0}")]
    Malformed(String),
    /// The bytes can be read but break the rules of events (over HTTP: 422).
    #[error(transparent)]
    Invalid(#[from] Faults),
}

impl ParseError {
    /// The same as faults; malformed JSON becomes one fault of the whole.
    #[must_use]
    pub fn into_faults(self) -> Faults {
        match self {
            ParseError::Malformed(detail) => Faults::one("", format!("malformed JSON: {detail}")),
            ParseError::Invalid(faults) => faults,
        }
    }
}
