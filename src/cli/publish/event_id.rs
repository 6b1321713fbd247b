//! The id of an event that was written without one.

use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

/// Keeps these ids apart from other hashes of the same text.
const NAMESPACE: &str = "skald publish 1";

/// The id of the line `number` (from 1) that reads `text`: the same each time, so that publishing a
/// file again, or the rest of it after a failure, makes duplicates that the log knows.
pub(super) fn event_id(number: u64, text: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(NAMESPACE);
    hash.update(number.to_be_bytes());
    hash.update(text.trim());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid() // version 8: made in a way of our own
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"type":"a","data":1}"#;

    #[test]
    fn the_same_line_has_the_same_id_for_ever() {
        assert_eq!(event_id(1, TEXT), event_id(1, TEXT));
        assert_eq!(event_id(1, TEXT), event_id(1, &format!(" {TEXT}\r\n")));
        assert_eq!(event_id(1, TEXT).to_string(), "d063aadf-8fb2-88dc-90b3-c55cee0ae968");
    }

    #[test]
    fn another_number_or_another_text_is_another_event() {
        assert_ne!(event_id(1, TEXT), event_id(2, TEXT));
        assert_ne!(event_id(1, TEXT), event_id(1, r#"{"type":"a","data":2}"#));
    }
}
