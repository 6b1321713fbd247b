//! What the server said.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{}: no JSON ({error}): {}", self.status, self.text()),
        }
    }

    /// A header, empty when it is absent.
    ///
    /// # Panics
    /// When it is no text.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// The same answer, which must have this status.
    ///
    /// # Panics
    /// When it has another.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        self.check(status);
        self
    }

    /// Checks the status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn check(&self, status: u16) {
        assert_eq!(self.status.as_u16(), status, "the body was: {}", self.text());
    }

    /// The JSON of an answer that must have this status.
    ///
    /// # Panics
    /// When it has another, or is no JSON.
    #[must_use]
    #[track_caller]
    pub fn json_of(&self, status: u16) -> Value {
        self.check(status);
        self.json()
    }

    /// The problem (RFC 9457) of an answer that must have this status.
    ///
    /// # Panics
    /// When it has another, or is no such problem.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        let problem = self.json_of(status);
        assert_eq!(self.header("content-type"), "application/problem+json", "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// The pointers of all faults of a 422.
    ///
    /// # Panics
    /// When it is no 422, or does not name its faults.
    #[must_use]
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let problem = self.problem(422);
        let faults = problem["errors"].as_array().expect("the faults");
        assert!(!faults.is_empty(), "{problem}");
        let pointer = |fault: &Value| {
            assert!(fault["detail"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
            fault["pointer"].as_str().expect("a pointer").to_owned()
        };
        faults.iter().map(pointer).collect()
    }
}
