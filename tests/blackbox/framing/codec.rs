//! HTTP/1 as RFC 9112 has it, read strictly: each rule at its edge, with the request at once and byte by byte.

use std::time::Duration;

use crate::support::client::{Call, Client, End, Gone, find};
use crate::support::http1::{
    BODY, DELIVERIES, Delivery, Ending, as_http_1_0, attempt, ending, holds, passes,
    refused_and_closed, request, says_close, serves_next,
};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

const CHAT: &str = "POST /v1/chat/completions HTTP/1.1";
const LENGTH: &str = "content-length: 16";
const CHUNKED: &str = "transfer-encoding: chunked";

/// Contract 2: `limits.headers`.
const HEAD_LIMIT: usize = 64 << 10;

/// A chat with these header lines and the smallest body behind its length.
fn with_length(key: &Key, lines: &[&str]) -> Vec<u8> {
    let lines: Vec<&str> = lines.iter().copied().chain([LENGTH]).collect();
    request(CHAT, key, &lines, BODY)
}

/// A chat whose body, its chunks' framing included, is this.
fn with_chunks(key: &Key, body: &str) -> Vec<u8> {
    request(CHAT, key, &[CHUNKED], body)
}

/// Tries each of these requests in each delivery: it must be refused with one of these statuses and closed.
fn all_refused<'a>(
    stand: &Stand,
    cases: &mut Cases,
    statuses: &[u16],
    requests: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
) {
    for (name, bytes) in requests {
        for delivery in DELIVERIES {
            let verdict = refused_and_closed(stand, delivery, &bytes, statuses);
            cases.check(&format!("{name:?}, {delivery:?}"), verdict);
        }
    }
}

/// Tries each of these requests in each delivery: it must pass, with the smallest body.
fn all_pass<'a>(
    stand: &Stand,
    cases: &mut Cases,
    requests: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
) {
    for (name, bytes) in requests {
        for delivery in DELIVERIES {
            let verdict = passes(stand, delivery, &bytes, BODY).map(drop);
            cases.check(&format!("{name:?}, {delivery:?}"), verdict);
        }
    }
}

/// The text of a request with one part of it replaced.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = find(bytes, from.as_bytes()).expect("the part is there");
    let mut changed = bytes.to_vec();
    changed.splice(at..at + from.len(), to.bytes());
    changed
}

#[test]
fn a_bare_line_feed_is_refused_wherever_it_stands() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_length(&stand.all, &["x-one: 1"]);
    let chunked = with_chunks(
        &stand.all,
        &format!("10\r\n{BODY}\r\n0\r\nx-trailer: 1\r\n\r\n"),
    );
    let everywhere = String::from_utf8_lossy(&whole).replace("\r\n", "\n");
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            ("everywhere", everywhere.into_bytes()),
            (
                "before the request line",
                [b"\n".as_slice(), &whole].concat(),
            ),
            (
                "behind the request line",
                replaced(&whole, "HTTP/1.1\r\n", "HTTP/1.1\n"),
            ),
            (
                "behind a header",
                replaced(&whole, "x-one: 1\r\n", "x-one: 1\n"),
            ),
            (
                "within a header",
                replaced(&whole, "x-one: 1", "x-one: 1\n2: 3"),
            ),
            (
                "as the empty line",
                replaced(&whole, "16\r\n\r\n", "16\r\n\n"),
            ),
            (
                "as both last line ends",
                replaced(&whole, "16\r\n\r\n", "16\n\n"),
            ),
        ],
    );
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            (
                "behind a chunk's size",
                replaced(&chunked, "10\r\n", "10\n"),
            ),
            (
                "behind a chunk's data",
                replaced(&chunked, "}\r\n0", "}\n0"),
            ),
            (
                "behind the last chunk's size",
                replaced(&chunked, "\r\n0\r\n", "\r\n0\n"),
            ),
            (
                "behind a trailer",
                replaced(&chunked, "x-trailer: 1\r\n", "x-trailer: 1\n"),
            ),
            (
                "as the trailers' empty line",
                replaced(&chunked, "x-trailer: 1\r\n\r\n", "x-trailer: 1\r\n\n"),
            ),
        ],
    );
    cases.done();
}

