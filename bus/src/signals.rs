//! Wake-ups between tasks: a commit that leaves something to do says so, to the tasks of its own
//! process and, where nodes share a broker, to those of the others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, watch};

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
/// A saga was started, or something for it came in.
pub const SAGA: &str = "saga";
/// A saga ended or is stuck.
pub const SAGA_ENDED: &str = "saga-ended";

/// Topics that tasks wait on. Within a process a wake-up is never lost: a receiver sees every notify
/// since it last looked. To other nodes it may be, so whoever waits looks once a second anyway.
#[derive(Default)]
pub struct Signals {
    topics: Mutex<HashMap<&'static str, watch::Sender<u64>>>,
    /// Topics that other nodes have not been told of yet.
    untold: Mutex<BTreeSet<&'static str>>,
    told: Notify,
}

impl Signals {
    /// Wakes all who wait on `topic`, here and on other nodes.
    pub fn notify(&self, topic: &'static str) {
        self.wake(topic);
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.insert(topic) {
            self.told.notify_one();
        }
    }

    /// Wakes those who wait here on a topic that another node told of, if anybody does.
    pub fn arrived(&self, topic: &str) {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = topics.get(topic) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The topics to tell other nodes of, as soon as there are any.
    pub async fn untold(&self) -> Vec<&'static str> {
        loop {
            let untold = {
                let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *untold)
            };
            if !untold.is_empty() {
                return untold.into_iter().collect();
            }
            self.told.notified().await;
        }
    }

    fn wake(&self, topic: &'static str) {
        self.with(topic, |sender| sender.send_modify(|count| *count = count.wrapping_add(1)));
    }

    /// How often those who wait on `topic` were woken.
    #[cfg(feature = "database")]
    pub(crate) fn count(&self, topic: &'static str) -> u64 {
        self.with(topic, |sender| *sender.borrow())
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
