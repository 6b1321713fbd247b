//! Consumers as the runner sees them: one shape for those that take one event, those that take
//! many, and those that hand events on to queues.

use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use schemas::{EventType, Patterns, Timestamp};

use crate::{
    BatchConsumer, Consumer, Db, Delivery, DomainEvent, Failure, Policy, Recorded, SideEffects, Tx,
};

/// Where a consumer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of Skald.
    Builtin,
    /// Part of the program that Skald is a library of.
    Rust,
    /// Registered; a program leases its events.
    Pull,
    /// Registered; its events are posted to a URL.
    Push,
}

impl Kind {
    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Builtin => "builtin",
            Kind::Rust => "rust",
            Kind::Pull => "pull",
            Kind::Push => "push",
        }
    }

    /// The kind of work that its rows are.
    #[must_use]
    pub fn work(self) -> &'static str {
        match self {
            Kind::Builtin | Kind::Rust => "consumer",
            Kind::Pull => "pull",
            Kind::Push => "push",
        }
    }
}

/// What is known of a consumer without running it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from.
    pub kind: Kind,
    /// Which events it wants.
    pub types: Patterns,
    /// How they are tried.
    pub policy: Policy,
    /// What it does beside writing rows.
    pub side_effects: SideEffects,
    /// Whether it can be rebuilt.
    pub rebuilds: bool,
    /// How long it waits for a fuller batch.
    pub linger: Duration,
    /// Events in one batch at most.
    pub batch: usize,
}

/// Events in one batch, where a consumer does not say.
pub(crate) const BATCH: usize = 2_048;

/// One event for a handler.
#[derive(Clone)]
pub struct Item {
    /// The event.
    pub recorded: Arc<Recorded>,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// Whether a replay brought it.
    pub replayed: bool,
}

/// What became of one item of a batch.
#[derive(Debug)]
pub enum Handled {
    /// Its effects are in the transaction.
    Done,
    /// Its effects were taken back.
    Failed(Failure),
    /// It was not tried: an earlier event of its key failed.
    Behind,
}

/// A consumer, whatever its shape.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What is known of it.
    fn spec(&self) -> &Spec;

    /// Handles a batch in `tx`; one answer per item. `ordered` holds back what stands behind a
    /// failure of its key.
    ///
    /// # Errors
    /// The transaction is broken; nothing of the batch counts.
    async fn handle(
        &self,
        items: &[Item],
        generation: i64,
        ordered: bool,
        tx: &mut Tx,
    ) -> Result<Vec<Handled>, sqlx::Error>;

    /// See [`BatchConsumer::is_concerned`].
    ///
    /// # Errors
    /// Those of the database.
    async fn is_concerned(&self, _items: &[Item], _db: &Db) -> Result<bool, sqlx::Error> {
        Ok(true)
    }

    /// Whether it can take more now; otherwise it is asked again after work has ended.
    ///
    /// # Errors
    /// Those of the database.
    async fn has_room(&self, _db: &Db) -> Result<bool, sqlx::Error> {
        Ok(true)
    }

    /// Whether it hands events on to a queue, which then keeps their order.
    fn feeds(&self) -> bool {
        false
    }

    /// See [`BatchConsumer::switch`].
    ///
    /// # Errors
    /// Those of the database.
    async fn switch(
        &self,
        _tx: &mut Tx,
        _from: i64,
        _to: i64,
        _pruned: &[(EventType, Timestamp)],
    ) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

/// A consumer of single events.
pub struct Each<C> {
    consumer: C,
    spec: Spec,
}

impl<C: Consumer> Each<C> {
    /// Wraps `consumer`.
    ///
    /// # Errors
    /// Its event's `TYPE` is no pattern.
    pub fn new(consumer: C, kind: Kind) -> Result<Each<C>, schemas::InvalidPattern> {
        let types = Patterns::from(C::Event::TYPE.parse::<schemas::Pattern>()?);
        let spec = Spec {
            name: C::NAME.into(),
            kind,
            types,
            policy: C::POLICY,
            side_effects: C::SIDE_EFFECTS,
            rebuilds: false,
            linger: Duration::ZERO,
            batch: BATCH,
        };
        Ok(Each { consumer, spec })
    }
}

#[async_trait]
impl<C: Consumer> Handler for Each<C> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn handle(
        &self,
        items: &[Item],
        _generation: i64,
        ordered: bool,
        tx: &mut Tx,
    ) -> Result<Vec<Handled>, sqlx::Error> {
        let mut held = Held::new(ordered);
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            if held.holds(item) {
                answers.push(Handled::Behind);
                continue;
            }
            tx.guard();
            let call = async {
                let event = C::Event::read(&item.recorded.event)?;
                let mut delivery = Delivery {
                    consumer: &self.spec.name,
                    recorded: &item.recorded,
                    attempt: item.attempt,
                    replayed: item.replayed,
                    tx,
                };
                self.consumer.handle(event, &mut delivery).await
            };
            let answer = attempt(call, self.spec.policy.timeout.0).await;
            tx.check()?;
            answers.push(close(tx, answer, item, &mut held).await?);
        }
        Ok(answers)
    }
}

