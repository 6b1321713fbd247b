//! Settings given on the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Origin;
use super::value::{Entry, Value};

/// Settings given on the command line: the last word.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`: the file, which must exist.
    pub config: Option<PathBuf>,
    /// `--listen ADDRESS`
    pub listen: Option<String>,
    /// `--data FOLDER`
    pub data: Option<String>,
    /// `--log URL`
    pub log: Option<String>,
    /// `--database URL`
    pub database: Option<String>,
}

impl Flags {
    pub(super) fn entries(&self) -> BTreeMap<String, Entry> {
        let flags = [
            ("--listen", "listen", &self.listen),
            ("--data", "data", &self.data),
            ("--log", "log.url", &self.log),
            ("--database", "database.url", &self.database),
        ];
        let given = flags.into_iter().filter_map(|(name, key, value)| {
            let value = Value::Plain(value.clone()?);
            Some((key.to_owned(), Entry { value, origin: Origin::Flag { name: name.to_owned() } }))
        });
        given.collect()
    }
}
