//! JSON as it is read and written without building trees: members, scalars, checks, strings.

use std::borrow::Cow;
use std::fmt::{self, Formatter};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::ParseError;

/// Levels of arrays and objects in an event's data at most. `serde_json` reads 127 levels; the
/// difference leaves room for the envelopes in which events are shown.
pub(crate) const NESTING_MAX: usize = 120;

/// Members of one object that are kept at most: far more than all attributes and extensions.
pub(crate) const MEMBERS_MAX: usize = 128;

/// The members of an object in their order, duplicates included, values unread.
pub(crate) struct Members<'a> {
    pub(crate) list: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// There were more than [`MEMBERS_MAX`].
    pub(crate) too_many: bool,
}

/// The elements of an array in their order, values unread.
pub(crate) struct Elements<'a> {
    pub(crate) list: Vec<&'a RawValue>,
    /// How many there were; the list holds the first of them.
    pub(crate) count: usize,
}

/// Reads bytes as text, as all JSON is.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|error| {
        ParseError::Malformed(format!("not UTF-8 after byte {}", error.valid_up_to()))
    })
}

/// The members of an object; `None` when `text` is JSON but no object.
pub(crate) fn members(text: &str) -> Result<Option<Members<'_>>, ParseError> {
    if !first(text, '{') {
        return well_formed(text).map(|()| None);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader.deserialize_map(ReadMembers).map_err(malformed)?;
    reader.end().map_err(malformed)?;
    Ok(Some(members))
}

/// The first `limit` elements of an array; `None` when `text` is JSON but no array.
pub(crate) fn elements(text: &str, limit: usize) -> Result<Option<Elements<'_>>, ParseError> {
    if !first(text, '[') {
        return well_formed(text).map(|()| None);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let elements = reader.deserialize_seq(ReadElements { limit }).map_err(malformed)?;
    reader.end().map_err(malformed)?;
    Ok(Some(elements))
}

fn first(text: &str, wanted: char) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(wanted)
}

fn well_formed(text: &str) -> Result<(), ParseError> {
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(malformed)
}

#[allow(clippy::needless_pass_by_value)] // shaped for map_err
fn malformed(error: serde_json::Error) -> ParseError {
    ParseError::Malformed(error.to_string())
}

/// Says why a JSON text cannot be read by everyone, if it cannot: malformed, nested deeper than
/// [`NESTING_MAX`], a number beyond every float, or half a surrogate pair.
pub(crate) fn check_readable(text: &str) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Walk { levels_left: NESTING_MAX }.deserialize(&mut reader)?;
    reader.end()
}

/// Appends `text` as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// A key, borrowed where it holds no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'de>, D::Error> {
        struct ReadKey;

        impl<'de> Visitor<'de> for ReadKey {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(ReadKey)
    }
}

struct ReadMembers;

impl<'de> Visitor<'de> for ReadMembers {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members { list: Vec::with_capacity(12), too_many: false };
        while let Some(Key(name)) = map.next_key()? {
            if members.list.len() == MEMBERS_MAX {
                members.too_many = true;
                map.next_value::<IgnoredAny>()?;
            } else {
                members.list.push((name, map.next_value()?));
            }
        }
        Ok(members)
    }
}

struct ReadElements {
    limit: usize,
}

impl<'de> Visitor<'de> for ReadElements {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements<'de>, A::Error> {
        let mut list = Vec::new();
        while list.len() < self.limit {
            match seq.next_element()? {
                Some(element) => list.push(element),
                None => return Ok(Elements { count: list.len(), list }),
            }
        }
        let mut count = list.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Elements { list, count })
    }
}

/// Reads a value for its errors only.
#[derive(Clone, Copy)]
struct Walk {
    levels_left: usize,
}

impl Walk {
    fn inside<E: Error>(self) -> Result<Walk, E> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Walk { levels_left }),
            None => Err(E::custom(format!("nested deeper than {NESTING_MAX} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        while seq.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        while map.next_key_seed(inside)?.is_some() {
            map.next_value_seed(inside)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_serde_does() {
        for text in ["", "plain", "a\"b\\c\n\r\t\u{1}\u{1f}\u{7f}é\u{1F600}"] {
            let mut out = Vec::new();
            write_string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn what_others_could_not_read_is_told() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(check_readable(&deep(NESTING_MAX)).is_ok());
        let error = check_readable(&deep(NESTING_MAX + 1)).unwrap_err().to_string();
        assert!(error.starts_with("nested deeper than 120 levels"), "{error}");
        assert!(check_readable(&deep(100_000)).is_err());
        for bad in ["1e999", "\"\\ud800\"", "{\"\\udfff\":1}", "1 2", "", "[1,]"] {
            assert!(check_readable(bad).is_err(), "{bad}");
        }
        assert!(check_readable("[12345678901234567890123, {\"a\":1,\"a\":2}]").is_ok());
    }

    #[test]
    fn members_keep_order_and_duplicates_and_stop_at_a_limit() {
        let read = members(r#" {"b":1,"\u0061":[2],"b":3} "#).unwrap().unwrap();
        let names: Vec<&str> = read.list.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["b", "a", "b"]);
        assert!(members("[1]").unwrap().is_none());
        assert!(members("{").is_err() && members("{} x").is_err());
        let many: Vec<String> = (0..200).map(|n| format!("\"a{n}\":0")).collect();
        let many = format!("{{{}}}", many.join(","));
        let read = members(&many).unwrap().unwrap();
        assert!(read.too_many && read.list.len() == MEMBERS_MAX);
    }
}
