//! One line of a file as an event in JSON.

use std::collections::HashMap;
use std::fmt::Write as _;

use bus::log::EVENT_BYTES_MAX;
use schemas::{Event, Faults, ParseError};
use serde::de::IgnoredAny;

use super::event_id::event_id;

/// `text` as a whole event: what the short form leaves out is put in front, the rest stays byte for
/// byte as it was written.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn event(number: u64, text: &str) -> Result<String, Faults> {
    let text = text.trim();
    let members: HashMap<String, IgnoredAny> =
        serde_json::from_str(text).map_err(|error| Faults::one("", error))?;
    if members.is_empty() {
        return Err(Faults::one("/type", "is required"));
    }
    let mut whole = String::with_capacity(text.len() + 96);
    whole.push('{');
    let id = || event_id(number, text).to_string();
    let absent = [("specversion", "1.0".to_owned()), ("id", id()), ("source", "/".to_owned())];
    for (name, value) in absent.into_iter().filter(|(name, _)| !members.contains_key(*name)) {
        let _ = write!(whole, "\"{name}\":\"{value}\","); // writing to a string cannot fail
    }
    whole.push_str(text.strip_prefix('{').unwrap_or(text).trim_start());
    let event = Event::from_json(whole.as_bytes()).map_err(ParseError::into_faults)?;
    // The server would refuse the whole batch for it.
    match event.size() {
        bytes if bytes > EVENT_BYTES_MAX => {
            Err(Faults::one("", format!("is {bytes} bytes, the limit is {EVENT_BYTES_MAX}")))
        }
        _ => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_completed_and_kept_as_written() {
        let whole = event(3, " {\"type\": \"a\",  \"data\": {\"n\": 1.0}}\r").unwrap();
        let id = event_id(3, "{\"type\": \"a\",  \"data\": {\"n\": 1.0}}");
        let expected = format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/\",\"type\": \"a\",  \"data\": {{\"n\": 1.0}}}}"
        );
        assert_eq!(whole, expected);
    }

    #[test]
    fn a_whole_event_is_left_alone() {
        let text = r#"{"specversion":"1.0","id":"1","source":"/a","type":"b"}"#;
        assert_eq!(event(1, text).as_deref(), Ok(text));
    }

    #[test]
    fn what_is_no_event_is_explained() {
        for (text, told) in [
            ("{}", "/type: "),
            (r#"{"data":1}"#, "/type: "),
            ("[1]", "invalid type"),
            ("{\"type\":", "EOF"),
            (r#"{"type":"a..b"}"#, "/type: "),
        ] {
            let faults = event(1, text).unwrap_err().to_string();
            assert!(faults.contains(told), "{text}: {faults}");
        }
    }
}
