//! Addresses that are not on the public internet, and why.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address that the policy does not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is refused: {address} is {kind}")]
pub struct RefusedAddress {
    /// The host of the URL: a name or the address itself.
    pub host: String,
    /// The address that was refused; of several, the first in the answer.
    pub address: IpAddr,
    /// What is wrong with it.
    pub kind: AddressKind,
}

/// What an address is for, when it is not for the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressKind {
    /// This machine: `127.0.0.0/8`, `::1`.
    Loopback,
    /// The own network: `10/8`, `172.16/12`, `192.168/16`, `fc00::/7`, the old `fec0::/10`.
    Private,
    /// Shared between a provider and its customers: `100.64.0.0/10`.
    CarrierGrade,
    /// A service that hands credentials to machines in a cloud, wherever its address lies.
    CloudMetadata,
    /// One cable only: `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// No address at all; many systems take it for this machine: `0.0.0.0/8`, `::`.
    Unspecified,
    /// Many machines at once: `224.0.0.0/4`, `ff00::/8`, `255.255.255.255`.
    Multicast,
    /// Set aside by IANA: documentation, benchmarks, protocol assignments, future use.
    Reserved,
    /// An IPv6 form that carries an IPv4 address on to a network that cannot be checked, or that
    /// carries one that would itself be refused: NAT64, 6to4, Teredo, ISATAP, IPv4-compatible.
    Tunnel,
}

impl AddressKind {
    /// The kind of `address`, or `None` if it is on the public internet.
    pub(crate) fn of(address: IpAddr) -> Option<AddressKind> {
        match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }

    /// Whether developers have services of their own at such addresses.
    pub(crate) fn is_on_the_own_network(self) -> bool {
        match self {
            AddressKind::Loopback | AddressKind::Private | AddressKind::CarrierGrade => true,
            AddressKind::CloudMetadata
            | AddressKind::LinkLocal
            | AddressKind::Unspecified
            | AddressKind::Multicast
            | AddressKind::Reserved
            | AddressKind::Tunnel => false,
        }
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AddressKind::Loopback => "a loopback address",
            AddressKind::Private => "a private address",
            AddressKind::CarrierGrade => "a carrier-grade NAT address",
            AddressKind::CloudMetadata => "a cloud metadata service",
            AddressKind::LinkLocal => "a link-local address",
            AddressKind::Unspecified => "an unspecified address",
            AddressKind::Multicast => "a multicast or broadcast address",
            AddressKind::Reserved => "a reserved address",
            AddressKind::Tunnel => "an IPv6 address that leads to another network",
        })
    }
}

