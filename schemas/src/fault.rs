//! What is wrong with an input, and where.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// One thing that is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where: a JSON pointer (RFC 6901) into the input, `""` for the whole.
    pub pointer: String,
    /// What is wrong, for the person who sent it.
    pub detail: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            return f.write_str(&self.detail);
        }
        write!(f, "{}: {}", self.pointer, self.detail)
    }
}

/// All that is wrong with an input, in the order of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Faults that are listed at most: more help nobody, and an answer must stay small.
    pub const MAX: usize = 1_000;

    /// A single fault.
    pub fn one(pointer: impl Into<String>, detail: impl Display) -> Faults {
        Faults(vec![Fault { pointer: pointer.into(), detail: detail.to_string() }])
    }

    /// Adds a fault, unless [`Faults::MAX`] are listed already.
    pub fn push(&mut self, pointer: impl Into<String>, detail: impl Display) {
        if self.0.len() < Faults::MAX {
            self.0.push(Fault { pointer: pointer.into(), detail: detail.to_string() });
        }
    }

    /// Adds the faults of a part, up to [`Faults::MAX`] in all.
    pub fn extend(&mut self, faults: Faults) {
        let room = Faults::MAX - self.0.len().min(Faults::MAX);
        self.0.extend(faults.0.into_iter().take(room));
    }

    /// The same faults, seen from one level up: `prefix` (such as `/2`) goes before each pointer.
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Faults {
        for fault in &mut self.0 {
            fault.pointer.insert_str(0, prefix);
        }
        self
    }

    /// True when nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` when nothing is wrong.
    ///
    /// # Errors
    /// The faults, when there are any.
    pub fn or<T>(self, value: T) -> Result<T, Faults> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl Display for Faults {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

/// The pointer to the member `name` of the whole.
pub(crate) fn member(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_together_with_their_places() {
        let mut faults = Faults::one("/type", "is required");
        faults.push("", "is odd");
        assert_eq!(faults.to_string(), "/type: is required; is odd");
        assert_eq!(faults.prefixed("/2").0[0].pointer, "/2/type");
    }

    #[test]
    fn a_pointer_escapes_what_means_something_in_pointers() {
        assert_eq!(member("a/b~c"), "/a~1b~0c");
    }

    #[test]
    fn no_more_faults_are_kept_than_help() {
        let mut faults = Faults::default();
        for _ in 0..=Faults::MAX {
            faults.push("/x", "no");
        }
        faults.extend(Faults::one("/y", "no"));
        assert_eq!(faults.0.len(), Faults::MAX);
    }
}
