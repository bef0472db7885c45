//! The PROXY protocol, versions 1 and 2: the header in which a load balancer names the client of a connection. Section
//! numbers below refer to HAProxy's `doc/proxy-protocol.txt`.
//!
//! The header is parsed strictly, because it decides the client address, and no byte after it is read, because TLS may
//! follow. The caller decides whether a peer must send the header; this module never guesses from the bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The first bytes of every version 2 header.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of every version 1 header.
const V1_PREFIX: &[u8; 6] = b"PROXY ";
/// The longest version 1 header, with its CRLF (2.1).
const MAX_V1_LENGTH: usize = 107;
/// The fixed part of version 2: signature, command, family, length.
const V2_FIXED_LENGTH: usize = 16;
/// The longest part after the fixed one. Addresses need at most 216 bytes; the rest is for extensions, such as a client
/// certificate.
const MAX_V2_PAYLOAD: usize = 16 << 10;
/// The type of the extension that holds a checksum of the whole header (2.2.3).
const CRC32C: u8 = 0x03;

/// The client that a trusted peer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyIdentity {
    /// A client at this address, in its canonical form.
    Client(IpAddr),
    /// The peer itself, for example for a health check: LOCAL, or UNKNOWN in version 1. The connection's own address
    /// counts.
    Local,
    /// A client without an IP address: on a Unix socket, or of an unspecified family.
    NoAddress,
}

/// Why no header was read.
#[derive(Debug)]
pub(crate) enum ProxyHeaderError {
    /// The peer closed before its first byte, like a load balancer that only checks whether the port is open.
    Closed,
    /// The bytes are no valid header.
    Malformed(&'static str),
    /// Reading from the connection failed.
    Io(io::Error),
}

impl std::fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("nothing came"),
            Self::Malformed(what) => f.write_str(what),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProxyHeaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Closed | Self::Malformed(_) => None,
        }
    }
}

/// Reads the header at the start of a connection, and nothing after it. It has no time limit of its own.
///
/// # Errors
/// [`ProxyHeaderError`]
pub(crate) async fn read(socket: &mut TcpStream) -> Result<ProxyIdentity, ProxyHeaderError> {
    let mut header = Vec::with_capacity(MAX_V1_LENGTH);
    loop {
        let wanted = match parse(&header).map_err(ProxyHeaderError::Malformed)? {
            HeaderProgress::Done(identity) => return Ok(identity),
            HeaderProgress::Bytes(count) => count,
            HeaderProgress::Line => bytes_to_line_end(socket, MAX_V1_LENGTH - header.len())
                .await
                .map_err(ProxyHeaderError::Io)?,
        };
        let begun = header.len();
        header.resize(begun + wanted, 0);
        let count = socket.read(&mut header[begun..]).await;
        let count = count.map_err(ProxyHeaderError::Io)?;
        header.truncate(begun + count);
        match count {
            0 if header.is_empty() => return Err(ProxyHeaderError::Closed),
            0 => return Err(ProxyHeaderError::Malformed("the header is cut short")),
            _ => {}
        }
    }
}

/// The number of bytes up to the end of the line, or the number available if the line has not ended.
async fn bytes_to_line_end(socket: &TcpStream, most: usize) -> io::Result<usize> {
    let mut bytes = [0; MAX_V1_LENGTH];
    let count = socket.peek(&mut bytes[..most]).await?;
    let end = memchr::memchr(b'\n', &bytes[..count]);
    // At the end of the connection, 1 makes the next read return 0.
    Ok(end.map_or(count, |end| end + 1).max(1))
}

/// What to read after a partial header.
#[derive(Debug, PartialEq, Eq)]
enum HeaderProgress {
    /// At least this many bytes more.
    Bytes(usize),
    /// Up to the end of the line.
    Line,
    Done(ProxyIdentity),
}

fn parse(header: &[u8]) -> Result<HeaderProgress, &'static str> {
    let begins = |with: &[u8]| {
        let known = header.len().min(with.len());
        header[..known] == with[..known]
    };
    if header.is_empty() {
        // No header is shorter than the signature of version 2.
        Ok(HeaderProgress::Bytes(V2_SIGNATURE.len()))
    } else if begins(V2_SIGNATURE) {
        parse_v2(header)
    } else if begins(V1_PREFIX) {
        parse_v1(header)
    } else {
        Err("what came is no PROXY header")
    }
}

