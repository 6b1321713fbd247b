//! Writing an event as structured JSON, with its data byte for byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::SPECVERSION;
use crate::json::write_string;
use crate::{Data, Event, ExtensionValue};

impl Event {
    /// The event as structured JSON (`application/cloudevents+json`).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.write_json(&mut out);
        out
    }

    /// Appends the event as structured JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        member(out, "specversion", SPECVERSION);
        member(out, "id", self.id.as_str());
        member(out, "source", self.source.as_str());
        member(out, "type", self.kind.as_str());
        self.write_optional(out);
        for (name, value) in self.extensions.iter() {
            key(out, name.as_str());
            write_value(out, value);
        }
        match &self.data {
            Data::Empty => {}
            Data::Json(json) => {
                key(out, "data");
                out.extend_from_slice(json);
            }
            Data::Text(text) => member(out, "data", &String::from_utf8_lossy(text)),
            Data::Binary(bytes) => member(out, "data_base64", &STANDARD.encode(bytes)),
        }
        out.push(b'}');
    }

    /// About how many bytes the structured JSON has; cheap.
    #[must_use]
    pub fn size(&self) -> usize {
        const EACH: usize = 8; // quotes, colon, comma and a few escapes
        let texts = [&self.subject, &self.datacontenttype, &self.dataschema];
        let optional: usize = texts.iter().filter_map(|text| text.as_deref()).map(str::len).sum();
        let extensions = self
            .extensions
            .iter()
            .map(|(name, value)| name.as_str().len() + value.as_str().map_or(11, str::len) + EACH);
        let data = match &self.data {
            Data::Binary(bytes) => bytes.len().div_ceil(3) * 4,
            Data::Empty | Data::Json(_) | Data::Text(_) => self.data.as_bytes().len(),
        };
        let required =
            self.id.as_str().len() + self.source.as_str().len() + self.kind.as_str().len();
        let time = self.time.as_ref().map_or(0, |time| time.as_str().len());
        160 + required + time + optional + extensions.sum::<usize>() + data
    }

    /// How many bytes the structured JSON has, binary data counted as it is and not as its base64.
    #[must_use]
    pub fn exact_size(&self) -> usize {
        let coded = match &self.data {
            Data::Binary(bytes) => bytes.len().div_ceil(3) * 4 - bytes.len(),
            Data::Empty | Data::Json(_) | Data::Text(_) => 0,
        };
        self.to_json().len() - coded
    }

    /// Appends the optional core attributes as members.
    pub(super) fn write_optional(&self, out: &mut Vec<u8>) {
        let texts = [
            ("subject", self.subject.as_deref()),
            ("time", self.time.as_ref().map(crate::Time::as_str)),
            ("datacontenttype", self.datacontenttype.as_deref()),
            ("dataschema", self.dataschema.as_deref()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                member(out, name, text);
            }
        }
    }
}

impl Serialize for Event {
    /// Structured JSON; with `serde_json` only, as the data is passed through as it is.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = String::from_utf8(self.to_json()).map_err(S::Error::custom)?;
        RawValue::from_string(json).map_err(S::Error::custom)?.serialize(serializer)
    }
}

pub(super) fn member(out: &mut Vec<u8>, name: &str, text: &str) {
    key(out, name);
    write_string(out, text);
}

/// Appends a key that needs no escapes, after a comma unless it is the first of its object.
pub(super) fn key(out: &mut Vec<u8>, name: &str) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(super) fn write_value(out: &mut Vec<u8>, value: &ExtensionValue) {
    match value {
        ExtensionValue::String(text) => write_string(out, text),
        ExtensionValue::Boolean(_) | ExtensionValue::Integer(_) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_event_is_written_in_a_fixed_order_with_its_data_as_it_came() {
        let data = Bytes::from_static(b"{ \"b\": 1.0, \"a\": 12345678901234567890123 }");
        let event = Event {
            data: Data::Json(data),
            ..Event::new("a.b".parse().unwrap(), "/".parse().unwrap(), "1".parse().unwrap())
        }
        .with_extension("flag", true)
        .with_extension("count", 3)
        .with_subject("s\"x");
        let json = String::from_utf8(event.to_json()).unwrap();
        assert_eq!(
            json,
            r#"{"specversion":"1.0","id":"1","source":"/","type":"a.b","subject":"s\"x","count":3,"flag":true,"data":{ "b": 1.0, "a": 12345678901234567890123 }}"#
        );
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        assert!(event.size() >= json.len());
    }

    #[test]
    fn binary_data_travels_as_base64() {
        let event = Event {
            data: Data::Binary(Bytes::from_static(b"\xff\x00")),
            ..Event::new("a".parse().unwrap(), "/".parse().unwrap(), "1".parse().unwrap())
        };
        assert!(event.to_json().ends_with(br#""data_base64":"/wA="}"#));
    }
}
