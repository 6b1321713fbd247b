//! Sagas: writes on several services, all of them done or all undone, through any crash.
//!
//! How one saga travels: a [`Definition`] is data, read and checked from YAML, JSON or Rust.

mod name;
pub use name::{InvalidName, NAME_BYTES_MAX, Name};

mod key;
pub use key::{InvalidKey, KEY_BYTES_MAX};

mod fingerprint;

mod document;
pub use document::{Node, SOURCE_BYTES_MAX, Tree};

pub mod template;

pub mod definition;
pub use definition::Definition;

mod transition;
pub use transition::{IllegalTransition, Operation, Outcome, Reason, Transition};

mod request;
pub use request::{Answer, Call as RequestCall, Request, RequestId};

mod publication;

mod state;
pub use state::{Cell, Half, Start, State, Status, StepStatus, UndoCell};

pub mod planner;

pub mod simulation;

mod definitions;
pub use definitions::{Definitions, RegisterError, Registered, check_children};

pub mod store;

mod lock;

mod metrics;

mod participants;
pub use participants::{Invocation, Methods, Nats, Participants};

pub mod engine;
pub use engine::{Engine, InputError, NewSaga, Options, Running, StartError, Told};

mod on_events;
pub use on_events::StartSagas;

pub mod draw;

mod rust_saga;
pub use rust_saga::{
    ByMethod, Call, Never, RustMethods, RustSaga, Step, StepError, Steps, Undo, Undoes, no_undo,
    step, undo,
};

pub mod barrier;

pub mod service;
