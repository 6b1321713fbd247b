//! Takes entries out one by one, and notes what is wrong with them and where each came from.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Entry, Value};
use super::{Fault, Origin};

/// The entries of all layers on their way into settings.
pub(super) struct Reader {
    entries: BTreeMap<String, Entry>,
    pub(super) faults: Vec<Fault>,
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Reader {
    pub(super) fn new(entries: BTreeMap<String, Entry>) -> Reader {
        Reader { entries, faults: Vec::new(), origins: BTreeMap::new() }
    }

    /// The value of `key`, if it was set and `parse` takes it. Faults are noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.entries.get(key);
        let origin = entry.map_or(Origin::Default, |entry| entry.origin.clone());
        self.origins.insert(key.to_owned(), origin.clone());
        match parse(&entry?.value) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.faults.push(Fault { origin, key: key.to_owned(), detail });
                None
            }
        }
    }

    /// Like [`Reader::optional`], into its place.
    pub(super) fn set<T>(
        &mut self,
        place: &mut T,
        key: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) {
        if let Some(value) = self.optional(key, parse) {
            *place = value;
        }
    }

    /// The positions that are set in the list of tables `key`.
    pub(super) fn positions(&self, key: &str) -> BTreeSet<usize> {
        let position = |entry: &String| {
            let (position, _) = entry.strip_prefix(key)?.strip_prefix('[')?.split_once(']')?;
            position.parse().ok()
        };
        self.entries.keys().filter_map(position).collect()
    }

    /// A fault of the table `key` as a whole, told at its first entry.
    pub(super) fn table_fault(&mut self, key: &str, detail: &str) {
        let mut entries = self.entries.iter().filter(|(name, _)| name.starts_with(key));
        let origin = entries.next().map_or(Origin::Default, |(_, entry)| entry.origin.clone());
        let detail = detail.to_owned();
        self.faults.push(Fault { origin, key: key.to_owned(), detail });
    }
}

/// A parser for what reads from text and explains itself.
pub(super) fn from_text<T>(value: &Value) -> Result<T, String>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    value.text()?.parse().map_err(|error: T::Err| error.to_string())
}
