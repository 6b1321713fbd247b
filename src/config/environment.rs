//! `SKALD_…` variables as entries.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::key::{self, Node};
use super::value::{Entry, Value};
use super::{Fault, Origin};

const PREFIX: &str = "SKALD_";
/// The variable that names the configuration file.
pub(super) const FILE: &str = "SKALD_CONFIG";
/// Read elsewhere: the file's name here, the server's address and key by the client commands.
const RESERVED: [&str; 3] = [FILE, "SKALD_URL", "SKALD_KEY"];

/// The entries of all variables whose name starts with `SKALD_`, and what is wrong with them.
pub(super) fn read(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> (BTreeMap<String, Entry>, Vec<Fault>) {
    let (mut entries, mut faults) = (BTreeMap::new(), Vec::new());
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if RESERVED.contains(&name) {
            continue;
        }
        let key = key(name);
        let origin = Origin::Environment { name: name.to_owned() };
        let known = key::node(&key) == Some(Node::Setting);
        match value.into_string() {
            Ok(text) if known => {
                entries.insert(key, Entry { value: Value::Plain(text), origin });
            }
            Ok(_) => faults.push(Fault { origin, detail: unknown(name), key }),
            Err(_) => faults.push(Fault { origin, key, detail: "must be UTF-8".to_owned() }),
        }
    }
    faults.sort_by(|a, b| a.key.cmp(&b.key));
    (entries, faults)
}

/// `SKALD_LOG__RETENTION__0__TYPE` as `log.retention[0].type`.
fn key(name: &str) -> String {
    let mut key = String::new();
    for level in name[PREFIX.len()..].to_ascii_lowercase().split("__") {
        if !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_digit()) {
            key.push_str(&format!("[{level}]"));
            continue;
        }
        if !key.is_empty() {
            key.push('.');
        }
        key.push_str(level);
    }
    key
}

/// `log.retention[].type` as `SKALD_LOG__RETENTION__0__TYPE`.
fn name(key: &str) -> String {
    let path = key.replace("[]", "__0").replace('.', "__");
    format!("{PREFIX}{}", path.to_ascii_uppercase())
}

fn unknown(written: &str) -> String {
    match key::closest(written, key::KEYS.into_iter().map(name)) {
        Some(meant) => format!("no such setting; did you mean {meant}?"),
        None => "no such setting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(variables: &[(&str, &str)]) -> (BTreeMap<String, Entry>, Vec<String>) {
        let (entries, faults) = read(variables.iter().map(|(n, v)| (n.into(), v.into())));
        (entries, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn levels_are_joined_by_two_underscores() {
        let (entries, faults) = read_all(&[
            ("SKALD_LISTEN", "a"),
            ("SKALD_HTTP__IN_FLIGHT_MAX", "7"),
            ("SKALD_LOG__RETENTION__0__MAX_AGE", "1d"),
            ("SKALD_WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "10.0.0.0/8, 192.168.0.0/16,"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(faults, [""; 0]);
        assert_eq!(entries["listen"].value, Value::Plain("a".to_owned()));
        assert_eq!(entries["http.in_flight_max"].value.count(), Ok(7));
        assert!(entries.contains_key("log.retention[0].max_age"));
        let networks = entries["webhooks.allow_private_networks"].value.list();
        assert_eq!(networks, Ok(vec!["10.0.0.0/8", "192.168.0.0/16"]));
        assert_eq!(entries.len(), 4);
    }

    #[test]
    fn unknown_names_are_refused_but_for_those_of_the_client() {
        let (entries, faults) = read_all(&[
            ("SKALD_URL", "http://x"),
            ("SKALD_KEY", "sk_x"),
            ("SKALD_CONFIG", "x.toml"),
            ("SKALD_LOG_URL", "y"),
            ("SKALD_FROBNICATE", "1"),
        ]);
        assert!(entries.is_empty());
        assert_eq!(
            faults,
            [
                "SKALD_FROBNICATE: no such setting",
                "SKALD_LOG_URL: no such setting; did you mean SKALD_LOG__URL?",
            ]
        );
    }

    #[test]
    fn every_setting_has_a_variable() {
        for known in key::KEYS {
            assert_eq!(key(&name(known)), known.replace("[]", "[0]"));
        }
    }
}
