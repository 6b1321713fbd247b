//! Outbound HTTP against real servers on this machine.

mod endpoint;
mod exchanges;
mod proxies;
mod refusals;
