//! `skald config`: the settings in effect and where each came from.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::output::{cell, text};
use super::{Output, Stop};
use crate::config::{Loaded, Origin};

/// Prints every setting. Secrets are hidden.
pub(super) fn run(loaded: &Loaded, output: &Output) -> Result<(), Stop> {
    let settings = serde_json::to_value(&loaded.settings)?;
    if output.is_json() {
        output.value(&json!({ "settings": settings, "origins": loaded.origins }))?;
        return Ok(());
    }
    let mut flat = BTreeMap::new();
    flatten("", &settings, &mut flat);
    let rows = flat.into_iter().map(|(key, value)| {
        let origin = loaded.origins.get(&key).unwrap_or(&Origin::Default);
        vec![cell(&key), cell(text(value)), cell(origin.to_string())]
    });
    output.table(&["SETTING", "VALUE", "FROM"], rows.collect())?;
    Ok(())
}

/// `{"log": {"url": …}}` as `log.url`, and lists of tables by their positions.
fn flatten<'a>(key: &str, value: &'a Value, into: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, into);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (position, item) in items.iter().enumerate() {
                flatten(&format!("{key}[{position}]"), item, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            into.insert(key.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_keys_are_those_of_the_origins() {
        let value =
            json!({"listen": "x", "log": {"url": "y", "retention": [{"type": "a"}]}, "n": []});
        let mut flat = BTreeMap::new();
        flatten("", &value, &mut flat);
        let keys: Vec<_> = flat.keys().map(String::as_str).collect();
        assert_eq!(keys, ["listen", "log.retention[0].type", "log.url", "n"]);
    }
}
