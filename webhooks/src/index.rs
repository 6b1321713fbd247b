//! Finds the endpoints that an event is for, among any number of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use bus::work::QueueId;
use schemas::Event;

use crate::endpoint::{Endpoint, EndpointId};
use crate::outbound::Outbound;

/// An endpoint and the queue of its deliveries.
pub(crate) struct Entry {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) queue: QueueId,
    /// Made when the first event is posted to it.
    outbound: OnceLock<Arc<Outbound>>,
}

impl Entry {
    pub(crate) fn new(endpoint: Endpoint, queue: QueueId) -> Entry {
        Entry { endpoint: Arc::new(endpoint), queue, outbound: OnceLock::new() }
    }

    /// Whether its events are sent out as soon as there are places: not where nothing is to be sent, nor
    /// where, of one key, each waits for the one before.
    pub(crate) fn is_sent_out(&self) -> bool {
        self.endpoint.disabled_reason.is_none() && !self.endpoint.manner.ordered
    }

    /// The endpoint, ready to be posted to.
    pub(crate) fn outbound(&self, make: impl FnOnce(Arc<Endpoint>) -> Outbound) -> Arc<Outbound> {
        let make = || Arc::new(make(Arc::clone(&self.endpoint)));
        Arc::clone(self.outbound.get_or_init(make))
    }
}

/// All endpoints, by tenant and the tokens of their patterns.
#[derive(Default)]
pub(crate) struct Index {
    /// By number; `None` where an endpoint is gone.
    entries: Vec<Option<Arc<Entry>>>,
    numbers: HashMap<EndpointId, usize>,
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
    /// How many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Adds an endpoint, or puts it in the place of what it was.
    pub(crate) fn put(&mut self, entry: Entry) {
        let number = self.take_out(&entry.endpoint.id).unwrap_or(self.entries.len());
        let root = self.tenants.entry(entry.endpoint.tenant.clone()).or_default();
        for pattern in entry.endpoint.types.iter() {
            root.at(pattern.as_str()).push(number);
        }
        self.numbers.insert(entry.endpoint.id.clone(), number);
        let entry = Some(Arc::new(entry));
        match self.entries.get_mut(number) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
    }

    /// Drops all endpoints but these.
    pub(crate) fn retain(&mut self, ids: &HashSet<EndpointId>) {
        let gone: Vec<EndpointId> =
            self.numbers.keys().filter(|id| !ids.contains(*id)).cloned().collect();
        for id in gone {
            self.take_out(&id);
        }
    }

    /// Takes an endpoint out; its number.
    fn take_out(&mut self, id: &EndpointId) -> Option<usize> {
        let number = self.numbers.remove(id)?;
        let entry = self.entries.get_mut(number)?.take()?;
        if let Some(root) = self.tenants.get_mut(&entry.endpoint.tenant) {
            for pattern in entry.endpoint.types.iter() {
                root.at(pattern.as_str()).retain(|other| *other != number);
            }
        }
        Some(number)
    }

    /// The endpoints that get `event`, each once.
    pub(crate) fn matches(&self, event: &Event) -> Vec<Arc<Entry>> {
        let Some(root) = self.tenants.get(&event.tenant().map(str::to_owned)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        root.find(event.kind.as_str(), &mut found);
        found.sort_unstable();
        found.dedup();
        let entries = found.into_iter().filter_map(|number| self.entries.get(number)?.as_ref());
        // The tree leaves out most; the pattern has the last word, on Skald's own types too.
        entries
            .filter(|entry| {
                entry.endpoint.types.matches(&event.kind) && entry.endpoint.wants(event)
            })
            .map(Arc::clone)
            .collect()
    }
}

impl Node {
    /// The list that endpoints with `pattern` are in.
    fn at(&mut self, pattern: &str) -> &mut Vec<usize> {
        let (token, rest) = split(pattern);
        if token == ">" {
            return &mut self.rest;
        }
        let next = if token == "*" {
            &mut **self.any.get_or_insert_default()
        } else {
            self.tokens.entry(token.into()).or_default()
        };
        match rest {
            Some(rest) => next.at(rest),
            None => &mut next.here,
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
            root.at(pattern).push(number);
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

    #[test]
    fn an_endpoint_that_changed_or_went_is_found_no_more_where_it_was() {
        let event = |kind: &str| {
            Event::new(kind.parse().unwrap(), "/".parse().unwrap(), "1".parse().unwrap())
        };
        let entry = |id: &EndpointId, pattern: &str| {
            Entry::new(Endpoint::sample(id.clone(), pattern), QueueId::from_number(1))
        };
        let (one, other) = (EndpointId::new(), EndpointId::new());
        let mut index = Index::default();
        index.put(entry(&one, "a.*"));
        index.put(entry(&other, "a.b"));
        assert_eq!(index.matches(&event("a.b")).len(), 2);
        index.put(entry(&one, "c.>"));
        assert_eq!(index.matches(&event("a.b")).len(), 1);
        assert_eq!(index.matches(&event("c.d")).len(), 1);
        index.retain(&HashSet::from([one]));
        assert_eq!((index.len(), index.matches(&event("a.b")).len()), (1, 0));
        index.put(entry(&other, "a.b"));
        assert_eq!((index.len(), index.matches(&event("a.b")).len()), (2, 1));
    }
}
