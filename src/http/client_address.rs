//! The address that a request is judged by: the peer's, or the one that a trusted proxy names in X-Forwarded-For.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::policy::network::ClientAddress;
use crate::store::config::ClientAddressSource;

/// Hops of X-Forwarded-For that are looked at; a list with more is nothing that a proxy sends.
const MAX_HOPS: usize = 64;

/// The address that a request is judged by, as the config says. `forwarded_for` are the values of its X-Forwarded-For
/// lines.
#[must_use]
pub fn client_address<'a>(
    source: &ClientAddressSource,
    peer: Option<IpAddr>,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]> + Clone,
) -> ClientAddress {
    match source {
        // The PROXY protocol names the client before the request; `peer` is that client.
        ClientAddressSource::Peer | ClientAddressSource::ProxyProtocol { .. } => {
            peer.map_or(ClientAddress::Unknown, ClientAddress::of)
        }
        ClientAddressSource::XForwardedFor { trusted_proxies } => {
            forwarded_client(peer, forwarded_for, trusted_proxies)
        }
    }
}

/// The client's address by X-Forwarded-For: all its lines are one list, walked from the right over trusted hops. The
/// first hop that is not trusted is the client; junk there, or a list of trusted hops alone, leaves it unknown.
#[must_use]
pub fn forwarded_client<'a>(
    peer: Option<IpAddr>,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]> + Clone,
    trusted: &[IpNet],
) -> ClientAddress {
    match walk(peer, forwarded_for, trusted) {
        Walk::AtPeer(address) | Walk::AtHop(address) => ClientAddress::Known(address),
        Walk::NoPeer | Walk::NoList | Walk::Junk | Walk::Through => ClientAddress::Unknown,
    }
}

/// How the address was found, in words for the owner of a key.
#[must_use]
pub fn forwarded_reason<'a>(
    peer: Option<IpAddr>,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]> + Clone,
    trusted: &[IpNet],
) -> &'static str {
    match walk(peer, forwarded_for, trusted) {
        Walk::NoPeer => "the connection came over a Unix socket",
        Walk::AtPeer(_) => "the connection came from it, and it is no trusted proxy",
        Walk::AtHop(_) => "a trusted proxy named it in X-Forwarded-For",
        Walk::NoList => "a trusted proxy sent no X-Forwarded-For",
        Walk::Junk => "X-Forwarded-For holds something else where the client's address should be",
        Walk::Through => "X-Forwarded-For names trusted proxies alone",
    }
}

/// Where the walk over X-Forwarded-For ends.
enum Walk {
    /// There is no peer address to begin with.
    NoPeer,
    /// At the peer itself, which is not trusted.
    AtPeer(IpAddr),
    /// At the first hop that is not trusted.
    AtHop(IpAddr),
    /// The header is missing.
    NoList,
    /// At something that is no address.
    Junk,
    /// Every hop is trusted, or there are more than anybody sends.
    Through,
}

fn walk<'a>(
    peer: Option<IpAddr>,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]> + Clone,
    trusted: &[IpNet],
) -> Walk {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
        return Walk::NoPeer;
    };
    if !is_trusted(peer) {
        return Walk::AtPeer(peer);
    }
    if forwarded_for.clone().next().is_none() {
        return Walk::NoList;
    }
    let hops = forwarded_for
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','));
    for hop in hops.take(MAX_HOPS) {
        match hop_address(hop).map(|address| address.to_canonical()) {
            Some(address) if is_trusted(address) => {}
            Some(address) => return Walk::AtHop(address),
            None => return Walk::Junk,
        }
    }
    Walk::Through
}

/// The address of a hop. Azure's gateways write a port behind it: `192.0.2.7:1234`, `[2001:db8::7]:1234`. Some proxies
/// write the brackets without a port.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    // A zone (RFC 4007) has a meaning on the proxy's machine only.
    if hop.contains('%') {
        return None;
    }
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || {
        let address = hop.strip_prefix('[')?.strip_suffix(']')?;
        address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted = [
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        let lines = lines.iter().map(|line| line.as_bytes());
        forwarded_client(Some(peer.parse().unwrap()), lines, &trusted).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(client("203.0.113.1", &["6.6.6.6"]), "203.0.113.1");
        assert_eq!(client("::ffff:203.0.113.1", &[]), "203.0.113.1");
    }

    #[test]
    fn the_list_is_walked_from_the_right_over_trusted_hops() {
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6, 192.0.2.7, 10.1.1.1,10.2.2.2"]),
            "192.0.2.7"
        );
        assert_eq!(client("10.0.0.1", &["10.0.0.1", "6.6.6.6"]), "6.6.6.6");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "10.0.0.2"]), "6.6.6.6");
        assert_eq!(client("2001:db8::1", &["::ffff:192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn a_port_behind_a_hops_address_and_brackets_around_it_do_not_matter() {
        for (list, address) in [
            ("192.0.2.7:1234", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7:1, 10.1.1.1:65535", "192.0.2.7"),
            ("[2001:db9::7]:1234", "2001:db9::7"),
            ("[::ffff:192.0.2.7]:1234", "192.0.2.7"),
            ("192.0.2.7, [2001:db8::7]:1234", "192.0.2.7"),
            ("[2001:db9::7]", "2001:db9::7"),
            ("192.0.2.7, [2001:db8::7]", "192.0.2.7"),
        ] {
            assert_eq!(client("10.0.0.1", &[list]), address, "{list}");
        }
    }

    #[test]
    fn junk_at_the_deciding_hop_or_trusted_hops_alone_leave_the_client_unknown() {
        for lines in [
            &[][..],
            &[""],
            &["10.0.0.2"],
            &["192.0.2.7, unknown"],
            &["192.0.2.7,"],
            &["192.0.2.7:"],
            &["192.0.2.7:65536"],
            &["192.0.2.7:x"],
            &["192.0.2.7: 80"],
            &["2001:db9::7:80:"],
            &["[192.0.2.7]:80"],
            &["[192.0.2.7]"],
            &["[::1]]"],
            &["[::1]:"],
            &["[::1] :80"],
            &["[fe80::1%3]"],
            &["[::1"],
            &["[fe80::1%3]:80"],
            &["fe80::1%eth0"],
            &["01.2.3.4"],
            &["_hid"],
            &["192.0.2.7, 10.0.0.2, x"],
        ] {
            assert_eq!(client("10.0.0.1", lines), "unknown", "{lines:?}");
        }
        assert_eq!(
            client("10.0.0.1", &[&["10.0.0.2"; 65].join(",")]),
            "unknown"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let _ = forwarded_client(Some([10, 0, 0, 1].into()), [&value[..]].into_iter(), &trusted);
        }
    }
}