/// Azure's is a public address that every virtual machine there finds at the host below it;
/// Alibaba's and Oracle's lie in ranges that may be opened for other reasons.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Amazon's (instances, containers) and Google's lie among the private addresses.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn of_v4(address: Ipv4Addr) -> Option<AddressKind> {
    if METADATA_V4.contains(&address) {
        return Some(AddressKind::CloudMetadata);
    }
    match address.octets() {
        [0, ..] => Some(AddressKind::Unspecified),
        [127, ..] => Some(AddressKind::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(AddressKind::Private),
        [100, 64..=127, ..] => Some(AddressKind::CarrierGrade),
        [169, 254, ..] => Some(AddressKind::LinkLocal),
        [224..=239, ..] | [255, 255, 255, 255] => Some(AddressKind::Multicast),
        // Protocol assignments, documentation (three), the old 6to4 relays, AS112, benchmarks and
        // what is kept for the future.
        [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 175, 48, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => Some(AddressKind::Reserved),
        _ => None,
    }
}

fn of_v6(address: Ipv6Addr) -> Option<AddressKind> {
    if METADATA_V6.contains(&address) {
        return Some(AddressKind::CloudMetadata);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(AddressKind::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(AddressKind::Loopback),
        // IPv4-compatible addresses are obsolete: nothing public answers there.
        [0, 0, 0, 0, 0, 0, _, _] => Some(AddressKind::Tunnel),
        // NAT64: how a network without IPv4 reaches the public one, so it counts as what it holds.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of_carried(high, low),
        // NAT64 of a network's own making: where it holds the IPv4 address is not known here.
        [0x64, 0xff9b, 1, ..] => Some(AddressKind::Tunnel),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some(AddressKind::Private),
        [0xfe80..=0xfebf, ..] => Some(AddressKind::LinkLocal),
        [0xff00..=0xffff, ..] => Some(AddressKind::Multicast),
        // Teredo hides both ends.
        [0x2001, 0, ..] => Some(AddressKind::Tunnel),
        // Protocol assignments: benchmarks, ORCHID and such; then documentation (two).
        [0x2001, 0x1..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(AddressKind::Reserved),
        // 6to4 counts as the IPv4 address it holds, ISATAP (below, in any network) likewise.
        [0x2002, high, low, ..] => of_carried(high, low),
        [0x2000..=0x3fff, _, _, _, 0 | 0x200, 0x5efe, high, low] => of_carried(high, low),
        [0x2000..=0x3fff, ..] => None,
        // Only 2000::/3 has ever been given out.
        _ => Some(AddressKind::Reserved),
    }
}

/// The kind of an IPv6 address that is carried to the IPv4 address in these two segments.
fn of_carried(high: u16, low: u16) -> Option<AddressKind> {
    let carried = Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
    of_v4(carried).map(|kind| match kind {
        AddressKind::CloudMetadata => kind,
        AddressKind::Loopback
        | AddressKind::Private
        | AddressKind::CarrierGrade
        | AddressKind::LinkLocal
        | AddressKind::Unspecified
        | AddressKind::Multicast
        | AddressKind::Reserved
        | AddressKind::Tunnel => AddressKind::Tunnel,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str) -> Option<AddressKind> {
        AddressKind::of(address.parse().unwrap())
    }

    #[test]
    fn every_address_off_the_public_internet_is_recognised() {
        use AddressKind::{
            CarrierGrade, CloudMetadata, LinkLocal, Loopback, Multicast, Private, Reserved, Tunnel,
            Unspecified,
        };
        for (address, expected) in [
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("10.0.0.0", Private),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("192.168.0.1", Private),
            ("::ffff:c0a8:1", Private),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fec0::1", Private),
            ("100.64.0.0", CarrierGrade),
            ("100.127.255.255", CarrierGrade),
            ("169.254.169.254", CloudMetadata),
            ("100.100.100.200", CloudMetadata),
            ("192.0.0.192", CloudMetadata),
            ("168.63.129.16", CloudMetadata),
            ("fd00:ec2::254", CloudMetadata),
            ("fd20:ce::254", CloudMetadata),
            ("::ffff:169.254.169.254", CloudMetadata),
            ("64:ff9b::169.254.169.254", CloudMetadata),
            ("2002:a9fe:a9fe::1", CloudMetadata),
            ("169.254.0.1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("192.0.0.1", Reserved),
            ("192.0.2.1", Reserved),
            ("198.51.100.1", Reserved),
            ("203.0.113.1", Reserved),
            ("192.88.99.1", Reserved),
            ("198.18.0.1", Reserved),
            ("198.19.255.255", Reserved),
            ("240.0.0.1", Reserved),
            ("255.255.255.254", Reserved),
            ("100::1", Reserved),
            ("5f00::1", Reserved),
            ("4000::1", Reserved),
            ("2001:2::1", Reserved),
            ("2001:10::1", Reserved),
            ("2001:20::1", Reserved),
            ("2001:db8::1", Reserved),
            ("3fff::1", Reserved),
            ("::ffff:0:8.8.8.8", Reserved),
            ("2001::1", Tunnel),
            ("64:ff9b::10.0.0.1", Tunnel),
            ("64:ff9b:1::8.8.8.8", Tunnel),
            ("2002:7f00:1::1", Tunnel),
            ("2a00:1450:4001::5efe:10.0.0.1", Tunnel),
            ("::10.0.0.1", Tunnel),
            ("::8.8.8.8", Tunnel),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_let_through() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:800::200e",
        ] {
            assert_eq!(kind(address), None, "{address}");
        }
    }

    #[test]
    fn a_refusal_names_the_host_the_address_and_the_reason() {
        let refused = RefusedAddress {
            host: "intranet.example".to_owned(),
            address: "10.0.0.7".parse().unwrap(),
            kind: AddressKind::Private,
        };
        assert_eq!(
            refused.to_string(),
            "intranet.example is refused: 10.0.0.7 is a private address"
        );
    }
}
