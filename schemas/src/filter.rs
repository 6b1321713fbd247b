//! Choosing events by their attributes and their data.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::event::SPECVERSION;
use crate::{Data, Event, Faults};

mod comparison;
mod number;
mod parse;
mod path;

use comparison::Comparison;

/// Chooses events by their attributes and their data.
///
/// As JSON, one of the dialects of CloudEvents subscriptions, or `data`:
///
/// | JSON | holds when |
/// |---|---|
/// | `{"exact": {"type": "order.paid", "subject": "1"}}` | all these attributes have these texts |
/// | `{"prefix": {…}}`, `{"suffix": {…}}` | all these attributes start, or end, so |
/// | `{"all": […]}`, `{"any": […]}`, `{"not": {…}}` | all, any or none of these filters hold |
/// | `[…]` | all these filters hold; an empty array always does |
/// | `{"data": {"path": "$.total", "op": "gt", "value": 100}}` | the JSON data compares so |
///
/// Attributes are compared as text (`true`, `17`); one that is not set matches nothing.
///
/// The path is `$.total`, `total.amount`, `items[0].sku`, `['a key']`, or `$` for all of the data.
/// The operators are `eq`, `ne`, `gt`, `ge`, `lt`, `le` (two numbers, or two strings by code
/// point), `in` (an array of 1..=100 values), `exists` (`true`, also when left out, or `false`),
/// `contains` (a part of a string, or an element of an array), `prefix` and `suffix`. Where the
/// path leads nowhere only `ne` and `exists: false` hold; it leads nowhere in data that is not
/// JSON. Numbers compare by value, `1` equals `1.0`; they are exact from -2^63 to 2^64-1 and
/// rounded to a double beyond, or with a fraction.
///
/// A filter has at most 256 filters in it, nested at most 32 deep.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Node);

/// Attributes and what their texts are compared to.
type Attributes = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Exact(Attributes),
    Prefix(Attributes),
    Suffix(Attributes),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Data(Comparison),
}

impl Filter {
    /// Filters within one filter, itself included, at most.
    pub const NODES_MAX: usize = 256;
    /// How deep they nest at most.
    pub const DEPTH_MAX: usize = 32;

    /// Reads a filter.
    ///
    /// # Errors
    /// Every fault at once, each with a pointer into `json`.
    pub fn parse(json: &Value) -> Result<Filter, Faults> {
        parse::filter(json).map(Filter)
    }

    /// The filter as JSON, which reads back as an equal filter.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.0.to_json()
    }

    /// True when the filter holds for `event`. The data is read only if it is asked for, and once.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.0.matches(&Candidate { event, data: OnceCell::new() })
    }
}