/// A consumer of batches.
pub struct Whole<C> {
    consumer: C,
    spec: Spec,
}

impl<C: BatchConsumer> Whole<C> {
    /// Wraps `consumer`.
    pub fn new(consumer: C, kind: Kind) -> Whole<C> {
        let spec = Spec {
            name: C::NAME.into(),
            kind,
            types: consumer.types(),
            policy: C::POLICY,
            side_effects: C::SIDE_EFFECTS,
            rebuilds: C::REBUILDS,
            linger: C::LINGER,
            batch: C::BATCH,
        };
        Whole { consumer, spec }
    }
}

#[async_trait]
impl<C: BatchConsumer> Handler for Whole<C> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn handle(
        &self,
        items: &[Item],
        generation: i64,
        ordered: bool,
        tx: &mut Tx,
    ) -> Result<Vec<Handled>, sqlx::Error> {
        let mut held = Held::new(ordered);
        let mut answers: Vec<Handled> = items.iter().map(|_| Handled::Behind).collect();
        // Stretches still to do, the next one last, so that order by key is kept while halving.
        let mut stretches = vec![(0..items.len()).collect::<Vec<usize>>()];
        while let Some(mut stretch) = stretches.pop() {
            stretch.retain(|at| !held.holds(&items[*at]));
            let (Some(first), events) = (stretch.first().copied(), pick(items, &stretch)) else {
                continue;
            };
            tx.guard();
            let call = self.consumer.handle(&events, generation, tx);
            let answer = attempt(call, self.spec.policy.timeout.0).await;
            tx.check()?;
            if answer.is_err() && stretch.len() > 1 {
                tx.undo().await?;
                let right = stretch.split_off(stretch.len() / 2);
                stretches.push(right);
                stretches.push(stretch);
                continue;
            }
            let whole = close(tx, answer, &items[first], &mut held).await?;
            if let Handled::Done = whole {
                for at in stretch {
                    answers[at] = Handled::Done;
                }
            } else {
                answers[first] = whole;
            }
        }
        Ok(answers)
    }

    async fn is_concerned(&self, items: &[Item], db: &Db) -> Result<bool, sqlx::Error> {
        let events: Vec<Arc<Recorded>> =
            items.iter().map(|item| Arc::clone(&item.recorded)).collect();
        self.consumer.is_concerned(&events, db).await
    }

    async fn has_room(&self, _db: &Db) -> Result<bool, sqlx::Error> {
        Ok(self.consumer.has_room())
    }

    async fn switch(
        &self,
        tx: &mut Tx,
        from: i64,
        to: i64,
        pruned: &[(EventType, Timestamp)],
    ) -> Result<(), sqlx::Error> {
        self.consumer.switch(tx, from, to, pruned).await
    }
}

fn pick(items: &[Item], stretch: &[usize]) -> Vec<Arc<Recorded>> {
    stretch.iter().map(|at| Arc::clone(&items[*at].recorded)).collect()
}

/// Keys that failed in this batch.
struct Held {
    ordered: bool,
    keys: HashSet<String>,
}

impl Held {
    fn new(ordered: bool) -> Held {
        Held { ordered, keys: HashSet::new() }
    }

    fn holds(&self, item: &Item) -> bool {
        self.ordered && self.keys.contains(item.recorded.event.partition_key())
    }

    /// A permanent failure holds nothing back: it will not be tried again before the rest.
    fn failed(&mut self, item: &Item, failure: &Failure) {
        if self.ordered && !failure.is_permanent() {
            self.keys.insert(item.recorded.event.partition_key().to_owned());
        }
    }
}

/// Runs one call to its end: a panic and too long a time are failures.
async fn attempt(
    call: impl Future<Output = Result<(), Failure>>,
    timeout: Duration,
) -> Result<(), Failure> {
    match tokio::time::timeout(timeout, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(Failure::transient(format!("panicked: {}", message(&*panic)))),
        Err(_) => Err(Failure::transient(format!("took longer than {}", crate::Span(timeout)))),
    }
}

async fn close(
    tx: &mut Tx,
    answer: Result<(), Failure>,
    item: &Item,
    held: &mut Held,
) -> Result<Handled, sqlx::Error> {
    match answer {
        Ok(()) => {
            tx.keep();
            Ok(Handled::Done)
        }
        Err(failure) => {
            tx.undo().await?;
            held.failed(item, &failure);
            Ok(Handled::Failed(failure))
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