/// Version 1 (2.1): one line of words.
fn parse_v1(header: &[u8]) -> Result<HeaderProgress, &'static str> {
    let too_long = Err("the line is longer than 107 bytes");
    let Some(line) = header.strip_suffix(b"\n") else {
        return match header.len() {
            0..12 => Ok(HeaderProgress::Bytes(12 - header.len())),
            12..MAX_V1_LENGTH => Ok(HeaderProgress::Line),
            _ => too_long,
        };
    };
    if header.len() > MAX_V1_LENGTH {
        return too_long;
    }
    let line = line.strip_suffix(b"\r").ok_or("the line ends without CR")?;
    let line = std::str::from_utf8(line).map_err(|_| "the line is not ASCII")?;
    let mut words = line.split(' ').skip(1);
    let is_ipv4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        Some("UNKNOWN") => return Ok(HeaderProgress::Done(ProxyIdentity::Local)),
        _ => return Err("the line names no family"),
    };
    let mut address = || {
        let word = words.next().ok_or("the line ends early")?;
        let address = if is_ipv4 {
            word.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        } else {
            word.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        };
        address.ok_or("the line holds an address that is none")
    };
    let (source, _destination) = (address()?, address()?);
    for _ in ["source", "destination"] {
        if !words.next().is_some_and(is_port) {
            return Err("the line holds a port that is none");
        }
    }
    match words.next() {
        Some(_) => Err("the line has a word too many"),
        None => Ok(HeaderProgress::Done(ProxyIdentity::Client(
            source.to_canonical(),
        ))),
    }
}

/// Whether it is a port number without leading zeros.
fn is_port(word: &str) -> bool {
    let is_plain = matches!(word.as_bytes(), [b'0'] | [b'1'..=b'9', ..]);
    is_plain && word.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<u16>().is_ok()
}

/// Version 2 (2.2): a fixed part, addresses, and extensions.
fn parse_v2(header: &[u8]) -> Result<HeaderProgress, &'static str> {
    let Some((fixed, rest)) = header.split_first_chunk::<V2_FIXED_LENGTH>() else {
        return Ok(HeaderProgress::Bytes(V2_FIXED_LENGTH - header.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err("the header has another version or command"),
    };
    if length > MAX_V2_PAYLOAD {
        return Err("the header is longer than is taken");
    }
    if rest.len() < length {
        return Ok(HeaderProgress::Bytes(length - rest.len()));
    }
    let identity = if is_proxied {
        parse_addresses(header, family, rest)?
    } else {
        // LOCAL: the rest must be ignored, including the family.
        ProxyIdentity::Local
    };
    Ok(HeaderProgress::Done(identity))
}

fn parse_addresses(header: &[u8], family: u8, rest: &[u8]) -> Result<ProxyIdentity, &'static str> {
    let short = "the header has no room for its addresses";
    let (identity, extensions) = match family {
        // Unspecified: the addresses have no known length, so extensions cannot be found.
        0x00 => return Ok(ProxyIdentity::NoAddress),
        0x11 | 0x12 => {
            let (addresses, extensions) = rest.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, ..] = *addresses;
            (IpAddr::from([a, b, c, d]), extensions)
        }
        0x21 | 0x22 => {
            let (addresses, extensions) = rest.split_first_chunk::<36>().ok_or(short)?;
            let source = addresses.first_chunk::<16>().ok_or(short)?;
            (IpAddr::from(*source).to_canonical(), extensions)
        }
        // Unix sockets: the client has no address that a key could be restricted to.
        0x31 | 0x32 => {
            let (_, extensions) = rest.split_first_chunk::<216>().ok_or(short)?;
            check_extensions(header, extensions)?;
            return Ok(ProxyIdentity::NoAddress);
        }
        _ => return Err("the header names no family"),
    };
    check_extensions(header, extensions)?;
    // Datagrams have no connection, so the named client need not be the sender.
    Ok(if family & 0x0f == 1 {
        ProxyIdentity::Client(identity)
    } else {
        ProxyIdentity::NoAddress
    })
}

/// Extensions (2.2): each has a type, a length and a value. Only the checksum is checked.
fn check_extensions(header: &[u8], mut extensions: &[u8]) -> Result<(), &'static str> {
    while !extensions.is_empty() {
        let Some((&[kind, high, low], rest)) = extensions.split_first_chunk::<3>() else {
            return Err("an extension is cut short");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err("an extension is longer than the header");
        };
        if kind == CRC32C {
            let at = header.len() - rest.len() - length;
            let expected: [u8; 4] = value
                .try_into()
                .map_err(|_| "the checksum has no 4 bytes")?;
            if u32::from_be_bytes(expected) != crc32c(header, at..at + 4) {
                return Err("the checksum is another");
            }
        }
        extensions = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260 appendix A), with the bytes in `zeroed` read as zero. It works bit by bit: a header has at most 16
