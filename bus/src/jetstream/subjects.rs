//! Patterns of types as subjects that a server filters by.

use schemas::{EventType, Patterns};

use super::message::subject_of;
use crate::log::INVALID_MESSAGE;

/// All events.
pub(super) const ALL: &str = "events.>";
/// Skald's own, which wildcards of patterns do not mean.
const RESERVED: [&str; 2] = ["events.dev.skald", "events.dev.skald.>"];

/// The subjects of all messages that `types` may mean: the server's filter lets through at least
/// those, and the patterns decide. Messages that are no events stand at any subject, so whoever
/// wants to hear of them reads everything.
pub(super) fn of(types: &Patterns) -> Vec<String> {
    let everything = || vec![ALL.to_owned()];
    if types.matches(&EventType::from_trusted(INVALID_MESSAGE.into())) {
        return everything();
    }
    of_events(types).unwrap_or_else(everything)
}

/// The subjects of all valid events that `types` may mean, none of which overlap; `None` when that
/// cannot be said, since a server refuses filters that overlap.
pub(super) fn of_events(types: &Patterns) -> Option<Vec<String>> {
    let mut subjects: Vec<String> = Vec::new();
    for pattern in types.iter() {
        let subject = subject_of(pattern.as_str());
        if subjects.iter().any(|known| covers(known, &subject)) {
            continue;
        }
        subjects.retain(|known| !covers(&subject, known));
        if subjects.iter().any(|known| overlap(known, &subject)) {
            return None;
        }
        subjects.push(subject);
    }
    Some(subjects)
}

/// Skald's own subjects that wildcards among `subjects` cover and no pattern means.
pub(super) fn not_meant(subjects: &[String], types: &Patterns) -> Vec<String> {
    let meant = |own: &str| {
        let mut patterns = types.iter().map(|pattern| subject_of(pattern.as_str()));
        patterns.any(|subject| subject.starts_with(RESERVED[0]) && covers(&subject, own))
    };
    let covered = |own: &str| subjects.iter().any(|subject| covers(subject, own));
    let not_meant = RESERVED.into_iter().filter(|own| covered(own) && !meant(own));
    not_meant.map(str::to_owned).collect()
}

/// Whether every subject that `inner` matches is matched by `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

/// Whether some subject is matched by both.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn filters_never_overlap() {
        assert_eq!(of(&patterns(&["a.b", "a.*", "c.>"])), ["events.a.*", "events.c.>"]);
        assert_eq!(of(&patterns(&["a.*", "*.b"])), [ALL]);
        assert_eq!(of(&patterns(&["a.b", "a.b.c"])), ["events.a.b", "events.a.b.c"]);
    }

    #[test]
    fn messages_that_are_no_events_are_looked_for_everywhere() {
        assert_eq!(of(&patterns(&["dev.skald.>"])), [ALL]);
        assert_eq!(of(&patterns(&["dev.skald.saga.*"])), ["events.dev.skald.saga.*"]);
    }

    #[test]
    fn what_wildcards_do_not_mean_is_known() {
        let not_meant = |types: &Patterns| not_meant(&of_events(types).unwrap(), types);
        assert_eq!(not_meant(&Patterns::any()), RESERVED);
        assert!(not_meant(&Patterns::everything()).is_empty());
        assert!(not_meant(&patterns(&["a.>"])).is_empty());
        assert!(not_meant(&patterns(&["dev.skald.saga.>"])).is_empty());
    }
}
