//! From where a key may be used: IPv4 networks, the client's address, and the rule for both.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

/// The client address that the rules apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// Canonical: an IPv4-mapped IPv6 address (`::ffff:192.0.2.7`, RFC 4291 2.5.5.2) is that IPv4 address.
    Known(IpAddr),
    /// A trusted proxy sent no usable address, or the connection has none.
    Unknown,
}

impl ClientAddress {
    /// Makes the address canonical.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self::Known(address.to_canonical())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(address) => address.fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// An address as text. Every request writes its client's address into a header and a log line. IPv4 addresses are
/// formatted without `std::fmt`, which is slower; the result is the same.
#[derive(Clone, Copy, Debug)]
pub struct AddressText {
    bytes: [u8; LONGEST_ADDRESS],
    length: usize,
}

/// The longest address in characters: eight groups of four digits.
const LONGEST_ADDRESS: usize = 39;

impl AddressText {
    /// Formats an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; LONGEST_ADDRESS],
            length: 0,
        };
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        text.push(b'.');
                    }
                    text.push_octet(octet);
                }
            }
            IpAddr::V6(address) => {
                // Every address fits, so this cannot fail.
                let _ = write!(text, "{address}");
            }
        }
        text
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes are always ASCII.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    fn push_octet(&mut self, octet: u8) {
        if octet >= 100 {
            self.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            self.push(b'0' + octet / 10 % 10);
        }
        self.push(b'0' + octet % 10);
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.length) {
            *free = byte;
            self.length += 1;
        }
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        part.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// The networks a key may be used from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowFrom {
    /// Any address, IPv4 or IPv6.
    Anywhere,
    /// Only these networks, and never IPv6. Not empty, see [`AllowFrom::from_networks`].
    Networks(Box<[Ipv4Net]>),
}

impl AllowFrom {
    /// An empty list means any address.
    #[must_use]
    pub fn from_networks(networks: Vec<Ipv4Net>) -> Self {
        if networks.is_empty() {
            Self::Anywhere
        } else {
            Self::Networks(networks.into_boxed_slice())
        }
    }

    /// The networks; empty for any address.
    #[must_use]
    pub fn networks(&self) -> &[Ipv4Net] {
        match self {
            Self::Anywhere => &[],
            Self::Networks(networks) => networks,
        }
    }

    /// Whether a client at `address` may use the key.
    #[must_use]
    pub fn admits(&self, address: ClientAddress) -> bool {
        match (self, address) {
            (Self::Anywhere, _) => true,
            (Self::Networks(networks), ClientAddress::Known(IpAddr::V4(address))) => {
                networks.iter().any(|network| network.contains(&address))
            }
            (Self::Networks(_), ClientAddress::Known(IpAddr::V6(_)) | ClientAddress::Unknown) => {
                false
            }
        }
    }
}

/// Why a text is not a network for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseNetworkError {
    /// Neither an IPv4 network nor an IPv4 address.
    Malformed(String),
    /// IPv6, including IPv4-mapped addresses.
    Ipv6(String),
}

impl fmt::Display for ParseNetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) => write!(
                f,
                "{text:?} is not an IPv4 network or address; write it like 192.0.2.0/24 or 192.0.2.7"
            ),
            Self::Ipv6(text) => write!(
                f,
                "{text:?} is IPv6; restricting a key to IPv6 networks is not possible, use IPv4 networks"
            ),
        }
    }
}

impl std::error::Error for ParseNetworkError {}

