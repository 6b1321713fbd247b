//! Names of rows and of leases.

use std::fmt;
use std::str::FromStr;

use schemas::Timestamp;
use uuid::Uuid;

use crate::Seq;
use crate::db::Query;

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

    /// An id that is the same for the same input, in the layout of a UUIDv7 (RFC 9562, section 5.7):
    /// those of later times, and at one time of later events, sort after earlier ones.
    #[must_use]
    pub fn derived(at: Timestamp, seq: Seq, hash: &[u8; 32]) -> WorkId {
        let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&seq.get().to_be_bytes()[6..]);
        bytes[8..].copy_from_slice(&hash[..8]);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        WorkId(Uuid::from_bytes(bytes))
    }

    /// What sorts after all ids of times before `at`, and before those of later milliseconds.
    #[must_use]
    pub fn first_after(at: Timestamp) -> WorkId {
        let next = Timestamp::from_micros(at.as_micros().saturating_add(1_000));
        WorkId::derived(next, Seq::ZERO, &[0; 32])
    }

    /// Whether [`WorkId::derived`] may have made this of the event at `seq`.
    #[must_use]
    pub fn may_stand_for(self, seq: Seq) -> bool {
        let (own, other) = (self.0.as_bytes(), seq.get().to_be_bytes());
        own[6] & 0x0f == other[6] & 0x0f && own[7] == other[7]
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

/// Binds `ids` one after the other.
pub(super) fn bind_ids<'a>(query: Query, ids: impl IntoIterator<Item = &'a WorkId>) -> Query {
    ids.into_iter().fold(query, |query, id| query.bind(id.bytes()))
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
    fn derived_ids_are_in_the_order_of_the_log() {
        let at = |us| Timestamp::from_micros(1_790_000_000_000_000 + us);
        let id = |us, seq, hash| WorkId::derived(at(us), Seq::new(seq), &[hash; 32]);
        assert_eq!(id(0, 7, 1), id(999, 7, 1));
        assert_ne!(id(0, 7, 1), id(0, 7, 2));
        assert!(id(0, 8, 0) > id(0, 7, 255) && id(1_000, 8, 0) > id(0, 9, 255));
        let first = WorkId::first_after(at(500));
        assert!(first > id(999, i64::MAX, 255) && first < id(1_000, 1, 0));
        assert_eq!(id(0, 7, 1).0.get_version_num(), 7);
        assert!(id(0, 0x1234, 1).may_stand_for(Seq::new(0x1234)));
        assert!(!id(0, 0x1234, 1).may_stand_for(Seq::new(0x1235)));
        let drawn = WorkId(Uuid::now_v7());
        assert!(
            drawn < WorkId::derived(at(i64::from(u32::MAX) * 1_000_000), Seq::new(0), &[0; 32])
        );
    }

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
