use proptest::prelude::*;

use super::*;

const MAX: usize = 64 << 10;

/// A head with these lines between request line and empty line.
fn parse(request_line: &str, lines: &str) -> Result<RequestHead, HeadError> {
    let text = format!("{request_line}\r\n{lines}\r\n");
    let mut head = RequestHead::default();
    match head.parse(text.as_bytes(), MAX, &mut HeadScan::default())? {
        Some(length) => {
            assert_eq!(length, text.len());
            Ok(head)
        }
        None => panic!("{text:?} is taken for a part of a head"),
    }
}

fn with(lines: &str) -> Result<RequestHead, HeadError> {
    parse("POST /v1/models HTTP/1.1", &format!("host: a\r\n{lines}"))
}

#[test]
fn a_head_is_read_with_its_parts_in_place() {
    let head = parse(
        "POST /v1/x?model=a&b HTTP/1.1",
        "Host: example.com:80\r\nX-Empty:\r\nx-empty-too: \r\nX-One:1\r\nContent-Length: 12\r\n",
    )
    .unwrap();
    assert_eq!((head.method(), head.target()), ("POST", "/v1/x?model=a&b"));
    assert_eq!((head.path(), head.query()), ("/v1/x", Some("model=a&b")));
    assert_eq!(head.framing(), RequestFraming::Length(12));
    assert!(head.keeps_open());
    let mut out = Vec::new();
    head.fields()
        .write(&mut out, |line| line.kind() == FieldKind::Other);
    assert_eq!(out, b"X-Empty: \r\nx-empty-too: \r\nX-One: 1\r\n");
}

#[test]
fn exactly_one_plain_host_and_a_path_are_needed() {
    assert!(parse("GET / HTTP/1.1", "host: [::1]:80\r\n").is_ok());
    for lines in [
        "",
        "host: a\r\nhost: a\r\n",
        "host:\r\n",
        "host: a/b\r\n",
        "host: a?b\r\n",
        "host: a#b\r\n",
        "host: a@b\r\n",
        "host: a\\b\r\n",
        "host: a,b\r\n",
        "host: a b\r\n",
        "host: a:x\r\n",
        "host: a:80:80\r\n",
        "host: ::1\r\n",
        "host: [::1\r\n",
        "host: [::1]x\r\n",
        "host: []\r\n",
        "host: :80\r\n",
    ] {
        assert!(parse("GET / HTTP/1.1", lines).is_err(), "{lines:?}");
    }
    for line in [
        "GET http://a/v1/models HTTP/1.1",
        "GET * HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /a<b HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET /",
        "G@T / HTTP/1.1",
        " GET / HTTP/1.1",
        "",
    ] {
        assert!(parse(line, "host: a\r\n").is_err(), "{line:?}");
    }
    assert!(parse("OPTIONS * HTTP/1.1", "host: a\r\n").is_ok());
    assert!(parse("GET /?q=\u{e4} HTTP/1.1", "host: a\r\n").is_ok());
}

#[test]
fn only_one_clean_framing_is_taken() {
    let framing = |lines| with(lines).map(|head| head.framing());
    assert_eq!(framing(""), Ok(RequestFraming::Length(0)));
    let same = "content-length: 2\r\nContent-Length: 2\r\n";
    assert_eq!(framing(same), Ok(RequestFraming::Length(2)));
    assert_eq!(
        framing("content-length: 007\r\n"),
        Ok(RequestFraming::Length(7))
    );
    assert_eq!(
        framing("Transfer-Encoding: Chunked\r\n"),
        Ok(RequestFraming::Chunked)
    );
    for lines in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked;x=1\r\n",
        "transfer-encoding:\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
        "content-length:\r\n",
        "content-length: +2\r\n",
        "content-length: -0\r\n",
        "content-length: 0x2\r\n",
        "content-length: 2 2\r\n",
        "content-length: 2, 2\r\n",
        "content-length: 2\r\ncontent-length: 02\r\n",
        "content-length: 18446744073709551616\r\n",
    ] {
        assert!(framing(lines).is_err(), "{lines:?}");
    }
    let old = parse(
        "POST / HTTP/1.0",
        "host: a\r\ntransfer-encoding: chunked\r\n",
    );
    assert!(old.is_err(), "chunks in HTTP/1.0");
}

#[test]
fn lines_that_two_servers_could_read_differently_are_refused() {
    for lines in [
        "a: b\r\n c\r\n",
        "a : b\r\n",
        "a\tb: c\r\n",
        ": b\r\n",
        "a\r\n",
        "a: b\rc\r\n",
        "a: b\0c\r\n",
        "a: b\x7fc\r\n",
        "a: b\x01c\r\n",
        "a: b\n",
        "a: b\nc: d\r\n",
    ] {
        assert!(with(lines).is_err(), "{lines:?}");
    }
}

#[test]
fn the_connection_is_kept_as_its_version_and_options_say() {
    let keeps = |version: &str, lines: &str| {
        let line = format!("GET / HTTP/{version}");
        let head = parse(&line, &format!("host: a\r\n{lines}"));
        head.unwrap().keeps_open()
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "connection: Keep-Alive\r\n"));
    assert!(!keeps("1.1", "connection: x\r\nConnection: y , CLOSE\r\n"));
    assert!(!keeps("1.1", "connection: keep-alive, close\r\n"));
}

