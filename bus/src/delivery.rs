//! One event on its way through one consumer.

use schemas::Event;

use crate::{Failure, Permanent, Recorded, Seq, Tx};

/// What a consumer is given beside the event's data.
pub struct Delivery<'a> {
    pub(crate) consumer: &'a str,
    pub(crate) recorded: &'a Recorded,
    pub(crate) attempt: i64,
    pub(crate) replayed: bool,
    pub(crate) tx: &'a mut Tx,
}

impl Delivery<'_> {
    /// The transaction that commits together with the note that this event is done. A failure
    /// takes back what was written with it for this event.
    pub fn tx(&mut self) -> &mut Tx {
        self.tx
    }

    /// The event itself.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.recorded.event
    }

    /// Where it stands in the log.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.recorded.seq
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> i64 {
        self.attempt
    }

    /// Whether a replay brought it.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// The same for every attempt at this event by this consumer, and for no other: for effects
    /// outside the database.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        let Event { source, id, .. } = &self.recorded.event;
        format!("{}/{source}/{id}", self.consumer)
    }

    /// Publishes `event` if, and only if, this one is done, with this one as its cause.
    ///
    /// # Errors
    /// The log would refuse it: it never heals, so the failure is permanent.
    pub fn publish(&mut self, event: Event) -> Result<(), Failure> {
        self.tx.stage(&crate::lineage::caused_by(event, &self.recorded.event)).permanent()
    }
}
