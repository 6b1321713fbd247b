//! Errors as the server tells them.

use std::fmt;

use serde::Deserialize;

use super::output::printable;

/// An RFC 9457 problem.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) title: String,
    pub(super) detail: Option<String>,
    pub(super) errors: Vec<Pointed>,
}

/// One fault of a body.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pointed {
    pub(super) pointer: String,
    pub(super) detail: String,
}

impl Problem {
    /// The problem in a body; one made of the status when there is none.
    pub(super) fn read(status: reqwest::StatusCode, body: &[u8]) -> Problem {
        let mut problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        problem.status = status.as_u16();
        if problem.title.is_empty() {
            problem.title = format!("the server answered {status}");
        }
        problem
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    /// The title and the detail on one line, then each fault on its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", printable(&self.title), self.status)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {}", printable(detail))?;
        }
        if self.status == 401 {
            f.write_str("; give a key that holds with --key or SKALD_KEY")?;
        }
        for Pointed { pointer, detail } in &self.errors {
            let place = if pointer.is_empty() { "the body" } else { pointer };
            write!(f, "\n  {}: {}", printable(place), printable(detail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_all_its_faults() {
        let body = br#"{"type":"x","title":"Invalid","status":422,"detail":"two faults",
            "errors":[{"pointer":"/2/type","detail":"is required"},{"pointer":"","detail":"odd"}]}"#;
        let problem = Problem::read(reqwest::StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            problem.to_string(),
            "Invalid (422): two faults\n  /2/type: is required\n  the body: odd"
        );
    }

    #[test]
    fn who_is_not_known_is_told_where_keys_are_given() {
        let problem = Problem::read(reqwest::StatusCode::UNAUTHORIZED, b"{\"title\":\"No\"}");
        assert!(problem.to_string().contains("--key or SKALD_KEY"), "{problem}");
    }

    #[test]
    fn an_answer_that_is_no_problem_is_told_by_its_status() {
        let problem = Problem::read(reqwest::StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(problem.to_string(), "the server answered 502 Bad Gateway (502)");
    }
}
