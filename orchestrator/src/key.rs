//! The keys of events that sagas wait for, and the names of their locks: texts that expressions give and
//! the database keeps in an index.

/// Longest key, in bytes: with the names beside it an entry of an index on Postgres has room for it
/// (2,704 bytes).
pub const KEY_BYTES_MAX: usize = 1_024;

/// Not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be at most {KEY_BYTES_MAX} bytes long and without NUL")]
pub struct InvalidKey;

/// Whether `text` can be a key. Postgres has NUL in no text; it is none on SQLite either, so that a
/// definition does the same on both.
///
/// # Errors
/// [`InvalidKey`].
pub(crate) fn check_key(text: &str) -> Result<(), InvalidKey> {
    match text.len() <= KEY_BYTES_MAX && !text.contains('\0') {
        true => Ok(()),
        false => Err(InvalidKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_every_database_takes() {
        assert_eq!(check_key("order 1\n"), Ok(()));
        assert_eq!(check_key(&"k".repeat(KEY_BYTES_MAX)), Ok(()));
        assert_eq!(check_key(&"k".repeat(KEY_BYTES_MAX + 1)), Err(InvalidKey));
        assert_eq!(check_key("a\0b"), Err(InvalidKey));
    }
}
