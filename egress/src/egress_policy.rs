//! What outbound HTTP may reach, and how patiently it connects.

use std::net::IpAddr;
use std::time::Duration;

use crate::network::Network;
use crate::proxy::Proxy;
use crate::refused_address::AddressKind;

/// What outbound HTTP may reach, and how patiently it connects.
///
/// Written as `EgressPolicy { allow_private, ..EgressPolicy::DEFAULT }`.
#[derive(Clone, Debug)]
pub struct EgressPolicy {
    /// Which addresses may be reached although they are not on the public internet.
    pub allow_private: PrivateNetworks,
    /// Through which proxy; directly when `None`.
    pub proxy: Option<Proxy>,
    /// How long the name lookup and the connection may take together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept for the next request to the same host.
    pub idle_timeout: Duration,
    /// How many unused connections are kept for each host.
    pub idle_connections_per_host_max: usize,
}

impl EgressPolicy {
    /// The public internet only; 5 s to connect; 1,024 unused connections per host, kept for 30 s.
    pub const DEFAULT: EgressPolicy = EgressPolicy {
        allow_private: PrivateNetworks::Only(Vec::new()),
        proxy: None,
        connect_timeout: Duration::from_secs(5),
        // Load balancers close after 60 s; leaving well before them avoids a race on each reuse.
        idle_timeout: Duration::from_secs(30),
        // An endpoint has at most as many as it is called with at once; many may share a host.
        idle_connections_per_host_max: 1_024,
    };
}

impl Default for EgressPolicy {
    fn default() -> EgressPolicy {
        EgressPolicy::DEFAULT
    }
}

/// Which addresses may be reached although they are not on the public internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateNetworks {
    /// Loopback and private addresses, for development on one machine. Link-local addresses, cloud
    /// metadata services and everything reserved are still refused.
    All,
    /// Exactly these ranges, whatever they hold; empty means the public internet only.
    Only(Vec<Network>),
}

impl PrivateNetworks {
    /// Decides on one address; `Err` says what kind of address is refused.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), AddressKind> {
        let Some(kind) = AddressKind::of(address) else { return Ok(()) };
        let allowed = match self {
            PrivateNetworks::All => kind.is_on_the_own_network(),
            PrivateNetworks::Only(networks) => {
                networks.iter().any(|network| network.contains(address))
            }
        };
        if allowed { Ok(()) } else { Err(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(allow_private: &PrivateNetworks, address: &str) -> bool {
        allow_private.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn development_reaches_private_addresses_but_never_metadata() {
        let all = PrivateNetworks::All;
        for address in
            ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "8.8.8.8"]
        {
            assert!(allows(&all, address), "{address}");
        }
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "64:ff9b::127.0.0.1",
        ] {
            assert!(!allows(&all, address), "{address}");
        }
    }

    #[test]
    fn only_the_configured_networks_are_opened() {
        let some = PrivateNetworks::Only(vec![
            "10.1.0.0/16".parse().unwrap(),
            "169.254.169.254".parse().unwrap(),
        ]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "169.254.169.254", "1.1.1.1"] {
            assert!(allows(&some, address), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "169.254.169.253", "64:ff9b::10.1.2.3"] {
            assert!(!allows(&some, address), "{address}");
        }
    }

    #[test]
    fn nothing_private_is_reached_by_default() {
        assert_eq!(EgressPolicy::DEFAULT.allow_private, PrivateNetworks::Only(Vec::new()));
        assert!(!allows(&EgressPolicy::DEFAULT.allow_private, "127.0.0.1"));
    }
}
