//! Reading the headers that decide, and choosing those that pass: which of a client's reach an upstream, which of an
//! upstream's reach a client.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version, request};
use ipnet::IpNet;

use crate::policy::denial::Denial;
use crate::policy::network::ClientAddress;
use crate::policy::token::Presented;
use crate::store::config::ClientAddressSource;

/// The header that names a request (OpenAI's API).
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Hops of X-Forwarded-For that are looked at; more of them are nothing a proxy would send.
const MOST_HOPS: usize = 64;

/// Step 1: the one bearer token (RFC 6750 2.1).
///
/// # Errors
/// [`Denial::MissingApiKey`], [`Denial::InvalidApiKey`]
pub fn bearer(headers: &HeaderMap) -> Result<Presented<'_>, Denial> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next().ok_or(Denial::MissingApiKey)?.as_bytes();
    if lines.next().is_some() {
        return Err(Denial::InvalidApiKey);
    }
    let (scheme, rest) = line
        .split_at_checked("Bearer".len())
        .ok_or(Denial::MissingApiKey)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Err(Denial::MissingApiKey);
    }
    match rest {
        [] => Err(Denial::MissingApiKey),
        [b' ' | b'\t', blanks @ ..] if blanks.iter().all(|byte| matches!(byte, b' ' | b'\t')) => {
            Err(Denial::MissingApiKey)
        }
        [b' ', token @ ..] => Presented::parse(token).ok_or(Denial::InvalidApiKey),
        [b'\t', ..] => Err(Denial::InvalidApiKey),
        _ => Err(Denial::MissingApiKey),
    }
}

/// What a header line is longer by than its name and its value.
const AROUND_LINE: usize = ": \r\n".len();
/// What a head is longer by than its header lines, its method and its target (RFC 9112 3).
const AROUND_HEAD: usize = "  HTTP/1.1\r\n\r\n".len();

/// A head longer than one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadTooLarge;

/// Refuses a head of more than `most` bytes. hyper looks at its limit only between two readings, and so takes a longer
/// one that comes fast enough.
///
/// # Errors
/// [`HeadTooLarge`]
pub fn check_size(parts: &request::Parts, most: usize) -> Result<(), HeadTooLarge> {
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + AROUND_LINE)
        .sum();
    let request_line = parts.method.as_str().len() + target(&parts.uri).len();
    if fields + request_line + AROUND_HEAD <= most {
        Ok(())
    } else {
        Err(HeadTooLarge)
    }
}

/// A request whose framing, target or Host two servers could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Header fields of one request, as hyper takes them in HTTP/1. In HTTP/2 a field can be one byte on the wire and a
/// hundred in memory.
const MOST_FIELDS: usize = 100;

/// Refuses what hyper lets through and no upstream should have to interpret.
///
/// # Errors
/// [`Malformed`] says what is wrong with it.
pub fn check_framing(parts: &request::Parts) -> Result<(), Malformed> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let hosts = (hosts.next(), hosts.next());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if parts.version == Version::HTTP_2 {
        if parts.headers.len() > MOST_FIELDS {
            return Err(Malformed("send at most 100 header fields"));
        }
        match (hosts, authority) {
            (_, Some(authority)) if !is_host(authority.as_bytes()) => {
                return Err(Malformed(
                    "the :authority must be a host name or address, and a port at most",
                ));
            }
            ((None, _), Some(_)) => {}
            ((Some(host), None), Some(authority))
                if host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {}
            _ => {
                return Err(Malformed(
                    "send one :authority, and no Host that differs from it",
                ));
            }
        }
    } else {
        let (Some(host), None) = hosts else {
            return Err(Malformed("send exactly one Host header"));
        };
        if !is_host(host.as_bytes()) {
            return Err(Malformed(
                "the Host header must hold a host name or address, and a port at most",
            ));
        }
        if authority.is_some() || parts.uri.scheme().is_some() {
            return Err(Malformed("the request target must be a path, not a URL"));
        }
        check_lengths(&parts.headers, parts.version)?;
    }
    if parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|line| !line.as_bytes().is_ascii())
    {
        return Err(Malformed("the Connection header must be ASCII"));
    }
    let asterisk = parts.method == Method::OPTIONS && parts.uri.path() == "*";
    if !parts.uri.path().starts_with('/') && !asterisk {
        return Err(Malformed("the request target must be a path"));
    }
    Ok(())
}

