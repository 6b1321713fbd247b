//! A range of IP addresses, as an operator writes it in configuration.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv6Addr};
use std::num::ParseIntError;
use std::str::FromStr;

/// A range of IP addresses in CIDR notation: `10.0.0.0/8`, `fd12:3456::/32`.
///
/// An address without a prefix length stands for itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether `address` lies in this range.
    ///
    /// An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) counts as the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                masked(address.to_canonical(), self.prefix_bits) == self.address
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Network, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|source| InvalidNetwork::Address { text: text.to_owned(), source })?;
        if address.to_canonical() != address {
            return Err(InvalidNetwork::MappedAddress { text: text.to_owned() });
        }
        let prefix_bits_max: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => prefix_bits_max,
            Some(prefix) => prefix
                .parse()
                .map_err(|source| InvalidNetwork::Prefix { text: text.to_owned(), source })?,
        };
        if prefix_bits > prefix_bits_max {
            return Err(InvalidNetwork::PrefixTooLong { text: text.to_owned(), prefix_bits_max });
        }
        let network = Network { address: masked(address, prefix_bits), prefix_bits };
        if network.address != address {
            return Err(InvalidNetwork::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

/// Why a text is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNetwork {
    /// What stands before the slash is not an IP address.
    #[error("`{text}` is not a network such as 10.0.0.0/8 or fd00::/8")]
    Address {
        /// The whole text.
        text: String,
        /// What the address parser says.
        #[source]
        source: AddrParseError,
    },
    /// What stands after the slash is not a number between 0 and 255.
    #[error("the prefix length of `{text}` is not a number of bits")]
    Prefix {
        /// The whole text.
        text: String,
        /// What the number parser says.
        #[source]
        source: ParseIntError,
    },
    /// The prefix is longer than an address.
    #[error("the prefix length of `{text}` is more than {prefix_bits_max} bits")]
    PrefixTooLong {
        /// The whole text.
        text: String,
        /// How many bits an address of this kind has.
        prefix_bits_max: u8,
    },
    /// The address has bits set after the prefix; taking it anyway would allow more than is read.
    #[error("`{text}` has bits set after its prefix; the network is {network}")]
    HostBits {
        /// The whole text.
        text: String,
        /// The network that contains the address.
        network: Network,
    },
    /// An IPv4 address written as IPv6 would never match.
    #[error("`{text}` is an IPv4 network written as IPv6; write it as IPv4")]
    MappedAddress {
        /// The whole text.
        text: String,
    },
}

/// `address` with everything after its first `prefix_bits` bits set to zero.
fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn contains(text: &str, address: &str) -> bool {
        network(text).contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_its_first_and_last_address_and_not_their_neighbours() {
        assert!(contains("10.0.0.0/8", "10.0.0.0") && contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "9.255.255.255") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("fd00::/8", "fd00::") && contains("fd00::/8", "fdff::1"));
        assert!(!contains("fd00::/8", "fc00::1") && !contains("fd00::/8", "fe00::"));
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.6"));
        assert!(contains("0.0.0.0/0", "255.1.2.3") && contains("::/0", "2001:db8::1"));
    }

    #[test]
    fn a_network_contains_no_address_of_the_other_family() {
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(!contains("::/0", "10.0.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1") && !contains("::/0", "::ffff:10.0.0.1"));
    }

    #[test]
    fn a_printed_network_reads_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "127.0.0.1/32", "fd00::/8", "::1/128"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("127.0.0.1").to_string(), "127.0.0.1/32");
    }

    #[test]
    fn a_bad_network_is_explained() {
        for (text, message) in [
            ("ten/8", "`ten/8` is not a network such as 10.0.0.0/8 or fd00::/8"),
            ("", "`` is not a network such as 10.0.0.0/8 or fd00::/8"),
            ("10.0.0.0/", "the prefix length of `10.0.0.0/` is not a number of bits"),
            ("10.0.0.0/-1", "the prefix length of `10.0.0.0/-1` is not a number of bits"),
            ("10.0.0.0/33", "the prefix length of `10.0.0.0/33` is more than 32 bits"),
            ("fd00::/129", "the prefix length of `fd00::/129` is more than 128 bits"),
            ("10.1.2.3/8", "`10.1.2.3/8` has bits set after its prefix; the network is 10.0.0.0/8"),
            (
                "::ffff:10.0.0.0/104",
                "`::ffff:10.0.0.0/104` is an IPv4 network written as IPv6; write it as IPv4",
            ),
        ] {
            assert_eq!(text.parse::<Network>().unwrap_err().to_string(), message);
        }
    }
}
