//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The longest wait that is honoured: one answer must not park a delivery for good.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// The wait that `headers` ask for, if they do so in a form that RFC 9110 knows.
pub(crate) fn read(headers: &HeaderMap, now_unix_seconds: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit are a very long time, not a mistake.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let unix_seconds = date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let wait_seconds = i128::from(unix_seconds) - i128::from(now_unix_seconds);
        Duration::from_secs(u64::try_from(wait_seconds).unwrap_or(0))
    };
    Some(wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
    const THEN: i64 = 784_111_777;

    fn seconds(value: &str, now: i64) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        read(&headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_are_read_and_bounded_by_a_day() {
        for (value, expected) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("86400", 86_400),
            ("86401", 86_400),
            ("99999999999999999999999999", 86_400),
        ] {
            assert_eq!(seconds(value, THEN), Some(expected), "{value}");
        }
    }

    #[test]
    fn all_three_forms_of_a_date_are_read() {
        for value in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(seconds(value, THEN - 90), Some(90), "{value}");
            assert_eq!(seconds(value, THEN + 90), Some(0), "{value}");
            assert_eq!(seconds(value, THEN - 1_000_000), Some(86_400), "{value}");
            assert_eq!(seconds(value, i64::MIN), Some(86_400), "{value}");
        }
    }

    #[test]
    fn anything_else_is_ignored() {
        for value in ["", "soon", "-1", "+5", "1.5", "10s", "Sun, 06 Nov 1994 08:49:37", "1e3"] {
            assert_eq!(seconds(value, THEN), None, "{value}");
        }
        assert_eq!(read(&HeaderMap::new(), THEN), None);
    }
}
