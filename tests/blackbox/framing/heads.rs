//! Heads that are not HTTP, or that two servers could read in two ways, are refused before anything else is looked at.

use std::time::{Duration, Instant};

use crate::framing::http2::h2_fields;
use crate::framing::verdict::{BODY, attempt, raw, refused, refused_or_clean, request, smuggled};
use crate::support::client::{Call, Client};
use crate::support::raw_h2::{self, Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE};

#[test]
fn http_1_0_and_versions_that_do_not_exist_are_handled_or_closed() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let chunked = format!("10\r\n{BODY}\r\n0\r\n\r\n");
    let old = request(
        "POST /v1/chat/completions HTTP/1.0",
        &stand.all,
        &["transfer-encoding: chunked"],
        &chunked,
    );
    cases.check("1.0 with Transfer-Encoding", refused(&stand, &old, &[400]));
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/3",
        "http/1.1",
        "HTTP/1.10",
        "HTTP/11",
        "HTTP/1.",
        "HTTP /1.1",
        "FTP/1.1",
        "",
    ] {
        let first = format!("GET /v1/models {version}");
        let bytes = request(first.trim_end(), &stand.all, &[], "");
        cases.check(version, refused(&stand, &bytes, &[400, 505, 0]));
    }
    cases.check(
        "0.9",
        refused(&stand, b"GET /v1/models\r\n", &[400, 505, 0]),
    );
    // Without a length an HTTP/1.0 body is empty, and what follows is never a request.
    let bytes = request(
        "POST /v1/chat/completions HTTP/1.0",
        &stand.all,
        &[],
        &smuggled(&stand.all),
    );
    cases.check("1.0 without a length", refused(&stand, &bytes, &[400]));
    cases.done();
    let mut client = Client::connect(stand.gateway.address);
    client.send(&request("GET /v1/models HTTP/1.0", &stand.all, &[], ""));
    let response = client.answer();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_ne!(response.header("transfer-encoding"), Some("chunked"));
    client.assert_closed();
}

#[test]
fn a_head_that_is_not_http_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for line in [
        "x: a\rb",
        "x: a\0b",
        "x: a\x01b",
        "x: a\x7fb",
        "x : a",
        "x\t: a",
        " x: a",
        "x: a\r\n b",
        "x: a\r\n\tb",
        ": a",
        "x",
        "x y: a",
        "x\0: a",
        "x\x7f: a",
        "x(: a",
        "x@: a",
        "\u{e4}: a",
        "content-length : 16",
    ] {
        cases.check(
            &format!("{line:?}"),
            refused(
                &stand,
                &raw(&stand.all, &[line, "content-length: 16"], BODY),
                &[400],
            ),
        );
    }
    let space_first = format!(
        "POST /v1/chat/completions HTTP/1.1\r\n host: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        stand.all.token
    );
    cases.check(
        "space before the first header",
        refused(&stand, space_first.as_bytes(), &[400]),
    );
    for first in [
        "POST  /v1/chat/completions HTTP/1.1",
        " POST /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions  HTTP/1.1",
        "POST\t/v1/chat/completions HTTP/1.1",
        "POST /v1/chat completions HTTP/1.1",
        "POST",
        "/v1/models",
        "\0\0\0\0",
    ] {
        cases.check(
            first,
            refused(
                &stand,
                &request(first, &stand.all, &["content-length: 16"], BODY),
                &[400],
            ),
        );
    }
    cases.done();
}

#[test]
fn bare_line_feeds_are_refused_or_normalised() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let bytes = raw(&stand.all, &["x-one: 1", "content-length: 16"], BODY);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    cases.check(
        "everywhere",
        refused_or_clean(&stand, text.replace("\r\n", "\n").as_bytes(), BODY),
    );
    cases.check(
        "behind one header",
        refused_or_clean(
            &stand,
            text.replace("x-one: 1\r\n", "x-one: 1\n").as_bytes(),
            BODY,
        ),
    );
    cases.check(
        "at the head's end",
        refused_or_clean(
            &stand,
            text.replace("16\r\n\r\n", "16\n\n").as_bytes(),
            BODY,
        ),
    );
    cases.done();
}

#[test]
fn bytes_beyond_ascii_in_headers_that_steer_are_refused_and_elsewhere_pass_or_are_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for name in [
        "authorization",
        "host",
        "content-type",
        "content-length",
        "content-encoding",
        "connection",
        "transfer-encoding",
    ] {
        let mut bytes = raw(
            &stand.all,
            &[&format!("{name}: MARK"), "content-length: 16"],
            BODY,
        );
        let at = bytes
            .windows(4)
            .position(|window| window == b"MARK")
            .expect("the mark");
        bytes.splice(at..at + 4, *b"\xff\x80\xc3\x28");
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        let verdict = attempt(|| client.answer_or_end()).and_then(|answer| {
            let status = answer.map_or(0, |response| response.status);
            matches!(status, 400 | 401 | 415 | 0)
                .then_some(())
                .ok_or(format!("status {status}"))
        });
        cases.check(name, verdict);
    }
    cases.check("upstream", stand.up.untouched());
    let mut bytes = raw(&stand.all, &["x-title: MARK", "content-length: 16"], BODY);
    let at = bytes
        .windows(4)
        .position(|window| window == b"MARK")
        .expect("the mark");
    bytes.splice(at..at + 4, *b"\xff\x80\xc3\x28");
    let mut client = Client::connect(stand.gateway.address);
    client.send(&bytes);
    let status = client.answer().status;
    let unchanged = stand
        .up
        .bytes()
        .windows(4)
        .any(|window| window == b"\xff\x80\xc3\x28");
    assert!(status == 400 || (status == 200 && unchanged), "{status}");
    cases.done();
}

