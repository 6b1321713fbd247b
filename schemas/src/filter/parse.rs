//! Reading a filter, telling all that is wrong with it.

use serde_json::{Map, Value};

use super::comparison::{Comparison, Operator};
use super::path::Path;
use super::{Attributes, Filter, Node};
use crate::attribute::STRING_BYTES_MAX;
use crate::fault::member;
use crate::{ExtensionName, Faults};

/// The core attributes, which are no extensions.
const CORE: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];
/// Attributes that one dialect compares at most.
const ATTRIBUTES_MAX: usize = 64;
/// What a filter can be.
const DIALECTS: &str = "exact, prefix, suffix, all, any, not or data";

pub(super) fn filter(json: &Value) -> Result<Node, Faults> {
    let mut reader = Reader::default();
    match reader.node(json, "", 1) {
        Some(node) if reader.faults.is_empty() => Ok(node),
        _ => Err(reader.faults),
    }
}

#[derive(Default)]
struct Reader {
    nodes: usize,
    faults: Faults,
}

impl Reader {
    /// Reads one filter; `None` after a fault.
    fn node(&mut self, json: &Value, at: &str, depth: usize) -> Option<Node> {
        self.nodes += 1;
        if depth > Filter::DEPTH_MAX {
            let why = format!("must not be nested deeper than {} filters", Filter::DEPTH_MAX);
            return self.fault(at, why);
        }
        if self.nodes > Filter::NODES_MAX {
            let first = self.nodes == Filter::NODES_MAX + 1;
            let why = format!("must not be one filter of more than {} in all", Filter::NODES_MAX);
            return if first { self.fault(at, why) } else { None };
        }
        let object = match json {
            Value::Array(list) => return self.list(list, at, depth).map(Node::All),
            Value::Object(object) => object,
            _ => return self.fault(at, format!("must be a filter: {DIALECTS}")),
        };
        let mut members = object.iter();
        let (Some((dialect, value)), None) = (members.next(), members.next()) else {
            return self.fault(at, format!("must have exactly one of {DIALECTS}"));
        };
        let at = format!("{at}{}", member(dialect));
        match dialect.as_str() {
            "exact" => self.attributes(value, &at).map(Node::Exact),
            "prefix" => self.attributes(value, &at).map(Node::Prefix),
            "suffix" => self.attributes(value, &at).map(Node::Suffix),
            "all" => self.filters(value, &at, depth).map(Node::All),
            "any" => self.filters(value, &at, depth).map(Node::Any),
            "not" => self.node(value, &at, depth + 1).map(|node| Node::Not(Box::new(node))),
            "data" => self.comparison(value, &at).map(Node::Data),
            _ => self.fault(&at, format!("is not known: a filter is {DIALECTS}")),
        }
    }

    fn filters(&mut self, json: &Value, at: &str, depth: usize) -> Option<Vec<Node>> {
        match json.as_array().filter(|list| !list.is_empty()) {
            Some(list) => self.list(list, at, depth),
            None => self.fault(at, "must be an array of at least one filter"),
        }
    }

    fn list(&mut self, list: &[Value], at: &str, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Some(Vec::new());
        for (index, json) in list.iter().enumerate() {
            let node = self.node(json, &format!("{at}/{index}"), depth + 1);
            if self.nodes > Filter::NODES_MAX {
                return None;
            }
            nodes = nodes.zip(node).map(|(mut nodes, node)| {
                nodes.push(node);
                nodes
            });
        }
        nodes
    }

    fn attributes(&mut self, json: &Value, at: &str) -> Option<Attributes> {
        let Some(object) = json.as_object().filter(|object| !object.is_empty()) else {
            return self.fault(at, "must be an object of at least one attribute and its text");
        };
        if object.len() > ATTRIBUTES_MAX {
            return self.fault(at, format!("must not have more than {ATTRIBUTES_MAX} attributes"));
        }
        let mut attributes = Vec::with_capacity(object.len());
        for (name, value) in object {
            let at = format!("{at}{}", member(name));
            if !CORE.contains(&name.as_str())
                && let Err(why) = name.parse::<ExtensionName>()
            {
                self.faults.push(at, why);
                continue;
            }
            match value.as_str() {
                Some(text) if (1..=STRING_BYTES_MAX).contains(&text.len()) => {
                    attributes.push((name.clone(), text.to_owned()));
                }
                _ => {
                    let why = format!("must be a text of 1 to {STRING_BYTES_MAX} bytes");
                    self.faults.push(at, why);
                }
            }
        }
        Some(attributes)
    }

    fn comparison(&mut self, json: &Value, at: &str) -> Option<Comparison> {
        let Some(object) = json.as_object() else {
            return self.fault(at, "must be an object with path, op and value");
        };
        let known = ["path", "op", "value"];
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            self.faults.push(format!("{at}{}", member(name)), "is not known");
        }
        let path = self.path(object, at);
        let operator = self.operator(object, at)?;
        let value = match (object.get("value"), operator) {
            (Some(value), _) => value.clone(),
            (None, Operator::Exists) => Value::Bool(true),
            (None, _) => return self.fault(&format!("{at}/value"), "is required"),
        };
        if let Err(why) = operator.check(&value) {
            return self.fault(&format!("{at}/value"), why);
        }
        Some(Comparison { path: path?, operator, value })
    }

    fn path(&mut self, object: &Map<String, Value>, at: &str) -> Option<Path> {
        let text = object.get("path").and_then(Value::as_str).unwrap_or_default();
        Path::parse(text).map_err(|why| self.faults.push(format!("{at}/path"), why)).ok()
    }

    fn operator(&mut self, object: &Map<String, Value>, at: &str) -> Option<Operator> {
        let operator = object.get("op").and_then(|name| {
            let name = name.as_str()?; // an object would be read as an enum's variant, too
            serde_json::from_value(Value::from(name)).ok()
        });
        if operator.is_none() {
            let known = "eq, ne, gt, ge, lt, le, in, exists, contains, prefix or suffix";
            self.faults.push(format!("{at}/op"), format!("must be {known}"));
        }
        operator
    }

    fn fault<T>(&mut self, at: &str, why: impl std::fmt::Display) -> Option<T> {
        self.faults.push(at, why);
        None
    }
}
