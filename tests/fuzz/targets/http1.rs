//! Requests of HTTP/1 as a connection reads them; the first byte says how they come in pieces. However they come, the
//! same is read, a beginning of them is never read as something else, and what is read and written again reads the same.

use super::{Target, bytes_of};
use crate::dice::Dice;

#[path = "../../differential/codec.rs"]
mod codec;
#[path = "../../differential/outcome.rs"]
#[allow(dead_code, reason = "the differential run uses more of it")]
mod outcome;

use codec::Codec;
use outcome::{Outcome, Parser, Request, shown};

/// See the module.
#[derive(Default)]
pub struct Http1;

impl Target for Http1 {
    const NAME: &'static str = "http1";
    const FRAGMENTS: &'static [&'static str] = &[
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        "\t",
        "\0",
        "\u{b}",
        "\u{80}",
        ":",
        ";",
        ";a=\"b\"",
        ",",
        "0\r\n\r\n",
        "5\r\nabcde\r\n",
        "ffffffffffffffff",
        "000000000000000000",
        "+",
        "-",
        "0x",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: x-a\r\n",
        "Host: a\r\n",
        "X-A: b\r\n",
        "HTTP/1.0",
        "HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b \r\nabcde\r\n0\r\nX-A: b\r\n\r\n",
    ];
    const WORDS: &'static [&'static str] = &[
        "nothing",
        "waits",
        "refused",
        "one request",
        "a chunked body",
        "several requests",
        "refused behind a request",
        "waits behind a request",
    ];

    fn examples(&self) -> Vec<Vec<u8>> {
        bytes_of(&[
            "0",
            "1GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "2\r\n\r\nPOST /a?b HTTP/1.1\r\nhost: a:80\r\nContent-Length: 5\r\n\r\nabcde",
            "3POST / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding:\tchunked\r\n\r\n5;a=\"b\"\r\nabcde\r\nA \r\n0123456789\r\n000\r\nX-A: b\r\n\r\n",
            "4GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
            "5GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nX-B:\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\nrest",
            "6OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET",
            "7GET / HTTP/1.1\r\nHost: a\r\n\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        let (choice, bytes) = input.split_first().unwrap_or((&0, b""));
        let whole = Codec.parse(bytes);
        let mut dice = Dice(u64::from(*choice));
        assert_like(&whole, &Codec.parse_pieces(bytes.chunks(1)));
        assert_like(&whole, &Codec.parse_pieces(pieces(&mut dice, bytes)));
        let prefix = &bytes[..dice.roll(bytes.len() + 1)];
        assert_begins(&whole, &Codec.parse(prefix));
        for request in requests(&whole) {
            assert_same_again(request);
        }
        let chunked = requests(&whole).any(is_chunked);
        match (requests(&whole).count(), whole.last()) {
            (0, None) => "nothing",
            (0, Some(Outcome::Incomplete)) => "waits",
            (0, _) => "refused",
            (_, Some(Outcome::Refused(_))) => "refused behind a request",
            (_, Some(Outcome::Incomplete)) => "waits behind a request",
            _ if chunked => "a chunked body",
            (1, _) => "one request",
            _ => "several requests",
        }
    }
}

fn requests(outcomes: &[Outcome]) -> impl Iterator<Item = &Request> {
    outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Request(request) => Some(request),
        _ => None,
    })
}

fn pieces<'a>(dice: &mut Dice, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((1 + dice.roll(24)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// The same requests, and the same end. Bytes that end within a head that is wrong already may be refused or waited for.
fn assert_like(whole: &[Outcome], pieces: &[Outcome]) {
    assert!(
        requests(whole).eq(requests(pieces)) && goes_on(whole) == goes_on(pieces),
        "at once: {}\nin pieces: {}",
        shown(whole),
        shown(pieces)
    );
}

/// Whether the connection ended behind its last request, with nothing refused or awaited.
fn goes_on(outcomes: &[Outcome]) -> bool {
    matches!(outcomes.last(), None | Some(Outcome::Request(_)))
}

/// What a prefix of the bytes says stays true when the rest comes.
fn assert_begins(whole: &[Outcome], prefix: &[Outcome]) {
    let taken = requests(prefix).count();
    let is_refused = matches!(prefix.last(), Some(Outcome::Refused(_)));
    assert!(
        requests(whole).take(taken).eq(requests(prefix))
            && (!is_refused || requests(whole).count() == taken),
        "whole: {}\na prefix: {}",
        shown(whole),
        shown(prefix)
    );
}

fn is_chunked(request: &Request) -> bool {
    let headers = request.headers.as_deref().unwrap_or_default();
    headers.iter().any(|(name, _)| name == b"transfer-encoding")
}

/// Writes a request out of what was read, and reads it again.
fn assert_same_again(request: &Request) {
    let mut bytes = [&request.method, &b" "[..], &request.target].concat();
    bytes.extend_from_slice(if request.version == Some(0) {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });
    for (name, value) in request.headers.as_deref().unwrap_or_default() {
        bytes.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    if is_chunked(request) && !request.body.is_empty() {
        bytes.extend_from_slice(format!("{:x}\r\n", request.body.len()).as_bytes());
        bytes.extend_from_slice(&request.body);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    } else if is_chunked(request) {
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(&request.body);
    }
    let again = Codec.parse(&bytes);
    let expected = Request {
        place: Some(0..bytes.len()),
        ..request.clone()
    };
    assert!(
        again == [Outcome::Request(expected)],
        "written again, it reads as {}: b\"{}\"",
        shown(&again),
        bytes.escape_ascii()
    );
}
