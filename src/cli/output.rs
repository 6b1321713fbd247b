//! What commands print: tables and lines for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// Prints to stdout, as JSON or for people.
    pub(super) fn new(json: bool) -> Output {
        Output { json, terminal: io::stdout().is_terminal() }
    }

    /// Whether a program reads.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// `text`, of which a terminal shows the first `limit` characters; programs get it all.
    pub(super) fn clipped(self, text: &str, limit: usize) -> String {
        if self.terminal { clipped(text, limit) } else { text.to_owned() }
    }

    /// One line of text, beside what programs read on stdout.
    pub(super) fn aside(self, text: &str) -> io::Result<()> {
        writeln!(io::stderr().lock(), "{text}")
    }

    /// One line of text.
    pub(super) fn line(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// One JSON value: indented on a terminal, one line elsewhere.
    pub(super) fn value(self, value: &impl Serialize) -> io::Result<()> {
        let text = if self.terminal {
            serde_json::to_string_pretty(value)?
        } else {
            serde_json::to_string(value)?
        };
        self.line(&text)
    }

    /// `value` for programs, `text` for people.
    pub(super) fn either(self, value: &impl Serialize, text: &str) -> io::Result<()> {
        if self.json { self.value(value) } else { self.line(text) }
    }

    /// Columns under headings, as wide as the terminal.
    pub(super) fn table(self, headings: &[&str], rows: Vec<Vec<Cell>>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(headings.iter().copied());
        table.set_content_arrangement(ContentArrangement::Dynamic).add_rows(rows);
        if !self.terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            table.force_no_tty();
        }
        self.line(&table.trim_fmt())
    }
}

/// A cell of plain text.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(printable(text.as_ref()))
}

/// A cell with the member `name` of `object`, `-` when it is not there.
pub(super) fn member(object: &Value, name: &str) -> Cell {
    cell(text(&object[name]))
}

/// A cell with a state, in the colour of how much it wants attention.
pub(super) fn state(text: &str) -> Cell {
    let cell = cell(text);
    match text {
        "running" | "done" | "completed" | "acting" | "undone" | "delivered" | "enabled"
        | "healthy" => cell.fg(Color::Green),
        "paused" | "retrying" | "waiting" | "pending" | "skipped" | "compensating"
        | "compensated" | "undoing" => cell.fg(Color::Yellow),
        "dead" | "failed" | "failing" | "disabled" | "cancelled" | "stuck" | "refused"
        | "unknown" | "broken" => cell.fg(Color::Red),
        _ => cell,
    }
}

/// A JSON value for people: strings without quotes, lists with commas, nothing as `-`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// `text` without control characters: what others published must not drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The first `limit` characters of `text`, with a sign when there is more.
pub(super) fn clipped(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        assert_eq!(text(&json!(["a", "b"])), "a, b");
        assert_eq!(text(&json!(null)), "-");
        assert_eq!(text(&json!(7)), "7");
        assert_eq!(text(&json!({"a": 1})), "{\"a\":1}");
    }

    #[test]
    fn what_others_wrote_does_not_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(clipped("häuser", 2), "hä…");
        assert_eq!(clipped("hä", 2), "hä");
    }
}
