//! Wake-ups between the tasks of one process: a commit that leaves something to do says so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Work was enqueued or set free.
pub const WORK: &str = "work";
/// Events were staged.
pub const OUTBOX: &str = "outbox";
/// A configuration changed.
pub const CONFIG: &str = "config";
/// A replay was started or changed, or one of its rows ended.
pub const REPLAY: &str = "replay";
/// Work ended.
pub const OUTCOME: &str = "outcome";

/// Topics that tasks wait on. A wake-up is never lost: a receiver sees every notify since it last
/// looked.
#[derive(Default)]
pub struct Signals {
    topics: Mutex<HashMap<&'static str, watch::Sender<u64>>>,
}

impl Signals {
    /// Wakes all who wait on `topic`.
    pub fn notify(&self, topic: &'static str) {
        self.with(topic, |sender| sender.send_modify(|count| *count = count.wrapping_add(1)));
    }

    /// Something to wait on: `changed()` returns after the next notify.
    #[must_use]
    pub fn subscribe(&self, topic: &'static str) -> watch::Receiver<u64> {
        self.with(topic, watch::Sender::subscribe)
    }

    fn with<T>(&self, topic: &'static str, f: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        f(topics.entry(topic).or_insert_with(|| watch::Sender::new(0)))
    }
}
