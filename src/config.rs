//! What the program is told before it starts: every setting, its default and where its value came
//! from.
//!
//! Layers, each over the one before: defaults → a TOML file (`file`) → `SKALD_…` variables
//! (`environment`) → flags. Every layer becomes the same flat `Entry`s by key
//! (`log.url`, `log.retention[0].max_age`), so one `reader` checks them all, and every fault is
//! told at once with the file and line, the variable or the flag that it stands in.

mod settings;
pub use settings::{Database, Http, Log, LogFormat, Logs, Otel, Security, Settings, Webhooks};

mod retention_rule;
pub use retention_rule::RetentionRule;

mod secret;
pub use secret::Secret;

mod byte_size;
pub use byte_size::{ByteSize, InvalidByteSize};

mod origin;
pub use origin::Origin;

mod fault;
pub use fault::{ConfigError, Fault};

mod flags;
pub use flags::Flags;

mod load;
pub use load::Loaded;

mod build;
mod check;
mod environment;
mod file;
mod key;
mod reader;
mod redact;
mod value;
