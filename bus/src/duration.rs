//! Durations as people write them: `250ms`, `30s`, `10m`, `24h`, `5d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, written as a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a duration is a whole number and `ms`, `s`, `m`, `h` or `d`, such as `30s`, at most 3650d; not `{0}`"
)]
pub struct InvalidSpan(String);

/// Ten years: what is longer is a mistake.
const MAX_MS: u64 = 3_650 * 86_400_000;

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// In microseconds.
    #[must_use]
    pub fn micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Span, InvalidSpan> {
        let invalid = || InvalidSpan(text.chars().take(40).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        match number.checked_mul(factor) {
            Some(ms) if ms <= MAX_MS => Ok(Span(Duration::from_millis(ms))),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Span {
    /// In the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) =
            UNITS.into_iter().find(|(_, factor)| ms > 0 && ms % factor == 0).unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / factor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_alike() {
        for text in ["250ms", "30s", "10m", "24h", "5d", "0ms"] {
            let printed = text.parse::<Span>().unwrap().to_string();
            assert_eq!(printed.parse::<Span>(), text.parse::<Span>(), "{text} printed {printed}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "1.5s", "-1s", "5 s", "99999999999d", "3651d", "5w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
