//! Where an event comes from.

use std::sync::Arc;

use crate::attribute::{InvalidAttribute, check_string, text_newtype};
use crate::uri;

/// Where an event comes from: a URI reference (RFC 3986) of 1..=1,024 bytes, such as `/shop` or
/// `https://example.com/shop`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Arc<str>);

text_newtype!(Source, InvalidAttribute);

impl Source {
    /// Bytes at most.
    pub const BYTES_MAX: usize = 1_024;

    fn check(text: &str) -> Result<(), InvalidAttribute> {
        check_string(text, Source::BYTES_MAX)?;
        uri::check_reference(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_uri_reference() {
        for good in ["/", "/shop/%C3%A9", "https://example.com:8080/a?b#c", "urn:uuid:1", "shop"] {
            assert!(good.parse::<Source>().is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "/é", "/%zz", "/%4", "<x>", "a\tb"] {
            assert!(bad.parse::<Source>().is_err(), "{bad:?}");
        }
    }
}
