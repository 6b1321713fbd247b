//! Names of rows and of leases.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A row of work. Printed with a prefix that tells what kind of thing the row is (`lse_…`, `dl_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkId(Uuid);

/// Not the id of a row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no id of this kind")]
pub struct InvalidWorkId(String);

impl WorkId {
    /// A new id, later ones sorting after earlier ones.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> WorkId {
        WorkId(Uuid::now_v7())
    }

    /// As people see it: the prefix, `_` and the UUID without dashes.
    #[must_use]
    pub fn prefixed(self, prefix: &str) -> String {
        format!("{prefix}_{}", self.0.simple())
    }

    /// Reads what [`WorkId::prefixed`] wrote.
    ///
    /// # Errors
    /// Another prefix, or no UUID after it.
    pub fn parse(prefix: &str, text: &str) -> Result<WorkId, InvalidWorkId> {
        let invalid = || InvalidWorkId(text.chars().take(60).collect());
        let rest = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
        rest.and_then(|id| Uuid::parse_str(id).ok()).map(WorkId).ok_or_else(invalid)
    }

    /// As it stands in the database.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    /// Reads what [`WorkId::bytes`] wrote.
    ///
    /// # Errors
    /// Not 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<WorkId, sqlx::Error> {
        Uuid::from_slice(bytes).map(WorkId).map_err(|error| sqlx::Error::Decode(error.into()))
    }
}

/// Proof of holding a lease: a random number that the claim drew. Whoever can show it, and only
/// they, may answer for the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken(i64);

impl LeaseToken {
    pub(crate) fn draw() -> LeaseToken {
        LeaseToken(i64::from_ne_bytes(rand::random::<[u8; 8]>()))
    }

    pub(crate) fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.cast_unsigned())
    }
}

impl FromStr for LeaseToken {
    type Err = InvalidWorkId;

    fn from_str(text: &str) -> Result<LeaseToken, InvalidWorkId> {
        let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(number) if hex => Ok(LeaseToken(number.cast_signed())),
            _ => Err(InvalidWorkId(text.chars().take(60).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_read_what_they_print() {
        let id = WorkId::new();
        assert_eq!(WorkId::parse("lse", &id.prefixed("lse")), Ok(id));
        assert!(WorkId::parse("dl", &id.prefixed("lse")).is_err());
        let token = LeaseToken::draw();
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!("+123456789abcdef".parse::<LeaseToken>().is_err());
    }
}
