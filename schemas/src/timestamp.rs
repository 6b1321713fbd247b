//! A moment, to the microsecond.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment: microseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Written as `2026-01-02T03:04:05.000006Z`: always UTC, always six decimals, so that in the years
/// 0000 to 9999 the order of texts is the order of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// A text that is not a moment in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time in RFC 3339, such as 2026-01-02T03:04:05Z")]
pub struct InvalidTimestamp;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

impl Timestamp {
    /// The moment `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(DAY_US));
        let in_day = self.0.rem_euclid(DAY_US);
        let (seconds, micros) = (in_day / SECOND_US, in_day % SECOND_US);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        if !(0..=9_999).contains(&year) {
            write!(f, "{year:+05}")?; // beyond RFC 3339, but better than a wrong year
        }
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, hour), (14, 2, minute)];
        for (at, width, value) in fields.into_iter().chain([(17, 2, second), (20, 6, micros)]) {
            digits(&mut text[at..at + width], value);
        }
        let shown = if (0..=9_999).contains(&year) { &text[..] } else { &text[4..] };
        f.write_str(std::str::from_utf8(shown).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Takes RFC 3339 with any offset, or a date alone, which is its midnight in UTC. Digits past
    /// the microsecond are dropped.
    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let bytes = text.as_bytes();
        let micros = if bytes.len() == 10 { date(bytes) } else { rfc3339(bytes) };
        micros.map(Timestamp).ok_or(InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads `2026-01-02T03:04:05.6+07:00` strictly, as microseconds since the epoch.
pub(crate) fn rfc3339(text: &[u8]) -> Option<i64> {
    let days = date(text.get(..10)?)?;
    let [b'T' | b't', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = text.get(10..)? else {
        return None;
    };
    let hour = bounded(&[*h1, *h2], 23)?;
    let minute = bounded(&[*m1, *m2], 59)?;
    // A leap second is the last of its hour in every time zone in use, and counts as the next one.
    let second = bounded(&[*s1, *s2], if minute == 59 { 60 } else { 59 })?;
    let (micros, rest) = fraction(rest)?;
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let minutes = bounded(&[*h1, *h2], 23)? * 60 + bounded(&[*m1, *m2], 59)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute - offset) * 60 + second;
    Some(days + seconds * SECOND_US + micros)
}

/// Reads `2026-01-02`, as microseconds since the epoch.
fn date(text: &[u8]) -> Option<i64> {
    let [year @ .., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    if year.len() != 4 {
        return None;
    }
    let (year, month, day) = (number(year)?, number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=days_in_month).contains(&day).then(|| days_since_epoch(year, month, day) * DAY_US)
}

/// Reads a fraction of a second, if there is one; gives microseconds and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let end = text.iter().position(|b| !b.is_ascii_digit())?;
    if end == 0 {
        return None;
    }
    let micros =
        (0..6).fold(0, |sum, at| sum * 10 + if at < end { i64::from(text[at] - b'0') } else { 0 });
    Some((micros, &text[end..]))
}

fn bounded(digits: &[u8], max: i64) -> Option<i64> {
    number(digits).filter(|&value| value <= max)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, &b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

fn digits(into: &mut [u8], mut value: i64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
        value /= 10;
    }
}

/// Days from the epoch to a date of the proleptic Gregorian calendar (Hinnant, `days_from_civil`).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_since_epoch`] (Hinnant, `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> Option<i64> {
        text.parse().ok().map(Timestamp::as_micros)
    }

    #[test]
    fn known_moments_are_read_and_written() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(micros("2026-01-01"), Some(1_767_225_600_000_000));
        assert_eq!(micros("2024-02-29T12:00:00.1234567+02:00"), Some(1_709_200_800_123_456));
        assert_eq!(micros("2016-12-31t23:59:60z"), micros("2017-01-01T00:00:00Z"));
        assert_eq!(micros("1969-12-31T23:30:00-00:30"), Some(0));
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for bad in [
            "",
            "2026-1-1",
            "2026-02-29",
            "2026-01-01T00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0100",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00.1",
            "+026-01-01",
            "2026-01-0é",
        ] {
            assert_eq!(micros(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn moments_beyond_the_year_9999_keep_their_year() {
        assert!(Timestamp::from_micros(i64::MAX).to_string().starts_with("+294247-01-10T04:00:54"));
        assert!(Timestamp::from_micros(i64::MIN).to_string().starts_with("-290308-12-21T19:59:05"));
    }

    proptest! {
        #[test]
        fn a_moment_reads_back_as_it_was_written(us in -62_167_219_200_000_000i64..253_402_300_800_000_000) {
            let text = Timestamp::from_micros(us).to_string();
            prop_assert_eq!(text.len(), 27);
            prop_assert_eq!(micros(&text), Some(us));
        }
    }
}
