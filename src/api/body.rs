//! Reads JSON bodies and queries, finding all faults at once.

use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use schemas::{Event, Faults};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::bodies::Full;
use crate::api::problem::Problem;
use crate::api::router::BODY_BYTES_MAX;
use crate::api::unambiguous::Unambiguous;

/// The members of an object, taken one by one; what is left over in the end is unknown.
pub(crate) struct Fields {
    members: Map<String, Value>,
    /// Whether it is a query, where all is text.
    of_query: bool,
    faults: Faults,
    prefix: String,
}

impl Fields {
    /// The body of a request.
    pub(crate) fn of_body(headers: &HeaderMap, body: &Bytes) -> Result<Fields, Problem> {
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = media.map(|media| media.split(';').next().unwrap_or_default().trim());
        if !body.is_empty() && !essence.is_some_and(|e| e.eq_ignore_ascii_case("application/json"))
        {
            return Err(Problem::media_type("send application/json"));
        }
        let text: &[u8] = if body.is_empty() { b"{}" } else { body };
        match read_json(text)? {
            Value::Object(members) => Ok(Fields::new(members, "")),
            _ => Err(Problem::fault("", "must be a JSON object")),
        }
    }

    /// The parameters of a query.
    pub(crate) fn of_query(query: Option<&str>) -> Result<Fields, Problem> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let mut fields = Fields { of_query: true, ..Fields::new(Map::new(), "") };
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if fields.members.contains_key(&name) {
                fields.fault(&name, "is given twice");
            }
            fields.members.insert(name, Value::String(value));
        }
        Ok(fields)
    }

    pub(crate) fn new(members: Map<String, Value>, prefix: &str) -> Fields {
        let (faults, prefix) = (Faults::default(), prefix.to_owned());
        Fields { members, of_query: false, faults, prefix }
    }

    pub(crate) fn fault(&mut self, name: &str, detail: impl std::fmt::Display) {
        self.faults.push(format!("{}/{name}", self.prefix), detail);
    }

    /// A fault of the whole object.
    pub(crate) fn fault_of_all(&mut self, detail: impl std::fmt::Display) {
        self.faults.push(self.prefix.clone(), detail);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The member as it is; `null` is as good as absent.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name).filter(|value| !value.is_null())
    }

    /// A string. Without NUL, which Postgres has in no text: what is compared with what is kept there must
    /// be able to stand there.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = self.words(name)?;
        without_nul(text).map_err(|detail| self.fault(name, detail)).ok()
    }

    /// A string whatever it holds.
    pub(crate) fn words(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.fault(name, "must be a string");
                None
            }
        }
    }

    /// A string that says a `T`.
    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        text.parse().map_err(|error: T::Err| self.fault(name, error.to_string())).ok()
    }

    /// A whole number, or in a query its digits.
    pub(crate) fn number(&mut self, name: &str, least: i64, most: i64) -> Option<i64> {
        let number = match self.value(name)? {
            Value::Number(number) => number.as_i64(),
            Value::String(digits) if self.of_query => digits.parse().ok(),
            _ => None,
        };
        let found = number.filter(|number| (least..=most).contains(number));
        if found.is_none() {
            self.fault(name, format!("must be a whole number from {least} to {most}"));
        }
        found
    }

    /// A truth value, or in a query `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.value(name) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(Value::String(text)) if self.of_query && text == "true" => true,
            Some(Value::String(text)) if self.of_query && text == "false" => false,
            Some(_) => {
                self.fault(name, "must be true or false");
                false
            }
        }
    }

    /// A list whose items are read by `read`.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        most: usize,
        mut read: impl FnMut(Value) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.value(name)? else {
            self.fault(name, "must be a list");
            return None;
        };
        if items.is_empty() || items.len() > most {
            self.fault(name, format!("must have 1 to {most} items"));
            return None;
        }
        let count = items.len();
        let mut found = Vec::with_capacity(count);
        for (index, item) in items.into_iter().enumerate() {
            match read(item) {
                Ok(item) => found.push(item),
                Err(detail) => self.fault(&format!("{name}/{index}"), detail),
            }
        }
        Some(found).filter(|found| found.len() == count)
    }

    /// A list of objects.
    pub(crate) fn objects<T>(
        &mut self,
        name: &str,
        most: usize,
        mut read: impl FnMut(&mut Fields) -> Option<T>,
    ) -> Option<Vec<T>> {
        let prefix = format!("{}/{name}", self.prefix);
        let mut faults = Faults::default();
        let mut index = 0;
        let found = self.list(name, most, |item| {
            let Value::Object(members) = item else { return Err("must be an object".to_owned()) };
            let mut fields = Fields::new(members, &format!("{prefix}/{index}"));
            index += 1;
            let found = read(&mut fields);
            faults.extend(fields.leftovers());
            Ok(found)
        })?;
        self.faults.extend(faults);
        Some(found.into_iter().flatten().collect())
    }

    /// An object.
    pub(crate) fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Fields) -> T,
    ) -> Option<T> {
        let Value::Object(members) = self.value(name)? else {
            self.fault(name, "must be an object");
            return None;
        };
        let mut fields = Fields::new(members, &format!("{}/{name}", self.prefix));
        let found = read(&mut fields);
        self.faults.extend(fields.leftovers());
        Some(found)
    }

    /// Faults of a member that was read elsewhere.
    pub(crate) fn faults_of(&mut self, name: &str, faults: Faults) {
        self.faults.extend(faults.prefixed(&format!("{}/{name}", self.prefix)));
    }

    /// Notes that a member must be there.
    pub(crate) fn require<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        let pointer = format!("{}/{name}", self.prefix);
        let within = |fault: &schemas::Fault| {
            let rest = fault.pointer.strip_prefix(&pointer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let told = self.faults.0.iter().any(within);
        if value.is_none() && !told {
            self.fault(name, "is missing");
        }
        value
    }

    /// Whether a fault was found so far.
    pub(crate) fn is_faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Refuses the request if there was any fault, or anything unknown.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        self.leftovers().or(()).map_err(Problem::invalid)
    }

    fn leftovers(mut self) -> Faults {
        let names: Vec<String> = self.members.keys().cloned().collect();
        for name in names {
            let escaped = name.replace('~', "~0").replace('/', "~1");
            self.fault(&escaped, "is unknown here");
        }
        self.faults
    }
}

