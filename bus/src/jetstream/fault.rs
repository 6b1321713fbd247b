//! Whether the stream is still the one that the node started on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{PublishError, ReadError};

/// What is wrong with the stream, once something is. Nothing is published or read after that: what
/// was appended to another stream would stand before the cursors and never be consumed.
#[derive(Clone)]
pub(super) struct Fault(watch::Sender<Option<Arc<str>>>);

impl Fault {
    pub(super) fn none() -> Fault {
        Fault(watch::Sender::new(None))
    }

    /// Notes what is wrong. The first that is noted stays.
    pub(super) fn set(&self, why: &str) {
        self.0.send_if_modified(|fault| {
            if fault.is_some() {
                return false;
            }
            tracing::error!(why, "the log is not what it was");
            *fault = Some(why.into());
            true
        });
    }

    pub(super) fn get(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    pub(super) fn check_read(&self) -> Result<(), ReadError> {
        self.get().map_or(Ok(()), |why| Err(ReadError::Faulty(why)))
    }

    pub(super) fn check_publish(&self) -> Result<(), PublishError> {
        self.get().map_or(Ok(()), |why| Err(PublishError::Faulty(why)))
    }
}