fn check_lengths(headers: &HeaderMap, version: Version) -> Result<(), Malformed> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, None) => {}
        (Some(only), None)
            if only.as_bytes().eq_ignore_ascii_case(b"chunked") && version == Version::HTTP_11 => {}
        _ => {
            return Err(Malformed(
                "the only transfer encoding taken is one 'chunked', in HTTP/1.1",
            ));
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, None) => Ok(()),
        (Some(only), None)
            if !only.is_empty() && only.as_bytes().iter().all(u8::is_ascii_digit) =>
        {
            Ok(())
        }
        _ => Err(Malformed("send one Content-Length, in digits")),
    }
}

/// A host and perhaps a port (RFC 3986 3.2.2), without anything that ends or splits an authority.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte))
}

/// The name of a request, as its client, its upstream and the log see it. Cloning shares its text.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The client's own x-request-id, where it sent exactly one of a harmless form.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(X_REQUEST_ID).iter();
        let only = lines.next().filter(|_| lines.next().is_none())?;
        let harmless =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_taken = (1..=128).contains(&only.len()) && only.as_bytes().iter().all(harmless);
        // Copied: a clone would keep the whole head that it came in.
        is_taken.then(|| Self::from_text(only.as_bytes().to_vec()))
    }

    /// One made here: `prefix`, which tells workers apart, and a number.
    #[must_use]
    pub fn numbered(prefix: &str, number: u64) -> Self {
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        let mut id = Vec::with_capacity(prefix.len() + digits as usize);
        id.extend_from_slice(prefix.as_bytes());
        id.extend((0..digits).rev().map(|place| {
            let digit = (number >> (place * 4)) & 0xf;
            b"0123456789abcdef"[digit as usize]
        }));
        Self::from_text(id)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Nothing but ASCII is taken in.
        self.0.to_str().unwrap_or_default()
    }

    /// It, for the header that carries it.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        self.0.clone()
    }

    fn from_text(id: Vec<u8>) -> Self {
        // Letters, digits and three signs are always a header's value.
        let value = HeaderValue::from_maybe_shared(Bytes::from(id));
        Self(value.unwrap_or(HeaderValue::from_static("req")))
    }
}

/// The address that a request is judged by, as the config says.
#[must_use]
pub fn client_address(
    source: &ClientAddressSource,
    peer: Option<IpAddr>,
    headers: &HeaderMap,
) -> ClientAddress {
    match source {
        // What the PROXY protocol says, was said before the request, and stands in the peer's place.
        ClientAddressSource::Peer | ClientAddressSource::ProxyProtocol { .. } => {
            peer.map_or(ClientAddress::Unknown, ClientAddress::of)
        }
        ClientAddressSource::XForwardedFor { trusted_proxies } => {
            forwarded_client(peer, headers, trusted_proxies)
        }
    }
}

