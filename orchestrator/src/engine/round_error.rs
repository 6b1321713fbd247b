//! Why a round did not commit, and whether that is about what one of its sagas wants written.

/// A round that did not commit.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("another node has taken over")]
    LostLease,
    #[error("an event cannot be staged: {}", bus::chain(.0))]
    Stage(#[from] bus::StageError),
}

impl RoundError {
    /// Whether it comes again however often the same is written, while what other sagas write goes
    /// well. Of what is not known to be so, everything is tried again: the database is away, has no
    /// room, or prefers another transaction, and no saga is at fault for that.
    pub(super) fn is_of_a_saga(&self) -> bool {
        match self {
            RoundError::Stage(_) => true,
            RoundError::LostLease => false,
            RoundError::Database(error) => is_of_what_is_written(error),
        }
    }
}

fn is_of_what_is_written(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_of_values(&code)),
        _ => false,
    }
}

/// Whether a code of SQLite (a number) or of Postgres (five characters) is about the values.
fn is_of_values(code: &str) -> bool {
    /// Too big, a constraint, a mismatch of types; the low byte of what SQLite answers.
    const SQLITE: [u32; 3] = [18, 19, 20];
    /// Data exceptions, constraints, limits of the program.
    const POSTGRES: [&str; 3] = ["22", "23", "54"];
    if code.len() == 5 {
        return POSTGRES.iter().any(|class| code.starts_with(class));
    }
    code.parse::<u32>().is_ok_and(|code| SQLITE.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_values_is_told_from_a_database_in_trouble() {
        for code in ["18", "1811", "2067", "22021", "23514", "54000"] {
            assert!(is_of_values(code), "{code}");
        }
        // Busy, full, unreadable; shut down, out of room, a deadlock, no lock, another version.
        for code in ["5", "13", "778", "57P01", "53100", "40P01", "55P03", "42P01"] {
            assert!(!is_of_values(code), "{code}");
        }
        assert!(!RoundError::Database(sqlx::Error::PoolTimedOut).is_of_a_saga());
        assert!(!RoundError::LostLease.is_of_a_saga());
    }
}
