//! The log and everything that moves events durably: publish, consume, retry, replay.
//!
//! How one event travels: a producer's event enters the [`Log`] (`embedded`: `writer` commits it
//! with others and answers) → a `runner` per consumer reads it, hands it to the [`Consumer`] in a
//! transaction on the [`Db`], and commits effects and cursor together → what failed is a row of
//! [`work`], tried again by `retries`, at last a [`dead_letter`] → what the consumer decided to
//! publish is staged in the [`outbox`], relayed to the log, and consumed in turn. A [`replay`]
//! hands events of the past over again.

mod seq;
pub use seq::{InvalidSeq, Seq};

mod clock;
pub use clock::Clock;

mod duration;
pub use duration::{InvalidSpan, Span};

mod rate;
pub use rate::{InvalidRate, Rate};

pub mod log;
pub use log::{
    Log, LogState, PAGE_BYTES_MAX, Page, Pruned, PublishError, Read, ReadError, Receipt, Recorded,
    Retention,
};

mod tail;
pub use tail::tail;

mod chain;
pub use chain::chain;

mod partition;
pub use partition::{PARTITIONS, partition_of, partition_of_key};

mod metrics;

mod span;

#[cfg(any(feature = "embedded", feature = "jetstream"))]
mod recent;

#[cfg(feature = "jetstream")]
pub mod jetstream;
#[cfg(feature = "jetstream")]
pub use jetstream::{JetStreamLog, JetStreamOptions};

#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "embedded")]
pub use embedded::EmbeddedLog;

#[cfg(feature = "database")]
pub mod bulk;

pub mod signals;
pub use signals::Signals;

#[cfg(feature = "database")]
mod checkpoint;
#[cfg(feature = "database")]
mod db;
#[cfg(feature = "database")]
pub use db::{Db, DbError, Dialect, Found, Query, built, sql, yields};

#[cfg(feature = "database")]
mod migrate;

#[cfg(feature = "database")]
mod tx;
#[cfg(feature = "database")]
pub use tx::{StageError, Tx};

#[cfg(feature = "database")]
pub mod seal;
#[cfg(feature = "database")]
pub use seal::Seal;

#[cfg(feature = "database")]
mod failure;
#[cfg(feature = "database")]
pub use failure::{Failure, Permanent};

#[cfg(feature = "database")]
mod policy;
#[cfg(feature = "database")]
pub use policy::{Next, Policy};

#[cfg(feature = "database")]
mod consumer;
#[cfg(feature = "database")]
pub use consumer::{BatchConsumer, Consumer, DomainEvent, SideEffects};

#[cfg(feature = "database")]
mod delivery;
#[cfg(feature = "database")]
pub use delivery::Delivery;

#[cfg(feature = "database")]
mod handler;
#[cfg(feature = "database")]
pub use handler::{Each, Handled, Handler, Item, Kind, Spec, Whole};

#[cfg(feature = "database")]
pub mod work;

#[cfg(feature = "database")]
pub mod registry;
#[cfg(feature = "database")]
pub use registry::{ConsumerName, InvalidName, Registration};

#[cfg(feature = "database")]
mod assignment;

#[cfg(feature = "database")]
mod node;
#[cfg(feature = "database")]
pub use node::{LEASE as NODE_LEASE, NodeId, RENEW as NODE_RENEW};

#[cfg(feature = "database")]
mod coverage;
#[cfg(feature = "database")]
pub use coverage::{Coverage, Progress};

#[cfg(feature = "database")]
mod runner;

#[cfg(feature = "database")]
mod retries;

#[cfg(feature = "database")]
pub mod pull;

#[cfg(feature = "database")]
mod courier;
#[cfg(feature = "database")]
pub use courier::{Answer, Arrival, Courier, Dispatcher, Landed, Landings, Parcel, Round, Trip};

#[cfg(feature = "database")]
pub mod dead_letter;

#[cfg(feature = "database")]
pub mod outbox;

#[cfg(feature = "database")]
pub mod lineage;

#[cfg(feature = "database")]
pub mod replay;

#[cfg(feature = "database")]
mod replay_target;
#[cfg(feature = "database")]
pub use replay_target::{ReplayTarget, Taken};

#[cfg(feature = "database")]
mod replayer;

#[cfg(feature = "database")]
pub mod duty;

#[cfg(feature = "database")]
mod inbox;

#[cfg(feature = "database")]
pub mod ingest;

#[cfg(feature = "database")]
pub mod identity;
#[cfg(feature = "database")]
pub use identity::LogIdentityError;

#[cfg(feature = "database")]
pub mod transfer;

#[cfg(all(feature = "database", feature = "embedded"))]
pub mod backup;

#[cfg(feature = "database")]
mod housekeeping;

#[cfg(feature = "database")]
mod platform;
#[cfg(feature = "database")]
pub use platform::{PARTS, Platform, Running, StartError};