#[test]
fn connection_removes_what_it_names_but_nothing_that_is_judged_or_set() {
    let lines = "connection: X-One, keep-alive,,te\r\nCONNECTION: x-two\r\nx-one: 1\r\nX-Two: 2\r\nx-three: 3\r\n";
    let head = with(lines).unwrap();
    let mut out = Vec::new();
    head.fields()
        .write(&mut out, |line| line.kind() == FieldKind::Other);
    assert_eq!(String::from_utf8(out).unwrap(), "x-three: 3\r\n");
    for name in [
        "content-type",
        "Content-Length",
        "content-encoding",
        "content-disposition",
        "host",
        "accept",
        "accept-encoding",
        "authorization",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "expect",
        "x-api-key",
        "api-key",
    ] {
        assert!(
            with(&format!("connection: close, {name}\r\n")).is_err(),
            "{name}"
        );
    }
    for name in [
        "close",
        "keep-alive",
        "upgrade",
        "TE",
        "trailer",
        "proxy-authenticate",
        "user-agent",
    ] {
        assert!(with(&format!("connection: {name}\r\n")).is_ok(), "{name}");
    }
    assert!(with("connection: \u{e4}\r\n").is_err());
}

#[test]
fn a_head_has_its_bounds_in_bytes_and_fields() {
    let head = |filler: usize| {
        format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "y".repeat(filler)
        )
    };
    let length = head(0).len();
    let parse = |text: &str, max| {
        RequestHead::default().parse(text.as_bytes(), max, &mut HeadScan::default())
    };
    assert_eq!(parse(&head(10), length + 10), Ok(Some(length + 10)));
    assert_eq!(
        parse(&head(11), length + 10),
        Err(HeadError::TooLarge(length + 10))
    );
    assert_eq!(parse(&head(200)[..length + 9], length + 10), Ok(None));
    assert_eq!(
        parse(&head(200)[..length + 10], length + 10),
        Err(HeadError::TooLarge(length + 10))
    );
    assert!(with(&"a: b\r\n".repeat(MAX_REQUEST_FIELDS - 1)).is_ok());
    assert_eq!(
        with(&"a: b\r\n".repeat(MAX_REQUEST_FIELDS)).err(),
        Some(HeadError::TooManyFields)
    );
}

#[test]
fn a_peer_that_speaks_something_else_is_told_early() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"SSH-2.0-x\r\n",
        b"GET /\n",
        b"\r\n\r\n\r\nGET",
        b"\n",
        b"\r\n\nGET",
    ] {
        let read = RequestHead::default().parse(bytes, MAX, &mut HeadScan::default());
        assert!(read.is_err(), "{bytes:?}");
    }
    let text = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let read = RequestHead::default().parse(text, MAX, &mut HeadScan::default());
    assert_eq!(read, Ok(Some(text.len())));
}

#[test]
fn http2_refuses_a_host_that_disagrees_with_the_authority() {
    let read = |uri: &str, hosts: &[&str]| {
        let mut request = http::Request::builder().uri(uri).version(Version::HTTP_2);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        RequestHead::default().read_http2(&parts, MAX)
    };
    assert_eq!(read("http://a.example/", &[]), Ok(()));
    assert_eq!(read("http://a.example/", &["A.example"]), Ok(()));
    assert!(read("http://a.example/", &["b.example"]).is_err());
    assert!(read("http://a.example/", &["a.example", "a.example"]).is_err());
    assert!(read("http://a@b/", &[]).is_err());
    assert!(read("/", &["a.example"]).is_err());
}

proptest! {
    /// Whatever comes, and however it is cut into pieces, is read as when it comes at once.
    #[test]
    fn pieces_are_read_as_the_whole(
        bytes in prop::collection::vec(prop::sample::select(&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n:x \n\r"[..]), 0..80),
        valid in any::<bool>(),
        cut in 1_usize..40,
    ) {
        let mut text = bytes;
        if valid {
            text.splice(0..0, *b"GET / HTTP/1.1\r\nhost: a\r\n");
            text.extend_from_slice(b"\r\n\r\n");
        }
        let whole = RequestHead::default().parse(&text, MAX, &mut HeadScan::default());
        let (mut head, mut scan) = (RequestHead::default(), HeadScan::default());
        let mut piecewise = Ok(None);
        for end in (cut..text.len()).step_by(cut).chain([text.len()]) {
            piecewise = head.parse(&text[..end], MAX, &mut scan);
            if piecewise != Ok(None) {
                break;
            }
        }
        match (whole, piecewise) {
            // A part that grows slowly is not looked at with every byte, so its fault may show only at its end.
            (Err(_), Ok(None)) => {
                text.extend_from_slice(b"\r\n\r\n");
                prop_assert!(head.parse(&text, MAX, &mut scan).is_err());
            }
            (Ok(whole), Ok(piecewise)) => prop_assert_eq!(whole, piecewise),
            // What is refused early may be refused for another of its faults.
            (whole, piecewise) => prop_assert_eq!(whole.is_err(), piecewise.is_err()),
        }
    }
}
