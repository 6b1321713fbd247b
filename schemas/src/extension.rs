//! Extension attributes: what producers add to the envelope.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An extension that breaks the rules; the message says the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidExtension(pub(crate) &'static str);

/// The name of an extension: 1 to 20 of `a-z 0-9`, none of CloudEvents' own attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtensionName(Arc<str>);

/// Attributes that are no extensions.
const CORE: [&str; 10] = [
    "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema",
    "data", "database64",
];

impl ExtensionName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExtensionName {
    type Err = InvalidExtension;

    fn from_str(text: &str) -> Result<ExtensionName, InvalidExtension> {
        let allowed = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !(1..=20).contains(&text.len()) || !allowed {
            return Err(InvalidExtension(
                "an extension's name is 1 to 20 of the characters a-z and 0-9",
            ));
        }
        if CORE.contains(&text) {
            return Err(InvalidExtension("the name belongs to an attribute of CloudEvents itself"));
        }
        Ok(ExtensionName(text.into()))
    }
}

/// The value of an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionValue {
    /// A truth value.
    Boolean(bool),
    /// A whole number of 32 bits.
    Integer(i32),
    /// Text without control characters; CloudEvents' other types travel as text too.
    String(Arc<str>),
}

impl ExtensionValue {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            ExtensionValue::String(text) => Some(text),
            ExtensionValue::Boolean(_) | ExtensionValue::Integer(_) => None,
        }
    }
}

impl fmt::Display for ExtensionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExtensionValue::Boolean(value) => value.fmt(f),
            ExtensionValue::Integer(value) => value.fmt(f),
            ExtensionValue::String(value) => f.write_str(value),
        }
    }
}

impl From<bool> for ExtensionValue {
    fn from(value: bool) -> ExtensionValue {
        ExtensionValue::Boolean(value)
    }
}

impl From<i32> for ExtensionValue {
    fn from(value: i32) -> ExtensionValue {
        ExtensionValue::Integer(value)
    }
}

impl From<&str> for ExtensionValue {
    fn from(value: &str) -> ExtensionValue {
        ExtensionValue::String(value.into())
    }
}

/// The extensions of one event, sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extensions(Vec<(ExtensionName, ExtensionValue)>);

impl Extensions {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ExtensionValue> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets `name`; returns what it was before.
    pub fn insert(&mut self, name: ExtensionName, value: ExtensionValue) -> Option<ExtensionValue> {
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// All, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ExtensionValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// CloudEvents' String: no control characters, no noncharacters.
pub(crate) fn is_string(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || (c as u32) & 0xfffe == 0xfffe)
}
