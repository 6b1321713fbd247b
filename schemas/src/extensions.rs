//! The extension attributes of an event.

use crate::{ExtensionName, ExtensionValue};

/// The extension attributes of an event, in order of their names.
///
/// A sorted list: events have a handful, and looking through those beats hashing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions(Vec<(ExtensionName, ExtensionValue)>);

impl Extensions {
    /// Extensions of one event that are taken from outside, at most.
    pub const MAX: usize = 64;

    /// The value of `name`, if it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ExtensionValue> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    /// Sets `name`; gives the value it had before.
    pub fn insert(&mut self, name: ExtensionName, value: ExtensionValue) -> Option<ExtensionValue> {
        match self.find(name.as_str()) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// All of them, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&ExtensionName, &ExtensionValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_kept_in_order_of_their_names() {
        let mut extensions = Extensions::default();
        for name in ["b", "c", "a"] {
            assert_eq!(extensions.insert(name.parse().unwrap(), 1.into()), None);
        }
        assert_eq!(extensions.insert("b".parse().unwrap(), 2.into()), Some(1.into()));
        let names: Vec<&str> = extensions.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((extensions.get("b"), extensions.get("d")), (Some(&2.into()), None));
    }
}
