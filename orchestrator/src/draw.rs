//! Draws a definition, as Mermaid and as SVG, and a saga on its way.

use std::fmt::Write as _;

use crate::definition::{Action, Definition, Part, Step, Undo};
use crate::state::{Cell, State, StepStatus};

const WIDTH: usize = 220;
const HEIGHT: usize = 56;
const GAP: usize = 34;
/// Characters of a step's name, and of what it does, that fit into a box.
const NAME_SHOWN: usize = 26;
const DOES_SHOWN: usize = 36;

/// What a step does, in a few words.
fn told(step: &Step) -> String {
    let what = match &step.action {
        Action::Http(call) => call.method.as_str().to_owned(),
        Action::Command(command) => format!("command {}", command.participant),
        Action::Publish(publish) => format!("publish {}", publish.kind),
        Action::Signal { name, .. } => format!("waits for {name}"),
        Action::Event(wait) => format!("waits for {}", wait.types),
        Action::Sleep(_) => "sleeps".to_owned(),
        Action::Child(child) => format!("saga {}", child.definition),
        Action::Method => "method".to_owned(),
    };
    let each = if step.for_each.is_some() { ", for each" } else { "" };
    let when = if step.when.is_some() { ", when" } else { "" };
    format!("{what}{each}{when}")
}

fn undone(step: &Step) -> &'static str {
    match (&step.undo, step.point_of_no_return) {
        (_, true) => "point of no return",
        (Undo::Call { .. }, _) => "undo",
        (Undo::Never(_), _) => "no undo",
        (Undo::Nothing, _) => "",
    }
}

/// As a Mermaid flow chart.
#[must_use]
pub fn mermaid(definition: &Definition) -> String {
    let mut text = "flowchart TD\n  start([start])\n".to_owned();
    let ends = mermaid_sequence(definition, &definition.body, &["start".to_owned()], &mut text);
    for end in ends {
        let _ = writeln!(text, "  {end} --> done([completed])");
    }
    for (at, step) in definition.steps.iter().enumerate() {
        if let Undo::Call { .. } = step.undo {
            let _ = writeln!(text, "  s{at} -. undo .-> u{at}[\"undo {}\"]", step.name);
        }
    }
    text
}

fn mermaid_sequence(
    definition: &Definition,
    parts: &[Part],
    from: &[String],
    text: &mut String,
) -> Vec<String> {
    let mut ends = from.to_vec();
    for part in parts {
        ends = match part {
            Part::Step(at) => {
                let step = &definition.steps[*at];
                let (open, close) = if step.point_of_no_return { ("{{", "}}") } else { ("[", "]") };
                let _ = writeln!(
                    text,
                    "  s{at}{open}\"{}<br/><small>{}</small>\"{close}",
                    step.name,
                    told(step).replace('"', "'")
                );
                for end in &ends {
                    let _ = writeln!(text, "  {end} --> s{at}");
                }
                vec![format!("s{at}")]
            }
            Part::Together { members, .. } => members
                .iter()
                .flat_map(|member| mermaid_sequence(definition, member, &ends, text))
                .collect(),
        };
    }
    ends
}

/// As SVG.
#[must_use]
pub fn svg(definition: &Definition) -> String {
    drawn(definition, None)
}

/// A saga as SVG: its definition, each step in the colour of what became of it.
#[must_use]
pub fn svg_of_saga(saga: &State) -> String {
    drawn(&saga.start.definition, Some(saga))
}

fn drawn(definition: &Definition, saga: Option<&State>) -> String {
    let mut canvas = Canvas { definition, saga, shapes: String::new() };
    let width = width_of(&definition.body);
    let middle = width / 2 + GAP;
    let mut bottom = GAP + 24;
    bottom = canvas.sequence(&definition.body, middle, bottom);
    let (full_width, full_height) = (width + 2 * GAP, bottom + 10);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full_width} {full_height}\" \
         width=\"{full_width}\" height=\"{full_height}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{middle}\" y=\"28\" text-anchor=\"middle\" font-size=\"17\" \
         font-weight=\"bold\">{}</text>\n{}</svg>\n",
        escape(&definition.name),
        canvas.shapes
    )
}

fn width_of(parts: &[Part]) -> usize {
    let of = |part: &Part| match part {
        Part::Step(_) => WIDTH,
        Part::Together { members, .. } => {
            members.iter().map(|member| width_of(member) + GAP).sum::<usize>().saturating_sub(GAP)
        }
    };
    parts.iter().map(of).max().unwrap_or(WIDTH)
}

struct Canvas<'d> {
    definition: &'d Definition,
    saga: Option<&'d State>,
    shapes: String,
}

