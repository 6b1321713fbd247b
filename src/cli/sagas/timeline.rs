//! A saga for people: its steps as a timeline, its journal as lines.

use serde_json::Value;

use crate::cli::events::items;
use crate::cli::output::{cell, member, printable, state, text};
use crate::cli::{Output, Stop};

/// Characters of an output or an error that a terminal shows.
const SHOWN: usize = 60;

/// A saga and its steps.
pub(super) fn saga(saga: &Value, output: Output) -> Result<(), Stop> {
    if output.is_json() {
        return Ok(output.value(saga)?);
    }
    let (id, definition) = (text(&saga["id"]), text(&saga["definition"]));
    output.line(&printable(&format!(
        "{id}  {definition} v{}  {}",
        saga["version"],
        text(&saga["status"]).to_uppercase()
    )))?;
    if !saga["error"].is_null() {
        output.line(&printable(&format!("error: {}", text(&saga["error"]))))?;
    }
    let started = text(&saga["created_at"]);
    let mut rows = Vec::new();
    for step in saga["steps"].as_array().into_iter().flatten() {
        rows.push(row(step, &text(&step["name"]), &started, output));
        let undo = &step["compensation"];
        if undo.is_object() {
            rows.push(row(undo, "  undo", &started, output));
        }
    }
    Ok(output.table(&["STEP", "STATUS", "AT", "TOOK", "TRIES", "SAID"], rows)?)
}

fn row(half: &Value, name: &str, started: &str, output: Output) -> Vec<comfy_table::Cell> {
    let said = said(half);
    let (began, ended) = (text(&half["started_at"]), text(&half["finished_at"]));
    vec![
        cell(name),
        state(&text(&half["status"])),
        cell(between(started, &began).map_or("-".to_owned(), |took| format!("+{took}"))),
        cell(between(&began, &ended).unwrap_or_else(|| "-".to_owned())),
        member(half, "attempts"),
        cell(output.clipped(&text(said), SHOWN)),
    ]
}

/// The output or the error; that of an earlier attempt does not matter to what is done.
fn said(half: &Value) -> &Value {
    let done = matches!(half["status"].as_str(), Some("done" | "undone"));
    if done || half["error"].is_null() { &half["output"] } else { &half["error"] }
}

/// The time between two moments, in the unit that suits it.
fn between(from: &str, to: &str) -> Option<String> {
    let parse = |text: &str| text.parse::<schemas::Timestamp>().ok();
    let us = parse(to)?.as_micros() - parse(from)?.as_micros();
    Some(match us {
        us if us < 10_000 => format!("{}.{:03}ms", us / 1_000, us.rem_euclid(1_000)),
        us if us < 10_000_000 => format!("{}ms", us / 1_000),
        us => format!("{}s", us / 1_000_000),
    })
}

/// Every transition, one line each.
pub(super) fn journal(journal: &Value, output: Output) -> Result<(), Stop> {
    if output.is_json() {
        return Ok(output.value(journal)?);
    }
    for entry in items(journal) {
        let mut more = Vec::new();
        for (name, value) in entry.as_object().into_iter().flatten() {
            if !["at", "seq", "kind", "step"].contains(&name.as_str()) && !value.is_null() {
                more.push(format!("{name}={}", output.clipped(&text(value), SHOWN)));
            }
        }
        let step = if entry["step"].is_null() { String::new() } else { text(&entry["step"]) };
        let line = format!(
            "{}  {:<14} {:<24} {}",
            text(&entry["at"]),
            text(&entry["kind"]),
            step,
            more.join("  ")
        );
        output.line(printable(&line).trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_done_says_its_output_and_what_is_not_its_error() {
        let half = |status| json!({"status": status, "output": {"id": 7}, "error": "no answer"});
        assert_eq!(said(&half("done")), &json!({"id": 7}));
        assert_eq!(said(&half("refused")), "no answer");
        assert_eq!(said(&json!({"status": "done", "error": "no answer"})), &Value::Null);
    }
}
