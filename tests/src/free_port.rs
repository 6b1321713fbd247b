//! Ports for servers that cannot take port 0.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use rand::RngExt as _;

static DRAWN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on and that was not drawn before, below those that outgoing connections
/// are given: a server may start later than it is told of, or stop and come back.
pub(crate) fn free_port() -> u16 {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let drawn = drawn.get_or_insert_default();
    loop {
        let port = rand::rng().random_range(10_000..20_000);
        if !drawn.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            drawn.insert(port);
            return port;
        }
    }
}
