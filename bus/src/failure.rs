//! Why a consumer could not handle an event, and whether trying again can help.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

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

/// An error and its causes: `reading the log: disk I/O error`.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
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
}
