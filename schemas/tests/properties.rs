//! What holds for all events, patterns and filters, however odd.

#![allow(clippy::unwrap_used)] // strategies are not test functions, but are nothing else

use bytes::Bytes;
use proptest::prelude::*;
use schemas::{Data, Event, ExtensionName, ExtensionValue, Filter, Time, Timestamp, fuzzing};
use serde_json::{Value, json};

/// JSON texts with all that is easily lost: white space, order, duplicates, long numbers, escapes.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("12345678901234567890123.450".to_owned()),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
        any::<i64>().prop_map(|i| i.to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        Just(r#""\ud83d\ude00\u0041\/""#.to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|list| format!("[ {} ]", list.join("\r\n, "))),
            prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.into_iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{{}\t}}", members.join(" ,"))
            }),
        ]
    })
}

/// A text that CloudEvents takes as a string.
fn text() -> impl Strategy<Value = String> {
    "[\\PC\"%\\\\ é😀]{1,20}".prop_filter("no noncharacters", |text| {
        !text.chars().any(|c| {
            let code = u32::from(c);
            c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
        })
    })
}

fn extension() -> impl Strategy<Value = (ExtensionName, ExtensionValue)> {
    let value = prop_oneof![
        any::<bool>().prop_map(ExtensionValue::from),
        any::<i32>().prop_map(ExtensionValue::from),
        text().prop_map(ExtensionValue::from),
        Just(ExtensionValue::from("")),
    ];
    let name = "[a-z0-9]{1,20}".prop_filter_map("a core name", |name| name.parse().ok());
    (name, value)
}

fn data() -> impl Strategy<Value = (Option<&'static str>, Data)> {
    let bytes = |text: String| Bytes::from(text.into_bytes());
    prop_oneof![
        Just((None, Data::Empty)),
        (prop::option::of(Just("application/json")), json_text())
            .prop_map(move |(kind, json)| (kind, Data::Json(bytes(json)))),
        any::<String>().prop_map(move |text| (Some("text/plain"), Data::Text(bytes(text)))),
        prop::collection::vec(any::<u8>(), 1..40)
            .prop_map(|raw| (Some("image/png"), Data::Binary(raw.into()))),
        prop::collection::vec(128..=255_u8, 1..9).prop_map(|raw| (None, Data::Binary(raw.into()))),
    ]
}

prop_compose! {
    fn event()(
        id in text(),
        source in "(https?://[a-z]{1,8}(:[0-9]{1,4})?)?(/[a-zA-Z0-9._~-]{0,5}){1,4}(\\?[a-z=&]{0,8})?",
        kind in "[a-zA-Z0-9_é-]{1,8}(\\.[a-zA-Z0-9_-]{1,8}){0,4}",
        subject in prop::option::of(text()),
        time in prop::option::of(0..4_102_444_800_000_000_i64),
        extensions in prop::collection::vec(extension(), 0..6),
        (content_type, data) in data(),
    ) -> Event {
        let mut event =
            Event::new(kind.parse().unwrap(), source.parse().unwrap(), id.parse().unwrap());
        event.subject = subject.map(Into::into);
        event.time = time.map(|us| Time::from(Timestamp::from_micros(us)));
        event.datacontenttype = content_type.map(Into::into);
        event.data = data;
        for (name, value) in extensions {
            event.extensions.insert(name, value);
        }
        event
    }
}

/// Values that are nearly filters, so that reading them goes deep.
fn nearly_a_filter() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z.$\\[\\]0-9']{0,6}".prop_map(Value::from),
        Just(json!(["a", 1])),
        Just(json!(null)),
    ];
    const OPERATORS: [&str; 11] =
        ["eq", "ne", "gt", "ge", "lt", "le", "in", "exists", "contains", "prefix", "x"];
    let comparison = ("[a-b$.\\[\\]0-1']{0,5}", prop::sample::select(&OPERATORS), scalar.clone())
        .prop_map(|(path, op, value)| json!({"data": {"path": path, "op": op, "value": value}}));
    let dialect = prop::sample::select(&["exact", "prefix", "suffix", "sql"]);
    let attributes = (dialect, prop::sample::select(&["type", "id", "vip", "X"]), scalar.clone())
        .prop_map(|(dialect, name, value)| json!({dialect: {name: value}}));
    prop_oneof![4 => comparison, 4 => attributes, 1 => scalar].prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!({"all": list})),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!({"any": list})),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            inner.prop_map(|node| json!({"not": node})),
        ]
    })
}

proptest! {
    #[test]
    fn json_keeps_every_event_and_every_byte_of_its_data(event in event()) {
        let read = Event::from_json(&event.to_json()).unwrap();
        prop_assert_eq!(read.data.as_bytes(), event.data.as_bytes());
        prop_assert_eq!(&read, &event);
        let spread: Value = serde_json::from_slice(&event.to_json()).unwrap();
        let pretty = serde_json::to_vec_pretty(&spread).unwrap();
        prop_assert!(Event::from_json(&pretty).is_ok());
    }

    #[test]
    fn storage_http_and_nats_lose_nothing(event in event()) {
        fuzzing::event_json(&event.to_json());
    }

    #[test]
    fn the_size_is_about_that_of_the_json(event in event()) {
        let length = event.to_json().len();
        prop_assert!(event.size() + 400 >= length / 6 && event.size() <= length + 400);
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::event_json(&bytes);
        fuzzing::event_binary(&bytes);
        fuzzing::event_nats(&bytes);
        fuzzing::filter(&bytes);
        fuzzing::pattern(&bytes);
    }

    #[test]
    fn any_members_are_an_event_or_faults(
        members in prop::collection::vec(
            (
                prop::sample::select(&[
                    "id", "source", "type", "specversion", "data", "data_base64", "time", "subject",
                    "datacontenttype", "dataschema", "tenant", "a~/b",
                ]),
                json_text(),
            ),
            0..12,
        ),
    ) {
        let members: Vec<String> =
            members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        fuzzing::event_json(format!("{{{}}}", members.join(",")).as_bytes());
    }

    #[test]
    fn any_headers_are_an_event_or_faults(
        headers in prop::collection::vec(
            (
                prop::sample::select(&["ce-subject", "CE-Time", "ce-x", "ce-data", "content-type"]),
                "[ -~é%\"]{0,12}",
            ),
            0..6,
        ),
        body in ".{0,20}",
    ) {
        let required = "ce-specversion: 1.0\nce-id: 1\nce-source: /\nce-type: a\n";
        let headers: String =
            headers.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        fuzzing::event_binary(format!("{required}{headers}\n{body}").as_bytes());
        fuzzing::event_nats(format!("{required}{headers}\n{body}").as_bytes());
    }

    #[test]
    fn patterns_match_what_their_rules_say(
        pattern in "(a|b|\\*|dev|skald)(\\.(a|b|\\*|skald)){0,3}(\\.>)?|>",
        kind in "(a|b|dev)(\\.(a|b|skald)){0,4}",
    ) {
        fuzzing::pattern(format!("{pattern}\n{kind}").as_bytes());
    }

    #[test]
    fn any_value_is_a_filter_or_faults(value in nearly_a_filter()) {
        fuzzing::filter(value.to_string().as_bytes());
        if let Err(faults) = Filter::parse(&value) {
            prop_assert!(!faults.is_empty());
            for fault in faults.0 {
                prop_assert!(fault.pointer.is_empty() || value.pointer(&fault.pointer).is_some()
                    || fault.pointer.ends_with("/path") || fault.pointer.ends_with("/op")
                    || fault.pointer.ends_with("/value"));
            }
        }
    }
}
