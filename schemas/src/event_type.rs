//! The name of what happened.

use std::sync::Arc;

use crate::attribute::{InvalidAttribute, check_string, text_newtype};

/// The name of what happened, such as `com.example.order.paid`: dot-separated tokens, none empty,
/// without white space, control characters, `*` or `>`, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

text_newtype!(EventType, InvalidAttribute);

impl EventType {
    /// Bytes at most.
    pub const BYTES_MAX: usize = 255;

    /// True for Skald's own types: `dev.skald` and all under it. Only Skald publishes those.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }

    fn check(text: &str) -> Result<(), InvalidAttribute> {
        check_string(text, EventType::BYTES_MAX)?;
        if text.split('.').any(str::is_empty) {
            return Err(InvalidAttribute("must not have an empty token between dots".to_owned()));
        }
        if text.contains(|c: char| c.is_whitespace() || c == '*' || c == '>') {
            return Err(InvalidAttribute("must not contain white space, * or >".to_owned()));
        }
        Ok(())
    }
}

pub(crate) fn is_reserved(kind: &str) -> bool {
    kind.strip_prefix("dev.skald").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_tokens_between_dots() {
        for good in ["a", "com.example.order_paid-2", "été.a"] {
            assert!(good.parse::<EventType>().is_ok(), "{good:?}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a>", "a\u{a0}b", "a\0"] {
            assert!(bad.parse::<EventType>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_names_under_dev_skald_are_reserved() {
        let reserved = |kind: &str| kind.parse::<EventType>().unwrap().is_reserved();
        assert!(reserved("dev.skald") && reserved("dev.skald.mail.sent"));
        assert!(!reserved("dev.skaldic") && !reserved("dev") && !reserved("com.dev.skald"));
    }
}
