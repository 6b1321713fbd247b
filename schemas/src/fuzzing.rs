//! What must hold for any bytes at all: run by the fuzzers in `schemas/fuzz` and by the property
//! tests alike. Each function panics when it does not hold.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{Data, Event, EventType, Filter, ParseError, Pattern, http, nats};

/// Reading structured JSON never panics, and what was read is written so that it reads the same.
pub fn event_json(input: &[u8]) {
    let _ = http::batch(input, 3);
    let Ok(event) = Event::from_json(input) else { return };
    let json = event.to_json();
    assert_eq!(Event::from_json(&json).as_ref(), Ok(&event), "structured JSON");
    assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok(), "readable by everyone");
    stored(&event);
    over_http(&event);
    over_nats(&event);
}

/// Reading an event from headers and a body never panics, and what was read travels on unchanged.
///
/// The input is lines `name: value`, an empty line, and the body.
pub fn event_binary(input: &[u8]) {
    let (headers, body) = message(input);
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = content_type.and_then(|(_, value)| std::str::from_utf8(value).ok());
    let _ = http::form(content_type, true);
    let headers = headers.iter().map(|(name, value)| (name.as_ref(), *value));
    let Ok(event) = http::binary(content_type, headers, Bytes::copy_from_slice(body)) else {
        return;
    };
    stored(&event);
    over_http(&event);
    over_nats(&event);
}

/// Reading an event from a NATS message never panics, and what was read travels on unchanged.
///
/// The input is as for [`event_binary`].
pub fn event_nats(input: &[u8]) {
    let (headers, body) = message(input);
    let headers: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
    let headers = headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    if let Ok(Some(event)) = nats::from_message(headers, Bytes::copy_from_slice(body)) {
        stored(&event);
        over_http(&event);
        over_nats(&event);
    }
}

/// A pattern matches what a plain reading of its rules says. The input is a pattern and a type,
/// one a line.
pub fn pattern(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (pattern, kind) = text.split_once('\n').unwrap_or((text, text));
    let (Ok(pattern), Ok(kind)) = (pattern.parse::<Pattern>(), kind.parse::<EventType>()) else {
        return;
    };
    let tokens = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (wanted, given) = (tokens(pattern.as_str()), tokens(kind.as_str()));
    let named = !kind.is_reserved() || wanted.starts_with(&["dev".into(), "skald".into()]);
    assert_eq!(pattern.matches(&kind), named && matches_naively(&wanted, &given));
    assert!(Pattern::from(&kind).matches(&kind), "a type matches itself");
}

/// Reading a filter never panics, what was read is written so that it reads the same, and it can
/// be held against an event.
pub fn filter(input: &[u8]) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let Ok(filter) = Filter::parse(&json) else { return };
    assert_eq!(Filter::parse(&filter.to_json()).as_ref(), Ok(&filter));
    let event = br#"{"specversion":"1.0","id":"1","source":"/","type":"a.b","vip":true,
        "data":{"a":[1,2.5,"x"],"b":{"c":null},"total":18446744073709551615}}"#;
    if let Ok(event) = Event::from_json(event) {
        let _ = filter.matches(&event);
    }
}

/// The headers of a message as they were given.
type Headers<'a> = Vec<(Cow<'a, str>, &'a [u8])>;

/// Splits input into headers and a body.
fn message(input: &[u8]) -> (Headers<'_>, &[u8]) {
    let mut headers = Vec::new();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { break };
        headers.push((String::from_utf8_lossy(&line[..colon]), line[colon + 1..].trim_ascii()));
    }
    (headers, rest)
}

fn matches_naively(pattern: &[String], kind: &[String]) -> bool {
    match (pattern.split_first(), kind.split_first()) {
        (None, None) => true,
        (Some((wanted, _)), Some(_)) if wanted == ">" => true,
        (Some((wanted, pattern)), Some((token, kind))) => {
            (wanted == "*" || wanted == token) && matches_naively(pattern, kind)
        }
        _ => false,
    }
}

/// The log gives back what it was given.
fn stored(event: &Event) {
    let Event { id, source, kind, data, .. } = event.clone();
    let data = Data::from_code(data.kind_code(), data.to_bytes()).unwrap_or_default();
    let read = Event::from_parts(id, source, kind, &event.attributes_json(), data);
    assert_eq!(read.ok().as_ref(), Some(event), "storage");
}

fn over_http(event: &Event) {
    let headers = http::to_binary_headers(event);
    let find = headers.iter().find(|(name, _)| name == "content-type");
    let content_type = find.map(|(_, value)| value.as_str());
    let headers = headers.iter().map(|(name, value)| (name.as_ref(), value.as_bytes()));
    same(event, &http::binary(content_type, headers, event.data.to_bytes()), "HTTP");
}

fn over_nats(event: &Event) {
    let (headers, payload) = nats::to_message(event);
    let headers = headers.iter().map(|(name, value)| (name.as_ref(), value.as_str()));
    let read = nats::from_message(headers, payload).transpose();
    let read = read.unwrap_or_else(|| Err(ParseError::Malformed("no event".to_owned())));
    same(event, &read, "NATS");
}

/// Asserts that nothing was lost on the way but what headers cannot tell: whether a value was a
/// text, whether bytes were text, and whether a content type was implied.
fn same(sent: &Event, received: &Result<Event, ParseError>, way: &str) {
    let plain = |event: &Event| {
        let extensions: Vec<_> = event
            .extensions
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect();
        (extensions, event.data.to_bytes())
    };
    let received = received.as_ref();
    assert_eq!(received.map(plain), Ok(plain(sent)), "{way}");
    let core = |event: &Event| {
        let Event { id, source, kind, subject, time, dataschema, .. } = event.clone();
        (id, source, kind, subject, time, dataschema)
    };
    assert_eq!(received.map(core), Ok(core(sent)), "{way}");
    if sent.datacontenttype.is_some() {
        let content_type = |event: &Event| event.datacontenttype.clone();
        assert_eq!(received.map(content_type), Ok(content_type(sent)), "{way}");
    }
    let json = |event: &Event| matches!(event.data, Data::Json(_));
    assert_eq!(received.map(json), Ok(json(sent)), "{way}");
}
