//! Several patterns of event types.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{EventType, InvalidPattern, Pattern};

/// 1..=100 patterns; an event is meant when any of them matches its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Patterns at most: each is tried for each event.
    pub const MAX: usize = 100;

    /// These patterns.
    ///
    /// # Errors
    /// When there is none, or more than [`Patterns::MAX`].
    pub fn new(patterns: Vec<Pattern>) -> Result<Patterns, InvalidPattern> {
        match patterns.len() {
            0 => Err(InvalidPattern("must be given at least once".to_owned())),
            1..=Patterns::MAX => Ok(Patterns(patterns)),
            _ => Err(InvalidPattern(format!("may be given {} times at most", Patterns::MAX))),
        }
    }

    /// Every type but Skald's own: the pattern `>`.
    #[must_use]
    pub fn any() -> Patterns {
        Patterns(vec![Pattern::from_trusted(Arc::from(">"))])
    }

    /// Every type, Skald's own included: `>`, `dev.skald` and `dev.skald.>`.
    #[must_use]
    pub fn everything() -> Patterns {
        let texts = [">", "dev.skald", "dev.skald.>"];
        Patterns(texts.map(|text| Pattern::from_trusted(Arc::from(text))).into())
    }

    /// True when any pattern matches.
    #[must_use]
    pub fn matches(&self, kind: &EventType) -> bool {
        self.0.iter().any(|pattern| pattern.matches(kind))
    }

    /// The patterns as they were given.
    pub fn iter(&self) -> std::slice::Iter<'_, Pattern> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Patterns {
    type Item = &'a Pattern;
    type IntoIter = std::slice::Iter<'a, Pattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Pattern> for Patterns {
    fn from(pattern: Pattern) -> Patterns {
        Patterns(vec![pattern])
    }
}

impl Display for Patterns {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{pattern}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
        Patterns::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_at_least_one_and_not_too_many() {
        let any: Pattern = ">".parse().unwrap();
        assert!(Patterns::new(vec![]).is_err());
        assert!(Patterns::new(vec![any.clone(); 100]).is_ok());
        assert!(Patterns::new(vec![any; 101]).is_err());
        assert!(serde_json::from_str::<Patterns>("[]").is_err());
    }

    #[test]
    fn one_match_is_enough() {
        let patterns: Patterns = serde_json::from_str(r#"["a.*","b.>"]"#).unwrap();
        assert!(patterns.matches(&"b.c.d".parse().unwrap()));
        assert!(!patterns.matches(&"c".parse().unwrap()));
        assert_eq!(patterns.to_string(), "a.*,b.>");
        assert_eq!(serde_json::to_string(&patterns).unwrap(), r#"["a.*","b.>"]"#);
    }

    #[test]
    fn everything_includes_what_any_leaves_out() {
        let own: EventType = "dev.skald.started".parse().unwrap();
        assert!(Patterns::everything().matches(&own) && !Patterns::any().matches(&own));
        assert!(Patterns::everything().matches(&"a".parse().unwrap()));
    }
}