/// KiB.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    let mut crc = !0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= if zeroed.contains(&at) {
            0
        } else {
            u32::from(*byte)
        };
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Passes a header to the parser in pieces of the requested sizes. The bytes after the header must remain.
    fn read_all(bytes: &[u8]) -> Result<(ProxyIdentity, usize), &'static str> {
        let mut taken = 0;
        loop {
            let count = match parse(&bytes[..taken])? {
                HeaderProgress::Done(identity) => return Ok((identity, taken)),
                HeaderProgress::Bytes(count) => count,
                HeaderProgress::Line => bytes[taken..]
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(1, |end| end + 1),
            };
            taken += count;
            if taken > bytes.len() {
                return Err("cut short");
            }
        }
    }

    fn identity(bytes: &[u8]) -> Result<ProxyIdentity, &'static str> {
        let behind = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
        let (identity, taken) = read_all(&behind)?;
        assert_eq!(taken, bytes.len(), "{:?}", String::from_utf8_lossy(bytes));
        Ok(identity)
    }

    fn client(address: &str) -> Result<ProxyIdentity, &'static str> {
        Ok(ProxyIdentity::Client(address.parse().unwrap()))
    }

    /// A version 2 header with this command, family, and rest.
    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc3, 0x50, 0, 80];

    #[test]
    fn a_line_names_the_client() {
        for (line, address) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 50000 80", "192.0.2.7"),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
                "255.255.255.255",
            ),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 0 0", "192.0.2.7"),
            ("PROXY TCP6 2001:DB8::7 ::1 50000 80", "2001:db8::7"),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 50000 80", "192.0.2.7"),
            ("PROXY TCP6 ::ffff:c000:207 ::1 50000 80", "192.0.2.7"),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(
                identity(format!("{line}\r\n").as_bytes()),
                client(address),
                "{line}"
            );
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
        for line in [
            "PROXY UNKNOWN\r\n",
            "PROXY UNKNOWN 192.0.2.7 x\r\n",
            &longest,
        ] {
            assert_eq!(
                identity(line.as_bytes()),
                Ok(ProxyIdentity::Local),
                "{line}"
            );
        }
    }

    #[test]
    fn a_line_that_is_not_exactly_one_is_broken() {
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 15));
        for line in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY  TCP4 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY\tTCP4 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000 80\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000 80 \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000  80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000 80 x\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 50000 65536\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 050000 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 -1 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 50000 80\r\n",
            "PROXY TCP4 192.0.2 10.0.0.1 50000 80\r\n",
            "PROXY TCP4 192.0.2.7 x 50000 80\r\n",
            "PROXY TCP4 2001:db8::7 ::1 50000 80\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 50000 80\r\n",
            "PROXY TCP6 [::1] ::1 50000 80\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 50000 80\r\n",
            "PROXY TCP4\r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWNx\r\n",
            "PROXY \r\n\r\n\r\n\r\n",
            &long,
        ] {
            assert!(identity(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn version_2_names_the_client_and_its_extensions_are_skipped() {
        assert_eq!(identity(&header(0x21, 0x11, &FOUR)), client("192.0.2.7"));
        let six = |address: &str| {
            let source: Ipv6Addr = address.parse().unwrap();
            [&source.octets()[..], &[0; 16], &[0; 4]].concat()
        };
        assert_eq!(
            identity(&header(0x21, 0x21, &six("2001:db8::7"))),
            client("2001:db8::7")
        );
        assert_eq!(
            identity(&header(0x21, 0x21, &six("::ffff:192.0.2.7"))),
            client("192.0.2.7")
        );
        let extended = [&FOUR[..], &[0x02, 0, 3, b'a', b'.', b'b'], &[0x04, 0, 0]].concat();
        assert_eq!(
            identity(&header(0x21, 0x11, &extended)),
            client("192.0.2.7")
        );
        let large = [&FOUR[..], &[0x04, 0x3f, 0x00], &[0; 0x3f00]].concat();
        assert_eq!(identity(&header(0x21, 0x11, &large)), client("192.0.2.7"));
    }

    #[test]
    fn version_2_without_a_client_says_whose_connection_it_is() {
        for (family, rest) in [
            (0x00, &[][..]),
            (0x11, &FOUR),
            (0xff, b"junk"),
            (0x11, b"x"),
        ] {
            assert_eq!(
                identity(&header(0x20, family, rest)),
                Ok(ProxyIdentity::Local)
            );
        }
        for (family, rest) in [
            (0x00, &[][..]),
            (0x00, b"junk"),
            (0x12, &FOUR),
            (0x22, &[0; 36]),
            (0x31, &[b'/'; 216]),
            (0x32, &[b'/'; 216]),
        ] {
            assert_eq!(
                identity(&header(0x21, family, rest)),
                Ok(ProxyIdentity::NoAddress),
                "{family:x}"
            );
        }
    }

    #[test]
    fn version_2_that_is_not_exactly_one_is_broken() {
        let extended = |extension: &[u8]| [&FOUR[..], extension].concat();
        for (command, family, rest) in [
            (0x11, 0x11, FOUR.to_vec()),
            (0x31, 0x11, FOUR.to_vec()),
            (0x22, 0x11, FOUR.to_vec()),
            (0x2f, 0x11, FOUR.to_vec()),
            (0x21, 0x10, FOUR.to_vec()),
            (0x21, 0x13, FOUR.to_vec()),
            (0x21, 0x41, vec![0; 300]),
            (0x21, 0x01, FOUR.to_vec()),
            (0x21, 0x11, FOUR[..11].to_vec()),
            (0x21, 0x11, Vec::new()),
            (0x21, 0x21, vec![0; 35]),
            (0x21, 0x31, vec![0; 215]),
            (0x21, 0x11, vec![0; MAX_V2_PAYLOAD + 1]),
            (0x20, 0x00, vec![0; MAX_V2_PAYLOAD + 1]),
            (0x21, 0x11, extended(&[0x04])),
            (0x21, 0x11, extended(&[0x04, 0])),
            (0x21, 0x11, extended(&[0x04, 0, 1])),
            (0x21, 0x11, extended(&[0x04, 0xff, 0xff, 0])),
            (0x21, 0x11, extended(&[CRC32C, 0, 3, 0, 0, 0])),
            (0x21, 0x11, extended(&[CRC32C, 0, 4, 0, 0, 0, 0])),
        ] {
            assert!(
                identity(&header(command, family, &rest)).is_err(),
                "{command:x} {family:x} {rest:?}"
            );
        }
        let mut other = header(0x21, 0x11, &FOUR);
        other[11] = b'\r';
        assert!(identity(&other).is_err());
    }

    #[test]
    fn a_checksum_is_compared() {
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
        let rest = [
            &FOUR[..],
            &[0x02, 0, 1, b'x', CRC32C, 0, 4, 0, 0, 0, 0, 0x04, 0, 0],
        ]
        .concat();
        let mut bytes = header(0x21, 0x11, &rest);
        let at = bytes.len() - 7;
        let checksum = crc32c(&bytes, 0..0).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&checksum);
        assert_eq!(identity(&bytes), client("192.0.2.7"));
        bytes[17] ^= 1;
        assert_eq!(identity(&bytes), Err("the checksum is another"));
    }

    proptest! {
        #[test]
        fn every_address_is_read_back(
            source in any::<IpAddr>(),
            ports in any::<(u16, u16)>(),
            extension in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (name, family, octets) = match source {
                IpAddr::V4(address) => ("TCP4", 0x11, address.octets().to_vec()),
                IpAddr::V6(address) => ("TCP6", 0x21, address.octets().to_vec()),
            };
            let line = format!("PROXY {name} {source} {source} {} {}\r\n", ports.0, ports.1);
            let wanted = Ok(ProxyIdentity::Client(source.to_canonical()));
            prop_assert_eq!(identity(line.as_bytes()), wanted);
            let length = u16::try_from(extension.len()).unwrap().to_be_bytes();
            let rest = [&octets[..], &octets, &[0; 4], &[0xe0], &length, &extension].concat();
            prop_assert_eq!(identity(&header(0x21, family, &rest)), wanted);
        }

        #[test]
        fn whatever_comes_ends(
            head in prop::sample::select(vec![&b""[..], V1_PREFIX, b"PROXY TCP4 192.0.2.7 ", V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = read_all(&[head, &rest].concat());
        }
    }
}
