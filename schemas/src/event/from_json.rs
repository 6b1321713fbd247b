//! Reading an event from structured JSON, telling all that is wrong with it.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::draft::{Draft, Scalar, json_data};
use crate::fault::member;
use crate::json::{self, MEMBERS_MAX, Members};
use crate::{Data, Event, Faults, ParseError, media_type};

/// Padding is often forgotten, and its absence is never ambiguous.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Event {
    /// Reads structured JSON (`application/cloudevents+json`). Members that are not core
    /// attributes are extensions, `null` means unset, and data is kept as it is written.
    ///
    /// # Errors
    /// [`ParseError::Malformed`] when the bytes are not JSON, else [`ParseError::Invalid`] with
    /// every fault at once.
    pub fn from_json(json: &[u8]) -> Result<Event, ParseError> {
        read(json::text(json)?)?.finish().map_err(ParseError::Invalid)
    }
}

impl<'de> Deserialize<'de> for Event {
    /// Structured JSON; with `serde_json` only, as the data is kept as it is written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Event::from_json(raw.get().as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Reads the members of one event; only what is malformed is an error at once.
pub(crate) fn read(text: &str) -> Result<Draft, ParseError> {
    match json::members(text)? {
        Some(members) => Ok(read_members(&members)),
        None => Err(Faults::one("", "must be a JSON object").into()),
    }
}

fn read_members(members: &Members<'_>) -> Draft {
    let mut draft = Draft::default();
    let (mut data, mut data_base64) = (None, None);
    if members.too_many {
        draft.faults.push("", format!("must not have more than {MEMBERS_MAX} members"));
    }
    for (index, (name, value)) in members.list.iter().enumerate() {
        if members.list[..index].iter().any(|(before, _)| before == name) {
            draft.faults.push(member(name), "must not be given twice");
            continue;
        }
        match name.as_ref() {
            "data" => data = Some(*value),
            "data_base64" => data_base64 = Some(*value),
            _ => draft.set(name, Scalar::read(value)),
        }
    }
    match (data, data_base64.filter(|value| value.get() != "null")) {
        (Some(data), Some(_)) if data.get() != "null" => {
            draft.faults.push("/data_base64", "must not be given together with data");
        }
        (_, Some(encoded)) => set_base64(&mut draft, encoded),
        (Some(data), None) => set_data(&mut draft, data),
        (None, None) => {}
    }
    draft
}

fn set_data(draft: &mut Draft, raw: &RawValue) {
    if draft.datacontenttype.as_deref().is_none_or(media_type::is_json) {
        match json::check_readable(raw.get()) {
            Ok(()) => draft.data = Data::Json(Bytes::copy_from_slice(raw.get().as_bytes())),
            Err(why) => draft.faults.push("/data", format!("must be readable JSON: {why}")),
        }
        return;
    }
    match Scalar::read(raw) {
        Scalar::Null => {}
        Scalar::Text(text) => draft.data = Data::Text(Bytes::from(text.into_owned())),
        Scalar::Garbled => draft.faults.push("/data", "must be valid Unicode"),
        Scalar::Boolean(_) | Scalar::Number(_) | Scalar::Nested => {
            draft.faults.push("/data", "must be a string, as datacontenttype is not JSON");
        }
    }
}

fn set_base64(draft: &mut Draft, raw: &RawValue) {
    let Scalar::Text(encoded) = Scalar::read(raw) else {
        return draft.faults.push("/data_base64", "must be a string");
    };
    let Ok(bytes) = BASE64.decode(encoded.as_bytes()).map(Bytes::from) else {
        return draft.faults.push("/data_base64", "must be base64");
    };
    let declared = draft.datacontenttype.as_ref().map(|declared| Cow::Borrowed(declared.as_ref()));
    match declared {
        Some(declared) if media_type::is_json(&declared) && !bytes.is_empty() => {
            match json_data(&bytes) {
                Ok(data) => draft.data = data,
                Err(why) => draft.faults.push("/data_base64", why),
            }
        }
        _ if bytes.is_empty() => {}
        _ => draft.data = Data::Binary(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Vec<String> {
        match Event::from_json(json.as_bytes()).unwrap_err() {
            ParseError::Invalid(faults) => faults.0.iter().map(ToString::to_string).collect(),
            ParseError::Malformed(why) => vec![format!("malformed {why}")],
        }
    }

    /// An event with these members beside the required ones.
    fn with(members: &str) -> String {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"a",{members}}}"#)
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let told = faults(
            r#"{"specversion":"0.3","id":"","type":"a..b","time":"now","subject":7,
                "Bad_Name":1,"big":2147483648,"list":[],"datacontenttype":"json"}"#,
        );
        let pointers: Vec<&str> = told.iter().filter_map(|told| told.split(':').next()).collect();
        assert_eq!(
            pointers,
            [
                "/specversion",
                "/id",
                "/type",
                "/time",
                "/subject",
                "/Bad_Name",
                "/big",
                "/list",
                "/datacontenttype",
                "/source",
            ]
        );
    }

