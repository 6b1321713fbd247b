//! What producers and workers saw, in the order in which they saw it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use schemas::Timestamp;
use skald_tests::Lease;

/// One thing that a producer or a worker saw or did.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// The server said that it has the event.
    Accepted { id: String, seq: i64 },
    /// A worker got an event.
    Leased { seq: i64, attempt: i64, until: Timestamp },
    /// A worker is about to say that it is done.
    AckSent { seq: i64, attempt: i64, at: Timestamp },
    /// A worker is about to say that it failed.
    NakSent { seq: i64, attempt: i64, at: Timestamp },
    /// The server answered that.
    AckAnswered { seq: i64, ok: bool },
}

/// A journal that many write at once.
#[derive(Default)]
pub(crate) struct Journal {
    entries: Mutex<Vec<Entry>>,
}

impl Journal {
    pub(crate) fn note(&self, entries: impl IntoIterator<Item = Entry>) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }

    pub(crate) fn leased(&self, leases: &[Lease]) {
        self.note(leases.iter().map(|lease| {
            let until = lease.whole["expires_at"].as_str().unwrap().parse().unwrap();
            Entry::Leased { seq: lease.seq, attempt: lease.attempt, until }
        }));
    }

    pub(crate) fn read(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where each accepted event stands, by its id.
    pub(crate) fn accepted(&self) -> HashMap<String, i64> {
        let mut accepted = HashMap::new();
        for entry in self.read() {
            if let Entry::Accepted { id, seq } = entry {
                let before = accepted.insert(id.clone(), seq);
                assert!(before.is_none_or(|before| before == seq), "{id} stands at two places");
            }
        }
        accepted
    }

    pub(crate) fn accepted_count(&self) -> usize {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| matches!(entry, Entry::Accepted { .. })).count()
    }
}

/// What happened to one event at the workers: positions in the journal.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) leased: Vec<usize>,
    pub(crate) attempts: Vec<i64>,
    pub(crate) acks_sent: Vec<usize>,
    pub(crate) acks_ok: Vec<usize>,
    pub(crate) acks_answered: usize,
}

/// The story of each event, by its seq.
pub(crate) fn stories(entries: &[Entry]) -> BTreeMap<i64, Story> {
    let mut stories: BTreeMap<i64, Story> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        match *entry {
            Entry::Accepted { .. } | Entry::NakSent { .. } => {}
            Entry::Leased { seq, attempt, .. } => {
                let story = stories.entry(seq).or_default();
                story.leased.push(at);
                story.attempts.push(attempt);
            }
            Entry::AckSent { seq, .. } => stories.entry(seq).or_default().acks_sent.push(at),
            Entry::AckAnswered { seq, ok } => {
                let story = stories.entry(seq).or_default();
                story.acks_answered += 1;
                if ok {
                    story.acks_ok.push(at);
                }
            }
        }
    }
    stories
}

/// By the clock that servers on this machine go by.
pub(crate) fn now() -> Timestamp {
    static CLOCK: LazyLock<bus::Clock> = LazyLock::new(bus::Clock::system);
    CLOCK.now()
}