#[test]
fn header_names_with_an_underscore_never_reach_the_upstream() {
    let stand = Stand::new();
    let call = Call::chat(&stand.all.token, "good")
        .header("Transfer_Encoding", "chunked")
        .header("X_Forwarded_For", "203.0.113.5")
        .header("Content_Length", "0")
        .header("Access-Control-A_b", "0")
        .header("Proxy_Authorization", "0")
        .header("x_", "1")
        .header("_", "2")
        .header("X-Title", "3");
    for response in [stand.gateway.ask(&call), stand.gateway.h2().ask(&call)] {
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.last();
        let with: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, _)| name.contains('_'))
            .collect();
        assert!(with.is_empty(), "{with:?}");
        assert_eq!(seen.header("x-title"), Some("3"));
    }
}

#[test]
fn a_head_beyond_the_limits_is_told_them() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let many: Vec<String> = (0..150).map(|at| format!("x-{at}: y")).collect();
    let wide = vec![format!("x-wide: {}", "w".repeat(70 << 10))];
    for (headers, limit) in [(many, "takes: 100."), (wide, "takes: 64 KiB (65536 bytes)")] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let mut client = Client::connect(stand.gateway.address);
        let first = "GET /v1/models HTTP/1.1";
        client.send(&request(first, &stand.all, &headers, ""));
        let response = client.answer();
        let told = response.status == 431 && response.text().contains(limit);
        cases.check(limit, told.then_some(()).ok_or(response.text()));
    }
    cases.done();
}

#[test]
fn a_head_beyond_the_limits_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let many: Vec<String> = (0..150).map(|at| format!("x-{at}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    cases.check(
        "150 headers",
        refused(
            &stand,
            &request("GET /v1/models HTTP/1.1", &stand.all, &many, ""),
            &[431],
        ),
    );
    let wide = format!("x-wide: {}", "w".repeat(70 << 10));
    cases.check(
        "one of 70 KiB",
        refused(
            &stand,
            &request("GET /v1/models HTTP/1.1", &stand.all, &[&wide], ""),
            &[431],
        ),
    );
    let some: Vec<String> = (0..80)
        .map(|at| format!("x-{at}: {}", "v".repeat(1000)))
        .collect();
    let some: Vec<&str> = some.iter().map(String::as_str).collect();
    cases.check(
        "80 of 1 000 bytes",
        refused(
            &stand,
            &request("GET /v1/models HTTP/1.1", &stand.all, &some, ""),
            &[431],
        ),
    );
    let first = format!("GET /v1/models?{} HTTP/1.1", "q".repeat(70 << 10));
    cases.check(
        "a target of 70 KiB",
        refused(&stand, &request(&first, &stand.all, &[], ""), &[414, 431]),
    );
    let fits = format!("x-wide: {}", "w".repeat(50 << 10));
    let mut client = Client::connect(stand.gateway.address);
    client.send(&request(
        "GET /v1/models HTTP/1.1",
        &stand.all,
        &[&fits],
        "",
    ));
    let status = client.answer().status;
    cases.check(
        "one of 50 KiB",
        (status == 200).then_some(()).ok_or(format!("{status}")),
    );
    let mut raw = RawH2::connect(stand.gateway.address);
    let value = "w".repeat(15_000);
    let mut fields = h2_fields(&stand.all);
    fields.extend([
        ("x-1", value.as_str()),
        ("x-2", &value),
        ("x-3", &value),
        ("x-4", &value),
        ("x-5", &value),
    ]);
    let block = raw_h2::block(&fields);
    let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let last = if at + 1 == pieces.len() {
            raw_h2::END_HEADERS
        } else {
            0
        };
        if at == 0 {
            raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM | last, 1, piece);
        } else {
            raw.frame(raw_h2::CONTINUATION, last, 1, piece);
        }
    }
    let outcome = raw.outcome(1);
    cases.check(
        "75 KiB in HTTP/2",
        (outcome != Outcome::Status(200) && !matches!(outcome, Outcome::Status(404)))
            .then_some(())
            .ok_or(format!("{outcome:?}")),
    );
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn what_is_not_http_is_closed_at_once() {
    let stand = Stand::new();
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend([7; 507]);
    let mut noise = vec![0_u8; 1 << 20];
    getrandom::fill(&mut noise).expect("random bytes");
    for bytes in [
        hello.as_slice(),
        &noise,
        b"\0\0\0\0",
        b"SSH-2.0-x\r\n",
        b"PROXY TCP4 203.0.113.5 127.0.0.1 1 2\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let start = Instant::now();
        let mut client = Client::connect(stand.gateway.address);
        let _ = client.try_send(bytes);
        let gone = client.ends_within(DEADLINE);
        assert!(
            gone.is_some() && start.elapsed() < Duration::from_secs(5),
            "{gone:?} after {:?}",
            start.elapsed()
        );
    }
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(stand.gateway.log().len() < 60, "noise fills the log");
}
