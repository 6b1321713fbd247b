//! The id of an event.

use std::sync::Arc;

use uuid::Uuid;

use crate::attribute::{InvalidAttribute, check_string, text_newtype};

/// The id of an event: 1..=255 bytes without control characters.
///
/// Unique per [`Source`](crate::Source) only: the two together name an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

text_newtype!(EventId, InvalidAttribute);

impl EventId {
    /// Bytes at most.
    pub const BYTES_MAX: usize = 255;

    /// The id written as a hyphenated UUID; version 7 keeps ids in order of time.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> EventId {
        let mut buffer = Uuid::encode_buffer();
        let text: &str = uuid.as_hyphenated().encode_lower(&mut buffer);
        EventId(text.into())
    }

    fn check(text: &str) -> Result<(), InvalidAttribute> {
        check_string(text, EventId::BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_any_short_printable_text() {
        assert!("order 17/é".parse::<EventId>().is_ok());
        assert!("x".repeat(255).parse::<EventId>().is_ok());
        for bad in ["", "a\nb", "\u{85}", "\u{FFFE}", &"x".repeat(256)] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_uuid_is_written_with_hyphens() {
        assert_eq!(
            EventId::from_uuid(Uuid::nil()).as_str(),
            "00000000-0000-0000-0000-000000000000"
        );
    }
}
