//! X-Forwarded-For: the first byte chooses the peer, each further line is a header line. Contract 4, "Client address",
//! against a walk over a plain list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderValue;
use ipnet::IpNet;
use keygate::http::client_address::forwarded_client;
use keygate::policy::network::ClientAddress;

use super::{Target, bytes_of};

/// See the module.
#[derive(Default)]
pub struct ForwardedFor;

/// How many hops are looked at.
const MOST_HOPS: usize = 64;

impl Target for ForwardedFor {
    const NAME: &'static str = "forwarded_for";
    const FRAGMENTS: &'static [&'static str] = &[
        ",",
        ", ",
        " , ",
        "\n",
        " ",
        "\t",
        "10.0.0.1",
        "10.1.2.3",
        "192.0.2.7",
        "198.51.100.9",
        "2001:db8::1",
        "2001:db9::1",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:192.0.2.7",
        "::ffff:c000:207",
        "::192.0.2.7",
        "64:ff9b::192.0.2.7",
        "[::1]",
        "192.0.2.7:80",
        "[2001:db8::1]:443",
        "[2001:db9::1]:",
        ":65536",
        ":080",
        "unknown",
        "_hidden",
        "fe80::1%eth0",
        "010.0.0.1",
        "10.0.0.1,10.0.0.1,10.0.0.1,10.0.0.1,10.0.0.1,10.0.0.1,10.0.0.1,10.0.0.1,",
        "\u{ff11}0.0.0.1",
        "\u{e4}",
        "0x0a.0.0.1",
        "10.1",
        "1",
        ".",
        ":",
        "255.255.255.256",
        "\u{b}",
    ];
    const WORDS: &'static [&'static str] =
        &["the peer", "the peer, unseen", "IPv4", "IPv6", "unknown"];

    fn examples(&self) -> Vec<Vec<u8>> {
        bytes_of(&[
            "0192.0.2.7",
            "0192.0.2.7, 10.0.0.1",
            "06.6.6.6\n10.0.0.1, 2001:db8::5",
            "1::ffff:192.0.2.7",
            "2192.0.2.7",
            "3192.0.2.7",
            "4192.0.2.7",
            "0",
            "0unknown, 10.0.0.1",
            "02001:db9::1, 10.0.0.1",
        ])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let (choice, text) = input.split_first().unwrap_or((&b'0', b""));
        let peer: Option<IpAddr> = match choice % 5 {
            0 => None,
            1 => Some(Ipv4Addr::new(198, 51, 100, 9).into()),
            2 => Some("::ffff:10.0.0.200".parse().expect("an address")),
            3 => Some("2001:db8::9".parse().expect("an address")),
            _ => Some(Ipv4Addr::new(10, 9, 9, 9).into()),
        };
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"]
            .map(|network| network.parse().expect("a network"))
            .into();
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<&[u8]> = lines
            .filter(|line| HeaderValue::from_bytes(line).is_ok())
            .collect();
        let told = forwarded_client(peer, lines.iter().copied(), &trusted);
        assert_eq!(told, expected(peer, &lines));
        match (told, peer) {
            (ClientAddress::Unknown, None) => "the peer, unseen",
            (ClientAddress::Unknown, Some(_)) => "unknown",
            (ClientAddress::Known(address), Some(peer)) if address == peer => "the peer",
            (ClientAddress::Known(IpAddr::V4(_)), _) => "IPv4",
            (ClientAddress::Known(IpAddr::V6(_)), _) => "IPv6",
        }
    }
}

/// All lines as one list, its last hops from the right: the first that is not trusted.
fn expected(peer: Option<IpAddr>, lines: &[&[u8]]) -> ClientAddress {
    let Some(peer) = peer.map(mapped) else {
        return ClientAddress::Unknown;
    };
    if !is_trusted(peer) {
        return ClientAddress::Known(peer);
    }
    let list = lines.join(&b","[..]);
    let hops: Vec<&[u8]> = if lines.is_empty() {
        Vec::new()
    } else {
        list.split(|byte| *byte == b',').collect()
    };
    for hop in hops.iter().rev().take(MOST_HOPS) {
        match address(hop) {
            None => return ClientAddress::Unknown,
            Some(hop) if !is_trusted(hop) => return ClientAddress::Known(hop),
            Some(_) => {}
        }
    }
    ClientAddress::Unknown
}

fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8],
    }
}

/// An address between blanks: four plain numbers, or what the standard library takes for IPv6; with or without a port, and
/// with a port IPv6 is in brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let text = text
        .trim_start_matches([' ', '\t'])
        .trim_end_matches([' ', '\t']);
    let six = |text: &str| {
        let address = text.parse::<Ipv6Addr>().ok();
        address.map(|address| mapped(address.into()))
    };
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = port.strip_prefix(':').map_or(port.is_empty(), is_port);
        return six(address).filter(|_| port);
    }
    if text.matches(':').count() > 1 {
        return six(text);
    }
    let text = match text.split_once(':') {
        Some((address, port)) if is_port(port) => address,
        Some(_) => return None,
        None => text,
    };
    let numbers: Vec<&str> = text.split('.').collect();
    let [a, b, c, d] = numbers.as_slice() else {
        return None;
    };
    let number = |text: &str| {
        let plain = (1..=3).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'));
        plain.then(|| text.parse::<u8>().ok()).flatten()
    };
    Some(Ipv4Addr::new(number(a)?, number(b)?, number(c)?, number(d)?).into())
}

fn is_port(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.trim_start_matches('0').len() <= 5
        && text.bytes().fold(0_u64, |port, digit| {
            (port * 10 + u64::from(digit - b'0')).min(1 << 20)
        }) <= 0xffff
}

/// An IPv4 address in IPv6's clothes as what it is.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) if six.octets()[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => {
            let o = six.octets();
            Ipv4Addr::new(o[12], o[13], o[14], o[15]).into()
        }
        other => other,
    }
}
