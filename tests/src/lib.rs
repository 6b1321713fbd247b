//! What the tests of the whole stand on: the real binary in a fresh folder, and hands to use it.
//!
//! `let house = House::start().await` finds the [`binary`], starts it as a `Process` on a free
//! port, and is a [`Client`] of it. A test then speaks HTTP as anyone would, waits with
//! [`eventually`], and may kill, stop and restart the process. When the house is dropped it looks
//! for work that was left behind, and fails the test that did not claim it. [`Nats`] and [`Postgres`]
//! are the servers that nodes share.

pub mod binary;

mod house;
pub use house::{House, Setup};

mod process;

mod left_behind;

mod client;
pub use client::{Call, Client};

mod answer;
pub use answer::Answer;

mod pull;
pub use pull::{Lease, one};

mod event_stream;
pub use event_stream::{EventStream, Message};

mod participant;
mod raw_receiver;
mod receiver;
mod service;
pub use participant::{Call as ParticipantCall, Participant};
pub use raw_receiver::{Misbehaviour, RawReceiver};
pub use receiver::{Received, Receiver};
pub use service::Service;

mod command;
pub use command::{Finished, skald};

mod eventually;
pub use eventually::{DEADLINE, eventually, eventually_within};

mod shifted_clock;
pub use shifted_clock::ShiftedClock;

mod seed;
pub use seed::seed;

mod mount;
pub use mount::SmallDisk;

mod free_port;
use free_port::free_port;

mod browser;
pub use browser::Browser;

mod nats;
pub use nats::Nats;

mod postgres;
pub use postgres::Postgres;

pub mod tree;
