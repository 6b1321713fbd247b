//! Callers that wait for the end of sagas.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

/// Who waits for which saga.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: Mutex<HashMap<String, Vec<Weak<Waiter>>>>,
}

/// One caller.
#[derive(Default)]
pub(crate) struct Waiter {
    /// Which rest, and whether each has ended or is only stuck.
    rests: Mutex<Vec<(String, bool)>>,
    told: Notify,
}

impl Waiters {
    /// A waiter for all of `ids`. Nothing that ends from now on is missed.
    pub(crate) fn register(&self, ids: &[String]) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter::default());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            let known = waiting.entry(id.clone()).or_default();
            known.retain(|waiter| waiter.strong_count() > 0);
            known.push(Arc::downgrade(&waiter));
        }
        if waiting.len() > 10_000 {
            waiting.retain(|_, known| known.iter().any(|waiter| waiter.strong_count() > 0));
        }
        waiter
    }

    /// Tells those who wait for `id` that it has ended, or is stuck.
    pub(crate) fn tell(&self, id: &str, has_ended: bool) {
        let known = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.remove(id).unwrap_or_default()
        };
        for waiter in known.iter().filter_map(Weak::upgrade) {
            let mut rests = waiter.rests.lock().unwrap_or_else(PoisonError::into_inner);
            rests.push((id.to_owned(), has_ended));
            drop(rests);
            waiter.told.notify_one();
        }
    }
}

impl Waiter {
    /// Returns when all of `ids` have been told of: those that are only stuck.
    pub(crate) async fn all(&self, ids: &[String]) -> Vec<String> {
        loop {
            {
                let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
                if ids.iter().all(|id| rests.iter().any(|(known, _)| known == id)) {
                    let stuck = rests.iter().filter(|(_, has_ended)| !has_ended);
                    return stuck.map(|(id, _)| id.clone()).collect();
                }
            }
            self.told.notified().await;
        }
    }
}