#[test]
fn a_bare_carriage_return_is_refused_wherever_it_stands() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_length(&stand.all, &["x-one: 1"]);
    let chunked = with_chunks(&stand.all, &format!("10\r\n{BODY}\r\n0\r\nx-t: 1\r\n\r\n"));
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            (
                "before the request line",
                [b"\r".as_slice(), &whole].concat(),
            ),
            ("in the target", replaced(&whole, "/v1/chat", "/v1\r/chat")),
            (
                "behind the version",
                replaced(&whole, "HTTP/1.1", "HTTP/1.1\r"),
            ),
            ("in a value", replaced(&whole, "x-one: 1", "x-one: 1\r2")),
            (
                "at a value's end",
                replaced(&whole, "x-one: 1", "x-one: 1\r"),
            ),
            ("before a value", replaced(&whole, "x-one: 1", "x-one: \r1")),
            ("in a name", replaced(&whole, "x-one", "x-\rone")),
            (
                "behind a header",
                replaced(&whole, "x-one: 1\r\n", "x-one: 1\r"),
            ),
            (
                "before the empty line",
                replaced(&whole, "16\r\n\r\n", "16\r\n\r\r\n"),
            ),
            (
                "behind a chunk's size",
                replaced(&chunked, "10\r\n", "10\r\r\n"),
            ),
            (
                "in a chunk's extension",
                replaced(&chunked, "10\r\n", "10;a\rb\r\n"),
            ),
            (
                "behind a chunk's data",
                replaced(&chunked, "}\r\n0", "}\r\r\n0"),
            ),
            ("in a trailer", replaced(&chunked, "x-t: 1", "x-t: 1\r2")),
        ],
    );
    cases.done();
}

#[test]
fn control_bytes_are_refused_in_targets_names_values_and_versions() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_length(&stand.all, &["x-one: 1"]);
    for control in (0_u8..0x20).chain([0x7f]) {
        let character = char::from(control);
        for (place, from, to) in [
            ("target", "/v1/chat", format!("/v1{character}/chat")),
            ("name", "x-one", format!("x-{character}one")),
            ("value", "x-one: 1", format!("x-one: 1{character}2")),
            ("method", "POST", format!("PO{character}ST")),
            ("version", "HTTP/1.1", format!("HTTP/1{character}.1")),
        ] {
            // A tab within a value is part of it.
            if control == b'\t' && place == "value" {
                continue;
            }
            let bytes = replaced(&whole, from, &to);
            let verdict = refused_and_closed(&stand, Delivery::AtOnce, &bytes, &[400]);
            cases.check(&format!("{control:#04x} in the {place}"), verdict);
        }
    }
    let tab = with_length(&stand.all, &["openai-version:\t1\t2\t"]);
    cases.check(
        "a tab in a value",
        passes(&stand, Delivery::AtOnce, &tab, BODY).map(drop),
    );
    let seen = stand.up.last();
    assert_eq!(seen.header("openai-version"), Some("1\t2"));
    cases.done();
}

#[test]
fn header_lines_have_no_fold_no_space_before_the_colon_and_a_token_for_a_name() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let lines = [
        "x-one: 1\r\n 2",
        "x-one: 1\r\n\t2",
        "x-one:\r\n 2",
        "x-one: 1\r\n ",
        " x-one: 1",
        "\tx-one: 1",
        "x-one : 1",
        "x-one\t: 1",
        "x one: 1",
        ": 1",
        " : 1",
        "x-one",
        "x-one;: 1",
        "\"x\": 1",
        "x/one: 1",
        "x[]: 1",
        "x{}: 1",
        "x=1: 1",
        "x?: 1",
        "x\u{e9}: 1",
        "content-length : 0",
        "transfer-encoding : chunked",
        "host : other",
    ];
    all_refused(
        &stand,
        &mut cases,
        &[400],
        lines.map(|line| (line, with_length(&stand.all, &[line]))),
    );
    // The first line behind the request line, where some parsers take a fold for part of that.
    let whole = with_length(&stand.all, &[]);
    let folded = replaced(&whole, "\r\nhost:", "\r\n host:");
    all_refused(&stand, &mut cases, &[400], [("the first line", folded)]);
    let odd = [
        "!#$%&'*+-.^`|~09aZ: 1",
        "x-one:1",
        "x-one:",
        "x-one: ",
        "x-one:\t \t1 \t",
        "x-one: a: b: c",
        "x-one: \"a, b\" (c)",
    ];
    all_pass(
        &stand,
        &mut cases,
        odd.map(|line| (line, with_length(&stand.all, &[line]))),
    );
    cases.done();
}