/// Parses an IPv4 network or address. Clears the host bits; an address becomes a /32.
///
/// # Errors
/// [`ParseNetworkError`] says what is wrong and how to write it.
pub fn parse_network(text: &str) -> Result<Ipv4Net, ParseNetworkError> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    if address.parse::<Ipv6Addr>().is_ok() {
        return Err(ParseNetworkError::Ipv6(text.to_owned()));
    }
    // The standard library refuses `010.0.0.1` and short forms, which other parsers read as different addresses.
    let plain_prefix = matches!(
        prefix.as_bytes(),
        [b'0'..=b'9'] | [b'1'..=b'9', b'0'..=b'9']
    );
    match (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) {
        (Ok(address), Ok(prefix)) if plain_prefix => Ipv4Net::new(address, prefix)
            .map(|network| network.trunc())
            .map_err(|_| ParseNetworkError::Malformed(text.to_owned())),
        _ => Err(ParseNetworkError::Malformed(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only(networks: &[&str]) -> AllowFrom {
        AllowFrom::from_networks(
            networks
                .iter()
                .map(|text| parse_network(text).unwrap())
                .collect(),
        )
    }

    fn client(text: &str) -> ClientAddress {
        ClientAddress::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_written_as_the_library_writes_them() {
        let octets = (0..=255).map(|octet| format!("{octet}.0.{octet}.9"));
        let others = [
            "255.255.255.255",
            "2001:db8::1",
            "::ffff:255.255.255.255",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        for text in octets.chain(others.map(str::to_owned)) {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(AddressText::of(address).as_str(), address.to_string());
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address_and_no_other_ipv6_form_is() {
        let access = only(&["192.0.2.0/24"]);
        assert!(access.admits(client("192.0.2.7")));
        assert!(access.admits(client("::ffff:192.0.2.7")));
        for other in [
            "::192.0.2.7",
            "64:ff9b::c000:207",
            "2002:c000:207::",
            "2001:db8::1",
            "::1",
            "fe80::1",
        ] {
            assert!(!access.admits(client(other)), "{other}");
        }
    }

    #[test]
    fn a_key_with_networks_is_refused_over_ipv6_and_from_the_unknown() {
        for networks in [&["0.0.0.0/0"][..], &["10.0.0.0/8"]] {
            assert!(!only(networks).admits(client("2001:db8::1")));
            assert!(!only(networks).admits(ClientAddress::Unknown));
        }
    }

    #[test]
    fn a_key_without_networks_is_taken_from_anywhere() {
        for address in [
            client("192.0.2.7"),
            client("2001:db8::1"),
            ClientAddress::Unknown,
        ] {
            assert!(only(&[]).admits(address));
        }
    }

    #[test]
    fn prefixes_are_exact_at_their_edges() {
        for (network, inside, outside) in [
            ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.4/32", "10.0.0.4", "10.0.0.5"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ] {
            assert!(only(&[network]).admits(client(inside)));
            assert!(!only(&[network]).admits(client(outside)));
        }
        assert!(only(&["0.0.0.0/0"]).admits(client("255.255.255.255")));
    }

    #[test]
    fn an_entry_is_written_back_with_its_prefix_and_without_host_bits() {
        assert_eq!(
            parse_network("192.0.2.7").unwrap().to_string(),
            "192.0.2.7/32"
        );
        assert_eq!(
            parse_network("192.0.2.7/24").unwrap().to_string(),
            "192.0.2.0/24"
        );
        assert_eq!(parse_network("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
    }

    #[test]
    fn an_ipv6_entry_says_that_it_is_not_possible() {
        for text in [
            "::/0",
            "2001:db8::/32",
            "::1",
            "::ffff:192.0.2.7",
            "::ffff:192.0.2.0/120",
            "::1/x",
        ] {
            let fault = parse_network(text).unwrap_err();
            assert_eq!(fault, ParseNetworkError::Ipv6(text.to_owned()));
            assert!(
                fault
                    .to_string()
                    .contains("restricting a key to IPv6 networks is not possible")
            );
        }
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "0/0",
            "010.0.0.1/8",
            "1.2.3/24",
            "10.0.0.0/8 ",
            " 10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "0x0a.0.0.0/8",
            "10.0.0.1:80",
            "example.com",
            "10.0.0.0/255.0.0.0",
        ] {
            assert!(
                matches!(parse_network(text), Err(ParseNetworkError::Malformed(_))),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_network_admits_exactly_the_addresses_with_its_prefix(
            network: u32, prefix in 0_u8..=32, address: u32, mapped: bool,
        ) {
            let network = Ipv4Addr::from(network);
            let access = only(&[&format!("{network}/{prefix}")]);
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let expected = u32::from(network) & mask == address & mask;
            let address = Ipv4Addr::from(address);
            let address = if mapped { IpAddr::V6(address.to_ipv6_mapped()) } else { IpAddr::V4(address) };
            prop_assert_eq!(access.admits(ClientAddress::of(address)), expected);
        }
    }
}
