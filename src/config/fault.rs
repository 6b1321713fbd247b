//! What is wrong with the configuration.

use std::fmt;
use std::path::PathBuf;

use super::Origin;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says something that cannot be: every fault, one a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Fault>),
}

/// One thing that is wrong, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// Which setting; empty when the fault is no setting's.
    pub key: String,
    /// What is wrong, for the person who wrote it.
    pub detail: String,
}

impl fmt::Display for Fault {
    /// As `skald.toml:7: log.url: …`, `SKALD_LOG__URL: …` or `--log: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Environment { .. } | Origin::Flag { .. } => {
                write!(f, "{}: {}", self.origin, self.detail)
            }
            Origin::File { .. } if self.key.is_empty() => {
                write!(f, "{}: {}", self.origin, self.detail)
            }
            Origin::File { .. } => write!(f, "{}: {}: {}", self.origin, self.key, self.detail),
            Origin::Default => write!(f, "{}: {}", self.key, self.detail),
        }
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