#[test]
fn at_most_two_line_ends_stand_before_a_request_line() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_length(&stand.all, &[]);
    let behind = |count: usize| ["\r\n".repeat(count).as_bytes(), &whole].concat();
    all_pass(
        &stand,
        &mut cases,
        [("none", behind(0)), ("one", behind(1)), ("two", behind(2))],
    );
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [("three", behind(3)), ("a hundred", behind(100))],
    );
    // The same before the next request of a connection.
    for (count, expected) in [(2, 200), (3, 400)] {
        for delivery in DELIVERIES {
            let mut client = stand.gateway.client();
            delivery.send(&mut client, &whole);
            let verdict = attempt(|| client.answer()).and_then(|first| {
                delivery.send(&mut client, &behind(count));
                let second = attempt(|| client.answer())?;
                holds((first.status, second.status) == (200, expected), || {
                    format!("{} and {}", first.status, second.status)
                })
            });
            cases.check(&format!("{count} between requests, {delivery:?}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn a_request_line_has_three_parts_with_one_space_between_them() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let lines = [
        "POST /v1/chat/completions",
        "POST /v1/chat/completions ",
        "POST  /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions  HTTP/1.1",
        "POST /v1/chat/completions HTTP/1.1 ",
        "POST /v1/chat/completions HTTP/1.1 x",
        " POST /v1/chat/completions HTTP/1.1",
        "POST\t/v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions\tHTTP/1.1",
        "POST /v1/chat /completions HTTP/1.1",
        "P(ST /v1/chat/completions HTTP/1.1",
        "P\u{d6}ST /v1/chat/completions HTTP/1.1",
        "/v1/chat/completions HTTP/1.1",
        "POST HTTP/1.1",
        "POST  HTTP/1.1",
    ];
    all_refused(
        &stand,
        &mut cases,
        &[400],
        lines.map(|line| (line, request(line, &stand.all, &[LENGTH], BODY))),
    );
    let versions = [
        "HTTP/1.2",
        "HTTP/1.9",
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/1.01",
        "HTTP/11",
        "HTTP/1.1x",
        "http/1.1",
        "HTTPS/1.1",
        "HTTP /1.1",
        "HTTP/1,1",
        "HTTP/A.1",
    ];
    for version in versions {
        let line = format!("POST /v1/chat/completions {version}");
        let bytes = request(&line, &stand.all, &[LENGTH], BODY);
        all_refused(&stand, &mut cases, &[400, 505], [(version, bytes)]);
    }
    cases.done();
}

#[test]
fn a_target_is_in_origin_form() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for target in [
        "http://localhost/v1/chat/completions",
        "HTTP://LOCALHOST/v1/chat/completions",
        "https://localhost/v1/chat/completions",
        "http:///v1/chat/completions",
        "http:/v1/chat/completions",
        "//",
        "localhost:80",
        "localhost",
        "v1/chat/completions",
        "*",
        "?x",
        "#x",
        "/v1/chat/completions#x",
        "/v1/chat/completions?x#y",
    ] {
        // A path that is none of those served is no bad target, but no request that passes either.
        let statuses: &[u16] = if target == "//" { &[404] } else { &[400] };
        let line = format!("POST {target} HTTP/1.1");
        let bytes = request(&line, &stand.all, &[LENGTH, "connection: close"], BODY);
        all_refused(&stand, &mut cases, statuses, [(target, bytes)]);
    }
    cases.done();
}

#[test]
fn a_request_has_one_valid_host_in_either_version() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_length(&stand.all, &[]);
    let old = replaced(&whole, "HTTP/1.1", "HTTP/1.0");
    for (version, whole) in [("1.1", &whole), ("1.0", &old)] {
        for lines in [
            "",
            "host: a\r\nhost: a\r\n",
            "host: a\r\nHost: b\r\n",
            "host: a\r\nhost:\r\n",
            "host:\r\n",
            "host: a b\r\n",
            "host: a/\r\n",
            "host: a?\r\n",
            "host: a#\r\n",
            "host: u@a\r\n",
            "host: a,b\r\n",
            "host: a:\r\nhost: a\r\n",
            "host: a:x\r\n",
            "host: a:80:80\r\n",
            "host: [::1\r\n",
            "host: ::1\r\n",
            "host: [::1]x\r\n",
            "host: http://a\r\n",
            "host: a\u{e9}\r\n",
            "host: a\"\r\n",
            "host: <a>\r\n",
        ] {
            let bytes = replaced(whole, "host: localhost\r\n", lines);
            all_refused(
                &stand,
                &mut cases,
                &[400],
                [(&*format!("{version} {lines}"), bytes)],
            );
        }
    }
    for line in [
        "host: a",
        "Host:a",
        "HOST: \t A.b-c.example \t",
        "host: a_b",
        "host: 192.0.2.1:8080",
        "host: [::1]",
        "host: [2001:db8::1]:443",
        "host: a:80",
    ] {
        let bytes = replaced(&whole, "host: localhost", line);
        all_pass(&stand, &mut cases, [(line, bytes)]);
    }
    cases.done();
}

