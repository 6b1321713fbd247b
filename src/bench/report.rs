//! What was measured, beside what it was compared with and what was wanted.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::samples::Samples;

/// A bound that a measurement is to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// In the unit of the measurement.
    AtLeast(f64),
    /// In the unit of the measurement.
    AtMost(f64),
    /// Times the reference.
    Ratio(f64),
}

impl Target {
    /// Whether it is met; `None` when it needs a reference and there is none.
    fn met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Target::AtLeast(least) => Some(value >= least),
            Target::AtMost(most) => Some(value <= most),
            Target::Ratio(least) => ratio.map(|ratio| ratio >= least),
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(least) => format!("≥ {}", number(least)),
            Target::AtMost(most) => format!("≤ {}", number(most)),
            Target::Ratio(least) => format!("≥ {least:.2}×"),
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    value: f64,
    /// What the value was compared with; null when there is nothing, or the server is missing.
    reference: Option<f64>,
    /// Value by reference.
    ratio: Option<f64>,
    /// All of them; empty where the number only informs.
    target: String,
    /// Null where there is no target, or one that the missing reference decides.
    met: Option<bool>,
}

/// All that one run measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    cores: usize,
    quick: bool,
    rows: Vec<Row>,
    remarks: Vec<String>,
}

impl Report {
    pub(super) fn new(quick: bool) -> Report {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Report { cores, quick, rows: Vec::new(), remarks: Vec::new() }
    }

    /// A sentence below the table.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Says on stderr what is measured next: a run takes minutes.
    pub(super) fn begin(&self, what: &str) {
        let _ = writeln!(std::io::stderr().lock(), "measuring {what} …");
    }

    /// Adds what was measured; a measurement without a sample is left out.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        value: &Samples,
        reference: &Samples,
        targets: &[Target],
    ) {
        if let Some(value) = value.median() {
            self.rows.push(row(what.into(), unit, value, reference.median(), targets));
        }
    }

    /// Adds a single number that nothing is compared with.
    pub(super) fn add_value(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        value: f64,
        targets: &[Target],
    ) {
        self.rows.push(row(what.into(), unit, value, None, targets));
    }

    /// Prints it to stdout.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { serde_json::to_string_pretty(self)? } else { self.text() };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    fn text(&self) -> String {
        let mut table = Table::new();
        let headings = ["what", "value", "unit", "reference", "ratio", "target", "met"];
        table.load_style(presets::NOTHING).set_header(headings);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.add_rows(self.rows.iter().map(cells));
        if !std::io::stdout().is_terminal() {
            table.force_no_tty().set_width(140);
        }
        let mut text = table.trim_fmt();
        let length = if self.quick { ", quick" } else { "" };
        text.push_str(&format!("\n\n{} cores{length}", self.cores));
        for remark in &self.remarks {
            text.push('\n');
            text.push_str(remark);
        }
        text
    }
}

fn row(
    what: String,
    unit: &'static str,
    value: f64,
    reference: Option<f64>,
    targets: &[Target],
) -> Row {
    let ratio = reference.filter(|reference| *reference > 0.0).map(|reference| value / reference);
    let met: Vec<Option<bool>> = targets.iter().map(|target| target.met(value, ratio)).collect();
    let met = match met {
        met if met.contains(&Some(false)) => Some(false),
        met if met.is_empty() || met.contains(&None) => None,
        _ => Some(true),
    };
    let target: Vec<String> = targets.iter().map(|target| target.text()).collect();
    Row { what, unit, value, reference, ratio, target: target.join(", "), met }
}

fn cells(row: &Row) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let met = match row.met {
        Some(true) => Cell::new("yes").fg(Color::Green),
        Some(false) => Cell::new("no").fg(Color::Red),
        None => Cell::new("-"),
    };
    vec![
        Cell::new(&row.what),
        right(number(row.value)),
        Cell::new(row.unit),
        right(or_none(row.reference.map(number))),
        right(or_none(row.ratio.map(|ratio| format!("{ratio:.2}×")))),
        right(row.target.clone()),
        met,
    ]
}

/// With thousands apart, and decimals only where they tell something.
fn number(value: f64) -> String {
    let text = if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && digit.is_ascii_digit() && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let decimals = decimals.trim_end_matches('0');
    if decimals.is_empty() { grouped } else { format!("{grouped}.{decimals}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_counts_and_a_missing_reference_leaves_it_open() {
        let targets = [Target::AtLeast(80.0), Target::Ratio(0.4)];
        let met = |value, reference| row(String::new(), "", value, reference, &targets).met;
        assert_eq!(met(100.0, Some(200.0)), Some(true));
        assert_eq!(met(100.0, Some(300.0)), Some(false));
        assert_eq!(met(100.0, None), None);
        assert_eq!(met(70.0, None), Some(false));
        assert_eq!(row(String::new(), "", 1.0, None, &[]).met, None);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(3.5), "3.5");
        assert_eq!(number(0.25), "0.25");
    }
}
