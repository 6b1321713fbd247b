//! The name of an extension attribute.

use std::sync::Arc;

use crate::attribute::{InvalidAttribute, text_newtype};

/// The name of an extension attribute: 1..=20 of `a`–`z` and `0`–`9`, not that of a core
/// attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtensionName(Arc<str>);

text_newtype!(ExtensionName, InvalidAttribute);

/// Names that events use themselves, so that no extension can.
const TAKEN: [&str; 9] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
];

/// The extensions that Skald knows.
impl ExtensionName {
    /// What keeps events in one order: those with the same value stay in sequence.
    pub const PARTITION_KEY: &'static str = "partitionkey";
    /// The id of the first event of a chain.
    pub const CORRELATION_ID: &'static str = "correlationid";
    /// The id of the event that this one came of.
    pub const CAUSATION_ID: &'static str = "causationid";
    /// W3C trace context: the trace in which the event arose.
    pub const TRACE_PARENT: &'static str = "traceparent";
    /// W3C trace context: what tracing vendors add.
    pub const TRACE_STATE: &'static str = "tracestate";
    /// Whose event it is.
    pub const TENANT: &'static str = "tenant";
    /// Bytes of a name at most.
    pub const BYTES_MAX: usize = 20;

    fn check(text: &str) -> Result<(), InvalidAttribute> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if text.is_empty() || text.len() > ExtensionName::BYTES_MAX || !text.bytes().all(good) {
            let rule = "is not the name of an attribute: 1 to 20 of a-z and 0-9";
            return Err(InvalidAttribute(rule.to_owned()));
        }
        if TAKEN.contains(&text) {
            return Err(InvalidAttribute("is a name that cannot be an extension's".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_and_not_taken() {
        for good in ["a", "sequence9", "partitionkey", "abcdefghij0123456789"] {
            assert!(good.parse::<ExtensionName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "data", "data_base64", "type", "é", "abcdefghij01234567890"] {
            assert!(bad.parse::<ExtensionName>().is_err(), "{bad}");
        }
    }
}
