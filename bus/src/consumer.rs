//! What a consumer is: a name, the events it wants, and what it does with one or with many.

use std::future::Future;
use std::sync::Arc;

use schemas::{Event, Patterns};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Db, Delivery, Failure, Policy, Recorded, Tx};

/// The data of one type of event.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct OrderPaid {
///     order_id: String,
/// }
///
/// impl bus::DomainEvent for OrderPaid {
///     const TYPE: &'static str = "com.acme.order.paid";
/// }
/// ```
pub trait DomainEvent: DeserializeOwned + Send {
    /// The CloudEvents type; a pattern where several types share their data.
    const TYPE: &'static str;

    /// Reads the data of an event.
    ///
    /// # Errors
    /// The data is not of this shape: a permanent failure, it never heals by itself.
    fn read(event: &Event) -> Result<Self, Failure> {
        event.data_as().map_err(|error| {
            Failure::permanent(format!("the event's data is no {}: {error}", Self::TYPE))
        })
    }
}

/// Takes events of every type as they are.
impl DomainEvent for Event {
    const TYPE: &'static str = ">";

    fn read(event: &Event) -> Result<Event, Failure> {
        Ok(event.clone())
    }
}

/// What a consumer does to the world beside its rows in the database. Replays into one with side
/// effects must be asked for by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SideEffects {
    /// Nothing.
    #[default]
    None,
    /// It sends mail.
    Email,
    /// It calls other services.
    Http,
}

impl SideEffects {
    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SideEffects::None => "none",
            SideEffects::Email => "email",
            SideEffects::Http => "http",
        }
    }
}

/// Handles events one by one, each once: what it writes with `delivery.tx()` commits together with
/// the note that the event is done.
pub trait Consumer: Send + Sync + 'static {
    /// The event it handles.
    type Event: DomainEvent;
    /// Its name. Durable: positions and dead letters belong to it; never renamed, only retired.
    const NAME: &'static str;
    /// How events are tried.
    const POLICY: Policy = Policy::DEFAULT;
    /// What it does beside writing rows.
    const SIDE_EFFECTS: SideEffects = SideEffects::None;

    /// Handles one event. It must not do slow I/O: a whole batch shares the transaction.
    fn handle(
        &self,
        event: Self::Event,
        delivery: &mut Delivery<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Handles events many at a time, for consumers whose rows can be written in bulk. A batch that
/// fails is rolled back and halved until the event at fault is found; it alone is retried.
pub trait BatchConsumer: Send + Sync + 'static {
    /// Its name, as [`Consumer::NAME`].
    const NAME: &'static str;
    /// How events are tried.
    const POLICY: Policy = Policy::DEFAULT;
    /// What it does beside writing rows.
    const SIDE_EFFECTS: SideEffects = SideEffects::None;
    /// Whether its rows are kept per generation, so that they can be built anew from the log while
    /// the old ones serve.
    const REBUILDS: bool = false;
    /// How long it waits for more events before it takes a batch: it trades being up to date for
    /// fewer transactions.
    const LINGER: std::time::Duration = std::time::Duration::ZERO;

    /// Events in one batch at most: few for one that makes many rows of each.
    const BATCH: usize = crate::handler::BATCH;

    /// Which events it wants.
    fn types(&self) -> Patterns;

    /// Whether it can take another batch now; otherwise it is asked again after work has ended, or
    /// after a second.
    fn has_room(&self) -> bool {
        true
    }

    /// Whether [`BatchConsumer::handle`] would do anything with these events. Where it would not, the
    /// position moves without a transaction, and is written once a second. Configuration that decides
    /// is to be read here, after the events were: what it was before they were accepted is seen.
    ///
    /// Where the log may hold an event twice, the second one is asked about anew.
    fn is_concerned(
        &self,
        _events: &[Arc<Recorded>],
        _db: &Db,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        std::future::ready(Ok(true))
    }

    /// Handles the events, which are in order of the log. It must not do slow I/O.
    fn handle(
        &self,
        events: &[Arc<Recorded>],
        generation: i64,
        tx: &mut Tx,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Called when the generation `to` takes over from `from`, in that transaction: carries forward
    /// what can no longer be read from the log (`pruned`: until when, per type) and deletes `from`.
    fn switch(
        &self,
        _tx: &mut Tx,
        _from: i64,
        _to: i64,
        _pruned: &[(schemas::EventType, schemas::Timestamp)],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async { Ok(()) }
    }
}