    #[test]
    fn missing_attributes_are_told_once_each() {
        let all = ["/specversion: is required", "/id: is required", "/source: is required"];
        assert_eq!(faults("{}"), [&all[..], &["/type: is required"]].concat());
        assert_eq!(faults("[]"), ["must be a JSON object"]);
    }

    #[test]
    fn malformed_json_is_told_from_invalid_events() {
        for bad in ["", "{", "{\"a\":}", "nul", "{} {}"] {
            assert!(faults(bad)[0].starts_with("malformed"), "{bad}");
        }
        assert!(matches!(Event::from_json(b"\"\xff\""), Err(ParseError::Malformed(_))));
    }

    #[test]
    fn duplicates_are_faults_even_when_null() {
        assert_eq!(
            faults(&with(r#""subject":null,"subject":"x""#)),
            ["/subject: must not be given twice"]
        );
        assert_eq!(faults(&with(r#""data":1,"d\u0061ta":2"#)), ["/data: must not be given twice"]);
    }

    #[test]
    fn null_attributes_are_unset_and_null_data_is_null() {
        let event = Event::from_json(with(r#""subject":null,"x":null,"data":null"#).as_bytes());
        let event = event.unwrap();
        assert!(event.subject.is_none() && event.extensions.is_empty());
        assert_eq!(event.data, Data::Json(Bytes::from_static(b"null")));
    }

    #[test]
    fn data_and_its_base64_exclude_each_other() {
        let told = faults(&with(r#""data":1,"data_base64":"AA==""#));
        assert_eq!(told, ["/data_base64: must not be given together with data"]);
        let event = Event::from_json(with(r#""data":null,"data_base64":"_w""#).as_bytes());
        assert!(event.is_err());
        let event = Event::from_json(with(r#""data":null,"data_base64":"/w""#).as_bytes()).unwrap();
        assert_eq!(event.data, Data::Binary(Bytes::from_static(b"\xff")));
    }

    #[test]
    fn data_follows_its_content_type() {
        let read =
            |members: &str| Event::from_json(with(members).as_bytes()).map(|event| event.data);
        let text = read(r#""datacontenttype":"text/xml","data":"<a\u003e""#).unwrap();
        assert_eq!(text, Data::Text(Bytes::from_static(b"<a>")));
        let json = read(r#""datacontenttype":"application/json","data":"x""#).unwrap();
        assert_eq!(json, Data::Json(Bytes::from_static(b"\"x\"")));
        let decoded = read(r#""datacontenttype":"application/json","data_base64":"WzFd""#).unwrap();
        assert_eq!(decoded, Data::Json(Bytes::from_static(b"[1]")));
        assert_eq!(
            faults(&with(r#""datacontenttype":"text/plain","data":{}"#)),
            ["/data: must be a string, as datacontenttype is not JSON"]
        );
    }

    #[test]
    fn deep_nesting_is_a_fault_not_a_crash() {
        let deep = "[".repeat(300_000) + &"]".repeat(300_000);
        assert!(faults(&with(&format!("\"data\":{deep}")))[0].contains("nested deeper than 120"));
        assert!(faults(&with(&format!("\"x\":{deep}")))[0].starts_with("/x: must be"));
    }

    #[test]
    fn extensions_and_members_are_bounded() {
        let many =
            |n: usize| with(&(0..n).map(|n| format!("\"x{n}\":1")).collect::<Vec<_>>().join(","));
        assert!(Event::from_json(many(64).as_bytes()).is_ok());
        assert!(faults(&many(65))[0].contains("one extension too many"));
        assert!(faults(&many(1_000)).len() <= 128);
    }
}
