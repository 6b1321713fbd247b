//! The stretches of time that a series is made of.

use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{ToSpan, Unit, Zoned, ZonedRound};
use schemas::Timestamp;

/// How long each point of a series stands for. Days, weeks (from Monday) and months are those of a
/// time zone, so some are an hour longer or shorter than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From the first day to the last.
    Month,
}

/// Not an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInterval;

impl std::fmt::Display for InvalidInterval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("must be minute, hour, day, week or month")
    }
}

impl std::error::Error for InvalidInterval {}

/// Steps from one stretch to the next: clocks have gone back by as much as a day, which is 1,440 minutes.
const STEPS_MAX: usize = 2_000;

impl Interval {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Interval::Minute => "minute",
            Interval::Hour => "hour",
            Interval::Day => "day",
            Interval::Week => "week",
            Interval::Month => "month",
        }
    }

    /// The start of the stretch that `at` lies in.
    pub(crate) fn start(self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.floor(&zoned(at, zone)?).map(|start| timestamp(&start))
    }

    /// The start of the stretch after the one that `at` lies in.
    pub(crate) fn next(self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = self.floor(&zoned(at, zone)?)?;
        let step = match self {
            Interval::Minute => 1.minute(),
            Interval::Hour => 1.hour(),
            Interval::Day => 1.day(),
            Interval::Week => 1.week(),
            Interval::Month => 1.month(),
        };
        // Where clocks go back by part of a stretch, it goes on after it has come round to its start again.
        let mut next = start.clone();
        for _ in 0..STEPS_MAX {
            next = next.checked_add(step).ok()?;
            let begun = self.floor(&next)?;
            if begun > start {
                return Some(timestamp(&begun));
            }
        }
        None
    }

    fn floor(self, at: &Zoned) -> Option<Zoned> {
        let round =
            |unit| at.round(ZonedRound::new().smallest(unit).mode(jiff::RoundMode::Trunc)).ok();
        match self {
            Interval::Minute => round(Unit::Minute),
            Interval::Hour => round(Unit::Hour),
            Interval::Day => at.start_of_day().ok(),
            Interval::Week => {
                let back = i64::from(at.weekday().to_monday_zero_offset());
                at.checked_sub(back.days()).ok()?.start_of_day().ok()
            }
            Interval::Month => at.first_of_month().ok()?.start_of_day().ok(),
        }
    }
}

impl FromStr for Interval {
    type Err = InvalidInterval;

    fn from_str(text: &str) -> Result<Interval, InvalidInterval> {
        match text {
            "minute" => Ok(Interval::Minute),
            "hour" => Ok(Interval::Hour),
            "day" => Ok(Interval::Day),
            "week" => Ok(Interval::Week),
            "month" => Ok(Interval::Month),
            _ => Err(InvalidInterval),
        }
    }
}

fn zoned(at: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let at = jiff::Timestamp::from_microsecond(at.as_micros()).ok()?;
    Some(at.to_zoned(zone.clone()))
}

fn timestamp(at: &Zoned) -> Timestamp {
    Timestamp::from_micros(at.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(interval: Interval, at: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        interval.start(at.parse().unwrap(), &zone).unwrap().to_string()
    }

    #[test]
    fn stretches_start_where_the_time_zone_says() {
        let at = "2026-03-29T12:34:56Z"; // A Sunday; clocks went forward in Berlin that night.
        assert_eq!(start(Interval::Minute, at, "UTC"), "2026-03-29T12:34:00.000000Z");
        assert_eq!(start(Interval::Day, at, "Europe/Berlin"), "2026-03-28T23:00:00.000000Z");
        assert_eq!(start(Interval::Week, at, "UTC"), "2026-03-23T00:00:00.000000Z");
        assert_eq!(start(Interval::Month, at, "UTC"), "2026-03-01T00:00:00.000000Z");
    }

    #[test]
    fn stretches_follow_each_other_where_clocks_go_back_by_part_of_one() {
        for (interval, from, until, zone) in [
            (Interval::Hour, "2026-04-04T10:00:00Z", "2026-04-04T18:00:00Z", "Australia/Lord_Howe"),
            (Interval::Hour, "2007-12-08T00:00:00Z", "2007-12-11T00:00:00Z", "America/Caracas"),
            (Interval::Hour, "1911-03-09T00:00:00Z", "1911-03-12T00:00:00Z", "Europe/Paris"),
            (Interval::Minute, "2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z", "Europe/Berlin"),
            (Interval::Day, "1867-10-10T00:00:00Z", "1867-10-25T00:00:00Z", "America/Juneau"),
        ] {
            let zone = TimeZone::get(zone).unwrap();
            let (mut at, until) = (from.parse().unwrap(), until.parse::<Timestamp>().unwrap());
            while at < until {
                let next = interval.next(at, &zone).unwrap();
                assert!(next > at, "{at} {next}");
                assert_eq!(interval.start(next, &zone), Some(next), "it starts where it says");
                // The last moment before it is of the stretch that it follows.
                let before = Timestamp::from_micros(next.as_micros() - 1);
                assert_eq!(interval.start(before, &zone), interval.start(at, &zone), "{at}");
                at = next;
            }
        }
    }

    /// Paris went back by 9 minutes and 21 seconds: minutes of another count.
    #[test]
    fn it_goes_on_where_clocks_go_back_by_seconds() {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let mut at: Timestamp = "1911-03-10T23:00:00Z".parse().unwrap();
        let until = "1911-03-11T01:00:00Z".parse().unwrap();
        while at < until {
            let next = Interval::Minute.next(at, &zone).unwrap();
            assert!(next > at, "{at} {next}");
            at = next;
        }
    }

    #[test]
    fn a_day_with_a_change_of_clocks_has_23_hours() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let next = Interval::Day.next("2026-03-29T12:00:00Z".parse().unwrap(), &zone).unwrap();
        assert_eq!(next.to_string(), "2026-03-29T22:00:00.000000Z");
    }
}
