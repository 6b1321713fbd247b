//! Puts the layers on top of each other.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::value::Entry;
use super::{ConfigError, Fault, Flags, Origin, Settings, build, environment, file};

/// The file that is read from the working directory when none is named and it is there.
const FILE: &str = "skald.toml";

/// Settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where each came from, by key (`log.url`, `log.retention[0].max_age`).
    pub origins: BTreeMap<String, Origin>,
}

impl Settings {
    /// The settings of this process: defaults, then the file, the environment and `flags`.
    ///
    /// # Errors
    /// [`ConfigError`]: the file is named and cannot be read, or something is wrong; all of it is
    /// told at once.
    pub fn load(flags: &Flags) -> Result<Loaded, ConfigError> {
        load(flags, &std::env::vars_os().collect::<Vec<_>>())
    }
}

fn load(flags: &Flags, variables: &[(OsString, OsString)]) -> Result<Loaded, ConfigError> {
    let (mut entries, mut faults) = read_file(flags, variables)?;
    let (set, wrong) = environment::read(variables.iter().cloned());
    entries.extend(set);
    faults.extend(wrong);
    entries.extend(flags.entries());
    finish(entries, faults)
}

fn finish(entries: BTreeMap<String, Entry>, mut faults: Vec<Fault>) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::new(entries);
    let settings = build::settings(&mut reader);
    faults.append(&mut reader.faults);
    // In the order of the file, then variables, then flags.
    faults.sort_by_key(|fault| match fault.origin {
        Origin::File { line, .. } => (0, line),
        Origin::Default => (1, 0),
        Origin::Environment { .. } => (2, 0),
        Origin::Flag { .. } => (3, 0),
    });
    if faults.is_empty() {
        Ok(Loaded { settings, origins: reader.origins })
    } else {
        Err(ConfigError::Invalid(faults))
    }
}

type Layer = (BTreeMap<String, Entry>, Vec<Fault>);

fn read_file(flags: &Flags, variables: &[(OsString, OsString)]) -> Result<Layer, ConfigError> {
    let variable = variables.iter().find(|(name, _)| name == OsStr::new(environment::FILE));
    let named = flags.config.clone().or_else(|| variable.map(|(_, path)| PathBuf::from(path)));
    let path = named.as_deref().unwrap_or(Path::new(FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(file::read(path, &text)),
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
            Ok(Layer::default())
        }
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogFormat;
    use super::*;

    /// Loads a file with this text, these variables and these flags.
    fn loaded(
        text: &str,
        variables: &[(&str, &str)],
        mut flags: Flags,
    ) -> Result<Loaded, ConfigError> {
        let path = std::env::temp_dir().join(format!("skald-{}.toml", uuid::Uuid::now_v7()));
        std::fs::write(&path, text).unwrap();
        flags.config = Some(path.clone());
        let variables: Vec<_> = variables.iter().map(|(n, v)| (n.into(), v.into())).collect();
        let loaded = load(&flags, &variables);
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let told = loaded(text, variables, Flags::default()).unwrap_err().to_string();
        let after_folder = |line: &str| match line.find(".toml:") {
            Some(at) => line[at + 1..].to_owned(),
            None => line.to_owned(),
        };
        told.lines().map(after_folder).collect()
    }

    #[test]
    fn without_anything_the_defaults_hold() {
        let loaded = finish(BTreeMap::new(), Vec::new()).unwrap();
        assert_eq!(loaded.settings.listen, "127.0.0.1:8080");
        assert_eq!(loaded.settings.log.url, "embedded:.skald");
        assert_eq!(loaded.settings.http.in_flight_max, 1024);
        assert!(loaded.origins.values().all(|origin| *origin == Origin::Default));
    }

    #[test]
    fn each_layer_covers_the_one_before() {
        let text = "listen = \"a:1\"\ndata = \"file\"\n[http]\ntimeout = \"5s\"\n[logs]\nformat = \"json\"";
        let variables = [("SKALD_LISTEN", "b:2"), ("SKALD_DATA", "environment")];
        let flags = Flags { listen: Some("c:3".to_owned()), ..Flags::default() };
        let Loaded { settings, origins } = loaded(text, &variables, flags).unwrap();
        assert_eq!(settings.listen, "c:3");
        assert_eq!(settings.data, Path::new("environment"));
        assert_eq!(settings.database.url, "sqlite://environment/state.db");
        assert_eq!(settings.http.timeout.to_string(), "5s");
        assert_eq!(settings.logs.format, LogFormat::Json);
        assert_eq!(origins["listen"], Origin::Flag { name: "--listen".to_owned() });
        assert_eq!(origins["data"], Origin::Environment { name: "SKALD_DATA".to_owned() });
        assert!(origins["http.timeout"].to_string().ends_with(".toml:4"));
        assert_eq!(origins["log.url"], Origin::Default);
    }

    #[test]
    fn retention_rules_come_in_their_order() {
        let text = "[[log.retention]]\ntype = \"a.>\"\nmax_age = \"30d\"\n[[log.retention]]\ntype = \"b\"\nmax_bytes = \"10GiB\"\n";
        let variables = [
            ("SKALD_LOG__RETENTION__2__TYPE", "c.*"),
            ("SKALD_LOG__RETENTION__2__MAX_BYTES", "1000"),
        ];
        let rules =
            loaded(text, &variables, Flags::default()).unwrap().settings.log.retention_rules();
        let shown: Vec<_> = rules.iter().map(|r| (r.types.as_str(), r.max_bytes)).collect();
        assert_eq!(shown, [("a.>", None), ("b", Some(10 << 30)), ("c.*", Some(1_000))]);
        assert_eq!(rules[0].max_age, Some(std::time::Duration::from_hours(720)));
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let text = "listen = 80\n[log]\nurl = \"kafka:x\"\n\n[[log.retention]]\ntype = \"a\"\nmax_age = \"5\"\n[[log.retention]]\nmax_age = \"5d\"\n[htpt]\n";
        let told = faults(text, &[("SKALD_LOGS__FORMAT", "xml")]);
        assert_eq!(told.len(), 6, "{told:?}");
        assert_eq!(told[0], "toml:1: listen: must be a string, not a number");
        assert!(told[1].starts_with("toml:3: log.url: must be embedded:"), "{told:?}");
        assert!(told[2].starts_with("toml:7: log.retention[0].max_age: a duration is"), "{told:?}");
        assert!(told[3].starts_with("toml:9: log.retention[1]: needs a type"), "{told:?}");
        assert_eq!(told[4], "toml:10: htpt: no such setting; did you mean http?");
        assert_eq!(told[5], "SKALD_LOGS__FORMAT: must be pretty or json, not `xml`");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let flags = Flags { config: Some("no/such/file.toml".into()), ..Flags::default() };
        let error = load(&flags, &[]).unwrap_err();
        assert_eq!(error.to_string(), "reading no/such/file.toml");
        let variable = [("SKALD_CONFIG".into(), "no/such.toml".into())];
        assert!(matches!(load(&Flags::default(), &variable), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn the_variable_of_a_secret_does_not_show_it() {
        let told = faults("", &[("SKALD_SECURITY__ADMIN_KEY", "hunter2")]);
        assert_eq!(
            told,
            ["SKALD_SECURITY__ADMIN_KEY: must start with sk_ and have at least 20 characters"]
        );
    }
}
