//! Attributes in headers: percent-encoded, the same for HTTP and NATS.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::draft::{Draft, Scalar};
use crate::event::SPECVERSION;
use crate::fault::member;
use crate::json::MEMBERS_MAX;
use crate::{Event, Faults};

/// What stands before the name of an attribute.
const PREFIX: &str = "ce-";

/// What CloudEvents wants encoded, beside all that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Text as a header value of printable ASCII.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The text of a header value, or why it has none.
pub(crate) fn decode(value: &[u8]) -> Result<String, &'static str> {
    let unquoted = unquote(value);
    let value = unquoted.as_deref().unwrap_or(value);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (after.first().and_then(hex), after.get(1).and_then(hex));
        let (Some(high), Some(low)) = (high, low) else {
            return Err("must have two hexadecimal digits after each %");
        };
        bytes.push(high << 4 | low);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "must be UTF-8 after percent-decoding")
}

/// The name of a header; those that are always the same cost nothing.
pub(crate) type Name = Cow<'static, str>;

/// All attributes but the content type, which each protocol has its own place for.
pub(crate) fn attributes(event: &Event) -> Vec<(Name, String)> {
    let mut headers = Vec::with_capacity(8 + event.extensions.len());
    headers.push(("ce-specversion".into(), SPECVERSION.to_owned()));
    headers.push(("ce-id".into(), encode(event.id.as_str())));
    headers.push(("ce-source".into(), encode(event.source.as_str())));
    headers.push(("ce-type".into(), encode(event.kind.as_str())));
    let texts = [
        ("ce-subject", event.subject.as_deref()),
        ("ce-time", event.time.as_ref().map(crate::Time::as_str)),
        ("ce-dataschema", event.dataschema.as_deref()),
    ];
    headers.extend(texts.into_iter().filter_map(|(name, text)| Some((name.into(), encode(text?)))));
    for (name, value) in event.extensions.iter() {
        let name = Cow::Owned(format!("{PREFIX}{}", name.as_str()));
        headers.push((name, encode(&value.to_string())));
    }
    headers
}

/// The name of the attribute that a header carries, in lower case, if it carries one.
pub(crate) fn attribute_name(header: &str) -> Option<String> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| name.to_ascii_lowercase())
}

/// Reads a message in binary mode.
///
/// `content_type` is the data's type where the protocol has a place of its own for it; a header
/// `ce-datacontenttype` is a fault then.
pub(crate) fn read<'a>(
    content_type: Option<Option<&str>>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Event, Faults> {
    let mut draft = Draft::default();
    let mut seen: Vec<String> = Vec::new();
    if let Some(Some(content_type)) = content_type {
        draft.set("datacontenttype", Scalar::Text(content_type.into()));
    }
    for (header, value) in headers {
        let Some(name) = attribute_name(header) else { continue };
        if seen.len() == MEMBERS_MAX {
            draft.faults.push("", format!("must not have more than {MEMBERS_MAX} attributes"));
            break;
        }
        if seen.contains(&name) {
            draft.faults.push(member(&name), "must not be given twice");
        } else if content_type.is_some() && name == "datacontenttype" {
            draft.faults.push("/datacontenttype", "is given by Content-Type, not by a ce- header");
        } else {
            match decode(value) {
                Ok(text) => draft.set(&name, Scalar::Text(text.into())),
                Err(why) => draft.faults.push(member(&name), why),
            }
        }
        seen.push(name);
    }
    draft.set_data(body);
    draft.finish()
}

/// The content of a quoted string, if `value` is one.
fn unquote(value: &[u8]) -> Option<Vec<u8>> {
    let quoted = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut escaped = false;
    let mut content = Vec::with_capacity(quoted.len());
    for &byte in quoted {
        if byte == b'\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            content.push(byte);
        }
    }
    Some(content)
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_encoded_as_it_says() {
        assert_eq!(encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(decode(b"Euro%20%E2%82%AC%20%f0%9F%98%80").unwrap(), "Euro € 😀");
    }

    #[test]
    fn overlong_and_broken_sequences_are_refused() {
        for bad in [&b"%C0%A0"[..], b"%", b"%4", b"%zz", b"%+1", b"\xff", b"%ED%A0%80"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn quoted_strings_are_unquoted_first() {
        assert_eq!(decode(br#""a \"b\" %25""#).unwrap(), "a \"b\" %");
        assert_eq!(decode(b"\"").unwrap(), "\"");
    }

    #[test]
    fn header_names_have_no_case() {
        assert_eq!(attribute_name("CE-Type").as_deref(), Some("type"));
        assert_eq!(attribute_name("content-type"), None);
        assert_eq!(attribute_name("é"), None);
    }
}
