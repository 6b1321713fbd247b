//! Reads a mapping member by member, gathering every fault with its line and its path.

use std::str::FromStr;
use std::time::Duration;

use bus::Span;
use schemas::Faults;
use serde_json::Value;

use crate::document::{Node, Tree, escape};
use crate::template::Template;

/// A mapping whose members are taken one by one; what is left in the end is unknown.
pub(super) struct Members<'n> {
    pub(super) path: String,
    pub(super) line: usize,
    left: Vec<(&'n str, &'n Node)>,
    known: Vec<&'static str>,
}

impl<'n> Members<'n> {
    /// The members of `node`; `None`, with a fault, when it is no mapping.
    pub(super) fn of(node: &'n Node, path: &str, faults: &mut Faults) -> Option<Members<'n>> {
        let Tree::Map(members) = &node.tree else {
            told(faults, path, node.line, "must be a mapping");
            return None;
        };
        let left = members.iter().map(|(name, node)| (name.as_str(), node)).collect();
        Some(Members { path: path.to_owned(), line: node.line, left, known: Vec::new() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.left.iter().any(|(known, _)| *known == name)
    }

    pub(super) fn at(&self, name: &str) -> String {
        format!("{}/{}", self.path, escape(name))
    }

    /// Tells a fault of the mapping itself.
    pub(super) fn fault(&self, faults: &mut Faults, detail: &str) {
        told(faults, &self.path, self.line, detail);
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        let at = self.left.iter().position(|(known, _)| *known == name)?;
        Some(self.left.remove(at).1)
    }

    pub(super) fn text(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'n str> {
        let node = self.take(name)?;
        match &node.tree {
            Tree::Text(text) if !text.is_empty() => Some(text),
            _ => {
                told(faults, &self.at(name), node.line, "must be a string that is not empty");
                None
            }
        }
    }

    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
    ) -> Option<T> {
        let line = self.line_of(name);
        let text = self.text(name, faults)?;
        let fail = |error: T::Err| told(faults, &self.at(name), line, &error.to_string());
        text.parse().map_err(fail).ok()
    }

    pub(super) fn duration(&mut self, name: &'static str, faults: &mut Faults) -> Option<Duration> {
        self.parsed::<Span>(name, faults).map(|span| span.0)
    }

    pub(super) fn flag(&mut self, name: &'static str, faults: &mut Faults) -> bool {
        let Some(node) = self.take(name) else { return false };
        match node.tree {
            Tree::Plain(Value::Bool(truth)) => truth,
            _ => {
                told(faults, &self.at(name), node.line, "must be true or false");
                false
            }
        }
    }

    pub(super) fn count(
        &mut self,
        name: &'static str,
        most: u32,
        faults: &mut Faults,
    ) -> Option<u32> {
        let node = self.take(name)?;
        let number = match &node.tree {
            Tree::Plain(Value::Number(number)) => number.as_u64(),
            _ => None,
        };
        let found = number.and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        if found.is_none() {
            let detail = format!("must be a whole number from 1 to {most}");
            told(faults, &self.at(name), node.line, &detail);
        }
        found
    }

    pub(super) fn template(&mut self, name: &'static str, faults: &mut Faults) -> Option<Template> {
        let node = self.take(name)?;
        template(node, &self.at(name), faults)
    }

    pub(super) fn list(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'n [Node]> {
        let node = self.take(name)?;
        match &node.tree {
            Tree::List(items) if !items.is_empty() => Some(items),
            _ => {
                told(faults, &self.at(name), node.line, "must be a list with at least one item");
                None
            }
        }
    }

    pub(super) fn line_of(&self, name: &str) -> usize {
        self.left.iter().find(|(known, _)| *known == name).map_or(self.line, |(_, node)| node.line)
    }

    /// Names that could have stood here, for hints.
    pub(super) fn knows(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Tells of every member that nothing took.
    pub(super) fn finish(self, faults: &mut Faults) {
        for (name, node) in &self.left {
            let near = self.known.iter().find(|known| is_near(known, name));
            let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            let detail = format!("`{name}` is unknown here{hint}");
            told(faults, &self.at(name), node.line, &detail);
        }
    }
}

/// A fault with its line, where there is one.
pub fn told(faults: &mut Faults, path: &str, line: usize, detail: &str) {
    if line == 0 {
        faults.push(path, detail);
    } else {
        faults.push(path, format!("line {line}: {detail}"));
    }
}

/// JSON with expressions.
pub(super) fn template(node: &Node, path: &str, faults: &mut Faults) -> Option<Template> {
    let found = match &node.tree {
        Tree::Plain(value) => Template::Constant(value.clone()),
        Tree::Text(text) => match Template::of_text(text) {
            Ok(template) => template,
            Err(detail) => {
                told(faults, path, node.line, &detail);
                return None;
            }
        },
        Tree::List(items) => {
            let mut found = Vec::new();
            for (at, item) in items.iter().enumerate() {
                found.extend(template(item, &format!("{path}/{at}"), faults));
            }
            Template::List(found)
        }
        Tree::Map(members) => {
            let mut found = Vec::new();
            for (name, value) in members {
                let value = template(value, &format!("{path}/{}", escape(name)), faults);
                found.extend(value.map(|value| (name.clone(), value)));
            }
            Template::Map(found)
        }
    };
    Some(constant(found, node))
}

/// A tree without expressions is one constant.
fn constant(template: Template, node: &Node) -> Template {
    let all = match &template {
        Template::List(items) => items.iter().all(|item| item.constant().is_some()),
        Template::Map(members) => members.iter().all(|(_, value)| value.constant().is_some()),
        _ => false,
    };
    if all { Template::Constant(node.to_json()) } else { template }
}

/// Whether two names differ in at most two letters: one was meant to be the other.
pub(super) fn is_near(a: &str, b: &str) -> bool {
    if a.len().abs_diff(b.len()) > 2 || a.len() < 3 {
        return false;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()] <= 2
}
