//! Rates: so many per second, minute, hour or day.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rate such as `50/s`, `10/m`, `0.5/s`, `100/h` or `1000/d`. At most 1,000,000 per second, at
/// least one in 30 days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    text: String,
    interval_ns: i64,
}

/// Not a rate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a rate is a number, `/` and `s`, `m`, `h` or `d`, such as `50/s`, at most 1000000/s and at least one in 30 days; not `{0}`"
)]
pub struct InvalidRate(String);

impl Rate {
    /// Nanoseconds between two.
    #[must_use]
    pub fn interval_ns(&self) -> i64 {
        self.interval_ns
    }

    /// Per second, times a thousand; at least 1.
    #[must_use]
    pub fn per_second_milli(&self) -> i64 {
        (1_000_000_000_000 / self.interval_ns).max(1)
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Rate, InvalidRate> {
        let invalid = || InvalidRate(text.chars().take(40).collect());
        let (number, unit) = text.split_once('/').ok_or_else(invalid)?;
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(invalid()),
        };
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let count: f64 = if plain { number.parse().map_err(|_| invalid())? } else { 0.0 };
        let interval = seconds * 1e9 / count;
        if !(1_000.0..=30.0 * 86_400.0 * 1e9).contains(&interval) {
            return Err(invalid());
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked to be within range")]
        let interval_ns = interval.round() as i64;
        Ok(Rate { text: text.to_owned(), interval_ns })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_unit() {
        let interval = |text: &str| text.parse::<Rate>().unwrap().interval_ns();
        assert_eq!(interval("50/s"), 20_000_000);
        assert_eq!(interval("10/m"), 6_000_000_000);
        assert_eq!(interval("0.5/s"), 2_000_000_000);
        assert_eq!(interval("1000/d"), 86_400_000_000);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "50", "50/", "/s", "0/s", "-1/s", "1e3/s", "5/y", "9999999/s", "inf/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
