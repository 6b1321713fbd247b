//! Definitions in files: checked, drawn, walked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use orchestrator::simulation::{self, Ending, Fault};
use orchestrator::{Definition, Operation, Status, draw};
use serde_json::{Value, json};

use super::Drawing;
use crate::cli::output::{cell, printable, state};
use crate::cli::{Output, Stop};

/// A definition that has no faults, and how it is written.
pub(super) struct Source {
    pub(super) definition: Definition,
    pub(super) text: String,
    pub(super) media_type: &'static str,
}

fn read(file: &Path) -> Result<Definition, Stop> {
    source(file).map(|source| source.definition)
}

/// Reads a definition; every fault is told at once, with line and path.
pub(super) fn source(file: &Path) -> Result<Source, Stop> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading {}", file.display()))
        .map_err(Stop::start)?;
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let (read, media_type): (fn(&str) -> _, _) = if is_json {
        (Definition::of_json, "application/json")
    } else {
        (Definition::of_yaml, "application/yaml")
    };
    let definition = read(&text).map_err(|faults| {
        let lines: Vec<String> = faults.0.iter().map(|fault| plain(&fault.to_string())).collect();
        let count = lines.len();
        let said = if count == 1 { "1 fault".to_owned() } else { format!("{count} faults") };
        Stop::Failed(anyhow::anyhow!("{}: {said}\n  {}", file.display(), lines.join("\n  ")))
    })?;
    Ok(Source { definition, text, media_type })
}

/// A fault in words for people who write YAML, its line told once.
fn plain(fault: &str) -> String {
    if fault.contains("tabs disallowed") {
        let place = fault.split(": ").next().unwrap_or_default();
        return format!("{place}: YAML is indented with spaces, and here is a tab");
    }
    let line = fault.strip_prefix("line ").and_then(|rest| rest.split(':').next());
    match line.and_then(|line| fault.rfind(&format!(" at line {line} "))) {
        Some(again) => fault[..again].to_owned(),
        None => fault.to_owned(),
    }
}

pub(super) fn check(file: &Path, output: &Output) -> Result<(), Stop> {
    let definition = read(file)?;
    let steps: Vec<&str> = definition.steps.iter().map(|step| step.name.as_str()).collect();
    let env = definition.env();
    let value = json!({"saga": definition.name.as_str(), "steps": steps, "env": env});
    let line = format!("{}: {} steps, no faults", definition.name, steps.len());
    Ok(output.either(&value, &line)?)
}

pub(super) fn draw(file: &Path, format: Drawing, output: &Output) -> Result<(), Stop> {
    let definition = read(file)?;
    let drawing = match format {
        Drawing::Svg => draw::svg(&definition),
        Drawing::Mermaid => draw::mermaid(&definition),
    };
    Ok(output.line(drawing.trim_end())?)
}

/// Runs every fault, and tells how each run ended.
pub(super) fn walk(
    file: &Path,
    input: &Value,
    outputs: &BTreeMap<String, Value>,
    output: &Output,
) -> Result<(), Stop> {
    let definition = Arc::new(read(file)?);
    if let Some(name) = outputs.keys().find(|name| definition.step(name).is_none()) {
        return Err(Stop::start(anyhow::anyhow!("there is no step `{name}` to have an output")));
    }
    let endings = simulation::walk(&definition, input, outputs);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for ending in &endings {
        let (status, what) = match &ending.ended {
            Ok(status) => (status.as_str(), String::new()),
            Err(broken) => ("broken", broken.what.clone()),
        };
        *counts.entry(status).or_default() += 1;
        let person = if ending.was_stuck { "after a person helped" } else { "" };
        let (step, fault) = (ending.step.as_deref().unwrap_or("-"), told(ending));
        rows.push(vec![cell(step), cell(fault), state(status), cell(format!("{person}{what}"))]);
        values.push(json!({"step": ending.step, "operation": ending.operation, "fault": fault,
            "ended": status, "was_stuck": ending.was_stuck, "broken": what, "error": ending.error}));
    }
    // Where nothing goes well without a fault, the runs with faults say nothing.
    let plain = endings.first().filter(|ending| !matches!(ending.ended, Ok(Status::Completed)));
    if output.is_json() {
        output.value(&json!({"saga": definition.name.as_str(), "runs": values}))?;
    } else {
        output.table(&["STEP", "FAULT", "ENDED", ""], rows)?;
        let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        output.line(&format!("{} runs: {}", endings.len(), counts.join(", ")))?;
        if let Some(error) = plain.and_then(|ending| ending.error.as_ref()) {
            let hint = "give the stubs what it reads with --input and --outputs";
            output.line(&printable(&format!("without any fault: {error} ({hint})")))?;
        }
    }
    if plain.is_some() || endings.iter().any(|ending| ending.ended.is_err()) {
        return Err(Stop::Told);
    }
    Ok(())
}

fn told(ending: &Ending) -> &'static str {
    let undo = ending.operation == Operation::Compensation;
    match (ending.fault, undo, ending.always) {
        (Fault::None, ..) => "none",
        (Fault::Refuse, false, _) => "refuses",
        (Fault::Refuse, true, _) => "undo refuses",
        (Fault::Lost, false, false) => "first call never arrives",
        (Fault::Lost, false, true) => "no call ever arrives",
        (Fault::Lost, true, false) => "first undo never arrives",
        (Fault::Lost, true, true) => "no undo ever arrives",
        (Fault::Unanswered, false, false) => "first answer is lost",
        (Fault::Unanswered, false, true) => "every answer is lost",
        (Fault::Unanswered, true, false) => "first answer to the undo is lost",
        (Fault::Unanswered, true, true) => "every answer to the undo is lost",
        (Fault::Twice, false, _) => "answers twice",
        (Fault::Twice, true, _) => "undo answers twice",
        (Fault::Late, false, false) => "first answer comes late",
        (Fault::Late, false, true) => "every answer comes late",
        (Fault::Late, true, _) => "answer to the undo comes late",
        (Fault::Crash, false, _) => "engine dies before the answer",
        (Fault::Crash, true, _) => "engine dies before the undo's answer",
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn faults_of_yaml_are_told_in_plain_words_and_with_one_line() {
        let tabs = "line 3: not valid YAML: tabs disallowed within this context";
        assert_eq!(plain(tabs), "line 3: YAML is indented with spaces, and here is a tab");
        let twice = "line 948: not valid YAML: no such key at line 948 column 3";
        assert_eq!(plain(twice), "line 948: not valid YAML: no such key");
        let other = "/steps/0: line 1: is there twice, first on line 3";
        assert_eq!(plain(other), other);
    }
}
