//! Connecting: nothing is connected to that was not checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use crate::egress_policy::PrivateNetworks;
use crate::lookup::Lookup;
use crate::proxy::Proxy;
use crate::refused_address::RefusedAddress;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Looks a name up once, leaves out the addresses that the policy refuses, and connects to one of
/// the others, itself or through a proxy: there is no second lookup whose answer could differ.
#[derive(Clone)]
pub(crate) struct CheckedConnector {
    pub(crate) lookup: Arc<dyn Lookup>,
    pub(crate) allow_private: Arc<PrivateNetworks>,
    pub(crate) proxy: Option<Arc<Proxy>>,
    /// For the lookup and the connection together.
    pub(crate) timeout: Duration,
}

/// The name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
pub(crate) struct LookupFailed(#[source] Option<std::io::Error>);

/// No connection came about in time.
#[derive(Debug, thiserror::Error)]
#[error("not connected within {0:?}")]
struct TooSlow(Duration);

impl Service<Uri> for CheckedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<TokioIo<TcpStream>, Fault>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.connect(&uri).await?)) })
    }
}

impl CheckedConnector {
    async fn connect(&self, uri: &Uri) -> Result<TcpStream, Fault> {
        let deadline = Instant::now() + self.timeout;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let standard = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(standard);
        let addresses = timeout_at(deadline, self.addresses(host)).await;
        let addresses = addresses.map_err(|_| TooSlow(self.timeout))??;
        let mut last: Fault = Box::new(TooSlow(self.timeout));
        for (index, address) in addresses.iter().enumerate() {
            // Each has its share of the time that is left, so that one that is silent leaves some.
            let others = u32::try_from(addresses.len() - index).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / others;
            let dial = self.dial(SocketAddr::new(*address, port));
            match timeout_at(Instant::now() + share, dial).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Box::new(TooSlow(self.timeout)),
            }
        }
        Err(last)
    }

    async fn dial(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        if let Some(proxy) = &self.proxy {
            return proxy.connect(address).await;
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        let answer = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.lookup.lookup(host).await.map_err(|e| LookupFailed(Some(e)))?,
        };
        allowed_addresses(host, answer, &self.allow_private)
    }
}

/// The addresses in `answer` that may be connected to; `Err` if there are none.
fn allowed_addresses(
    host: &str,
    answer: Vec<IpAddr>,
    allow_private: &PrivateNetworks,
) -> Result<Vec<IpAddr>, Fault> {
    let mut allowed = Vec::with_capacity(answer.len());
    let mut refused = None;
    for address in answer {
        match allow_private.check(address) {
            Ok(()) => allowed.push(address),
            Err(kind) => {
                refused.get_or_insert(RefusedAddress { host: host.to_owned(), address, kind });
            }
        }
    }
    match (allowed.is_empty(), refused) {
        (true, Some(refused)) => Err(refused.into()),
        (true, None) => Err(LookupFailed(None).into()),
        (false, Some(refused)) => {
            tracing::debug!(%refused, "left out an address of a host with others");
            Ok(allowed)
        }
        (false, None) => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &[&str]) -> Result<Vec<IpAddr>, String> {
        let answer = answer.iter().map(|address| address.parse().unwrap()).collect();
        allowed_addresses("host.example", answer, &PrivateNetworks::Only(Vec::new()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn refused_addresses_are_left_out_of_a_mixed_answer() {
        let allowed = check(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111"]).unwrap();
        assert_eq!(allowed.len(), 2);
        assert!(
            allowed.iter().all(|address| PrivateNetworks::Only(vec![]).check(*address).is_ok())
        );
    }

    #[test]
    fn an_answer_without_an_allowed_address_is_refused_by_its_first() {
        assert_eq!(
            check(&["169.254.169.254", "10.0.0.1"]).unwrap_err(),
            "host.example is refused: 169.254.169.254 is a cloud metadata service"
        );
        assert_eq!(check(&[]).unwrap_err(), "the name has no address");
    }
}