#[test]
fn a_body_has_one_length() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let chunks = format!("10\r\n{BODY}\r\n0\r\n\r\n");
    let with = |lines: &[&str], body: &str| request(CHAT, &stand.all, lines, body);
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            ("both", with(&[LENGTH, CHUNKED], &chunks)),
            ("both, turned", with(&[CHUNKED, LENGTH], &chunks)),
            (
                "both, length 0",
                with(&["content-length: 0", CHUNKED], &chunks),
            ),
            ("two lengths", with(&[LENGTH, "content-length: 17"], BODY)),
            ("a list of two", with(&["content-length: 16, 17"], BODY)),
            ("a sign", with(&["content-length: +16"], BODY)),
            ("hexadecimal", with(&["content-length: 0x10"], BODY)),
            ("a blank inside", with(&["content-length: 1 6"], BODY)),
            ("empty", with(&["content-length:"], BODY)),
            (
                "2^64",
                with(&["content-length: 18446744073709551616"], BODY),
            ),
            (
                "2^64 and 16",
                with(&["content-length: 18446744073709551632"], BODY),
            ),
            ("chunked twice", with(&[CHUNKED, CHUNKED], &chunks)),
            (
                "chunked, chunked",
                with(&["transfer-encoding: chunked, chunked"], &chunks),
            ),
            (
                "a parameter",
                with(&["transfer-encoding: chunked;q=1"], &chunks),
            ),
            (
                "an empty element",
                with(&["transfer-encoding: chunked,"], &chunks),
            ),
            (
                "an empty coding",
                with(&["transfer-encoding:", LENGTH], BODY),
            ),
            (
                "a fold in it",
                with(&["transfer-encoding:\r\n chunked"], &chunks),
            ),
        ],
    );
    all_refused(
        &stand,
        &mut cases,
        &[400, 501],
        [
            (
                "gzip, chunked",
                with(&["transfer-encoding: gzip, chunked"], &chunks),
            ),
            (
                "identity",
                with(&["transfer-encoding: identity", LENGTH], BODY),
            ),
            (
                "chunked, identity",
                with(&["transfer-encoding: chunked, identity"], &chunks),
            ),
        ],
    );
    let old = |lines: &[&str], body: &str| replaced(&with(lines, body), "HTTP/1.1", "HTTP/1.0");
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            ("1.0 and chunked", old(&[CHUNKED], &chunks)),
            ("1.0 and both", old(&[CHUNKED, LENGTH], &chunks)),
        ],
    );
    all_pass(
        &stand,
        &mut cases,
        [
            (
                "the same twice",
                with(&[LENGTH, "Content-Length: 16"], BODY),
            ),
            (
                "a blank around it",
                with(&["content-length: \t16 \t"], BODY),
            ),
            (
                "in capitals",
                with(&["TRANSFER-ENCODING: CHUNKED"], &chunks),
            ),
            (
                "a blank around chunked",
                with(&["transfer-encoding: \tchunked \t"], &chunks),
            ),
        ],
    );
    cases.done();
}

#[test]
fn a_chunks_size_is_hexadecimal_with_blanks_behind_it_alone() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let sized = |size: &str| with_chunks(&stand.all, &format!("{size}\r\n{BODY}\r\n0\r\n\r\n"));
    let passing = [
        "10",
        "010",
        "0000010",
        "10 ",
        "10\t",
        "10 \t ",
        "10;a",
        "10;a=b",
        "10 ;a",
        "10\t; a = b",
        "10;a=\"b;c\"",
        "10;a;b;c",
        "10 ; a",
    ];
    all_pass(&stand, &mut cases, passing.map(|size| (size, sized(size))));
    let refused = [
        " 10",
        "\t10",
        "+10",
        "-10",
        "0x10",
        "10h",
        "1 0",
        "1_0",
        "10,",
        "10 x",
        "10\u{b}",
        "",
        ";a",
        " ",
        "x",
        "g",
        "10000000000000010",
        "ffffffffffffffff",
        "8000000000000000",
    ];
    for size in refused {
        // A body too large to be one may be refused as that.
        all_refused(&stand, &mut cases, &[400, 413], [(size, sized(size))]);
    }
    let behind = |end: &str| with_chunks(&stand.all, &format!("10\r\n{BODY}{end}"));
    let ends = [
        "\r\n0\r\n\r\n",
        "\r\n000\r\n\r\n",
        "\r\n0 \r\n\r\n",
        "\r\n0;a=b\r\n\r\n",
    ];
    all_pass(&stand, &mut cases, ends.map(|end| (end, behind(end))));
    let ends = [
        "0\r\n\r\n",
        " \r\n0\r\n\r\n",
        "\r\r\n0\r\n\r\n",
        "x\r\n0\r\n\r\n",
        "\r\n-0\r\n\r\n",
    ];
    all_refused(
        &stand,
        &mut cases,
        &[400],
        ends.map(|end| (end, behind(end))),
    );
    cases.done();
}

