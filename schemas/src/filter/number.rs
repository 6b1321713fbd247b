//! Comparing JSON numbers by their value.

use std::cmp::Ordering;

use serde_json::Number;

/// The order of two numbers by value. Whole numbers from -2^63 to 2^64-1 are exact; others have
/// been rounded to a double when they were read.
pub(super) fn compare(left: &Number, right: &Number) -> Option<Ordering> {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        (Some(left), None) => compare_mixed(left, right.as_f64()?),
        (None, Some(right)) => compare_mixed(right, left.as_f64()?).map(Ordering::reverse),
        (None, None) => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// Compares without turning the whole number into a double, which would round it past 2^53.
fn compare_mixed(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates far outside of all 64-bit numbers"
    )]
    let below = double.floor() as i128;
    let fraction = double - double.floor();
    let by_whole = whole.cmp(&below);
    Some(if by_whole == Ordering::Equal && fraction > 0.0 { Ordering::Less } else { by_whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(left: &str, right: &str) -> Ordering {
        let read = |text: &str| serde_json::from_str::<Number>(text).unwrap();
        compare(&read(left), &read(right)).unwrap()
    }

    #[test]
    fn numbers_compare_by_value_whatever_they_are_written_as() {
        assert_eq!(order("1", "1.0"), Ordering::Equal);
        assert_eq!(order("-1", "-0.5"), Ordering::Less);
        assert_eq!(order("-2", "-2.5"), Ordering::Greater);
        assert_eq!(order("9007199254740993", "9007199254740992.0"), Ordering::Greater);
        assert_eq!(order("18446744073709551615", "-1"), Ordering::Greater);
        assert_eq!(order("18446744073709551615", "1e300"), Ordering::Less);
        assert_eq!(order("-1e300", "-9223372036854775808"), Ordering::Less);
        assert_eq!(order("0.1", "0.2"), Ordering::Less);
    }
}
