//! The TOML file as entries, each with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{self, Node};
use super::value::{Entry, Value};
use super::{Fault, Origin};

/// The entries of `text`, the content of the file `path`, and what is wrong with its form.
pub(super) fn read(path: &Path, text: &str) -> (BTreeMap<String, Entry>, Vec<Fault>) {
    let mut file = File {
        path: path.to_owned(),
        line_starts: line_starts(text),
        entries: BTreeMap::new(),
        faults: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let detail = match error.message() {
            // Of the rest nothing is repeated: it may be part of a secret.
            "duplicate key" => {
                format!("{} is given twice", text.get(span.clone()).unwrap_or("a key"))
            }
            message => message.to_owned(),
        };
        file.fault(span.start, "", detail);
    }
    // What a broken text seems to say is not worth a second list of faults.
    if errors.is_empty() {
        file.table("", table.get_ref());
    }
    file.faults.sort_by_key(|fault| match fault.origin {
        Origin::File { line, .. } => line,
        Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => 0,
    });
    (file.entries, file.faults)
}

struct File {
    path: PathBuf,
    /// The byte at which each line starts.
    line_starts: Vec<usize>,
    entries: BTreeMap<String, Entry>,
    faults: Vec<Fault>,
}

impl File {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let key = match prefix {
                "" => name.get_ref().to_string(),
                _ => format!("{prefix}.{}", name.get_ref()),
            };
            match (key::node(&key), value.get_ref()) {
                (Some(Node::Setting), _) => self.setting(&key, at, value),
                (Some(Node::Table), DeValue::Table(table)) => self.table(&key, table),
                (Some(Node::Table), _) => self.fault(at, &key, "must be a table".to_owned()),
                (Some(Node::Tables), DeValue::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.item(&format!("{key}[{index}]"), item);
                    }
                }
                (Some(Node::Tables), _) => {
                    self.fault(at, &key, format!("must be a list of tables: [[{key}]]"));
                }
                (None, _) => self.fault(at, &key, unknown(&key)),
            }
        }
    }

    fn item(&mut self, key: &str, item: &Spanned<DeValue<'_>>) {
        match item.get_ref() {
            DeValue::Table(table) => self.table(key, table),
            _ => self.fault(item.span().start, key, "must be a table".to_owned()),
        }
    }

    fn setting(&mut self, key: &str, at: usize, written: &Spanned<DeValue<'_>>) {
        let origin = self.origin(at);
        self.entries.insert(key.to_owned(), Entry { value: value(written.get_ref()), origin });
    }

    fn fault(&mut self, at: usize, key: &str, detail: String) {
        let origin = self.origin(at);
        self.faults.push(Fault { origin, key: key.to_owned(), detail });
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.line_starts.partition_point(|&start| start <= at).max(1);
        Origin::File { path: self.path.clone(), line }
    }
}

fn unknown(key: &str) -> String {
    match key::nearest(key) {
        Some(meant) => format!("no such setting; did you mean {meant}?"),
        None => "no such setting".to_owned(),
    }
}

fn value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Number),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|i| self::value(i.get_ref())).collect())
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(_) => Value::Other("a boolean"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let (_, faults) = read(Path::new("skald.toml"), text);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entries_know_their_lines() {
        let text = "listen = \"x\"\n\n[log]\nurl = \"y\"\n[[log.retention]]\ntype = \"a\"\n[[log.retention]]\n\ntype = \"b\"\n";
        let (entries, faults) = read(Path::new("skald.toml"), text);
        assert_eq!(faults, []);
        let line = |key: &str| entries[key].origin.to_string();
        assert_eq!(line("listen"), "skald.toml:1");
        assert_eq!(line("log.url"), "skald.toml:4");
        assert_eq!(line("log.retention[0].type"), "skald.toml:6");
        assert_eq!(line("log.retention[1].type"), "skald.toml:9");
    }

    #[test]
    fn what_is_given_twice_is_named_and_nothing_else_of_a_broken_line_is() {
        let twice = "listen = \"a\"\nlisten = \"b\"\n";
        assert_eq!(faults(twice), ["skald.toml:2: listen is given twice"]);
        let unquoted = faults("[security]\nadmin_key = secret\n");
        assert!(unquoted.len() == 1 && !unquoted[0].contains("secret"), "{unquoted:?}");
    }

    #[test]
    fn unknown_names_are_all_told_with_their_lines_and_what_was_meant() {
        assert_eq!(
            faults(
                "[http]\ntimeuot = \"1s\"\n[kafka]\nurl = \"\"\n[[log.retention]]\nmaxage = 1\n"
            ),
            [
                "skald.toml:2: http.timeuot: no such setting; did you mean http.timeout?",
                "skald.toml:3: kafka: no such setting",
                "skald.toml:6: log.retention[0].maxage: no such setting; did you mean log.retention[].max_age?",
            ]
        );
    }

    #[test]
    fn a_broken_text_is_told_with_its_line() {
        let told = faults("listen = \"x\"\ndata = \n");
        assert!(told[0].starts_with("skald.toml:2: "), "{told:?}");
    }

    #[test]
    fn a_value_in_the_place_of_a_table_is_told() {
        assert_eq!(faults("log = 1"), ["skald.toml:1: log: must be a table"]);
        assert_eq!(
            faults("[log.retention]\ntype = \"a\""),
            ["skald.toml:1: log.retention: must be a list of tables: [[log.retention]]"]
        );
    }
}