#[test]
fn what_a_chunk_size_says_beside_the_size_is_bounded_and_dropped() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let sized = |size: &str| with_chunks(&stand.all, &format!("{size}\r\n{BODY}\r\n0\r\n\r\n"));
    let extension = |length: usize| format!("10;{}", "marker".repeat(length / 6));
    all_pass(&stand, &mut cases, [("200 bytes", sized(&extension(200)))]);
    all_refused(
        &stand,
        &mut cases,
        &[400, 413, 431],
        [
            ("an extension of 80 KiB", sized(&extension(80 << 10))),
            (
                "blanks of 80 KiB",
                sized(&format!("10{}", " ".repeat(80 << 10))),
            ),
            (
                "zeros of 80 KiB",
                sized(&format!("{}10", "0".repeat(80 << 10))),
            ),
        ],
    );
    // Little chunks with much beside them: a megabyte in all, for a body of 4 KB.
    let mut body = String::new();
    for _ in 0..4096 {
        body.push_str(&format!("1;{}\r\n \r\n", "marker".repeat(42)));
    }
    let bytes = with_chunks(&stand.all, &format!("{body}10\r\n{BODY}\r\n0\r\n\r\n"));
    let verdict = refused_and_closed(&stand, Delivery::AtOnce, &bytes, &[400, 413, 431]);
    cases.check("4096 extensions", verdict);
    let forwarded = String::from_utf8_lossy(&stand.up.bytes()).contains("marker");
    cases.check("upstream", holds(!forwarded, || "it saw one".to_owned()));
    cases.done();
}

#[test]
fn trailers_are_read_as_strictly_as_headers_bounded_and_dropped() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let with =
        |trailers: &str| with_chunks(&stand.all, &format!("10\r\n{BODY}\r\n0\r\n{trailers}\r\n"));
    let numbered = |count: usize| -> String {
        (0..count)
            .map(|at| format!("x-marker-{at}: 1\r\n"))
            .collect()
    };
    let sk = "authorization: Bearer sk-marker\r\nhost: marker\r\ncontent-length: 3\r\ntransfer-encoding: marker\r\n";
    all_pass(
        &stand,
        &mut cases,
        [
            ("none", with("")),
            ("one", with("x-marker: 1\r\n")),
            ("fifty", with(&numbered(50))),
            ("names that steer", with(sk)),
        ],
    );
    let seen = String::from_utf8_lossy(&stand.up.bytes()).to_ascii_lowercase();
    cases.check("upstream", holds(!seen.contains("marker"), || seen.clone()));
    all_refused(
        &stand,
        &mut cases,
        &[400],
        [
            ("a fold", with("x-one: 1\r\n 2\r\n")),
            ("a space before the colon", with("x-one : 1\r\n")),
            ("no colon", with("x-one\r\n")),
            ("no name", with(": 1\r\n")),
            ("a name that is no token", with("x(one): 1\r\n")),
            ("a NUL", with("x-one: \0\r\n")),
            ("a request", with("GET /v1/models HTTP/1.1\r\n")),
        ],
    );
    all_refused(
        &stand,
        &mut cases,
        &[400, 413, 431],
        [("many", with(&numbered(5000)))],
    );
    let wide = with(&format!("x-wide: {}\r\n", "w".repeat(100 << 10)));
    let verdict = refused_and_closed(&stand, Delivery::AtOnce, &wide, &[400, 413, 431]);
    cases.check("a wide one", verdict);
    cases.done();
}

#[test]
fn a_request_has_at_most_a_hundred_headers() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    // Four stand in each already: host, authorization, content-type, content-length.
    let with = |count: usize| {
        let lines: Vec<String> = (4..count).map(|at| format!("x-{at}: 1")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        with_length(&stand.all, &lines)
    };
    all_pass(&stand, &mut cases, [("a hundred", with(100))]);
    all_refused(
        &stand,
        &mut cases,
        &[431],
        [("one more", with(101)), ("a thousand", with(1000))],
    );
    cases.done();
}

