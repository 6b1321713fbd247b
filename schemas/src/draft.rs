//! An event in the making: attributes are set one by one, and all faults are gathered.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::attribute::{STRING_BYTES_MAX, check_string};
use crate::fault::member;
use crate::{
    Data, Event, EventId, EventType, ExtensionName, ExtensionValue, Extensions, Faults,
    InvalidAttribute, Source, Time, json, media_type, uri,
};

/// The value of an attribute as it stands in its input.
pub(crate) enum Scalar<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    Nested,
    /// A JSON string that is no text: half a surrogate pair.
    Garbled,
}

impl<'a> Scalar<'a> {
    pub(crate) fn read(raw: &'a RawValue) -> Scalar<'a> {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') => Scalar::Null,
            Some(b't') => Scalar::Boolean(true),
            Some(b'f') => Scalar::Boolean(false),
            Some(b'"') if !text.contains('\\') => {
                Scalar::Text(Cow::Borrowed(&text[1..text.len() - 1]))
            }
            Some(b'"') => match serde_json::from_str(text) {
                Ok(text) => Scalar::Text(Cow::Owned(text)),
                Err(_) => Scalar::Garbled,
            },
            Some(b'[' | b'{') | None => Scalar::Nested,
            Some(_) => Scalar::Number(text),
        }
    }
}

/// What is known of an event so far, and what is wrong with it.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) has_specversion: bool,
    pub(crate) id: Option<EventId>,
    pub(crate) source: Option<Source>,
    kind: Option<EventType>,
    subject: Option<Arc<str>>,
    pub(crate) time: Option<Time>,
    pub(crate) datacontenttype: Option<Arc<str>>,
    dataschema: Option<Arc<str>>,
    extensions: Extensions,
    pub(crate) data: Data,
    pub(crate) faults: Faults,
}

impl Draft {
    /// Sets the attribute `name`, core or extension.
    pub(crate) fn set(&mut self, name: &str, value: Scalar<'_>) {
        match name {
            "specversion" => self.set_specversion(value),
            "id" => self.id = self.parsed(name, value),
            "source" => self.source = self.parsed(name, value),
            "type" => self.kind = self.parsed(name, value),
            "time" => self.time = self.parsed(name, value),
            "subject" => {
                self.subject =
                    self.checked(name, value, |text| check_string(text, STRING_BYTES_MAX));
            }
            "datacontenttype" => {
                self.datacontenttype = self.checked(name, value, media_type::check);
            }
            "dataschema" => {
                self.dataschema = self.checked(name, value, |text| {
                    check_string(text, STRING_BYTES_MAX).and_then(|()| uri::check(text))
                });
            }
            _ => self.set_extension(name, value),
        }
    }

    /// Sets the data from the bytes of a message, which `datacontenttype` explains.
    ///
    /// Without a `datacontenttype` bytes are JSON if they can be read as JSON, else just bytes.
    pub(crate) fn set_data(&mut self, body: Bytes) {
        let declared = self.datacontenttype.as_deref();
        if body.is_empty() {
            return;
        }
        self.data = match (declared, json_data(&body)) {
            (None, Ok(data)) => data,
            (None, Err(_)) => Data::Binary(body),
            (Some(declared), data) if media_type::is_json(declared) => match data {
                Ok(data) => data,
                Err(why) => return self.faults.push("/data", why),
            },
            (Some(declared), _) => bytes_of(declared, body),
        };
    }

    /// The event, if nothing is wrong.
    pub(crate) fn finish(mut self) -> Result<Event, Faults> {
        if !self.has_specversion {
            self.require("specversion", false);
        }
        self.require("id", self.id.is_some());
        self.require("source", self.source.is_some());
        self.require("type", self.kind.is_some());
        match (self.id, self.source, self.kind) {
            (Some(id), Some(source), Some(kind)) if self.faults.is_empty() => Ok(Event {
                id,
                source,
                kind,
                subject: self.subject,
                time: self.time,
                datacontenttype: self.datacontenttype,
                dataschema: self.dataschema,
                extensions: self.extensions,
                data: self.data,
            }),
            _ => Err(self.faults),
        }
    }

