//! Why a consumer could not handle an event, and whether trying again can help.

use std::error::Error;
use std::time::Duration;

use crate::chain;

/// Longest error text kept, in bytes.
const ERROR_BYTES_MAX: usize = 2_000;

/// What a consumer answers when it could not handle an event. `?` on any error makes a transient
/// one, which is tried again; `.permanent()?` one that never heals and becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    error: String,
    permanent: bool,
    delay: Option<Duration>,
}

impl Failure {
    /// Tried again, after the policy's back-off.
    #[must_use]
    pub fn transient(error: impl Into<String>) -> Failure {
        Failure { error: error.into(), permanent: false, delay: None }
    }

    /// A dead letter at once.
    #[must_use]
    pub fn permanent(error: impl Into<String>) -> Failure {
        Failure { error: error.into(), permanent: true, delay: None }
    }

    /// Tried again after just this long.
    #[must_use]
    pub fn after(self, delay: Duration) -> Failure {
        Failure { delay: Some(delay), ..self }
    }

    /// The error and its causes, on one line.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }

    /// Whether trying again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The wait that was asked for.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::transient(chain(&error))
    }
}

/// Turns an error into one that never heals: `self.mailer.parse(&to).permanent()?`.
pub trait Permanent<T> {
    /// A dead letter at once, instead of another attempt.
    ///
    /// # Errors
    /// The same error, marked permanent.
    fn permanent(self) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, Failure> {
        self.map_err(|error| Failure { permanent: true, ..error.into() })
    }
}

/// An error as it is kept in a row: not too long, and without NUL, which Postgres has in no text.
pub(crate) fn kept(error: &str) -> String {
    let error = error.replace('\0', "\u{fffd}");
    if error.len() <= ERROR_BYTES_MAX {
        return error;
    }
    format!("{}…", &error[..error.floor_char_boundary(ERROR_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_to_think_means_trying_again() {
        let parse = || -> Result<i32, Failure> { Ok("x".parse::<i32>()?) };
        assert!(!parse().unwrap_err().is_permanent());
        let parse = || -> Result<i32, Failure> { "x".parse::<i32>().permanent() };
        assert!(parse().unwrap_err().is_permanent());
    }

    #[test]
    fn errors_are_kept_so_that_any_database_takes_them() {
        assert_eq!(kept("no\0"), "no\u{fffd}");
        let long = kept(&"é".repeat(2_000));
        assert!(long.len() <= ERROR_BYTES_MAX + 3 && long.ends_with("é…"), "{long}");
    }
}
