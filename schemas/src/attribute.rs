//! What all attributes of an event have in common.

/// A text that is not the attribute it was given as; the message says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAttribute(pub(crate) String);

/// Bytes of a subject, of a data schema's address and of an extension's value, each, at most:
/// they travel as headers, and brokers and proxies bound those.
pub(crate) const STRING_BYTES_MAX: usize = 4_096;

/// Says why `text` cannot be a CloudEvents string of 1..=`bytes_max` bytes, if it cannot.
pub(crate) fn check_string(text: &str, bytes_max: usize) -> Result<(), InvalidAttribute> {
    if text.is_empty() {
        return Err(InvalidAttribute("must not be empty".to_owned()));
    }
    if text.len() > bytes_max {
        return Err(InvalidAttribute(format!("must be at most {bytes_max} bytes long")));
    }
    match text.chars().find(|&c| is_forbidden(c)) {
        Some(c) => Err(InvalidAttribute(format!("must not contain U+{:04X}", u32::from(c)))),
        None => Ok(()),
    }
}

/// Control characters and noncharacters, which no CloudEvents string may hold.
pub(crate) fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// Gives a newtype over `Arc<str>` what all of them have: text in, text out, cheap clones.
///
/// The newtype needs a `fn check(&str) -> Result<(), $error>`.
macro_rules! text_newtype {
    ($name:ident, $error:ty) => {
        impl $name {
            /// Takes `text` as it is: for values that were parsed before, such as those read back
            /// from the log.
            #[must_use]
            pub fn from_trusted(text: std::sync::Arc<str>) -> $name {
                $name(text)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<$name, $error> {
                $name::check(text)?;
                Ok($name(text.into()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_newtype;
