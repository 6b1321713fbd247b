//! The event of a `publish` step: what it is made of, and whether it can be one.
//!
//! The planner asks before the step begins: an event that the log would refuse is a request that cannot
//! be filled in, and fails nothing but its own saga.

use bus::log::EVENT_BYTES_MAX;
use schemas::{Event, EventId};
use serde_json::{Map, Value};

use crate::fingerprint::fingerprint;
use crate::request::RequestId;

const SOURCE: &str = "/skald/sagas";
/// Room for what an event is given when it is staged: its time, its cause (an id twice, and a source)
/// and its trace, which are less than 2,000 bytes.
const STAGED_BYTES: usize = 4_096;

/// What every event of a saga has.
pub(crate) fn draft(
    saga: &str,
    kind: &str,
    id: &str,
    subject: Option<&str>,
    data: Option<Value>,
) -> Map<String, Value> {
    let mut fields = Map::new();
    let texts = [("specversion", "1.0"), ("id", id), ("source", SOURCE), ("type", kind)];
    let texts = texts.into_iter().chain([("partitionkey", saga)]);
    let texts = texts.chain(subject.map(|subject| ("subject", subject)));
    fields.extend(texts.map(|(name, text)| (name.to_owned(), text.into())));
    if let Some(data) = data {
        fields.insert("datacontenttype".to_owned(), "application/json".into());
        fields.insert("data".to_owned(), data);
    }
    fields
}

/// The id of the event of a `publish` step: its idempotency key, or one made of that where it is too
/// long for an id.
pub(crate) fn event_id(saga: &str, request: &RequestId) -> String {
    let RequestId { step, operation, round } = request;
    let key = format!("{saga}/{step}/{}/{round}", operation.as_str());
    if key.len() <= EventId::BYTES_MAX {
        return key;
    }
    format!("{saga}/{:016x}{:016x}", fingerprint(&key, 0), fingerprint(&key, 1))
}

/// Whether a `publish` step with these expressions filled in gives an event.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(
    saga: &str,
    kind: &str,
    subject: Option<&str>,
    data: Option<&Value>,
) -> Result<(), String> {
    let draft = draft(saga, kind, saga, subject_of(subject), data.cloned());
    let event = Event::from_json(Value::Object(draft).to_string().as_bytes())
        .map_err(|error| format!("the event cannot be published: {}", told(error)))?;
    let bytes = event.size() + STAGED_BYTES;
    if bytes > EVENT_BYTES_MAX {
        return Err(format!(
            "the event cannot be published: with its attributes it is {bytes} bytes, the limit is {EVENT_BYTES_MAX}"
        ));
    }
    Ok(())
}

/// An empty subject is none.
pub(crate) fn subject_of(subject: Option<&str>) -> Option<&str> {
    subject.filter(|subject| !subject.is_empty())
}

fn told(error: schemas::ParseError) -> String {
    let faults = error.into_faults().0;
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transition::Operation;

    #[test]
    fn what_the_log_would_refuse_is_told_before() {
        let check =
            |subject: &str, data: &Value| check("s", "com.acme.x", Some(subject), Some(data));
        assert_eq!(check("", &json!({"a": 1})), Ok(()));
        let error = check("a\nb", &json!(1)).unwrap_err();
        assert!(error.contains("/subject") && error.contains("U+000A"), "{error}");
        let error = check("a", &json!("x".repeat(EVENT_BYTES_MAX - 3_000))).unwrap_err();
        assert!(error.contains("the limit is 1048576"), "{error}");
        assert_eq!(check("a", &json!("x".repeat(EVENT_BYTES_MAX - 5_000))), Ok(()));
        let deep = (0..125).fold(json!(1), |inner, _| json!([inner]));
        assert!(check("a", &deep).unwrap_err().contains("nested deeper"));
    }

    #[test]
    fn an_id_is_the_key_of_the_step_or_made_of_it() {
        let request = |step: &str| RequestId {
            step: step.to_owned(),
            operation: Operation::Compensation,
            round: 2,
        };
        assert_eq!(event_id("one", &request("say")), "one/say/compensation/2");
        let (saga, step) = ("s".repeat(128), "t".repeat(128));
        let long = event_id(&saga, &request(&step));
        assert!(long.parse::<EventId>().is_ok() && long.starts_with(&saga), "{long}");
        assert_ne!(long, event_id(&saga, &RequestId { round: 3, ..request(&step) }));
    }
}