impl Default for Filter {
    /// The filter that always holds.
    fn default() -> Filter {
        Filter(Node::All(Vec::new()))
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        Filter::parse(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Node {
    fn matches(&self, candidate: &Candidate<'_>) -> bool {
        let each = |wanted: &Attributes, holds: fn(&str, &str) -> bool| {
            wanted.iter().all(|(name, text)| {
                candidate.attribute(name).is_some_and(|found| holds(&found, text))
            })
        };
        match self {
            Node::Exact(wanted) => each(wanted, |found, text| found == text),
            Node::Prefix(wanted) => each(wanted, |found, text| found.starts_with(text)),
            Node::Suffix(wanted) => each(wanted, |found, text| found.ends_with(text)),
            Node::All(nodes) => nodes.iter().all(|node| node.matches(candidate)),
            Node::Any(nodes) => nodes.iter().any(|node| node.matches(candidate)),
            Node::Not(node) => !node.matches(candidate),
            Node::Data(comparison) => comparison.holds(candidate.data()),
        }
    }

    fn to_json(&self) -> Value {
        let texts = |wanted: &Attributes| {
            let texts = wanted.iter().map(|(name, text)| (name.clone(), text.clone().into()));
            Value::Object(texts.collect::<Map<String, Value>>())
        };
        let list = |nodes: &[Node]| Value::Array(nodes.iter().map(Node::to_json).collect());
        match self {
            Node::Exact(wanted) => json!({ "exact": texts(wanted) }),
            Node::Prefix(wanted) => json!({ "prefix": texts(wanted) }),
            Node::Suffix(wanted) => json!({ "suffix": texts(wanted) }),
            Node::All(nodes) if nodes.is_empty() => list(nodes),
            Node::All(nodes) => json!({ "all": list(nodes) }),
            Node::Any(nodes) => json!({ "any": list(nodes) }),
            Node::Not(node) => json!({ "not": node.to_json() }),
            Node::Data(comparison) => json!({ "data": comparison.to_json() }),
        }
    }
}

/// The event that a filter is held against, and its data once it has been read.
struct Candidate<'a> {
    event: &'a Event,
    data: OnceCell<Option<Value>>,
}

impl Candidate<'_> {
    fn data(&self) -> Option<&Value> {
        let read = || match &self.event.data {
            Data::Json(json) => serde_json::from_slice(json).ok(),
            Data::Empty | Data::Text(_) | Data::Binary(_) => None,
        };
        self.data.get_or_init(read).as_ref()
    }

    fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        let event = self.event;
        let text = match name {
            "specversion" => Some(SPECVERSION),
            "id" => Some(event.id.as_str()),
            "source" => Some(event.source.as_str()),
            "type" => Some(event.kind.as_str()),
            "subject" => event.subject.as_deref(),
            "time" => event.time.as_ref().map(crate::Time::as_str),
            "datacontenttype" => event.datacontenttype.as_deref(),
            "dataschema" => event.dataschema.as_deref(),
            _ => {
                let value = event.extension(name)?;
                return Some(match value.as_str() {
                    Some(text) => Cow::Borrowed(text),
                    None => Cow::Owned(value.to_string()),
                });
            }
        };
        text.map(Cow::Borrowed)
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // json! reads best as an argument
mod tests {
    use super::*;

    fn event() -> Event {
        let event = Event::new(
            "order.paid".parse().unwrap(),
            "/shop".parse().unwrap(),
            "1".parse().unwrap(),
        );
        let data = json!({
            "total": 120, "huge": 9_007_199_254_740_993_i64, "name": "Zoë", "none": null,
            "items": [{"sku": "a-1"}, {"sku": "b-2"}], "tags": ["new", 2], "a.b": true,
        });
        event.with_subject("order-17").with_extension("vip", true).with_json(data).unwrap()
    }

    fn holds(filter: Value) -> bool {
        let parsed = Filter::parse(&filter).unwrap();
        assert_eq!(Filter::parse(&parsed.to_json()).unwrap(), parsed);
        parsed.matches(&event())
    }

    fn compares(path: &str, op: &str, value: Value) -> bool {
        holds(json!({"data": {"path": path, "op": op, "value": value}}))
    }

    #[test]
    fn attributes_are_compared_as_texts() {
        assert!(holds(json!({"exact": {"type": "order.paid", "subject": "order-17"}})));
        assert!(!holds(json!({"exact": {"type": "order.paid", "subject": "order-18"}})));
        assert!(holds(json!({"prefix": {"subject": "order-"}})));
        assert!(holds(json!({"suffix": {"source": "shop"}})));
        assert!(holds(json!({"exact": {"vip": "true"}})));
        assert!(!holds(json!({"prefix": {"dataschema": "https"}})));
    }

    #[test]
    fn filters_combine() {
        let (yes, no) = (json!({"exact": {"id": "1"}}), json!({"exact": {"id": "2"}}));
        assert!(holds(json!({"any": [no, yes]})) && !holds(json!({"all": [no, yes]})));
        assert!(holds(json!({"not": no})) && !holds(json!([yes, no])) && holds(json!([])));
        assert!(Filter::default().matches(&event()));
    }

    #[test]
    fn data_is_found_by_its_path() {
        assert!(compares("$.total", "eq", json!(120.0)) && compares("total", "gt", json!(119.5)));
        assert!(compares("items[1].sku", "prefix", json!("b")));
        assert!(compares("$.items[0]['sku']", "suffix", json!("-1")));
        assert!(compares("['a.b']", "eq", json!(true)));
        assert!(
            compares("$", "exists", json!(true)) && !compares("items[2]", "exists", json!(true))
        );
    }

    #[test]
    fn whole_numbers_are_compared_exactly() {
        assert!(compares("huge", "eq", json!(9_007_199_254_740_993_i64)));
        assert!(compares("huge", "gt", json!(9_007_199_254_740_992_i64)));
        assert!(compares("huge", "gt", json!(9_007_199_254_740_992.0)));
        assert!(compares("huge", "lt", json!(u64::MAX)) && compares("huge", "gt", json!(i64::MIN)));
    }

    #[test]
    fn a_missing_path_matches_only_ne_and_not_existing() {
        assert!(compares("no.where", "ne", json!(1)) && compares("no", "exists", json!(false)));
        for op in ["eq", "gt", "le", "contains"] {
            assert!(!compares("no", op, json!("x")), "{op}");
        }
        assert!(compares("none", "exists", json!(true)) && compares("none", "eq", json!(null)));
    }

    #[test]
    fn membership_works_both_ways() {
        assert!(
            compares("total", "in", json!([1, 120])) && !compares("total", "in", json!(["120"]))
        );
        assert!(
            compares("tags", "contains", json!("new")) && compares("tags", "contains", json!(2))
        );
        assert!(
            compares("name", "contains", json!("oë")) && !compares("total", "contains", json!(1))
        );
    }

    #[test]
    fn every_fault_of_a_filter_is_told_with_its_place() {
        let faults = Filter::parse(&json!({"all": [
            {"exact": {}}, {"exact": {"Type": "x", "subject": 1}}, {"sql": "TRUE"}, {"any": []}, 7,
            {"data": {"path": "a..b", "op": "is"}}, {"data": {"path": "a", "op": "in", "value": 1}},
            {"data": {"path": "$", "op": "gt", "value": [], "else": 1}}, {"exact": {}, "not": {}},
        ]}));
        let faults = faults.unwrap_err();
        let pointers: Vec<&str> = faults.0.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/all/0/exact",
                "/all/1/exact/Type",
                "/all/1/exact/subject",
                "/all/2/sql",
                "/all/3/any",
                "/all/4",
                "/all/5/data/path",
                "/all/5/data/op",
                "/all/6/data/value",
                "/all/7/data/else",
                "/all/7/data/value",
                "/all/8",
            ]
        );
    }

    #[test]
    fn filters_are_bounded() {
        let nested = |depth: usize| {
            (1..depth).fold(json!({"exact": {"id": "1"}}), |inner, _| json!({"not": inner}))
        };
        assert!(Filter::parse(&nested(32)).is_ok() && Filter::parse(&nested(33)).is_err());
        let wide = |nodes: usize| json!({"any": vec![json!({"exact": {"id": "1"}}); nodes - 1]});
        assert!(Filter::parse(&wide(256)).is_ok());
        assert_eq!(Filter::parse(&wide(1_000)).unwrap_err().0.len(), 1);
    }

    #[test]
    fn a_filter_is_written_and_read_by_serde() {
        let filter: Filter = serde_json::from_str(r#"[{"prefix":{"type":"a"}}]"#).unwrap();
        assert_eq!(serde_json::to_string(&filter).unwrap(), r#"{"all":[{"prefix":{"type":"a"}}]}"#);
        let error = serde_json::from_str::<Filter>(r#"{"exact":{}}"#).unwrap_err();
        assert!(error.to_string().contains("/exact"), "{error}");
    }
}
