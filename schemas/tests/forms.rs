//! The forms in which events come over HTTP and NATS.

use bytes::Bytes;
use schemas::http::{Defaults, Form};
use schemas::{Data, Event, ParseError, http, nats};

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/","type":"a"}"#;

fn pointers(error: ParseError) -> Vec<String> {
    match error {
        ParseError::Invalid(faults) => faults.0.into_iter().map(|fault| fault.pointer).collect(),
        other => vec![other.to_string()],
    }
}

fn binary(
    content_type: Option<&str>,
    more: &[(&str, &str)],
    body: &'static str,
) -> Result<Event, ParseError> {
    let required =
        [("ce-specversion", "1.0"), ("Ce-Id", "1"), ("ce-source", "/"), ("ce-type", "a")];
    let headers = required.iter().chain(more).map(|(name, value)| (*name, value.as_bytes()));
    http::binary(content_type, headers, Bytes::from_static(body.as_bytes()))
}

#[test]
fn the_content_type_and_the_headers_tell_the_form() {
    let form = |content_type, ce| http::form(Some(content_type), ce).ok();
    assert_eq!(form("application/cloudevents+json; charset=UTF-8", false), Some(Form::Structured));
    assert_eq!(form("Application/CloudEvents-Batch+JSON", true), Some(Form::Batch));
    assert_eq!(form("application/json", false), Some(Form::Short));
    assert_eq!(form("application/json", true), Some(Form::Binary));
    assert_eq!(form("image/png", true), Some(Form::Binary));
    assert_eq!(http::form(None, true), Ok(Form::Binary));
    for unsupported in ["application/cloudevents+avro", "application/cloudevents", "text/plain"] {
        assert_eq!(form(unsupported, false), None, "{unsupported}");
    }
    assert_eq!(form("application/cloudevents+xml", true), None);
    assert_eq!(http::form(None, false), Err(http::UnsupportedMediaType));
}