/// A chat whose head, from its first byte to the last of its empty line, is so long.
fn with_head_of(key: &Key, length: usize) -> Vec<u8> {
    let bytes = with_length(key, &["x-wide: "]);
    let wide = "w".repeat(length + BODY.len() - bytes.len());
    replaced(&bytes, "x-wide: ", &format!("x-wide: {wide}"))
}

#[test]
fn a_head_may_be_as_long_as_its_limit_and_not_a_byte_longer() {
    let mut cases = Cases::new();
    for limit in [HEAD_LIMIT, 8 << 10] {
        let line = format!("headers = \"{}KiB\"", limit >> 10);
        let stand = Stand::with(|setup| setup.set("limits", &line));
        all_pass(
            &stand,
            &mut cases,
            [
                ("one byte shorter", with_head_of(&stand.all, limit - 1)),
                ("exactly", with_head_of(&stand.all, limit)),
            ],
        );
        all_refused(
            &stand,
            &mut cases,
            &[431],
            [
                ("one byte longer", with_head_of(&stand.all, limit + 1)),
                ("twice as long", with_head_of(&stand.all, 2 * limit)),
            ],
        );
        let target = format!("GET /v1/models?{} HTTP/1.1", "q".repeat(limit));
        let target = request(&target, &stand.all, &[], "");
        all_refused(&stand, &mut cases, &[414, 431], [("a target", target)]);
    }
    cases.done();
}

#[test]
fn a_head_beyond_its_limit_is_refused_before_it_ends() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let whole = with_head_of(&stand.all, HEAD_LIMIT + 100);
    for delivery in DELIVERIES {
        let head = &whole[..HEAD_LIMIT + 1];
        let verdict = refused_and_closed(&stand, delivery, head, &[431]);
        cases.check(&format!("a line that never ends, {delivery:?}"), verdict);
        let lines = "x: y\r\n".repeat(101);
        let head = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{lines}");
        let verdict = refused_and_closed(&stand, delivery, head.as_bytes(), &[431]);
        cases.check(&format!("lines that never end, {delivery:?}"), verdict);
    }
    cases.done();
}

