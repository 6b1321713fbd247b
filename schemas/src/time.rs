//! When something happened, as its producer wrote it.

use std::sync::Arc;

use crate::attribute::text_newtype;
use crate::timestamp::{InvalidTimestamp, Timestamp, rfc3339};

/// When something happened: RFC 3339, kept as its producer wrote it, at most 64 bytes.
///
/// Equality is that of the text; compare [`Time::micros`] to compare moments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Time(Arc<str>);

text_newtype!(Time, InvalidTimestamp);

/// Bytes at most; the longest sensible time, with nanoseconds and an offset, has 35.
const BYTES_MAX: usize = 64;

impl Time {
    /// Microseconds since the epoch; further digits are dropped. 0 for a trusted text that is
    /// not a time after all.
    #[must_use]
    pub fn micros(&self) -> i64 {
        rfc3339(self.0.as_bytes()).unwrap_or(0)
    }

    fn check(text: &str) -> Result<(), InvalidTimestamp> {
        let known = text.len() <= BYTES_MAX && rfc3339(text.as_bytes()).is_some();
        if known { Ok(()) } else { Err(InvalidTimestamp) }
    }
}

impl From<Timestamp> for Time {
    /// That moment in UTC.
    fn from(at: Timestamp) -> Time {
        Time(at.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stays_as_it_was_written() {
        let time: Time = "2026-01-01T01:00:00.50+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-01-01T01:00:00.50+01:00");
        assert_eq!(time.micros(), 1_767_225_600_500_000);
        assert_eq!(Time::from(Timestamp::from_micros(time.micros())).micros(), time.micros());
    }

    #[test]
    fn a_date_alone_is_no_time() {
        assert!("2026-01-01".parse::<Time>().is_err());
        assert!(
            "2026-01-01T00:00:00.000000000000000000000000000000000000000000000000000Z"
                .parse::<Time>()
                .is_err()
        );
    }
}
