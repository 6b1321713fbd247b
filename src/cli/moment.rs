//! Moments as people give them on the command line.

use schemas::Timestamp;

/// Reads `2026-01-02T03:04:05Z`, `2026-01-02`, or how long ago: `2h`.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    at(text, bus::Clock::system().now())
}

fn at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(ago) = text.parse::<bus::Span>() {
        return Ok(Timestamp::from_micros(now.as_micros() - ago.micros()));
    }
    text.parse().map_err(|_| {
        "a moment is a time such as 2026-01-02T03:04:05Z, a date, or how long ago: 2h".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_while_ago() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let read = |text: &str| at(text, now).map(|at| at.to_string());
        assert_eq!(read("2026-01-01"), Ok("2026-01-01T00:00:00.000000Z".to_owned()));
        assert_eq!(read("2h"), Ok("2026-01-02T01:04:05.000000Z".to_owned()));
        assert_eq!(read("2026-01-02T03:04:05+01:00"), Ok("2026-01-02T02:04:05.000000Z".to_owned()));
        assert!(read("yesterday").is_err());
    }
}