#[test]
fn a_request_may_come_a_byte_at_a_time_and_so_may_the_next() {
    for stand in [Stand::new(), Stand::with(|setup| setup.tls())] {
        let call = Call::chat(&stand.all.token, "good");
        let mut client = stand.gateway.client();
        for bytes in [call.bytes(), call.chunked(&[1, 2, 3]), call.bytes()] {
            Delivery::ByteByByte.send(&mut client, &bytes);
            assert_eq!(client.answer().status, 200);
            assert_eq!(stand.up.last().body, call.body);
        }
        let refused = Call::chat("sk-unknown", "good").without("content-type");
        Delivery::ByteByByte.send(&mut client, &refused.bytes());
        assert_error(&client.answer(), 401, "invalid_api_key");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_judged_one_by_one() {
    const ROUNDS: usize = 12;
    let mut cases = Cases::new();
    for (name, stand) in [
        ("plain", Stand::new()),
        ("TLS", Stand::with(|setup| setup.tls())),
    ] {
        let chat = Call::chat(&stand.all.token, "good");
        let head = Call::new("HEAD", "/v1/models").bearer("sk-unknown");
        let round: [(&str, Vec<u8>, u16); 7] = [
            ("POST", chat.bytes(), 200),
            ("GET", Call::get("/v1/key", &stand.only.token).bytes(), 200),
            ("HEAD", head.bytes(), 401),
            ("POST", chat.chunked(&[5, 1]), 200),
            ("POST", Call::chat(&stand.only.token, "bad").bytes(), 404),
            ("GET", Call::get("/nowhere", &stand.all.token).bytes(), 404),
            ("GET", Call::get("/v1/key", &stand.all.token).bytes(), 200),
        ];
        let one: Vec<u8> = round
            .iter()
            .flat_map(|(_, bytes, _)| bytes.clone())
            .collect();
        for delivery in DELIVERIES {
            let before = stand.up.requests().len();
            let mut client = stand.gateway.client();
            delivery.send(&mut client, &one.repeat(ROUNDS));
            for at in 0..ROUNDS {
                for (number, (method, _, status)) in round.iter().enumerate() {
                    let verdict = attempt(|| client.answer_to(method)).and_then(|response| {
                        let owner = match number {
                            1 => Some("key_only"),
                            6 => Some("key_all"),
                            _ => None,
                        };
                        let is_its_own = owner.is_none_or(|owner| response.json()["id"] == owner);
                        let right =
                            response.status == *status && is_its_own && !says_close(&response);
                        holds(right && response.end == End::Whole, || {
                            format!("{response:?}")
                        })
                    });
                    cases.check(&format!("{name} {delivery:?}, {at}, {number}"), verdict);
                }
            }
            let count = stand.up.requests().len() - before;
            let verdict = holds(count == 2 * ROUNDS, || format!("{count} were forwarded"));
            cases.check(&format!("{name} {delivery:?}, upstream"), verdict);
        }
    }
    cases.done();
}

#[test]
fn nothing_behind_a_request_that_ends_its_connection_is_served() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let next = Call::chat(&stand.all.token, "bad").bytes();
    let close = Call::get("/v1/models", &stand.all.token).header("connection", "close");
    let old = Call::get("/v1/models", &stand.all.token);
    for (name, first) in [
        ("Connection: close", close.bytes()),
        ("HTTP/1.0", as_http_1_0(&old)),
        (
            "not HTTP",
            b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n".to_vec(),
        ),
    ] {
        for delivery in DELIVERIES {
            let mut client = stand.gateway.client();
            delivery.send(&mut client, &[&first[..], &next].concat());
            let verdict = attempt(|| {
                client.answer();
                client.assert_closed();
            });
            cases.check(&format!("{name}, {delivery:?}"), verdict);
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

/// What a client says of its connection, and whether that is kept then.
const KEEPING: [(&str, &[&str], bool); 10] = [
    ("HTTP/1.1", &[], true),
    ("HTTP/1.1", &["connection: keep-alive"], true),
    ("HTTP/1.1", &["connection: close"], false),
    ("HTTP/1.1", &["connection: CLOSE"], false),
    ("HTTP/1.1", &["connection: keep-alive, close"], false),
    ("HTTP/1.1", &["connection: te", "connection: close"], false),
    ("HTTP/1.1", &["connection: closed"], true),
    ("HTTP/1.0", &[], false),
    ("HTTP/1.0", &["connection: Keep-Alive"], true),
    ("HTTP/1.0", &["connection: keep-alive, close"], false),
];

#[test]
fn a_connection_is_kept_or_ended_as_its_client_says_in_either_version() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (version, lines, is_kept) in KEEPING {
        for (method, target, token, body, status) in [
            ("GET", "/v1/models", &*stand.all.token, "", 200),
            ("POST", "/v1/chat/completions", &stand.all.token, BODY, 200),
            ("GET", "/v1/models", "sk-unknown", "", 401),
            ("HEAD", "/v1/models", "sk-unknown", "", 401),
        ] {
            let mut call = Call::new(method, target).bearer(token).body(body);
            if method == "POST" {
                call = call.header("content-type", "application/json");
            }
            let mut bytes = call.bytes();
            let own: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            bytes = replaced(&bytes, "HTTP/1.1\r\n", &format!("{version}\r\n{own}"));
            let mut client = stand.gateway.client();
            client.send(&bytes);
            let verdict = attempt(|| client.answer_to(method)).and_then(|response| {
                holds(response.status == status, || response.status.to_string())?;
                if !is_kept {
                    let end = ending(&mut client, DEADLINE);
                    return holds(end == Some(Ending::Clean), || format!("{end:?}"));
                }
                // A client of HTTP/1.0 has to be told that its connection lives on.
                let told = response.header("connection").unwrap_or_default();
                holds(
                    version == "HTTP/1.1" || told.eq_ignore_ascii_case("keep-alive"),
                    || format!("told {told:?}"),
                )?;
                holds(!says_close(&response), || "told close".to_owned())?;
                serves_next(&mut client, &stand.only)
            });
            cases.check(&format!("{version} {lines:?} {method} {status}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn a_streamed_answer_of_http_1_0_ends_with_its_connection_whatever_the_client_says() {
    let stand = Stand::held();
    let call = Call::chat(&stand.all.token, "good").header("connection", "keep-alive");
    let mut client = stand.gateway.client();
    client.send(&as_http_1_0(&call));
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    exchange.end_stream();
    let response = client.answer();
    assert_eq!(
        (response.text().as_str(), response.end),
        ("data: one\n\n", End::UntilClose)
    );
    assert!(!response.all("connection").contains(&"keep-alive"));
    assert_eq!(client.ends_within(DEADLINE), Some(Gone::Fin));
}

#[test]
fn an_answer_to_head_has_the_head_of_its_get_and_no_body() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (target, token) in [
        ("/v1/models", &*stand.all.token),
        ("/v1/models/good", &stand.all.token),
        ("/v1/key", &stand.all.token),
        ("/v1/models", "sk-unknown"),
        ("/nowhere", &stand.all.token),
    ] {
        let mut client = stand.gateway.client();
        let verdict = attempt(|| {
            let get = client.ask(&Call::get(target, token));
            let head = client.ask(&Call::new("HEAD", target).bearer(token));
            (get, head)
        })
        .and_then(|(get, head)| {
            let right = head.status == get.status
                && head.header("content-length") == Some(&get.body.len().to_string())
                && head.header("content-type") == get.header("content-type");
            holds(right, || format!("{get:?} {head:?}"))
        })
        // Were there a body, it would be taken for the head of the next answer.
        .and_then(|()| serves_next(&mut client, &stand.only));
        cases.check(&format!("{target} {token:.3}"), verdict);
    }
    cases.done();
}

#[test]
fn connect_is_refused_and_nothing_behind_it_is_read() {
    let stand = Stand::new();
    let up = stand.up.address;
    let inner = Call::chat(&stand.all.token, "bad").bytes();
    let inner = String::from_utf8_lossy(&inner);
    let mut cases = Cases::new();
    for target in [
        &*up.to_string(),
        "localhost:443",
        "/v1/chat/completions",
        "*",
    ] {
        let line = format!("CONNECT {target} HTTP/1.1");
        for lines in [&[][..], &["content-length: 5"]] {
            let bytes = request(&line, &stand.all, lines, &inner);
            all_refused(&stand, &mut cases, &[400, 405, 501], [(&*line, bytes)]);
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn a_client_that_ends_its_direction_has_left_wherever_its_request_stood() {
    let stand = Stand::held();
    let call = Call::chat(&stand.all.token, "good");
    let whole = call.bytes();
    let head = whole.len() - call.body.len();
    let mut cases = Cases::new();
    for (name, sent) in [
        ("before a byte", 0),
        ("within the request line", 10),
        ("within a header", head - 10),
        ("before the body", head),
        ("within the body", whole.len() - 1),
    ] {
        let mut client = stand.gateway.client();
        client.send(&whole[..sent]);
        client.shut_write();
        let gone = client.ends_within(WITHIN_A_SECOND);
        cases.check(
            name,
            holds(gone.is_some(), || "it is waited for".to_owned()),
        );
        cases.check(name, stand.up.untouched());
    }
    // Between two requests, and with half of the next one sent.
    for more in [&[][..], &whole[..head - 10], &whole[..head]] {
        let mut client = stand.gateway.client();
        let models = Call::get("/v1/models", &stand.all.token);
        assert_eq!(client.ask(&models).status, 200);
        client.send(more);
        client.shut_write();
        let gone = client.ends_within(WITHIN_A_SECOND);
        cases.check(
            &format!("{} bytes of the next", more.len()),
            holds(gone.is_some(), || "it is waited for".to_owned()),
        );
    }
    let mut client = stand.gateway.client();
    client.send(&whole);
    let exchange = stand.up.next();
    client.shut_write();
    let freed = exchange.gone_within(WITHIN_A_SECOND);
    cases.check(
        "while its answer is waited for",
        holds(freed, || "kept".to_owned()),
    );
    cases.done();
    eventually("every connection is forgotten", DEADLINE, || {
        (stand.gateway.metric("keygate_connections") == 0.0).then_some(())
    });
}

#[test]
fn half_a_request_line_end_is_waited_for_and_not_for_ever() {
    let stand = Stand::with(|setup| setup.set("timeouts", "header_read = \"1s\""));
    let whole = with_length(&stand.all, &[]);
    let line = find(&whole, b"\r\n").expect("a line end") + 1;
    let head = find(&whole, b"\r\n\r\n").expect("an empty line") + 3;
    for at in [1, line, head] {
        let mut client = Client::connect(stand.gateway.address);
        client.send(&whole[..at]);
        assert!(
            client.silent_for(Duration::from_millis(200)),
            "refused at {at}"
        );
        client.send(&whole[at..]);
        assert_eq!(client.answer().status, 200);
        let mut client = Client::connect(stand.gateway.address);
        client.send(&whole[..at]);
        assert!(client.ends_within(Duration::from_secs(4)).is_some(), "{at}");
    }
}
