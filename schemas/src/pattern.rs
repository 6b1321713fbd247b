//! Patterns over event types: who gets what.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::EventType;

/// Not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPattern(pub(crate) String);

const RULE: &str = "a pattern is dot-separated tokens, of which `*` stands for one and a last `>` for the rest, at most 255 bytes";

/// A pattern such as `com.acme.order.*` or `com.acme.>`.
///
/// `*` stands for one token, a last `>` for one or more. Skald's own types (`dev.skald.…`) are
/// matched only where the pattern's first two tokens name them: `>` alone does not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn from_trusted(text: Arc<str>) -> Pattern {
        Pattern(text)
    }

    /// Whether events of this type are meant.
    #[must_use]
    pub fn matches(&self, kind: &EventType) -> bool {
        let kind = kind.as_str();
        if is_reserved(kind) && !is_reserved(&self.0) {
            return false;
        }
        let (mut pattern, mut tokens) = (self.0.split('.'), kind.split('.'));
        loop {
            match (pattern.next(), tokens.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Pattern, InvalidPattern> {
        let last = text.split('.').count() - 1;
        let token = |(index, token): (usize, &str)| match token {
            "" => false,
            "*" => true,
            ">" => index == last,
            _ => !token
                .contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>'),
        };
        if text.len() > 255 || !text.split('.').enumerate().all(token) {
            return Err(InvalidPattern(RULE.to_owned()));
        }
        Ok(Pattern(text.into()))
    }
}

fn is_reserved(text: &str) -> bool {
    text.strip_prefix("dev.skald").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The pattern that matches just this type.
impl From<&EventType> for Pattern {
    fn from(kind: &EventType) -> Pattern {
        Pattern(kind.as_str().into())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, kind: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&kind.parse().unwrap())
    }

    #[test]
    fn a_star_is_one_token_and_an_arrow_the_rest() {
        assert!(matches("com.acme.*", "com.acme.order"));
        assert!(!matches("com.acme.*", "com.acme.order.placed"));
        assert!(matches("com.acme.>", "com.acme.order.placed"));
        assert!(!matches("com.acme.>", "com.acme"));
        assert!(matches("*.acme.order", "org.acme.order"));
        assert!(!matches("com.acme", "com.acme.order"));
    }

    #[test]
    fn own_events_are_matched_only_when_named() {
        assert!(!matches(">", "dev.skald.saga.stuck"));
        assert!(!matches("dev.>", "dev.skald.saga.stuck"));
        assert!(!matches("*.skald.>", "dev.skald.saga.stuck"));
        assert!(matches("dev.skald.>", "dev.skald.saga.stuck"));
        assert!(matches(">", "dev.skaldic"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", ".", "a.", "a.>.b", "a b", "a*", ">a", "a..b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
