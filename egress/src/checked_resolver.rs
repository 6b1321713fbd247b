//! The resolver inside the connector: nothing is connected to that it has not let through.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::egress_policy::PrivateNetworks;
use crate::lookup::Lookup;
use crate::refused_address::RefusedAddress;

/// Looks a name up once and passes on only the addresses that the policy allows.
///
/// The connector asks it for every new connection and connects to what it returns, so there is no
/// second lookup whose answer could differ. Literal addresses never come here.
pub(crate) struct CheckedResolver {
    pub(crate) lookup: Arc<dyn Lookup>,
    pub(crate) allow_private: Arc<PrivateNetworks>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let answer = self.lookup.lookup(&host);
        let allow_private = Arc::clone(&self.allow_private);
        Box::pin(async move {
            let allowed = allowed_addresses(&host, answer.await?, &allow_private)?;
            // Port 0 stands for the port of the URL.
            let addresses = allowed.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// The addresses in `answer` that may be connected to; `Err` if there are none.
fn allowed_addresses(
    host: &str,
    answer: Vec<IpAddr>,
    allow_private: &PrivateNetworks,
) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
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
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "no addresses").into()),
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
        assert_eq!(check(&[]).unwrap_err(), "no addresses");
    }
}
