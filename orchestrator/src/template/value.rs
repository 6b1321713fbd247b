//! What a value may be that a saga keeps: an input, an output, an answer, what an expression gives.

use serde_json::Value;

use super::VALUE_BYTES_MAX;

/// Lists and objects inside each other in a value at most. Readers of JSON stop at 128, and the journal
/// and events put some around it.
pub const VALUE_LEVELS_MAX: usize = 100;

/// A value that a saga cannot keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Larger than [`VALUE_BYTES_MAX`].
    #[error("is larger than {VALUE_BYTES_MAX} bytes")]
    TooLarge,
    /// Deeper than [`VALUE_LEVELS_MAX`].
    #[error("is nested deeper than {VALUE_LEVELS_MAX} levels")]
    TooDeep,
}

/// Whether a saga can keep `value`.
///
/// # Errors
/// [`InvalidValue`].
pub fn check_value(value: &Value) -> Result<(), InvalidValue> {
    if size_of(value) > VALUE_BYTES_MAX {
        return Err(InvalidValue::TooLarge);
    }
    check_levels(value)
}

pub(super) fn check_levels(value: &Value) -> Result<(), InvalidValue> {
    if is_within(value, VALUE_LEVELS_MAX) { Ok(()) } else { Err(InvalidValue::TooDeep) }
}

fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(members) => {
            levels > 0 && members.values().all(|member| is_within(member, levels - 1))
        }
        _ => true,
    }
}

/// About how long a value is as JSON, counted without writing it.
pub(super) fn size_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size_of(item) + 1).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(key, value)| key.len() + 4 + size_of(value)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_neither_too_large_nor_too_deep() {
        let nested = |levels| (0..levels).fold(Value::Null, |value, _| Value::Array(vec![value]));
        assert_eq!(check_value(&nested(VALUE_LEVELS_MAX)), Ok(()));
        assert_eq!(check_value(&nested(VALUE_LEVELS_MAX + 1)), Err(InvalidValue::TooDeep));
        let long = |bytes| Value::String("x".repeat(bytes));
        assert_eq!(check_value(&long(VALUE_BYTES_MAX - 2)), Ok(()));
        assert_eq!(check_value(&long(VALUE_BYTES_MAX)), Err(InvalidValue::TooLarge));
    }
}