/// The client's address by X-Forwarded-For: all its lines are one list, walked from the right over trusted hops. The
/// first hop that is not trusted is the client; junk there, or a list of trusted hops alone, leaves it unknown.
#[must_use]
pub fn forwarded_client(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> ClientAddress {
    match walk(peer, headers, trusted) {
        Walk::AtPeer(address) | Walk::AtHop(address) => ClientAddress::Known(address),
        Walk::NoPeer | Walk::NoList | Walk::Junk | Walk::Through => ClientAddress::Unknown,
    }
}

/// How it was found, in words for the owner of a key.
#[must_use]
pub fn forwarded_reason(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> &'static str {
    match walk(peer, headers, trusted) {
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
    /// There is no address to begin with.
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

fn walk(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Walk {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
        return Walk::NoPeer;
    };
    if !is_trusted(peer) {
        return Walk::AtPeer(peer);
    }
    let lines: Vec<&[u8]> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if lines.is_empty() {
        return Walk::NoList;
    }
    let hops = lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','));
    for hop in hops.take(MOST_HOPS) {
        let address = std::str::from_utf8(hop)
            .ok()
            .and_then(|hop| hop.trim_matches([' ', '\t']).parse::<IpAddr>().ok());
        match address.map(|address| address.to_canonical()) {
            Some(address) if is_trusted(address) => {}
            Some(address) => return Walk::AtHop(address),
            None => return Walk::Junk,
        }
    }
    Walk::Through
}

/// The list that a trusted peer sent, on one line, for the upstream to see too.
#[must_use]
pub fn forwarded_list(headers: &HeaderMap) -> Vec<u8> {
    let lines: Vec<&[u8]> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    lines.join(&b", "[..])
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What the gateway itself says to an upstream about a request.
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The peer's address, with which X-Forwarded-For ends; None over a Unix socket.
    pub peer: Option<&'a str>,
    /// What stands before it there: the list of a peer that is believed, else nothing.
    pub came_through: &'a [u8],
    /// How the client came: http or https.
    pub scheme: &'static str,
    /// Bytes of the body.
    pub length: usize,
    /// Whether the client sent the body compressed.
    pub is_decoded: bool,
}

/// Writes the header lines of a request that do not depend on its upstream: those of the client's that pass, and the
/// gateway's own.
pub fn write_outbound(lines: &mut Vec<u8>, headers: &HeaderMap, introduction: &Introduction<'_>) {
    let named = named_by_connection(headers);
    for (name, value) in headers {
        let is_wrong = introduction.is_decoded && is_about_bytes(name.as_str());
        if passes_to_upstream(name.as_str())
            && !is_wrong
            && !named.iter().any(|other| other == name)
        {
            write_line(lines, name.as_str(), value.as_bytes());
        }
    }
    write_line(lines, "x-request-id", introduction.request_id.as_bytes());
    if let Some(peer) = introduction.peer {
        lines.extend_from_slice(b"x-forwarded-for: ");
        if !introduction.came_through.is_empty() {
            lines.extend_from_slice(introduction.came_through);
            lines.extend_from_slice(b", ");
        }
        lines.extend_from_slice(peer.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    write_line(lines, "x-forwarded-proto", introduction.scheme.as_bytes());
    let mut digits = itoa::Buffer::new();
    let length = digits.format(introduction.length);
    write_line(lines, "content-length", length.as_bytes());
}

/// Writes one header line.
pub fn write_line(lines: &mut Vec<u8>, name: &str, value: &[u8]) {
    lines.reserve(name.len() + value.len() + AROUND_LINE);
    lines.extend_from_slice(name.as_bytes());
    lines.extend_from_slice(b": ");
    lines.extend_from_slice(value);
    lines.extend_from_slice(b"\r\n");
}

/// Whether a header of a client's is forwarded. What the gateway sets itself is not, nor what is between two hops
/// only (RFC 9110 7.6.1), nor what an upstream could take for a credential, another path or another tenant.
fn passes_to_upstream(name: &str) -> bool {
    let kept_back = matches!(
        name,
        "host"
            | "content-length"
            | "content-encoding"
            | "x-request-id"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "expect"
            | "authorization"
            | "api-key"
            | "x-api-key"
            | "cookie"
            | "forwarded"
            | "x-real-ip"
            | "x-original-url"
            | "x-rewrite-url"
            | "x-method-override"
            | "openai-organization"
            | "openai-project"
    );
    let prefixes = [
        "x-http-method",
        "x-portkey-",
        "x-litellm-",
        "helicone-",
        "x-keygate-",
    ];
    !kept_back
        && !is_hop_by_hop(name)
        // CGI-style servers read `x_real_ip` as `x-real-ip`.
        && memchr::memchr(b'_', name.as_bytes()).is_none()
        && !prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a header is about the very bytes that came, and wrong about those they unpack to (RFC 9530 and what was
/// before it).
fn is_about_bytes(name: &str) -> bool {
    matches!(
        name,
        "content-digest" | "repr-digest" | "digest" | "content-md5"
    )
}

/// Whether a header of an upstream's is passed on to the client. The length is not: it is written anew from what was
/// understood of it.
#[must_use]
pub fn passes_to_client(name: &str) -> bool {
    !is_hop_by_hop(name)
        && !matches!(
            name,
            "content-length"
                | "set-cookie"
                | "server"
                | "alt-svc"
                | "www-authenticate"
                | "x-request-id"
        )
        && !name.starts_with("access-control-")
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    ) || name.starts_with("proxy-")
}

/// The headers that any Connection line names.
#[must_use]
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// The path and query as sent, for the upstream's request line.
#[must_use]
pub fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        lines.iter().map(pair).collect()
    }

    fn request_id(headers: &HeaderMap) -> Option<String> {
        RequestId::of(headers).map(|id| id.as_str().to_owned())
    }

    fn bearer_of(lines: &[&str]) -> Result<(), Denial> {
        let lines: Vec<_> = lines
            .iter()
            .map(|value| ("authorization", *value))
            .collect();
        bearer(&map(&lines)).map(|_| ())
    }

    #[test]
    fn a_bearer_token_is_taken_with_its_scheme_in_any_case() {
        for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
            assert_eq!(bearer_of(&[&format!("{scheme} sk-token")]), Ok(()));
        }
    }

    #[test]
    fn no_credential_is_told_from_a_bad_one() {
        for missing in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  \t"],
            &["Basic dTpw"],
            &["Bearersk"],
            &["sk-token"],
            &["Bearer,"],
        ] {
            assert_eq!(
                bearer_of(missing),
                Err(Denial::MissingApiKey),
                "{missing:?}"
            );
        }
        let long = format!("Bearer {}", "x".repeat(513));
        for invalid in [
            &["Bearer  a"][..],
            &["Bearer\ta"],
            &["Bearer a b"],
            &["Bearer a, Bearer b"],
            &["Bearer a", "Bearer a"],
            &["Bearer a", "Basic x"],
            &["", ""],
            &["Bearer ä"],
            &[&long],
            &["Bearer kg_x"],
        ] {
            assert_eq!(
                bearer_of(invalid),
                Err(Denial::InvalidApiKey),
                "{invalid:?}"
            );
        }
    }

    fn framing(uri: &str, version: Version, lines: &[(&str, &str)]) -> Result<(), Malformed> {
        let mut request = http::Request::builder()
            .uri(uri)
            .version(version)
            .body(())
            .unwrap();
        *request.headers_mut() = map(lines);
        check_framing(&request.into_parts().0)
    }

    #[test]
    fn made_ids_end_in_their_number() {
        for number in [0, 1, 15, 16, 0xabc, u64::MAX] {
            let id = RequestId::numbered("req-7-", number);
            assert_eq!(id.as_str(), format!("req-7-{number:x}"));
        }
    }

    #[test]
    fn http1_needs_exactly_one_plain_host_and_a_path() {
        let ok = [("host", "example.com:80")];
        assert_eq!(framing("/v1/models", Version::HTTP_11, &ok), Ok(()));
        assert_eq!(
            framing("/", Version::HTTP_11, &[("host", "[::1]:80")]),
            Ok(())
        );
        assert!(framing("/", Version::HTTP_11, &[]).is_err());
        assert!(framing("/", Version::HTTP_11, &[("host", "a"), ("host", "a")]).is_err());
        for host in ["", "a/b", "a?b", "a#b", "a@b", "a\\b", "a,b", "a b"] {
            assert!(
                framing("/", Version::HTTP_11, &[("host", host)]).is_err(),
                "{host}"
            );
        }
        assert!(framing("http://example.com/v1/models", Version::HTTP_11, &ok).is_err());
        assert!(framing("*", Version::HTTP_11, &ok).is_err());
    }

    #[test]
    fn only_one_clean_framing_is_taken() {
        let with = |name, value| framing("/", Version::HTTP_11, &[("host", "a"), (name, value)]);
        assert_eq!(with("transfer-encoding", "Chunked"), Ok(()));
        assert_eq!(with("content-length", "2"), Ok(()));
        for other in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "xchunked",
            "chunked;x=1",
            "",
        ] {
            assert!(with("transfer-encoding", other).is_err(), "{other}");
        }
        for other in ["", "+2", "2, 2", "0x2", "2 2", "-0"] {
            assert!(with("content-length", other).is_err(), "{other}");
        }
        let twice = [
            ("host", "a"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ];
        assert!(framing("/", Version::HTTP_11, &twice).is_err());
        assert!(
            framing(
                "/",
                Version::HTTP_10,
                &[("host", "a"), ("transfer-encoding", "chunked")]
            )
            .is_err()
        );
    }

    #[test]
    fn http2_refuses_a_host_that_disagrees_with_the_authority() {
        assert_eq!(framing("http://a.example/", Version::HTTP_2, &[]), Ok(()));
        assert_eq!(
            framing(
                "http://a.example/",
                Version::HTTP_2,
                &[("host", "A.example")]
            ),
            Ok(())
        );
        assert!(
            framing(
                "http://a.example/",
                Version::HTTP_2,
                &[("host", "b.example")]
            )
            .is_err()
        );
        assert!(
            framing(
                "http://a.example/",
                Version::HTTP_2,
                &[("host", "a.example"), ("host", "a.example")]
            )
            .is_err()
        );
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines
            .iter()
            .map(|value| ("x-forwarded-for", *value))
            .collect();
        let trusted = [
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        forwarded_client(Some(peer.parse().unwrap()), &map(&lines), &trusted).to_string()
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
    fn junk_at_the_deciding_hop_or_trusted_hops_alone_leave_the_client_unknown() {
        for lines in [
            &[][..],
            &[""],
            &["10.0.0.2"],
            &["192.0.2.7, unknown"],
            &["192.0.2.7,"],
            &["192.0.2.7:80"],
            &["[::1]"],
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

    fn sent(lines: &[(&str, &str)]) -> String {
        sent_with(lines, false)
    }

    fn sent_with(lines: &[(&str, &str)], is_decoded: bool) -> String {
        let introduction = Introduction {
            request_id: "r-1",
            peer: Some("192.0.2.7"),
            came_through: b"",
            scheme: "http",
            length: 1234,
            is_decoded,
        };
        let mut written = Vec::new();
        write_outbound(&mut written, &map(lines), &introduction);
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn what_is_said_of_compressed_bytes_is_not_said_of_decoded_ones() {
        let digests = ["content-digest", "repr-digest", "digest", "content-md5"];
        for name in digests {
            assert!(
                sent_with(&[(name, "x")], false).contains(name),
                "{name} is lost"
            );
            assert!(
                !sent_with(&[(name, "x")], true).contains(name),
                "{name} is wrong"
            );
        }
        for is_decoded in [false, true] {
            let text = sent_with(&[("content-encoding", "gzip")], is_decoded);
            assert!(!text.contains("content-encoding"));
        }
    }

    #[test]
    fn credentials_hop_by_hop_headers_and_overrides_stay_behind() {
        for name in [
            "authorization",
            "api-key",
            "x-api-key",
            "cookie",
            "proxy-authorization",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
            "openai-organization",
            "openai-project",
            "x-portkey-config",
            "x-litellm-key",
            "helicone-auth",
            "x-keygate-x",
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "x_real_ip",
            "content_length",
            "expect",
        ] {
            assert!(!sent(&[(name, "secret")]).contains("secret"), "{name}");
        }
        assert!(sent(&[("accept", "text/event-stream")]).contains("accept: text/event-stream\r\n"));
    }

    #[test]
    fn what_connection_names_is_dropped_but_not_what_the_gateway_sets() {
        let text = sent(&[
            ("connection", "x-one, x-request-id"),
            ("connection", "X-Two,content-length,,"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-request-id", "client"),
            ("content-length", "02"),
        ]);
        assert_eq!(
            text,
            "x-three: 3\r\nx-request-id: r-1\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\n\
             content-length: 1234\r\n"
        );
    }

    #[test]
    fn a_request_id_is_the_clients_where_it_sent_one_harmless_one() {
        assert_eq!(
            request_id(&map(&[("x-request-id", "a.B_9-")])),
            Some("a.B_9-".to_owned())
        );
        let long = "x".repeat(129);
        for bad in ["", "a b", "a\tb", "a/b", &long] {
            assert_eq!(request_id(&map(&[("x-request-id", bad)])), None, "{bad}");
        }
        assert_eq!(
            request_id(&map(&[("x-request-id", "a"), ("x-request-id", "a")])),
            None
        );
    }

    proptest! {
        #[test]
        fn no_header_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                for name in [header::AUTHORIZATION, header::CONNECTION, X_FORWARDED_FOR, X_REQUEST_ID, header::HOST] {
                    headers.insert(name, value.clone());
                }
                let _ = (bearer(&headers).is_ok(), RequestId::of(&headers).is_none(), named_by_connection(&headers));
                let _ = forwarded_client(Some([10, 0, 0, 1].into()), &headers, &["10.0.0.0/8".parse().unwrap()]);
            }
        }
    }
}
