//! Why a command stopped short, and the exit code for it.

use std::process::ExitCode;

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// Why a command stopped short.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed: exit code 1.
    Failed(anyhow::Error),
    /// It was misused, misconfigured, or what it needs to start is not there: exit code 2.
    NotStarted(anyhow::Error),
    /// It has told why already: exit code 1.
    Told,
    /// Nobody reads its output any more, which is how `skald tail | head` ends: exit code 0.
    NobodyReads,
}

impl Stop {
    /// Misuse, or what is needed to start is not there.
    pub(super) fn start(error: impl Into<anyhow::Error>) -> Stop {
        Stop::NotStarted(error.into())
    }

    /// What to tell, if anything: the whole chain of causes on one line.
    pub(super) fn message(&self) -> Option<String> {
        match self {
            Stop::Failed(error) | Stop::NotStarted(error) => Some(told(error)),
            Stop::Told | Stop::NobodyReads => None,
        }
    }

    pub(super) fn code(&self) -> ExitCode {
        match self {
            Stop::Failed(_) | Stop::Told => ExitCode::from(FAILED),
            Stop::NotStarted(_) => misused(),
            Stop::NobodyReads => ExitCode::SUCCESS,
        }
    }
}

/// The causes, but those that the one before ends with already.
fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.ends_with(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

/// The exit code of misuse.
pub(super) fn misused() -> ExitCode {
    ExitCode::from(MISUSED)
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Stop {
        let error = error.into();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(std::io::ErrorKind::BrokenPipe) {
            return Stop::NobodyReads;
        }
        Stop::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let refused = anyhow::anyhow!("refused").context("connecting: refused").context("calling");
        assert_eq!(told(&refused), "calling: connecting: refused");
    }
}
