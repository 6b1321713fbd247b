//! Events over NATS, after the CloudEvents binding: attributes in headers, data as the payload.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{Data, Event, ExtensionValue, Faults, ParseError, header_value, media_type};

/// Names the extensions that are no texts, as `name=boolean` or `name=integer` with commas between
/// them: headers are text, and without it `7` would come back as `"7"`.
const EXTENSION_TYPES: &str = "Skald-Extension-Types";

/// The headers and the payload of an event in binary mode.
///
/// All attributes are headers here, `ce-datacontenttype` included. It is left out only where the
/// payload alone tells that it is JSON. A header of our own tells which extensions are no texts.
#[must_use]
pub fn to_message(event: &Event) -> (Vec<(Cow<'static, str>, String)>, Bytes) {
    let mut headers = header_value::attributes(event);
    let content_type = match (&event.datacontenttype, &event.data) {
        (Some(declared), _) => Some(declared.as_ref()),
        (None, Data::Empty | Data::Json(_)) => None,
        (None, Data::Text(_)) => Some("text/plain"),
        (None, Data::Binary(_)) => Some("application/octet-stream"),
    };
    headers.extend(
        content_type.map(|value| ("ce-datacontenttype".into(), header_value::encode(value))),
    );
    let types: Vec<String> = event
        .extensions
        .iter()
        .filter_map(|(name, value)| Some(format!("{}={}", name.as_str(), type_name(value)?)))
        .collect();
    if !types.is_empty() {
        headers.push((EXTENSION_TYPES.into(), types.join(",")));
    }
    (headers, event.data.to_bytes())
}

fn type_name(value: &ExtensionValue) -> Option<&'static str> {
    match value {
        ExtensionValue::Boolean(_) => Some("boolean"),
        ExtensionValue::Integer(_) => Some("integer"),
        ExtensionValue::String(_) => None,
    }
}

/// Gives the extensions that `types` names their types back. What does not fit stays text.
fn restore_types(event: &mut Event, types: &str) {
    for (name, wanted) in types.split(',').filter_map(|pair| pair.split_once('=')) {
        let Some(text) = event.extensions.get(name).and_then(ExtensionValue::as_str) else {
            continue;
        };
        let value = match wanted {
            "boolean" => text.parse().ok().map(ExtensionValue::Boolean),
            "integer" => text.parse().ok().map(ExtensionValue::Integer),
            _ => None,
        };
        if let (Some(value), Ok(name)) = (value, name.parse()) {
            event.extensions.insert(name, value);
        }
    }
}

/// Reads a message: as structured JSON when its `Content-Type` says so, in binary mode when it has
/// a `ce-specversion`; `None` when it is a plain message, which is the caller's to decide on.
/// Header names are taken without regard to case.
///
/// # Errors
/// [`ParseError`] for a message that claims to be an event but is not a valid one.
pub fn from_message<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    payload: Bytes,
) -> Result<Option<Event>, ParseError> {
    let headers: Vec<(&str, &str)> = headers.collect();
    let find = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value)
    };
    let content_type = find("content-type").map(media_type::essence).unwrap_or_default();
    let content_type = content_type.to_ascii_lowercase();
    if content_type == "application/cloudevents+json" {
        return Event::from_json(&payload).map(Some);
    }
    if content_type.starts_with("application/cloudevents") {
        let why = format!("the format {content_type} is not supported over NATS");
        return Err(Faults::one("", why).into());
    }
    if find("ce-specversion").is_none() {
        return Ok(None);
    }
    let attributes = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let mut event = header_value::read(None, attributes, payload).map_err(ParseError::Invalid)?;
    if let Some(types) = find(EXTENSION_TYPES) {
        restore_types(&mut event, types);
    }
    Ok(Some(event))
}