impl Canvas<'_> {
    /// Draws parts below each other around `middle`, from `top` on; where they end.
    fn sequence(&mut self, parts: &[Part], middle: usize, top: usize) -> usize {
        let mut y = top;
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                let end = y + GAP - 6;
                let _ = writeln!(
                    self.shapes,
                    "<path d=\"M{middle} {y} V{end} m-4 -6 l4 6 l4 -6\" stroke=\"#555\" fill=\"none\"/>"
                );
                y += GAP;
            }
            y = match part {
                Part::Step(at) => self.step(*at, middle, y),
                Part::Together { members, .. } => {
                    let all = width_of(std::slice::from_ref(part));
                    let mut x = middle.saturating_sub(all / 2);
                    let mut bottom = y;
                    for member in members {
                        let width = width_of(member);
                        bottom = bottom.max(self.sequence(member, x + width / 2, y));
                        x += width + GAP;
                    }
                    let (left, height) = (middle.saturating_sub(all / 2 + 8), bottom - y + 16);
                    let _ = writeln!(
                        self.shapes,
                        "<rect x=\"{left}\" y=\"{}\" width=\"{}\" height=\"{height}\" rx=\"10\" \
                         fill=\"none\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>",
                        y - 8,
                        all + 16
                    );
                    bottom
                }
            };
        }
        y
    }

    fn step(&mut self, at: usize, middle: usize, y: usize) -> usize {
        let step = &self.definition.steps[at];
        let x = middle.saturating_sub(WIDTH / 2);
        let does = [&told(step), undone(step)].map(|part: &str| part.to_owned()).join(" · ");
        let colour = match self.saga {
            Some(saga) => colour(saga.cells.get(step.name.as_str()).map(Cell::status)),
            None if step.point_of_no_return => "#ffe0b2",
            None => "#e3f2fd",
        };
        let _ = writeln!(
            self.shapes,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"7\" \
             fill=\"{colour}\" stroke=\"#1565c0\"/>\n\
             {}{}",
            line(&step.name, NAME_SHOWN, middle, y + 22, "font-size=\"14\""),
            line(&does, DOES_SHOWN, middle, y + 42, "font-size=\"11\" fill=\"#555\"")
        );
        y + HEIGHT
    }
}

fn colour(status: Option<StepStatus>) -> &'static str {
    match status {
        None | Some(StepStatus::Waiting | StepStatus::Skipped) => "#f5f5f5",
        Some(StepStatus::Acting | StepStatus::Undoing) => "#fff3c4",
        Some(StepStatus::Done) => "#c8e6c9",
        Some(StepStatus::Refused | StepStatus::Unknown) => "#ffcdd2",
        Some(StepStatus::Undone) => "#e1d5f0",
    }
}

/// A line of text around `middle`; one that is too long for its box is shortened, and whole in its
/// title.
fn line(text: &str, shown: usize, middle: usize, y: usize, style: &str) -> String {
    let text = text.trim_end_matches(" · ");
    let (short, title) = match text.char_indices().nth(shown) {
        None => (escape(text), String::new()),
        Some(_) => {
            let short: String = text.chars().take(shown - 1).collect();
            (format!("{}…", escape(&short)), format!("<title>{}</title>", escape(text)))
        }
    };
    format!("<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\" {style}>{title}{short}</text>\n")
}

fn escape(text: &str) -> String {
    let text = text.trim_end_matches(" · ");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_in_both_drawings() {
        let source = "saga: x\nsteps:\n  - { step: a, post: http://x, undo: { post: http://x } }\n  - together:\n    - { step: b, sleep: 1s }\n    - [ { step: c, sleep: 1s }, { step: d, publish: a.b, no_undo: said } ]\n";
        let definition = Definition::of_yaml(source).unwrap_or_else(|faults| panic!("{faults}"));
        let (svg, mermaid) = (svg(&definition), mermaid(&definition));
        for step in ["a", "b", "c", "d"] {
            assert!(svg.contains(&format!(">{step}</text>")), "{svg}");
            assert!(mermaid.contains(&format!("\"{step}<br/>")), "{mermaid}");
        }
        assert!(mermaid.contains("s1 --> done") && mermaid.contains("s3 --> done"), "{mermaid}");
        assert!(svg.contains("a.b"));
    }

    #[test]
    fn a_name_that_is_too_long_for_its_box_is_shortened_and_whole_in_its_title() {
        let name = "charge-the-card-of-the-customer-once-more";
        let source = format!("saga: x\nsteps:\n  - {{ step: {name}, sleep: 1s }}\n");
        let definition = Definition::of_yaml(&source).unwrap_or_else(|faults| panic!("{faults}"));
        let svg = svg(&definition);
        assert!(
            svg.contains(&format!("<title>{name}</title>charge-the-card-of-the-cu…</text>")),
            "{svg}"
        );
    }
}
