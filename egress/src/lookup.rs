//! Turning a name into addresses.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

/// How many lookups run at once. Each holds a thread until the system gives up on it, seconds
/// after the exchange that asked has timed out: slow name servers must not take every thread.
const LOOKUPS_MAX: usize = 64;

/// Turns a name into addresses. What comes out is checked by the caller.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `host`, in the order to try them. `Err` if there is no answer now.
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// Asks the operating system: its hosts file, its name servers, its order of addresses.
#[derive(Clone, Debug)]
pub struct SystemLookup {
    permits: Arc<Semaphore>,
}

impl SystemLookup {
    /// A lookup with its own bound of 64 at once.
    pub fn new() -> SystemLookup {
        SystemLookup { permits: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Default for SystemLookup {
    fn default() -> SystemLookup {
        SystemLookup::new()
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let permits = Arc::clone(&self.permits);
        let host = host.to_owned();
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            tokio::task::spawn_blocking(move || {
                // Held by the thread, not by the future: a timeout does not free the thread.
                let _permit = permit;
                let addresses = (host.as_str(), 0).to_socket_addrs()?;
                Ok(addresses.map(|address| address.ip()).collect())
            })
            .await
            .map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let addresses = SystemLookup::new().lookup("localhost").await.unwrap();
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
