//! Comparing one value in the data.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::number;
use super::path::Path;

/// Compares the value at a path to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    pub(super) path: Path,
    pub(super) operator: Operator,
    pub(super) value: Value,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operator {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    In,
    Exists,
    Contains,
    Prefix,
    Suffix,
}

/// Values that `in` takes at most: each is tried for each event.
const IN_MAX: usize = 100;

impl Operator {
    /// Says why `value` cannot be what this operator compares to, if it cannot.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let (good, what) = match self {
            Operator::Eq | Operator::Ne => (true, ""),
            Operator::Gt | Operator::Ge | Operator::Lt | Operator::Le => {
                (value.is_number() || value.is_string(), "a number or a string")
            }
            Operator::In => {
                let count = value.as_array().map_or(0, Vec::len);
                ((1..=IN_MAX).contains(&count), "an array of 1 to 100 values")
            }
            Operator::Exists => (value.is_boolean(), "true or false"),
            Operator::Contains => (!value.is_array() && !value.is_object(), "a single value"),
            Operator::Prefix | Operator::Suffix => (value.is_string(), "a string"),
        };
        if good { Ok(()) } else { Err(format!("must be {what}")) }
    }
}

impl Comparison {
    /// True when the comparison holds for `data`; `None` is data that is not JSON.
    pub(super) fn holds(&self, data: Option<&Value>) -> bool {
        let found = data.and_then(|data| self.path.find(data));
        let Some(found) = found else {
            return match self.operator {
                Operator::Ne => true,
                Operator::Exists => self.value == Value::Bool(false),
                _ => false,
            };
        };
        let wanted = &self.value;
        let order = || compare(found, wanted);
        let texts = found.as_str().zip(wanted.as_str());
        match self.operator {
            Operator::Eq => equal(found, wanted),
            Operator::Ne => !equal(found, wanted),
            Operator::Gt => order().is_some_and(Ordering::is_gt),
            Operator::Ge => order().is_some_and(Ordering::is_ge),
            Operator::Lt => order().is_some_and(Ordering::is_lt),
            Operator::Le => order().is_some_and(Ordering::is_le),
            Operator::In => is_element(found, wanted),
            Operator::Exists => *wanted == Value::Bool(true),
            Operator::Contains => {
                is_element(wanted, found) || texts.is_some_and(|(text, part)| text.contains(part))
            }
            Operator::Prefix => texts.is_some_and(|(text, start)| text.starts_with(start)),
            Operator::Suffix => texts.is_some_and(|(text, end)| text.ends_with(end)),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "path": self.path.as_str(), "op": self.operator, "value": self.value })
    }
}

fn is_element(value: &Value, list: &Value) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|element| equal(element, value)))
}

/// The order of two numbers or of two strings; other values have none.
fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => number::compare(left, right),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// Equality in which `1` equals `1.0`, at any depth.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => compare(left, right) == Some(Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right)))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_by_value_at_any_depth() {
        assert!(equal(&json!({"a": [1, 2.0]}), &json!({"a": [1.0, 2]})));
        assert!(!equal(&json!([1]), &json!([1, 2])) && !equal(&json!("1"), &json!(1)));
    }

    #[test]
    fn only_like_is_ordered() {
        assert_eq!(compare(&json!("a"), &json!("b")), Some(Ordering::Less));
        assert_eq!(compare(&json!("1"), &json!(2)), None);
        assert_eq!(compare(&json!(null), &json!(null)), None);
    }
}
