//! What expressions can read: `input`, `steps`, `env`, `saga`, `event`, `item` and `index`.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value as Dynamic, ValueKind};
use serde_json::{Map, Number, Value};

use super::{limits, told_too_large};

/// What expressions can read. Cheap to copy and add to.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    names: BTreeMap<&'static str, Dynamic>,
}

impl Scope {
    /// With `input`.
    #[must_use]
    pub fn new(input: &Value) -> Scope {
        Scope::default().with("input", of_json(input))
    }

    /// With another name.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Dynamic) -> Scope {
        self.names.insert(name, value);
        self
    }

    pub(super) fn value(&self) -> Dynamic {
        Dynamic::from_pairs(self.names.iter().map(|(name, value)| (*name, value.clone())))
    }
}

/// An output that is not known: null, and so is all that is read from it.
#[derive(Debug)]
pub(crate) struct Absent;

impl Absent {
    pub(crate) fn value() -> Dynamic {
        Dynamic::from_object(Absent)
    }
}

impl Object for Absent {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, _key: &Dynamic) -> Option<Dynamic> {
        Some(Absent::value())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

/// JSON as expressions see it.
pub(crate) fn of_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::from(()),
        Value::Bool(truth) => Dynamic::from(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Dynamic::from(whole),
            (None, Some(whole)) => Dynamic::from(whole),
            (None, None) => Dynamic::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Dynamic::from(text.as_str()),
        Value::Array(items) => items.iter().map(of_json).collect::<Vec<_>>().into(),
        Value::Object(members) => {
            Dynamic::from_pairs(members.iter().map(|(name, value)| (name.as_str(), of_json(value))))
        }
    }
}

/// As JSON, while there is room for it; what is no JSON is told.
pub(super) fn to_json(value: &Dynamic, left: &mut usize) -> Result<Value, String> {
    if !limits::take(left, limits::own_size(value)) {
        return Err(told_too_large());
    }
    if value.downcast_object_ref::<Absent>().is_some() {
        return Ok(Value::Null);
    }
    match value.kind() {
        ValueKind::Undefined => Err("reads what is not there".to_owned()),
        ValueKind::None => Ok(Value::Null),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|error| error.to_string())?;
            items.map(|item| to_json(&item, left)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        ValueKind::Map => {
            let mut members = Map::new();
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let member = value.get_item(&key).map_err(|error| error.to_string())?;
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                if !limits::take(left, name.len() + 4) {
                    return Err(told_too_large());
                }
                members.insert(name, to_json(&member, left)?);
            }
            Ok(Value::Object(members))
        }
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::String => Ok(Value::String(value.as_str().unwrap_or_default().to_owned())),
        ValueKind::Number => number(value),
        kind => Err(format!("gives {kind}, which is no JSON")),
    }
}

fn number(value: &Dynamic) -> Result<Value, String> {
    if value.is_integer() {
        if let Ok(whole) = i64::try_from(value.clone()) {
            return Ok(Value::Number(whole.into()));
        }
        if let Ok(whole) = u64::try_from(value.clone()) {
            return Ok(Value::Number(whole.into()));
        }
    }
    let float = f64::try_from(value.clone()).ok().and_then(Number::from_f64);
    float.map(Value::Number).ok_or_else(|| "gives a number that is no JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    #[test]
    fn what_is_absent_is_null_and_so_is_all_that_is_read_from_it() {
        let scope = Scope::default().with("output", Absent::value());
        for (text, expected) in [
            ("{{ output }}", Value::Null),
            ("{{ output.id.more[3] }}", Value::Null),
            ("{{ [output.id, 1] }}", serde_json::json!([null, 1])),
            ("id={{ output.id }}", serde_json::json!("id=")),
            ("{{ 'yes' if output.id else 'no' }}", serde_json::json!("no")),
        ] {
            let template = Template::of_text(text).unwrap();
            assert_eq!(template.render(&scope), Ok(expected), "{text}");
        }
    }
}
