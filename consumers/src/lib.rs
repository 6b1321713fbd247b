//! Consumers that come with Skald, and the workers that carry events to programs outside.
//!
//! [`analytics`] turns events into rollups, in batches. [`push`] leases the rows of registered push
//! consumers and posts each event to its URL.

pub mod analytics;
pub mod push;
