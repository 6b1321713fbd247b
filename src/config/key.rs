//! The names of all settings.

/// Every setting. `[]` stands for the position in a list of tables.
pub(super) const KEYS: [&str; 32] = [
    "listen",
    "data",
    "log.url",
    "log.stream",
    "log.replicas",
    "log.inbox",
    "log.credentials",
    "log.nkey",
    "log.token",
    "log.tls.ca",
    "log.tls.certificate",
    "log.tls.key",
    "log.retention[].type",
    "log.retention[].max_age",
    "log.retention[].max_bytes",
    "database.url",
    "security.admin_key",
    "security.encryption_key",
    "security.encryption_key_before",
    "webhooks.allow_private_networks",
    "webhooks.proxy",
    "webhooks.retention",
    "sagas.env",
    "sagas.allow_private_networks",
    "sagas.retention",
    "http.timeout",
    "http.in_flight_max",
    "http.in_flight_bytes_max",
    "otel.endpoint",
    "otel.service_name",
    "logs.format",
    "logs.filter",
];

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A setting.
    Setting,
    /// A table of settings.
    Table,
    /// A list of tables.
    Tables,
}

/// What `key` stands for, if anything.
pub(super) fn node(key: &str) -> Option<Node> {
    let pattern = pattern(key);
    KEYS.iter().find_map(|known| match known.strip_prefix(&pattern)? {
        "" => Some(Node::Setting),
        rest if rest.starts_with("[].") => Some(Node::Tables),
        rest if rest.starts_with('.') => Some(Node::Table),
        _ => None,
    })
}

/// The known name that was probably meant by `key`.
pub(super) fn nearest(key: &str) -> Option<String> {
    let pattern = pattern(key);
    let (depth, last) = (pattern.matches('.').count(), last(&pattern));
    let tables = KEYS.iter().filter_map(|key| key.split_once('.')).map(|(table, _)| table);
    let known = KEYS.into_iter().chain(tables).filter(|known| known.matches('.').count() == depth);
    let elsewhere = || {
        let mut same = KEYS.into_iter().filter(|known| self::last(known) == last);
        same.next().filter(|_| same.next().is_none()).map(ToOwned::to_owned)
    };
    closest(&pattern, known.map(ToOwned::to_owned)).or_else(elsewhere)
}

/// The one of `known` that `written` looks most like, if it does at all.
pub(super) fn closest(written: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let distances = known.map(|known| (distance(written, &known), known));
    let close = distances.filter(|(distance, known)| *distance <= 2.max(known.len() / 4));
    close.min().map(|(_, known)| known)
}

/// `log.retention[3].type` as `log.retention[].type`.
fn pattern(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|&c| {
            inside = (inside || c == '[') && c != ']';
            !inside || c == '['
        })
        .collect()
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// How many characters must be added, dropped or changed to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_settings_tables_or_lists_of_tables() {
        assert_eq!(node("log.url"), Some(Node::Setting));
        assert_eq!(node("log"), Some(Node::Table));
        assert_eq!(node("log.retention"), Some(Node::Tables));
        assert_eq!(node("log.retention[12].max_age"), Some(Node::Setting));
        assert_eq!(node("lo"), None);
        assert_eq!(node("log.retention[0].age"), None);
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        for (key, meant) in [
            ("listn", Some("listen")),
            ("databse", Some("database")),
            ("log.retention[1].maxage", Some("log.retention[].max_age")),
            ("http.in_flight", Some("http.in_flight_max")),
            ("encryption_key", Some("security.encryption_key")),
            ("url", None),
            ("kafka.brokers", None),
        ] {
            assert_eq!(nearest(key).as_deref(), meant, "{key}");
        }
    }
}