#[test]
fn a_batch_names_each_bad_event_by_its_place() {
    let body = format!(r#"[{EVENT},{{"specversion":"1.0","id":"1","source":"/"}},7,{{"id":""}}]"#);
    let error = http::batch(body.as_bytes(), 10).unwrap_err();
    assert_eq!(
        pointers(error),
        ["/1/type", "/2", "/3/id", "/3/specversion", "/3/source", "/3/type"]
    );
    assert_eq!(http::batch(format!(" [{EVENT}] ").as_bytes(), 10).unwrap().len(), 1);
    assert_eq!(http::batch(b"[]", 10).unwrap(), []);
}

#[test]
fn a_batch_that_is_malformed_or_too_long_is_refused_as_a_whole() {
    assert!(matches!(http::batch(b"[{]", 10), Err(ParseError::Malformed(_))));
    assert_eq!(pointers(http::batch(EVENT.as_bytes(), 10).unwrap_err()), [""]);
    let three = format!("[{EVENT},{EVENT},{EVENT}]");
    assert!(http::batch(three.as_bytes(), 3).is_ok());
    let error = http::batch(three.as_bytes(), 2).unwrap_err().to_string();
    assert_eq!(error, "must not have more than 2 events, but has 3");
}

#[test]
fn headers_are_decoded_and_faults_name_the_attribute() {
    let event = binary(None, &[("ce-subject", "Z%C3%BCrich \"x\""), ("ce-vip", "true")], "");
    let event = event.unwrap();
    assert_eq!(event.subject.as_deref(), Some("Zürich \"x\""));
    assert_eq!(event.extension("vip").unwrap().as_str(), Some("true"));
    assert_eq!(event.data, Data::Empty);
    let more =
        [("ce-type", "b"), ("ce-time", "now"), ("ce-subject", "%C0%80"), ("ce-bad_name", "1")];
    let error = binary(None, &more, "").unwrap_err();
    assert_eq!(pointers(error), ["/type", "/time", "/subject", "/bad_name"]);
    let error = binary(None, &[("ce-datacontenttype", "text/plain")], "").unwrap_err();
    assert_eq!(pointers(error), ["/datacontenttype"]);
    let none = std::iter::empty();
    let error = http::binary(Some("nonsense"), none, Bytes::new()).unwrap_err();
    let all = ["/datacontenttype", "/specversion", "/id", "/source", "/type"];
    assert_eq!(pointers(error), all);
}

#[test]
fn the_content_type_tells_what_a_body_is() {
    let data = |content_type, body| binary(content_type, &[], body).map(|event| event.data);
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(data(Some("application/json"), " [1] \n"), Ok(Data::Json(bytes("[1]"))));
    assert_eq!(pointers(data(Some("a/b+json"), "[1").unwrap_err()), ["/data"]);
    assert_eq!(data(Some("text/csv"), "a,b"), Ok(Data::Text(bytes("a,b"))));
    assert_eq!(data(Some("image/png"), "1"), Ok(Data::Binary(bytes("1"))));
    assert_eq!(data(None, "1"), Ok(Data::Json(bytes("1"))));
    assert_eq!(data(None, "x"), Ok(Data::Binary(bytes("x"))));
    assert_eq!(data(Some("application/json"), ""), Ok(Data::Empty));
}

#[test]
fn the_short_form_fills_in_what_is_missing() {
    let defaults = || Defaults {
        id: "new".parse().unwrap(),
        source: "/".parse().unwrap(),
        time: "2026-01-01T00:00:00Z".parse().unwrap(),
    };
    let event = http::short(br#"{"type":"a","data":{"x":1},"tenant":"t"}"#, defaults).unwrap();
    assert_eq!((event.id.as_str(), event.source.as_str()), ("new", "/"));
    assert_eq!(
        (event.tenant(), event.time.as_ref().map(schemas::Time::micros)),
        (Some("t"), Some(1_767_225_600_000_000))
    );
    let given = br#"{"type":"a","id":"1","source":"/s","time":"2025-01-01T00:00:00Z"}"#;
    let event = http::short(given, || panic!("nothing is missing")).unwrap();
    assert_eq!(event.id.as_str(), "1");
    let bad = br#"{"specversion":"2","id":"","source":" ","time":1}"#;
    let error = http::short(bad, || panic!("what is wrong is not replaced")).unwrap_err();
    assert_eq!(pointers(error), ["/specversion", "/id", "/source", "/time", "/type"]);
    assert!(matches!(http::short(b"{", defaults), Err(ParseError::Malformed(_))));
}

#[test]
fn headers_out_carry_the_content_type_apart() {
    let event = Event::from_json(EVENT.as_bytes()).unwrap().with_json("x").unwrap();
    let headers = http::to_binary_headers(&event.clone().with_subject("a \"é\""));
    let find = |wanted: &str| {
        headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    assert_eq!(find("content-type"), Some("application/json"));
    assert_eq!(find("ce-subject"), Some("a%20%22%C3%A9%22"));
    assert_eq!(find("ce-specversion"), Some("1.0"));
    assert_eq!(find("ce-datacontenttype"), None);
    assert!(http::is_ce_header("Ce-Type") && !http::is_ce_header("cell"));
}

#[test]
fn nats_messages_are_binary_structured_or_plain() {
    let event = Event {
        datacontenttype: Some("text/plain".into()),
        data: Data::Text(Bytes::from_static(b"x")),
        ..Event::from_json(EVENT.as_bytes()).unwrap()
    };
    let (headers, payload) = nats::to_message(&event);
    assert!(headers.contains(&("ce-datacontenttype".into(), "text/plain".to_owned())));
    let upper: Vec<(String, String)> =
        headers.into_iter().map(|(name, value)| (name.to_uppercase(), value)).collect();
    let headers = upper.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(nats::from_message(headers, payload).unwrap(), Some(event));

    let structured = [("content-type", "application/cloudevents+json; charset=utf-8")];
    let read = nats::from_message(structured.into_iter(), Bytes::from_static(EVENT.as_bytes()));
    assert!(read.unwrap().is_some());
    let avro = [("Content-Type", "application/cloudevents+avro")];
    assert!(nats::from_message(avro.into_iter(), Bytes::new()).is_err());
    let plain = [("Content-Type", "application/json"), ("ce-id", "1")];
    assert_eq!(nats::from_message(plain.into_iter(), Bytes::new()), Ok(None));
}
