//! Finds the endpoints that an event is for, among any number of them.

use std::collections::HashMap;

use bus::work::QueueId;
use schemas::Event;

use crate::endpoint::Endpoint;

/// An endpoint and the queue of its deliveries.
pub(crate) struct Entry {
    pub(crate) endpoint: Endpoint,
    pub(crate) queue: QueueId,
}

/// All endpoints, by tenant and the tokens of their patterns.
#[derive(Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    tenants: HashMap<Option<String>, Node>,
}

/// Where the patterns are that share the tokens so far.
#[derive(Default)]
struct Node {
    tokens: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    /// Endpoints with a pattern that ends here.
    here: Vec<usize>,
    /// Endpoints with a pattern whose last token is `>`.
    rest: Vec<usize>,
}

impl Index {
    pub(crate) fn new(entries: Vec<Entry>) -> Index {
        let mut tenants: HashMap<Option<String>, Node> = HashMap::new();
        for (number, entry) in entries.iter().enumerate() {
            let root = tenants.entry(entry.endpoint.tenant.clone()).or_default();
            for pattern in entry.endpoint.types.iter() {
                root.insert(pattern.as_str(), number);
            }
        }
        Index { entries, tenants }
    }

    /// The endpoints that get `event`, each once.
    pub(crate) fn matches(&self, event: &Event) -> Vec<&Entry> {
        let Some(root) = self.tenants.get(&event.tenant().map(str::to_owned)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        root.find(event.kind.as_str(), &mut found);
        found.sort_unstable();
        found.dedup();
        let entries = found.into_iter().filter_map(|number| self.entries.get(number));
        // The tree leaves out most; the pattern has the last word, on Skald's own types too.
        entries
            .filter(|entry| {
                entry.endpoint.types.matches(&event.kind) && entry.endpoint.wants(event)
            })
            .collect()
    }
}

impl Node {
    fn insert(&mut self, pattern: &str, number: usize) {
        let (token, rest) = split(pattern);
        if token == ">" {
            self.rest.push(number);
            return;
        }
        let next = if token == "*" {
            self.any.get_or_insert_default()
        } else {
            self.tokens.entry(token.into()).or_default()
        };
        match rest {
            Some(rest) => next.insert(rest, number),
            None => next.here.push(number),
        }
    }

    fn find(&self, kind: &str, found: &mut Vec<usize>) {
        found.extend(&self.rest);
        let (token, rest) = split(kind);
        for next in self.tokens.get(token).into_iter().chain(self.any.as_deref()) {
            match rest {
                Some(rest) => next.find(rest, found),
                None => found.extend(&next.here),
            }
        }
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(token, rest)| (token, Some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_finds_what_the_patterns_match() {
        let patterns = ["a.b", "a.*", "a.>", ">", "*.b", "a.b.c", "b", "*"];
        let mut root = Node::default();
        for (number, pattern) in patterns.iter().enumerate() {
            root.insert(pattern, number);
        }
        for kind in ["a", "a.b", "a.b.c", "b", "x.b", "x.y.z"] {
            let mut found = Vec::new();
            root.find(kind, &mut found);
            let kind: schemas::EventType = kind.parse().unwrap();
            let wanted = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| pattern.parse::<schemas::Pattern>().unwrap().matches(&kind));
            for (number, pattern) in wanted {
                assert!(found.contains(&number), "{pattern} for {kind}");
            }
        }
        let mut found = Vec::new();
        root.find("x.y.z", &mut found);
        assert_eq!(found, [3]);
    }
}
