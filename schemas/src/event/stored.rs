//! The parts in which the log stores an event.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::to_json::{key, write_value};
use crate::{Data, Event, EventId, EventType, ExtensionName, Extensions, Source, Time};

impl Event {
    /// All but the id, the source, the type and the data, as a JSON object: `subject`, `time`,
    /// `datacontenttype`, `dataschema`, and `extensions` as an object of its own. `{}` when there
    /// is none of these.
    #[must_use]
    pub fn attributes_json(&self) -> String {
        let mut out = Vec::with_capacity(128);
        out.push(b'{');
        self.write_optional(&mut out);
        if !self.extensions.is_empty() {
            key(&mut out, "extensions");
            out.push(b'{');
            for (name, value) in self.extensions.iter() {
                key(&mut out, name.as_str());
                write_value(&mut out, value);
            }
            out.push(b'}');
        }
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default() // only whole texts were written
    }

    /// The event whose parts were stored: the inverse of [`Event::attributes_json`]. The parts
    /// are trusted.
    ///
    /// # Errors
    /// When `attributes_json` is not such an object.
    pub fn from_parts(
        id: EventId,
        source: Source,
        kind: EventType,
        attributes_json: &str,
        data: Data,
    ) -> Result<Event, serde_json::Error> {
        let event = Event { data, ..Event::new(kind, source, id) };
        if attributes_json == "{}" {
            return Ok(event);
        }
        let mut reader = serde_json::Deserializer::from_str(attributes_json);
        let event = Attributes(event).deserialize(&mut reader)?;
        reader.end()?;
        Ok(event)
    }
}

/// Reads stored attributes into the event.
struct Attributes(Event);

impl<'de> DeserializeSeed<'de> for Attributes {
    type Value = Event;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Event, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Attributes {
    type Value = Event;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the stored attributes of an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut event = self.0;
        while let Some(name) = map.next_key::<Attribute>()? {
            match name {
                Attribute::Subject => event.subject = Some(text(&mut map)?),
                Attribute::Time => event.time = Some(Time::from_trusted(text(&mut map)?)),
                Attribute::Datacontenttype => event.datacontenttype = Some(text(&mut map)?),
                Attribute::Dataschema => event.dataschema = Some(text(&mut map)?),
                Attribute::Extensions => event.extensions = map.next_value_seed(ReadExtensions)?,
                Attribute::Unknown => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(event)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Attribute {
    Subject,
    Time,
    Datacontenttype,
    Dataschema,
    Extensions,
    #[serde(other)]
    Unknown,
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Arc<str>, A::Error> {
    map.next_value::<String>().map(Into::into)
}

struct ReadExtensions;

impl<'de> DeserializeSeed<'de> for ReadExtensions {
    type Value = Extensions;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Extensions, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReadExtensions {
    type Value = Extensions;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the stored extensions of an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extensions, A::Error> {
        let mut extensions = Extensions::default();
        while let Some((name, value)) = map.next_entry::<String, _>()? {
            extensions.insert(ExtensionName::from_trusted(name.into()), value);
        }
        Ok(extensions)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn stored_and_read(event: &Event) -> Event {
        let Event { id, source, kind, data, .. } = event.clone();
        Event::from_parts(id, source, kind, &event.attributes_json(), data).unwrap()
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let bare = Event::new("a".parse().unwrap(), "/".parse().unwrap(), "1".parse().unwrap());
        assert_eq!(bare.attributes_json(), "{}");
        assert_eq!(stored_and_read(&bare), bare);
        let full = Event {
            datacontenttype: Some("text/plain".into()),
            dataschema: Some("https://example.com/s".into()),
            data: Data::Text(Bytes::from_static(b"x")),
            ..bare
        }
        .with_subject("s\"\\é")
        .with_time("2026-01-01T00:00:00Z".parse().unwrap())
        .with_extension("flag", false)
        .with_extension("count", -1)
        .with_extension("tenant", "t");
        assert_eq!(stored_and_read(&full), full);
    }

    #[test]
    fn attributes_of_a_later_version_are_passed_over() {
        let (id, source) = ("1".parse().unwrap(), "/".parse().unwrap());
        let json = r#"{"new":[1],"subject":"s"}"#;
        let kind = "a".parse().unwrap();
        let event = Event::from_parts(id, source, kind, json, Data::Empty).unwrap();
        assert_eq!(event.subject.as_deref(), Some("s"));
    }
}
