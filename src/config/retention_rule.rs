//! How long events of some types are kept.

use bus::Span;
use schemas::Pattern;
use serde::Serialize;

use super::ByteSize;

/// One `[[log.retention]]`: the first whose pattern matches a type counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionRule {
    /// Which types.
    #[serde(rename = "type")]
    pub types: Pattern,
    /// How long they stay at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// How many bytes they take at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

impl From<&RetentionRule> for bus::Retention {
    fn from(rule: &RetentionRule) -> bus::Retention {
        bus::Retention {
            types: rule.types.clone(),
            max_age: rule.max_age.map(|span| span.0),
            max_bytes: rule.max_bytes.map(|size| size.0),
        }
    }
}