    fn require(&mut self, name: &str, set: bool) {
        if set {
            return;
        }
        let pointer = member(name);
        if self.faults.0.iter().all(|fault| fault.pointer != pointer) {
            self.faults.push(pointer, "is required");
        }
    }

    fn set_specversion(&mut self, value: Scalar<'_>) {
        if let Some(version) = self.text("specversion", value) {
            self.has_specversion = true;
            if version != "1.0" {
                self.faults.push("/specversion", "must be \"1.0\"");
            }
        }
    }

    fn set_extension(&mut self, name: &str, value: Scalar<'_>) {
        let key = match name.parse::<ExtensionName>() {
            Ok(key) => key,
            Err(why) => return self.faults.push(member(name), why),
        };
        // Whose an event is must not depend on how it was written.
        if name == ExtensionName::TENANT && matches!(value, Scalar::Boolean(_) | Scalar::Number(_))
        {
            return self.faults.push(member(name), "must be a string");
        }
        if let Some(value) = self.extension_value(name, value) {
            if self.extensions.len() == Extensions::MAX {
                let why = format!("is one extension too many: {} at most", Extensions::MAX);
                return self.faults.push(member(name), why);
            }
            self.extensions.insert(key, value);
        }
    }

    fn extension_value(&mut self, name: &str, value: Scalar<'_>) -> Option<ExtensionValue> {
        let value = match value {
            Scalar::Boolean(value) => return Some(value.into()),
            Scalar::Number(text) => {
                let number = text.parse::<i32>();
                if number.is_err() {
                    let why = format!("must be a whole number from {} to {}", i32::MIN, i32::MAX);
                    self.faults.push(member(name), why);
                }
                return number.ok().map(Into::into);
            }
            Scalar::Nested => {
                self.faults.push(member(name), "must be a string, a boolean or a whole number");
                return None;
            }
            Scalar::Null | Scalar::Text(_) | Scalar::Garbled => self.text(name, value)?,
        };
        if value.is_empty() {
            return Some("".into());
        }
        match check_string(&value, STRING_BYTES_MAX) {
            Ok(()) => Some(value.as_ref().into()),
            Err(why) => {
                self.faults.push(member(name), why);
                None
            }
        }
    }

    fn parsed<T>(&mut self, name: &str, value: Scalar<'_>) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.text(name, value)?;
        text.parse().map_err(|why| self.faults.push(member(name), why)).ok()
    }

    fn checked(
        &mut self,
        name: &str,
        value: Scalar<'_>,
        check: impl Fn(&str) -> Result<(), InvalidAttribute>,
    ) -> Option<Arc<str>> {
        let text = self.text(name, value)?;
        check(&text).map_err(|why| self.faults.push(member(name), why)).ok()?;
        Some(text.as_ref().into())
    }

    fn text<'a>(&mut self, name: &str, value: Scalar<'a>) -> Option<Cow<'a, str>> {
        let why = match value {
            Scalar::Null => return None,
            Scalar::Text(text) => return Some(text),
            Scalar::Garbled => "must be valid Unicode",
            Scalar::Boolean(_) | Scalar::Number(_) | Scalar::Nested => "must be a string",
        };
        self.faults.push(member(name), why);
        None
    }
}

/// JSON data from the bytes of a message, or why it is not.
pub(crate) fn json_data(body: &Bytes) -> Result<Data, String> {
    let text = std::str::from_utf8(body).map_err(|_| "must be JSON in UTF-8".to_owned())?;
    json::check_readable(text).map_err(|why| format!("must be JSON: {why}"))?;
    let space = [' ', '\t', '\n', '\r'];
    let start = text.len() - text.trim_start_matches(space).len();
    let end = text.trim_end_matches(space).len();
    Ok(Data::Json(body.slice(start..end)))
}

fn bytes_of(media_type: &str, body: Bytes) -> Data {
    let is_text = media_type::is_text(media_type) && std::str::from_utf8(&body).is_ok();
    if is_text { Data::Text(body) } else { Data::Binary(body) }
}
