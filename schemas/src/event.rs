//! The event: a CloudEvent 1.0.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::{
    Data, EventId, EventType, ExtensionName, ExtensionValue, Extensions, Source, Time, media_type,
};

mod from_json;
mod stored;
mod to_json;

pub(crate) use from_json::read as read_json;

/// The version of CloudEvents that all events here follow.
pub(crate) const SPECVERSION: &str = "1.0";

/// Something that happened: a CloudEvent 1.0.
///
/// `source` and `id` together name it: an event with the same two is the same event. Cloning is
/// cheap, since texts and data are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unique per source.
    pub id: EventId,
    /// Where it comes from.
    pub source: Source,
    /// What happened; `type` in JSON.
    pub kind: EventType,
    /// What it happened to, in the terms of the source; 1..=4,096 bytes.
    pub subject: Option<Arc<str>>,
    /// When it happened, as its producer says.
    pub time: Option<Time>,
    /// The media type of the data; none means JSON where the data is JSON.
    pub datacontenttype: Option<Arc<str>>,
    /// The URI of the schema that the data follows.
    pub dataschema: Option<Arc<str>>,
    /// All other attributes.
    pub extensions: Extensions,
    /// What it carries.
    pub data: Data,
}

impl Event {
    /// An event without data and without any optional attribute.
    #[must_use]
    pub fn new(kind: EventType, source: Source, id: EventId) -> Event {
        Event {
            id,
            source,
            kind,
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Extensions::default(),
            data: Data::Empty,
        }
    }

    /// The same event carrying `data` as JSON; a `datacontenttype` that says otherwise is unset.
    ///
    /// # Errors
    /// When `data` cannot be written as JSON, such as a map whose keys are not text.
    pub fn with_json(mut self, data: impl Serialize) -> Result<Event, serde_json::Error> {
        self.data = Data::Json(Bytes::from(serde_json::to_vec(&data)?));
        if self.datacontenttype.as_deref().is_some_and(|kind| !media_type::is_json(kind)) {
            self.datacontenttype = None;
        }
        Ok(self)
    }

    /// The same event about `subject`, which is trusted to be 1..=4,096 bytes without control
    /// characters; an empty one is unset.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<Arc<str>>) -> Event {
        self.subject = Some(subject.into()).filter(|subject| !subject.is_empty());
        self
    }

    /// The same event with the time at which it happened.
    #[must_use]
    pub fn with_time(mut self, time: Time) -> Event {
        self.time = Some(time);
        self
    }

    /// The same event with an extension, for names and values that come from code; both are
    /// trusted. A name from outside is parsed as an [`ExtensionName`] and inserted into
    /// [`Event::extensions`].
    ///
    /// # Panics
    /// In debug builds, when `name` is not the name of an extension.
    #[must_use]
    pub fn with_extension(mut self, name: &str, value: impl Into<ExtensionValue>) -> Event {
        debug_assert!(name.parse::<ExtensionName>().is_ok(), "{name:?} cannot name an extension");
        self.extensions.insert(ExtensionName::from_trusted(name.into()), value.into());
        self
    }

    /// What keeps events in one order: the extension `partitionkey` if it is a text that is not
    /// empty, else the subject, else the id.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        self.text(ExtensionName::PARTITION_KEY)
            .filter(|key| !key.is_empty())
            .or(self.subject.as_deref())
            .unwrap_or(self.id.as_str())
    }

    /// The value of an extension, if it is set.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&ExtensionValue> {
        self.extensions.get(name)
    }

    /// Whose event it is: the extension `tenant`.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.text(ExtensionName::TENANT)
    }

    /// The id of the first event of its chain: the extension `correlationid`.
    #[must_use]
    pub fn correlationid(&self) -> Option<&str> {
        self.text(ExtensionName::CORRELATION_ID)
    }

    /// The id of the event that it came of: the extension `causationid`.
    #[must_use]
    pub fn causationid(&self) -> Option<&str> {
        self.text(ExtensionName::CAUSATION_ID)
    }

    /// The trace in which it arose, as W3C trace context: the extension `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.text(ExtensionName::TRACE_PARENT)
    }

    /// The data as a `T`: JSON is read as such, text as a JSON string, and no data as `null`.
    ///
    /// # Errors
    /// When the data is not a `T`, or is neither JSON nor text.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match &self.data {
            Data::Empty => serde_json::from_str("null"),
            Data::Json(json) => serde_json::from_slice(json),
            Data::Text(text) => T::deserialize(String::from_utf8_lossy(text).into_deserializer()),
            Data::Binary(_) => Err(serde::de::Error::custom("the data is binary, not JSON")),
        }
    }

    fn text(&self, extension: &str) -> Option<&str> {
        self.extensions.get(extension).and_then(ExtensionValue::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let kind = "order.paid".parse().unwrap();
        Event::new(kind, "/shop".parse().unwrap(), "17".parse().unwrap())
    }

    #[test]
    fn the_partition_key_is_the_most_telling_text_there_is() {
        assert_eq!(event().partition_key(), "17");
        assert_eq!(event().with_subject("order-1").partition_key(), "order-1");
        let keyed = event().with_subject("order-1").with_extension("partitionkey", "k");
        assert_eq!(keyed.partition_key(), "k");
        assert_eq!(event().with_extension("partitionkey", "").partition_key(), "17");
    }

    #[test]
    fn data_is_read_as_what_it_is() {
        let event = event().with_json(vec![1, 2]).unwrap();
        assert_eq!(event.data_as::<Vec<i32>>().unwrap(), [1, 2]);
        let text = Event { data: Data::Text(Bytes::from_static(b"hi")), ..event.clone() };
        assert_eq!(text.data_as::<String>().unwrap(), "hi");
        let none = Event { data: Data::Empty, ..event.clone() };
        assert_eq!(none.data_as::<Option<i32>>().unwrap(), None);
        let bytes = Event { data: Data::Binary(Bytes::from_static(b"\xff")), ..event };
        assert!(bytes.data_as::<Vec<u8>>().is_err());
    }

    #[test]
    fn known_extensions_have_methods() {
        let event = event().with_extension("tenant", "t").with_extension("causationid", "c");
        assert_eq!((event.tenant(), event.causationid()), (Some("t"), Some("c")));
        assert_eq!((event.correlationid(), event.traceparent()), (None, None));
    }
}
