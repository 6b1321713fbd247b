//! The value of an extension attribute.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The value of an extension attribute.
///
/// In headers every value is text, so a value that travelled that way is a `String`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number of 32 bits.
    Integer(i32),
    /// A text without control characters, at most 4,096 bytes.
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

impl Display for ExtensionValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ExtensionValue::Boolean(value) => value.fmt(f),
            ExtensionValue::Integer(value) => value.fmt(f),
            ExtensionValue::String(value) => value.fmt(f),
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

impl From<String> for ExtensionValue {
    fn from(value: String) -> ExtensionValue {
        ExtensionValue::String(value.into())
    }
}

impl From<Arc<str>> for ExtensionValue {
    fn from(value: Arc<str>) -> ExtensionValue {
        ExtensionValue::String(value)
    }
}

impl Serialize for ExtensionValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ExtensionValue::Boolean(value) => serializer.serialize_bool(*value),
            ExtensionValue::Integer(value) => serializer.serialize_i32(*value),
            ExtensionValue::String(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for ExtensionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExtensionValue, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = ExtensionValue;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean, a whole number of 32 bits or a string")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<ExtensionValue, E> {
                Ok(value.into())
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<ExtensionValue, E> {
                i32::try_from(value).map(Into::into).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<ExtensionValue, E> {
                i32::try_from(value).map(Into::into).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<ExtensionValue, E> {
                Ok(value.into())
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_json_type() {
        for text in ["true", "-7", "\"7\""] {
            let value: ExtensionValue = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        for bad in ["1.5", "2147483648", "null", "[]"] {
            assert!(serde_json::from_str::<ExtensionValue>(bad).is_err(), "{bad}");
        }
    }
}