/// A text that any database can hold.
pub(crate) fn without_nul(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("must not hold a NUL character".to_owned()) } else { Ok(text) }
}

/// A call that takes no body: what comes with it is looked at like any other body, so that nobody
/// believes that it counts.
pub(crate) struct NoBody;

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<NoBody, Problem> {
        let (parts, body) = request.into_parts();
        let body = read_body(body, BODY_BYTES_MAX).await?;
        Fields::of_body(&parts.headers, &body)?.finish()?;
        Ok(NoBody)
    }
}

/// A JSON value that says one thing, and not too deep.
pub(crate) fn read_json(text: &[u8]) -> Result<Value, Problem> {
    let read = serde_json::from_slice(text).map(|Unambiguous(value)| value);
    read.map_err(|error| {
        let error = error.to_string();
        if error.starts_with("recursion limit") {
            Problem::fault("", "is nested too deep")
        } else {
            Problem::malformed(format!("not valid JSON: {error}"))
        }
    })
}

/// A whole body of at most so many bytes.
pub(crate) async fn read_body(body: Body, most: usize) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, most).await.map_err(|error| {
        let error = error.into_inner();
        if error.is::<LengthLimitError>() {
            Problem::too_large("the body is too large")
        } else if Full::is_cause_of(&*error) {
            Problem::overloaded()
        } else {
            Problem::malformed("the request cannot be read")
        }
    })
}

/// The CloudEvent `event` in the object that `body` is, as it was written: a number that has been read
/// and written again may be another one.
pub(crate) fn read_event(fields: &mut Fields, body: &[u8]) -> Option<Event> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        event: Option<&'a RawValue>,
    }
    let _ = fields.value("event");
    let event = serde_json::from_slice::<Body<'_>>(body).ok().and_then(|body| body.event);
    let event = fields.require("event", event)?;
    let read = Event::from_json(event.get().as_bytes());
    read.map_err(|error| fields.faults_of("event", error.into_faults())).ok()
}

fn decode(text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    let bytes = percent(text.as_bytes());
    let decoded = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.ok_or_else(|| Problem::malformed("the query is not percent-encoded UTF-8"))
}

fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        match serde_json::from_str(json).unwrap() {
            Value::Object(members) => Fields::new(members, ""),
            _ => panic!("no object"),
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let mut fields = fields(r#"{"a": 1, "b": "x", "list": [{"id": 5, "more": 1}], "c": 1}"#);
        assert_eq!(fields.text("a"), None);
        assert_eq!(fields.parsed::<i32>("b"), None);
        let b = None::<i32>;
        fields.require("b", b);
        fields.require("missing", b);
        fields.objects("list", 10, |item| item.text("id"));
        let faults = fields.leftovers();
        let pointers: Vec<&str> = faults.0.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/a", "/b", "/missing", "/list/0/id", "/list/0/more", "/c"]);
    }

    #[test]
    fn queries_are_percent_decoded() {
        let mut fields = Fields::of_query(Some("type=com.acme.%2A&source=a+b&limit=5")).unwrap();
        assert_eq!(fields.text("type").as_deref(), Some("com.acme.*"));
        assert_eq!(fields.text("source").as_deref(), Some("a b"));
        assert_eq!(fields.number("limit", 1, 500), Some(5));
        assert!(fields.finish().is_ok());
        assert!(Fields::of_query(Some("a=%zz")).is_err());
    }
}
