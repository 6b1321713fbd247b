//! Ports for servers that cannot take port 0.

use std::net::TcpListener;

use rand::RngExt as _;

/// A port that nobody listens on, drawn below those that outgoing connections are given: a server may
/// stop and come back to it.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(10_000..20_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
