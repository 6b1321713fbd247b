//! The event: its envelope, its names, and the forms in which it travels.
//!
//! An [`Event`] is a CloudEvent 1.0. Bytes come in through [`http`] or [`nats`] (or
//! [`Event::from_json`]), every attribute is parsed into its type, and all that is wrong is told
//! at once as [`Faults`], each with a JSON pointer. [`Pattern`]s choose events by type, a
//! [`Filter`] by any attribute and by the data. On the way out the data leaves byte for byte as it
//! came in.
//!
//! Nothing here does I/O, reads a clock or draws a random number: ids and times are passed in.

mod fault;
pub use fault::{Fault, Faults};

mod parse_error;
pub use parse_error::ParseError;

mod attribute;
pub use attribute::InvalidAttribute;

mod event_id;
pub use event_id::EventId;

mod source;
pub use source::Source;

mod event_type;
pub use event_type::EventType;

mod timestamp;
pub use timestamp::{InvalidTimestamp, Timestamp};

mod time;
pub use time::Time;

mod extension_name;
pub use extension_name::ExtensionName;

mod extension_value;
pub use extension_value::ExtensionValue;

mod extensions;
pub use extensions::Extensions;

mod data;
pub use data::Data;

mod event;
pub use event::Event;

mod pattern;
pub use pattern::{InvalidPattern, Pattern};

mod patterns;
pub use patterns::Patterns;

mod filter;
pub use filter::Filter;

pub mod http;
pub mod nats;

mod draft;
mod header_value;
mod json;
mod media_type;
mod uri;

#[doc(hidden)]
pub mod fuzzing;
