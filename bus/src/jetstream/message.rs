//! Events as messages, and messages as events: those of Skald and those of any NATS client.
//!
//! A message is an event in binary or structured mode, or plain JSON, which is taken as the data of
//! an event whose type is the subject. What is none of these stands in the log as an event that
//! tells of it, of the type [`INVALID_MESSAGE`]; the consumer `ingest` makes it a dead letter.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_nats::{HeaderMap, HeaderName};
use base64::Engine as _;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemas::{Data, Event, EventId, EventType, Faults, ParseError, Source, Timestamp};
use serde_json::json;

use crate::log::INVALID_MESSAGE;
use crate::{Recorded, Seq};

/// What stands before the type in a subject.
pub(super) const PREFIX: &str = "events.";
/// When an event of another log was recorded there, in microseconds.
pub(super) const RECORDED_AT: &str = "Skald-Recorded-At";
/// By what the broker knows a message again within its duplicate window.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// What a source may hold unencoded, of what subjects hold.
const IN_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// A message to be published.
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// The event in binary mode, with `source`, `id` and the tenant, if it has one, as the message id.
pub(super) fn outgoing(event: &Event) -> Outgoing {
    let (attributes, payload) = schemas::nats::to_message(event);
    let mut headers = HeaderMap::new();
    let find = |name: &str| attributes.iter().find(|(known, _)| known == name);
    if let (Some((_, source)), Some((_, id))) = (find("ce-source"), find("ce-id")) {
        // All are percent-encoded: the spaces between them are the only ones.
        let id = match find("ce-tenant") {
            None => format!("{source} {id}"),
            Some((_, tenant)) => format!("{source} {id} {tenant}"),
        };
        headers.insert(MESSAGE_ID, id);
    }
    for (name, value) in attributes {
        match name {
            Cow::Borrowed(name) => headers.insert(HeaderName::from_static(name), value),
            Cow::Owned(name) => headers.insert(name, value),
        }
    }
    Outgoing { subject: format!("{PREFIX}{}", event.kind), headers, payload }
}

/// The subject that events of these types are published to.
pub(super) fn subject_of(pattern: &str) -> String {
    format!("{PREFIX}{pattern}")
}

/// A message of the stream, whatever it holds.
pub(super) fn recorded(
    seq: Seq,
    recorded_at: Timestamp,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
) -> Recorded {
    let event = read(seq, recorded_at, subject, headers, payload)
        .unwrap_or_else(|faults| invalid(seq, subject, headers, payload, &faults));
    Recorded { seq, recorded_at, event }
}

fn read(
    seq: Seq,
    recorded_at: Timestamp,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
) -> Result<Event, Faults> {
    let kind = subject.strip_prefix(PREFIX).unwrap_or(subject);
    let pairs = || {
        let all = headers.into_iter().flat_map(HeaderMap::iter);
        all.flat_map(|(name, values)| values.iter().map(move |v| (name.as_ref(), v.as_str())))
    };
    let found = schemas::nats::from_message(pairs(), payload.clone());
    match found.map_err(ParseError::into_faults)? {
        Some(event) if event.kind.as_str() == kind => Ok(event),
        Some(event) => {
            let why = format!("is `{}`, and the subject says `{kind}`", event.kind);
            Err(Faults::one("/type", why))
        }
        None => plain(seq, recorded_at, subject, kind, headers, payload),
    }
}

/// A message without any sign of being an event: JSON, or nothing that can be taken.
fn plain(
    seq: Seq,
    recorded_at: Timestamp,
    subject: &str,
    kind: &str,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
) -> Result<Event, Faults> {
    if kind == "dev.skald" || kind.starts_with("dev.skald.") {
        return Err(Faults::one("/type", "types under dev.skald. are Skald's own"));
    }
    let id = headers.and_then(|headers| headers.get(MESSAGE_ID)).map(|id| id.as_str().to_owned());
    let id = id.unwrap_or_else(|| seq.to_string());
    let (source, time) = (source_of(subject), recorded_at.to_string());
    let kind = encoded(kind);
    let id = encoded(&id);
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", &*id),
        ("ce-source", &*source),
        ("ce-type", &*kind),
        ("ce-time", &*time),
    ];
    let read = schemas::nats::from_message(attributes.into_iter(), payload.clone());
    match read.map_err(ParseError::into_faults)? {
        Some(event) if matches!(event.data, Data::Json(_)) => Ok(event),
        _ => Err(Faults::one("", "is neither a CloudEvent nor JSON")),
    }
}

/// The event that tells of a message that is none: all of it, and what is wrong with it.
fn invalid(
    seq: Seq,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
    faults: &Faults,
) -> Event {
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    let headers: serde_json::Map<String, serde_json::Value> = all
        .map(|(name, values)| {
            let values: Vec<&str> = values.iter().map(async_nats::HeaderValue::as_str).collect();
            (name.to_string(), json!(values.join(", ")))
        })
        .collect();
    let mut data = json!({ "subject": subject, "headers": headers, "errors": faults });
    match std::str::from_utf8(payload) {
        Ok(text) => data["payload"] = json!(text),
        Err(_) => {
            data["payload_base64"] =
                json!(base64::engine::general_purpose::STANDARD.encode(payload));
        }
    }
    let event = Event::new(
        EventType::from_trusted(INVALID_MESSAGE.into()),
        Source::from_trusted(source_of(subject).into()),
        EventId::from_trusted(seq.to_string().into()),
    );
    event.clone().with_json(data).unwrap_or(event)
}

/// `/nats/<subject>` as a URI reference.
fn source_of(subject: &str) -> String {
    let source = format!("/nats/{}", utf8_percent_encode(subject, IN_SOURCE));
    if source.len() > Source::BYTES_MAX { "/nats".to_owned() } else { source }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A moment as servers tell it.
pub(super) fn moment(nanoseconds: i128) -> Timestamp {
    Timestamp::from_micros(i64::try_from(nanoseconds / 1_000).unwrap_or_default())
}

/// Up to which position messages were restored from another log.
#[derive(Clone)]
pub(super) struct RestoredThrough(Arc<AtomicI64>);

impl RestoredThrough {
    pub(super) fn new(through: Seq) -> RestoredThrough {
        RestoredThrough(Arc::new(AtomicI64::new(through.get())))
    }

    pub(super) fn set(&self, through: Seq) {
        self.0.store(through.get(), Ordering::Relaxed);
    }

    /// When a message was recorded: as its header says where it was restored, else when the server
    /// took it.
    pub(super) fn recorded_at(
        &self,
        at: Seq,
        taken: i128,
        headers: Option<&HeaderMap>,
    ) -> Timestamp {
        let restored = at.get() <= self.0.load(Ordering::Relaxed);
        let told = headers.filter(|_| restored).and_then(|headers| headers.get(RECORDED_AT));
        let told = told.and_then(|micros| micros.as_str().parse().ok());
        told.map_or_else(|| moment(taken), Timestamp::from_micros)
    }
}
