//! The leases that workers were given by two nodes: never two at once on one event, each event done
//! once, those of a key one after the other.
//!
//! The two nodes' answers reach the workers in any order (one that was paused answers late), so leases
//! are put into the order of their attempts, and compared by the times at which they were given.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::load::journal::{Entry, Journal};
use crate::load::workers::LEASE_US;

/// The clocks of two processes on one machine, which follow the database's, may differ by this.
const CLOCKS_US: i64 = 100_000;

/// One event at the workers.
#[derive(Debug, Default)]
struct Story {
    /// When each attempt's lease was given and ends, by the attempt.
    leases: BTreeMap<i64, (i64, i64)>,
    /// When a worker was about to answer for an attempt, at the earliest.
    answered: BTreeMap<i64, i64>,
    first_ack: Option<i64>,
    acks_ok: usize,
    acks_open: usize,
}

/// What was seen beside what must hold.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Events that were leased more than once: at least once is what leases promise.
    pub(crate) repeated: usize,
    /// Leases in all.
    pub(crate) leases: usize,
}

/// Checks what the workers saw of all events in the log.
pub(crate) fn assert_one_at_a_time_and_in_order(log: &[Value], journal: &Journal) -> Seen {
    let stories = stories(journal);
    let mut keys: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut seen = Seen::default();
    for item in log {
        let seq = item["seq"].as_i64().unwrap();
        keys.entry(item["event"]["subject"].as_str().unwrap()).or_default().push(seq);
        let story = stories.get(&seq).unwrap_or_else(|| panic!("{seq} was never leased"));
        assert_one_at_a_time(seq, story);
        assert!(story.acks_ok <= 1, "{seq} was done twice: {story:?}");
        assert!(story.acks_ok + story.acks_open > 0, "{seq} was never done: {story:?}");
        seen.leases += story.leases.len();
        seen.repeated += usize::from(story.leases.len() > 1);
    }
    for (key, seqs) in keys {
        for pair in seqs.windows(2) {
            assert_one_after_the_other(
                key,
                (pair[0], &stories[&pair[0]]),
                (pair[1], &stories[&pair[1]]),
            );
        }
    }
    seen
}

fn stories(journal: &Journal) -> BTreeMap<i64, Story> {
    let mut stories: BTreeMap<i64, Story> = BTreeMap::new();
    for entry in journal.read() {
        match entry {
            Entry::Accepted { .. } => {}
            Entry::Leased { seq, attempt, until } => {
                let until = until.as_micros();
                let before = stories
                    .entry(seq)
                    .or_default()
                    .leases
                    .insert(attempt, (until - LEASE_US, until));
                assert!(before.is_none(), "attempt {attempt} at {seq} was leased to two");
            }
            Entry::AckSent { seq, attempt, at } => {
                let story = stories.entry(seq).or_default();
                story.answered.entry(attempt).or_insert(at.as_micros());
                story.first_ack.get_or_insert(at.as_micros());
                story.acks_open += 1;
            }
            Entry::NakSent { seq, attempt, at } => {
                stories.entry(seq).or_default().answered.entry(attempt).or_insert(at.as_micros());
            }
            Entry::AckAnswered { seq, ok } => {
                let story = stories.entry(seq).or_default();
                story.acks_open -= 1;
                story.acks_ok += usize::from(ok);
            }
        }
    }
    stories
}

/// No lease is given before the one before it has ended, or its holder was about to give it back.
fn assert_one_at_a_time(seq: i64, story: &Story) {
    let mut before: Option<(i64, i64)> = None;
    for (attempt, (given, until)) in &story.leases {
        if let Some((earlier, ended)) = before {
            assert!(
                given + CLOCKS_US >= ended,
                "attempts {earlier} and {attempt} at {seq} were leased at once: {story:?}"
            );
        }
        let answered = story.answered.get(attempt).copied().unwrap_or(i64::MAX);
        before = Some((*attempt, answered.min(*until)));
    }
}

/// `later` is leased only when a worker was about to say that `earlier` is done, and from then on
/// `earlier` is not leased any more.
fn assert_one_after_the_other(key: &str, earlier: (i64, &Story), later: (i64, &Story)) {
    let (first, _) = later.1.leases.values().next().expect("a lease");
    let (last, _) = earlier.1.leases.values().next_back().expect("a lease");
    let done = earlier.1.first_ack.expect("an ack");
    let what = || format!("{key}: {earlier:?} and {later:?}");
    assert!(done <= first + CLOCKS_US, "the later one was leased too early: {}", what());
    assert!(*last <= first + CLOCKS_US, "the earlier one was leased again: {}", what());
}
