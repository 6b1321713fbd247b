//! Events over HTTP: the four forms in which they come, and the binary form for the way out.

use std::borrow::Cow;

use bytes::Bytes;

use crate::event::read_json;
use crate::{
    Data, Event, EventId, Faults, ParseError, Source, Time, header_value, json, media_type,
};

/// How a request carries events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One event as JSON: `application/cloudevents+json`.
    Structured,
    /// An array of events as JSON: `application/cloudevents-batch+json`.
    Batch,
    /// Attributes in `ce-` headers, data as the body.
    Binary,
    /// Plain `application/json`: an event of which only the type is needed.
    Short,
}

/// A content type in which no events come (415).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "events come as application/cloudevents+json, application/cloudevents-batch+json, \
     application/json, or as any type with ce- headers"
)]
pub struct UnsupportedMediaType;

/// What fills in for attributes that an event in short form leaves out.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The id, new for each event.
    pub id: EventId,
    /// The source.
    pub source: Source,
    /// The present time.
    pub time: Time,
}

/// What the names of all forms of events start with, those that are not known here too.
const FAMILY: &str = "application/cloudevents";

/// The form of a request with this `Content-Type`; `has_ce_headers` when it has any header that
/// starts with `ce-`.
///
/// # Errors
/// When no form has this content type.
pub fn form(
    content_type: Option<&str>,
    has_ce_headers: bool,
) -> Result<Form, UnsupportedMediaType> {
    let content_type = content_type.unwrap_or_default();
    let essence = media_type::essence(content_type);
    let is = |wanted| essence.eq_ignore_ascii_case(wanted) && media_type::is_utf8(content_type);
    if is("application/cloudevents+json") {
        return Ok(Form::Structured);
    }
    if is("application/cloudevents-batch+json") {
        return Ok(Form::Batch);
    }
    if essence.get(..FAMILY.len()).is_some_and(|start| start.eq_ignore_ascii_case(FAMILY)) {
        return Err(UnsupportedMediaType);
    }
    match has_ce_headers {
        true => Ok(Form::Binary),
        false if is("application/json") => Ok(Form::Short),
        false => Err(UnsupportedMediaType),
    }
}

/// True when a header of this name carries an attribute.
#[must_use]
pub fn is_ce_header(name: &str) -> bool {
    header_value::attribute_name(name).is_some()
}

/// Reads one event as JSON.
///
/// # Errors
/// [`ParseError`]: malformed, or every fault at once.
pub fn structured(body: &[u8]) -> Result<Event, ParseError> {
    Event::from_json(body)
}

/// Reads an array of at most `limit` events, which may be empty. All are read or none.
///
/// # Errors
/// [`ParseError`]: malformed as a whole, or the faults of all its events, each with the index of
/// its event in front (`/2/type`).
pub fn batch(body: &[u8], limit: usize) -> Result<Vec<Event>, ParseError> {
    batch_with(body, limit, |_| Ok(()))
}

/// Reads a batch as [`batch`] does, and checks each event with `check`, whose faults are told
/// together with those of the others.
///
/// # Errors
/// Those of [`batch`], and those of `check` with the event's place before them (`/2/type`).
pub fn batch_with(
    body: &[u8],
    limit: usize,
    mut check: impl FnMut(&mut Event) -> Result<(), Faults>,
) -> Result<Vec<Event>, ParseError> {
    let Some(elements) = json::elements(json::text(body)?, limit)? else {
        return Err(Faults::one("", "must be an array of events").into());
    };
    if elements.count > limit {
        let why = format!("must not have more than {limit} events, but has {}", elements.count);
        return Err(Faults::one("", why).into());
    }
    let mut faults = Faults::default();
    let mut events = Vec::with_capacity(elements.list.len());
    for (index, element) in elements.list.iter().enumerate() {
        let event = Event::from_json(element.get().as_bytes()).map_err(ParseError::into_faults);
        match event.and_then(|mut event| check(&mut event).map(|()| event)) {
            Ok(event) => events.push(event),
            Err(more) => faults.extend(more.prefixed(&format!("/{index}"))),
        }
    }
    if faults.is_empty() { Ok(events) } else { Err(faults.into()) }
}

/// Reads an event whose attributes are in `headers` (all of the request's; those without `ce-`
/// are passed over) and whose data is `body`.
///
/// Values are percent-decoded. A body of JSON must be JSON, text (`text/…`, XML) in UTF-8 is kept
/// as text, everything else as bytes; without a content type the body is JSON if it can be read as
/// such. An empty body is no data.
///
/// # Errors
/// [`ParseError::Invalid`] with every fault at once; a header is named as its attribute (`/type`).
pub fn binary<'a>(
    content_type: Option<&str>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Event, ParseError> {
    header_value::read(Some(content_type), headers, body).map_err(ParseError::Invalid)
}

/// Reads an event of which only the type is required; what else is missing comes from `defaults`,
/// which is called only when something is.
///
/// # Errors
/// [`ParseError`]: malformed, or every fault at once.
pub fn short(body: &[u8], defaults: impl FnOnce() -> Defaults) -> Result<Event, ParseError> {
    let mut draft = read_json(json::text(body)?)?;
    draft.has_specversion = true; // a wrong one is a fault already
    let faulty = |pointer: &str| draft.faults.0.iter().any(|fault| fault.pointer == pointer);
    let missing_id = draft.id.is_none() && !faulty("/id");
    let missing_source = draft.source.is_none() && !faulty("/source");
    let missing_time = draft.time.is_none() && !faulty("/time");
    if missing_id || missing_source || missing_time {
        let defaults = defaults();
        draft.id = draft.id.or_else(|| missing_id.then_some(defaults.id));
        draft.source = draft.source.or_else(|| missing_source.then_some(defaults.source));
        draft.time = draft.time.or_else(|| missing_time.then_some(defaults.time));
    }
    draft.finish().map_err(ParseError::Invalid)
}

/// The headers of an event in binary form: `content-type` (unless it has no data and names none)
/// and a `ce-` header for each other attribute. The body is [`Data::to_bytes`].
#[must_use]
pub fn to_binary_headers(event: &Event) -> Vec<(Cow<'static, str>, String)> {
    let mut headers = header_value::attributes(event);
    let content_type = match (&event.datacontenttype, &event.data) {
        (Some(declared), _) => Some(declared.as_ref()),
        (None, Data::Empty) => None,
        (None, Data::Json(_)) => Some("application/json"),
        (None, Data::Text(_)) => Some("text/plain"),
        (None, Data::Binary(_)) => Some("application/octet-stream"),
    };
    headers.extend(content_type.map(|value| ("content-type".into(), value.to_owned())));
    headers
}
