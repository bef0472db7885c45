//! What is not HTTP, or could be read in two ways: refused before anything else, or in one clean framing behind the
//! gateway; never two requests where a client sent one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client, End, Response};
use crate::support::raw_h2::{self, Outcome, RawH2};
use crate::support::recorder::Seen;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, is_error};

const BODY: &str = r#"{"model":"good"}"#;

/// A chat with these header lines and whatever follows, written out.
fn raw(key: &Key, lines: &[&str], rest: &str) -> Vec<u8> {
    request("POST /v1/chat/completions HTTP/1.1", key, lines, rest)
}

fn request(first: &str, key: &Key, lines: &[&str], rest: &str) -> Vec<u8> {
    let mut text = format!(
        "{first}\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        key.token
    );
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(rest);
    text.into_bytes()
}

/// Runs what may panic, for tables that go on.
fn attempt<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}

/// Sends these bytes: one of these statuses comes (0: an end without an answer), then the connection ends without
/// another word, and the upstream saw nothing.
fn refused(stand: &Stand, bytes: &[u8], statuses: &[u16]) -> Result<(), String> {
    let before = stand.up.bytes().len();
    let mut client = Client::connect(stand.gateway.address);
    let _ = client.try_send(bytes);
    let status = attempt(|| client.answer_or_end())?.map_or(0, |response| response.status);
    if !statuses.contains(&status) {
        return Err(format!("status {status}, not one of {statuses:?}"));
    }
    if client.ends_within(DEADLINE).is_none() {
        return Err(format!("answered {status}, but the connection stays open"));
    }
    if !client.unread().is_empty() {
        return Err(format!(
            "a second answer: {:?}",
            String::from_utf8_lossy(client.unread())
        ));
    }
    match stand.up.bytes().len() - before {
        0 => Ok(()),
        count => Err(format!("the upstream saw {count} bytes")),
    }
}

/// Refused as above, or forwarded as exactly one request in one framing with this body.
fn refused_or_clean(stand: &Stand, bytes: &[u8], body: &str) -> Result<(), String> {
    let before = stand.up.requests().len();
    let mut client = Client::connect(stand.gateway.address);
    let _ = client.try_send(bytes);
    let answer = attempt(|| client.answer_or_end())?;
    let seen = stand.up.requests();
    match answer.map_or(0, |response| response.status) {
        0 | 400 | 501 if seen.len() == before => Ok(()),
        200 if seen.len() == before + 1 => clean(&seen[before], body),
        status => Err(format!(
            "status {status} and {} requests",
            seen.len() - before
        )),
    }
}

fn clean(seen: &Seen, body: &str) -> Result<(), String> {
    let one_framing = seen.all("content-length").len() + seen.all("transfer-encoding").len() == 1;
    let length_right = seen
        .header("content-length")
        .is_none_or(|length| length == body.len().to_string());
    let crlf_only = !String::from_utf8_lossy(&seen.head)
        .replace("\r\n", "")
        .contains(['\r', '\n']);
    (one_framing && length_right && crlf_only && seen.body == body.as_bytes())
        .then_some(())
        .ok_or(format!(
            "not clean: {:?}",
            String::from_utf8_lossy(&seen.head)
        ))
}

/// A whole second request, which must never be executed.
fn smuggled(key: &Key) -> String {
    String::from_utf8_lossy(&Call::chat(&key.token, "bad").bytes()).into_owned()
}

#[test]
fn lengths_that_disagree_or_are_no_numbers_are_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let length = |value: &str| format!("content-length: {value}");
    for value in [
        "",
        "+16",
        "-0",
        "-1",
        "0x10",
        "1_6",
        "1 6",
        "16,",
        ",16",
        "16, 17",
        "16;",
        "1e1",
        "16.0",
        "١٦",
        "99999999999999999999",
        "18446744073709551616",
        "abc",
    ] {
        let bytes = raw(&stand.all, &[&length(value)], BODY);
        cases.check(&format!("{value:?}"), refused(&stand, &bytes, &[400]));
    }
    for (first, second) in [
        ("16", "17"),
        ("17", "16"),
        ("0", "16"),
        ("16", "0"),
        ("16", "abc"),
        ("16", ""),
    ] {
        let bytes = raw(&stand.all, &[&length(first), &length(second)], BODY);
        cases.check(
            &format!("{first} and {second}"),
            refused(&stand, &bytes, &[400]),
        );
    }
    for lines in [
        vec![length("16"), length("16")],
        vec![length("16, 16")],
        vec![length("016")],
        vec![length("0000000000000000016")],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        cases.check(
            &lines.join(" "),
            refused_or_clean(&stand, &raw(&stand.all, &lines, BODY), BODY),
        );
    }
    cases.done();
}

#[test]
fn content_length_beside_chunked_leaves_one_framing_at_most() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let chunked = format!("10\r\n{BODY}\r\n0\r\n\r\n");
    for lines in [
        ["content-length: 16", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 16"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 500"],
        ["content-length: 0", "transfer-encoding: chunked"],
    ] {
        let bytes = raw(&stand.all, &lines, &chunked);
        cases.check(&lines.join(" + "), refused_or_clean(&stand, &bytes, BODY));
    }
    cases.done();
}

#[test]
fn a_transfer_encoding_other_than_one_chunked_is_refused() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let chunked = format!("10\r\n{BODY}\r\n0\r\n\r\n");
    for lines in [
        &["transfer-encoding: chunked, chunked"][..],
        &["transfer-encoding: chunked", "transfer-encoding: chunked"],
        &["transfer-encoding: gzip, chunked"],
        &["transfer-encoding: gzip", "transfer-encoding: chunked"],
        &["transfer-encoding: chunked", "transfer-encoding: identity"],
        &["transfer-encoding: identity"],
        &["transfer-encoding: identity, chunked"],
        &["transfer-encoding: xchunked"],
        &["transfer-encoding: chunked;x=1"],
        &["transfer-encoding: \x0bchunked"],
        &["transfer-encoding: chunked,"],
        &["transfer-encoding: , chunked"],
        &["transfer-encoding: "],
        &["transfer-encoding: \"chunked\""],
        &["transfer-encoding: chunked\0"],
        &["transfer-encoding: gzip"],
    ] {
        let verdict = refused(&stand, &raw(&stand.all, lines, &chunked), &[400, 501]);
        cases.check(&format!("{lines:?}"), verdict);
    }
    for line in [
        "transfer-encoding: chunked",
        "Transfer-Encoding: CHUNKED",
        "transfer-encoding:\tchunked ",
        "transfer-encoding:chunked",
    ] {
        cases.check(
            line,
            refused_or_clean(&stand, &raw(&stand.all, &[line], &chunked), BODY),
        );
    }
    cases.done();
}

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
    let mut bytes = raw(&stand.all, &["x-other: MARK", "content-length: 16"], BODY);
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
        .header("x_", "1")
        .header("_", "2")
        .header("X-Kept", "3");
    for response in [stand.gateway.ask(&call), stand.gateway.h2().ask(&call)] {
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.last();
        let with: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, _)| name.contains('_'))
            .collect();
        assert!(with.is_empty(), "{with:?}");
        assert_eq!(seen.header("x-kept"), Some("3"));
    }
}

#[test]
fn a_request_names_one_host() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let hosts = |lines: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{lines}authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{BODY}",
            stand.all.token
        )
    };
    for lines in [
        "",
        "host: a\r\nhost: b\r\n",
        "host: localhost\r\nHost: localhost\r\n",
        "host: \r\n",
        "host: a/b\r\n",
        "host: a?b\r\n",
        "host: a#b\r\n",
        "host: u@a\r\n",
        "host: a\\b\r\n",
        "host: a,b\r\n",
        "host: a b\r\n",
        "host: a/#@b?x=\r\n",
        "host: a\tb\r\n",
        "host: http://a\r\n",
    ] {
        cases.check(
            &format!("{lines:?}"),
            refused(&stand, hosts(lines).as_bytes(), &[400]),
        );
    }
    for lines in [
        "host: localhost\r\n",
        "Host: ai.example.com:8080\r\n",
        "HOST: 127.0.0.1\r\n",
        "host: [::1]:8080\r\n",
        "host: A-b_c.example\r\n",
    ] {
        let mut client = Client::connect(stand.gateway.address);
        client.send(hosts(lines).as_bytes());
        let response = client.answer();
        let verdict = (response.status == 200)
            .then_some(())
            .ok_or(response.text());
        cases.check(
            lines,
            verdict.and_then(|()| {
                // The upstream's Host is its own.
                let host = stand.up.last().all("host").join(" and ");
                (host == stand.up.address.to_string())
                    .then_some(())
                    .ok_or(host)
            }),
        );
    }
    cases.done();
}

#[test]
fn a_chunked_body_that_is_not_well_formed_is_never_forwarded() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, rest) in [
        ("a size ended by LF", format!("10\n{BODY}\r\n0\r\n\r\n")),
        ("0x10", format!("0x10\r\n{BODY}\r\n0\r\n\r\n")),
        ("1_0", format!("1_0\r\n{BODY}\r\n0\r\n\r\n")),
        (" 10", format!(" 10\r\n{BODY}\r\n0\r\n\r\n")),
        ("-10", format!("-10\r\n{BODY}\r\n0\r\n\r\n")),
        ("+10", format!("+10\r\n{BODY}\r\n0\r\n\r\n")),
        (
            "2^64 and 16",
            format!("10000000000000010\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        ("an empty size", format!("\r\n{BODY}\r\n0\r\n\r\n")),
        ("no hexadecimal", format!("xyz\r\n{BODY}\r\n0\r\n\r\n")),
        (
            "data longer than its size",
            format!("f\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        (
            "data shorter than its size",
            format!("11\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        (
            "LF in an extension",
            format!("10;a=\nb\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        (
            "extensions of 20 KiB",
            format!("10;{}\r\n{BODY}\r\n0\r\n\r\n", "e".repeat(20 << 10)),
        ),
    ] {
        let mut client = Client::connect(stand.gateway.address);
        let _ = client.try_send(&raw(&stand.all, &["transfer-encoding: chunked"], &rest));
        // Where the parser still waits for more, there is no more.
        let _ = client.try_send(b"");
        let verdict = attempt(|| {
            let answer = if name.contains("shorter") {
                client.shut_write();
                client.answer_or_end()
            } else {
                client.answer_or_end()
            };
            let closed = client.ends_within(DEADLINE).is_some();
            (answer.map_or(0, |response| response.status), closed)
        });
        cases.check(
            name,
            verdict.and_then(|(status, closed)| {
                (matches!(status, 0 | 400 | 431) && closed)
                    .then_some(())
                    .ok_or(format!("status {status}, closed: {closed}"))
            }),
        );
    }
    cases.check("upstream", stand.up.untouched());
    let rest = format!("10;a=\0\r\n{BODY}\r\n0\r\n\r\n");
    let bytes = raw(&stand.all, &["transfer-encoding: chunked"], &rest);
    cases.check(
        "NUL in an extension",
        refused_or_clean(&stand, &bytes, BODY),
    );
    cases.done();
}

#[test]
fn chunk_extensions_and_trailers_are_dropped_and_decide_nothing() {
    let stand = Stand::new();
    let rest = format!(
        "5;a=b;c=\"d\"\r\n{}\r\nb ;x\r\n{}\r\n0;last\r\nauthorization: Bearer sk-x\r\ncontent-length: 3\r\nhost: evil\r\nx-forwarded-for: 203.0.113.5\r\nx-real-ip: 203.0.113.5\r\nx-trailer: kept?\r\n\r\n",
        &BODY[..5],
        &BODY[5..]
    );
    let bytes = raw(
        &stand.all,
        &["transfer-encoding: chunked", "trailer: x-trailer"],
        &rest,
    );
    let mut client = Client::connect(stand.gateway.address);
    client.send(&bytes);
    let response = client.answer();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = stand.up.last();
    clean(&seen, BODY).expect("one clean framing");
    let bytes = String::from_utf8_lossy(&stand.up.bytes()).to_ascii_lowercase();
    for dropped in [
        "a=b",
        ";last",
        "sk-x",
        "evil",
        "203.0.113.5",
        "x-trailer",
        "x-real-ip",
    ] {
        assert!(
            !bytes.contains(dropped),
            "the upstream saw {dropped}: {bytes}"
        );
    }
    // A key in the trailers is no key.
    let anonymous = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{BODY}\r\n0\r\nauthorization: Bearer {}\r\n\r\n",
        stand.all.token
    );
    let mut client = Client::connect(stand.gateway.address);
    client.send(anonymous.as_bytes());
    assert_error(&client.answer(), 401, "missing_api_key");
    // Over HTTP/2 too.
    let connection = stand.gateway.h2();
    let call = Call::chat(&stand.all.token, "good");
    let (mut stream, sending) = connection.begin(&call.clone().without("authorization"));
    sending.data(&call.body);
    let mut trailers = http::HeaderMap::new();
    trailers.insert(
        "authorization",
        format!("Bearer {}", stand.all.token)
            .parse()
            .expect("a value"),
    );
    sending.trailers(trailers.clone());
    drop(sending);
    assert_eq!(stream.head().status, 401);
    let (mut stream, sending) = connection.begin(&call);
    sending.data(&call.body);
    sending.trailers(trailers);
    drop(sending);
    assert_eq!(stream.head().status, 200);
    assert_eq!(stand.up.last().all("authorization").len(), 0);
}

#[test]
fn the_unread_body_of_a_refused_request_is_never_taken_for_a_request() {
    let stand = Stand::new();
    let inner = smuggled(&stand.all);
    let mut cases = Cases::new();
    for (name, call) in [
        (
            "invalid key",
            Call::json("/v1/chat/completions", "sk-x", inner.as_str()),
        ),
        (
            "no key",
            Call::json("/v1/chat/completions", "", inner.as_str()).without("authorization"),
        ),
        (
            "unknown path",
            Call::json("/nowhere", &stand.all.token, inner.as_str()),
        ),
        (
            "wrong method",
            Call {
                method: "PUT".to_owned(),
                ..Call::json("/v1/chat/completions", &stand.all.token, inner.as_str())
            },
        ),
        (
            "media type",
            Call::json("/v1/chat/completions", &stand.all.token, inner.as_str())
                .without("content-type"),
        ),
        (
            "GET with a body",
            Call::json("/v1/chat/completions", &stand.all.token, inner.as_str()),
        ),
    ] {
        for bytes in [call.bytes(), call.chunked(&[40])] {
            let mut client = Client::connect(stand.gateway.address);
            client.send(&bytes);
            let status = attempt(|| client.answer().status);
            let refused = matches!(status, Ok(400..=499));
            cases.check(name, refused.then_some(()).ok_or(format!("{status:?}")));
            // The whole of that body was its own: at most the connection lives on for the next request.
            let after = client.silent_for(Duration::from_millis(100)) || client.unread().is_empty();
            cases.check(
                name,
                after.then_some(()).ok_or("a second answer".to_owned()),
            );
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn a_body_on_a_method_that_has_none_does_not_shift_the_next_request() {
    let stand = Stand::new();
    let inner = smuggled(&stand.all);
    let mut cases = Cases::new();
    for method in ["GET", "DELETE", "HEAD", "OPTIONS"] {
        for path in ["/v1/models", "/v1/key", "/v1/chat/completions"] {
            let call = Call {
                method: method.to_owned(),
                ..Call::json(path, &stand.all.token, inner.as_str())
            };
            for bytes in [call.bytes(), call.chunked(&[])] {
                let mut client = Client::connect(stand.gateway.address);
                client.send(&bytes);
                let verdict = attempt(|| client.answer_to(method).status).and_then(|status| {
                    let _ = client.try_send(&Call::get("/v1/key", &stand.only.token).bytes());
                    match attempt(|| client.answer_or_end())? {
                        None => Ok(()),
                        Some(next) if next.status == 200 && next.json()["id"] == "key_only" => {
                            Ok(())
                        }
                        Some(next) => Err(format!(
                            "{status}, and then {} {}",
                            next.status,
                            next.text()
                        )),
                    }
                });
                cases.check(&format!("{method} {path}"), verdict);
            }
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

/// A client that is refused while it still sends reads the whole error (SECURITY.md, A18).
fn reads_its_refusal(stand: &Stand) {
    let body = vec![b' '; 2 << 20];
    let mut lost = Vec::new();
    for attempts in 0..100 {
        let mut client = stand.gateway.client();
        let mut bytes = Call::json("/v1/chat/completions", "sk-unknown", "").head_without_length();
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        let _ = client.try_send(&bytes);
        let _ = client.try_send(&body);
        let verdict = attempt(|| client.answer_or_end()).and_then(|answer| match answer {
            Some(response) => is_error(&response, 401, "invalid_api_key"),
            None => Err("no answer".to_owned()),
        });
        if let Err(failure) = verdict {
            lost.push(format!("{attempts}: {failure}"));
        }
    }
    assert!(
        lost.len() <= 1,
        "{} of 100 lost their answer: {lost:?}",
        lost.len()
    );
}

#[test]
fn a_client_refused_in_the_middle_of_its_upload_reads_why() {
    reads_its_refusal(&Stand::new());
}

#[test]
fn a_client_refused_in_the_middle_of_its_upload_over_tls_reads_why() {
    reads_its_refusal(&Stand::with(|setup| setup.tls()));
}

#[test]
fn draining_a_refused_upload_is_bounded_in_bytes_and_time() {
    let stand = Stand::new();
    let head = |length: usize| {
        let mut bytes = Call::json("/v1/chat/completions", "sk-unknown", "").head_without_length();
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
        bytes
    };
    // A client that sends nothing more is let go after 2 s.
    let mut silent = Client::connect(stand.gateway.address);
    silent.send(&head(1000));
    let start = Instant::now();
    assert_error(&silent.answer(), 401, "invalid_api_key");
    assert!(silent.ends_within(DEADLINE).is_some(), "never closed");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    // One that never stops sending is cut off after about 1 MB.
    let mut endless = Client::connect(stand.gateway.address);
    endless.send(&head(1 << 40));
    let piece = vec![b' '; 64 << 10];
    let mut sent = 0;
    let start = Instant::now();
    while endless.try_send(&piece).is_ok() {
        sent += piece.len();
        assert!(
            start.elapsed() < DEADLINE && sent < 200 << 20,
            "{sent} bytes were taken"
        );
    }
    // What the kernels hold on both sides comes on top.
    assert!(sent < 16 << 20, "{sent} bytes were taken");
}

#[test]
fn pipelined_requests_are_each_judged_by_their_own_key_and_answered_in_order() {
    let stand = Stand::new();
    let mut client = Client::connect(stand.gateway.address);
    let mut bytes = Call::get("/v1/key", &stand.all.token).bytes();
    bytes.extend(Call::get("/v1/key", &stand.only.token).bytes());
    bytes.extend(Call::chat(&stand.only.token, "good").bytes());
    bytes.extend(Call::chat(&stand.only.token, "bad").bytes());
    bytes.extend(Call::get("/v1/key", "sk-unknown").bytes());
    client.send(&bytes);
    assert_eq!(client.answer().json()["id"], "key_all");
    assert_eq!(client.answer().json()["id"], "key_only");
    assert_eq!(client.answer().status, 200);
    assert_error(&client.answer(), 404, "model_not_found");
    assert_error(&client.answer(), 401, "invalid_api_key");
    assert_eq!(stand.up.requests().len(), 1);
}

#[test]
fn a_client_that_expects_100_continue_is_told_so_only_once_it_is_let_in() {
    let stand = Stand::new();
    let head = |token: &str| {
        let call = Call::json("/v1/chat/completions", token, BODY).header("expect", "100-continue");
        call.head()
    };
    let mut client = Client::connect(stand.gateway.address);
    client.send(&head("sk-unknown"));
    let response = client.answer();
    assert_error(&response, 401, "invalid_api_key");
    assert!(response.interim.is_empty(), "{:?}", response.interim);
    let mut client = Client::connect(stand.gateway.address);
    client.send(&head(&stand.all.token));
    // Only the 100 can come now: nothing of the body was sent.
    assert!(!client.silent_for(DEADLINE), "no 100 Continue");
    assert!(client.unread().starts_with(b"HTTP/1.1 100"));
    client.send(BODY.as_bytes());
    let response = client.answer();
    assert_eq!(
        (response.status, response.interim.as_slice()),
        (200, &[100][..])
    );
    assert_eq!(stand.up.last().header("expect"), None);
}

#[test]
fn methods_that_nobody_serves_are_refused_and_nothing_is_tunnelled() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let long = "M".repeat(10 << 10);
    for method in [
        "post",
        "Post",
        "G!T",
        "TRACE",
        "TRACK",
        "PROPFIND",
        "FOO",
        long.as_str(),
    ] {
        let bytes = request(
            &format!("{method} /v1/chat/completions HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let mut client = Client::connect(stand.gateway.address);
        let _ = client.try_send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let refused = matches!(status, Ok(400 | 405 | 414 | 431 | 501));
        cases.check(
            &format!("{method:.12}"),
            refused.then_some(()).ok_or(format!("{status:?}")),
        );
    }
    let up = stand.up.address;
    for first in [
        format!("CONNECT {up} HTTP/1.1"),
        "CONNECT /v1/chat/completions HTTP/1.1".to_owned(),
    ] {
        let bytes = request(&first, &stand.all, &[], &smuggled(&stand.all));
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let refused = matches!(status, Ok(400 | 405 | 501));
        cases.check(&first, refused.then_some(()).ok_or(format!("{status:?}")));
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn an_upgrade_is_not_taken_up() {
    let stand = Stand::new();
    for protocol in ["h2c", "websocket", "foo"] {
        let call = Call::chat(&stand.all.token, "good")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", protocol)
            .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = stand.gateway.ask(&call);
        assert_eq!(response.status, 200, "{protocol}: {}", response.text());
        let seen = stand.up.last();
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(seen.all(name).len(), 0, "{name} reached the upstream");
        }
    }
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

#[test]
fn a_target_is_a_path_and_nothing_else() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let up = stand.up.address;
    for target in [
        format!("http://{up}/v1/chat/completions"),
        "http://localhost/v1/chat/completions".to_owned(),
        "https://localhost/v1/chat/completions".to_owned(),
        "HTTP://localhost/v1/chat/completions".to_owned(),
        "http://user:pass@localhost/v1/chat/completions".to_owned(),
        "ftp://localhost/v1/chat/completions".to_owned(),
        format!("{up}"),
        "localhost".to_owned(),
        "*".to_owned(),
        "v1/chat/completions".to_owned(),
    ] {
        let bytes = request(
            &format!("POST {target} HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let allowed: &[u16] = if target == "*" {
            &[400, 404, 405]
        } else {
            &[400]
        };
        cases.check(&target, refused(&stand, &bytes, allowed));
    }
    for target in [
        "/v1/chat/completions#f",
        "/v1/chat/completions?x#f",
        "/v1/chat/completions\u{e4}",
        "/v1/chat\u{2215}completions",
    ] {
        let bytes = request(
            &format!("POST {target} HTTP/1.1"),
            &stand.all,
            &["content-length: 16"],
            BODY,
        );
        let before = stand.up.requests().len();
        let mut client = Client::connect(stand.gateway.address);
        client.send(&bytes);
        let status = attempt(|| client.answer_or_end().map_or(0, |response| response.status));
        let seen = stand.up.requests();
        let verdict = match status {
            Ok(400 | 404) => seen.len() == before,
            // What the parser has cut off is not there any more.
            Ok(200) => {
                target.contains('#') && seen.last().is_some_and(|seen| !seen.target.contains('#'))
            }
            _ => false,
        };
        cases.check(target, verdict.then_some(()).ok_or(format!("{status:?}")));
    }
    cases.done();
}

/// The fields of a chat in HTTP/2, without a body's length.
fn h2_fields(key: &Key) -> Vec<(&'static str, &'static str)> {
    let bearer: &'static str = Box::leak(format!("Bearer {}", key.token).into_boxed_str());
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/chat/completions"),
        ("authorization", bearer),
        ("content-type", "application/json"),
    ]
}

#[test]
fn malformed_http_2_requests_are_refused_and_never_forwarded() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let base = h2_fields(&stand.all);
    let replaced = |name: &str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        base.iter()
            .map(|(known, old)| {
                if *known == name {
                    (*known, value)
                } else {
                    (*known, *old)
                }
            })
            .collect()
    };
    let without = |name: &str| -> Vec<(&'static str, &'static str)> {
        base.iter()
            .copied()
            .filter(|(known, _)| *known != name)
            .collect()
    };
    let with = |name: &'static str, value: &'static str| {
        let mut fields = base.clone();
        fields.push((name, value));
        fields
    };
    let mut first = vec![("x-first", "1")];
    first.extend(base.clone());
    for (name, fields) in [
        ("a length below the data", with("content-length", "5")),
        ("a length above the data", with("content-length", "50")),
        ("two lengths", {
            let mut fields = with("content-length", "16");
            fields.push(("content-length", "17"));
            fields
        }),
        ("a length that is no number", with("content-length", "+16")),
        ("an upper-case name", with("X-Upper", "1")),
        ("connection", with("connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("keep-alive", with("keep-alive", "1")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("upgrade", with("upgrade", "h2c")),
        ("te: gzip", with("te", "gzip")),
        ("no :path", without(":path")),
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("two :path", with(":path", "/v1/models")),
        ("a late pseudo-header", first),
        ("an unknown pseudo-header", {
            let mut fields = base.clone();
            fields.insert(0, (":evil", "1"));
            fields
        }),
        (":status in a request", {
            let mut fields = base.clone();
            fields.insert(0, (":status", "200"));
            fields
        }),
        ("an empty :path", replaced(":path", "")),
        (
            "a space in :path",
            replaced(":path", "/v1/chat/completions x"),
        ),
        (
            "CR in :path",
            replaced(":path", "/v1/chat/completions\r\nx: y"),
        ),
        ("a relative :path", replaced(":path", "v1/chat/completions")),
        (
            "an absolute :path",
            replaced(":path", "http://localhost/v1/chat/completions"),
        ),
        ("* as :path", replaced(":path", "*")),
        ("a method with a space", replaced(":method", "POST /x")),
        (":authority other than host", with("host", "evil.example")),
        ("more than 100 fields", {
            let mut fields = base.clone();
            fields.resize(110, ("x-more", "1"));
            fields
        }),
        (
            "an authority with user",
            replaced(":authority", "u@localhost"),
        ),
        ("LF in a value", with("x-a", "a\nb: c")),
        ("CR in a value", with("x-a", "a\rb")),
        ("NUL in a value", with("x-a", "a\0b")),
        ("a name with a colon", with("x:y", "1")),
        ("a name with a space", with("x y", "1")),
        ("an empty name", with("", "1")),
    ] {
        let mut raw = RawH2::connect(stand.gateway.address);
        raw.headers(1, 0, &fields);
        raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 1, BODY.as_bytes());
        let verdict = attempt(|| raw.outcome(1)).and_then(|outcome| match outcome {
            Outcome::Status(400 | 404 | 405)
            | Outcome::Reset
            | Outcome::Goaway
            | Outcome::Closed => Ok(()),
            Outcome::Status(status) => Err(format!("status {status}")),
        });
        cases.check(name, verdict);
    }
    cases.check("upstream", stand.up.untouched());
    let mut raw = RawH2::connect(stand.gateway.address);
    let mut host = base.clone();
    host.push(("host", "localhost"));
    raw.headers(1, 0, &host);
    raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 1, BODY.as_bytes());
    let outcome = attempt(|| raw.outcome(1));
    cases.check(
        "an equal host passes",
        (outcome == Ok(Outcome::Status(200)))
            .then_some(())
            .ok_or(format!("{outcome:?}")),
    );
    cases.done();
}

#[test]
fn an_http_2_request_that_is_reset_in_its_body_is_never_forwarded() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    raw.headers(1, 0, &h2_fields(&stand.all));
    raw.frame(raw_h2::DATA, 0, 1, BODY.as_bytes());
    raw.frame(raw_h2::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    raw.headers(3, 0, &h2_fields(&stand.all));
    raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 3, BODY.as_bytes());
    assert_eq!(raw.outcome(3), Outcome::Status(200));
    assert_eq!(stand.up.requests().len(), 1);
}

#[test]
fn a_flood_of_resets_is_answered_with_goaway_and_harms_nobody_else() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    let fields = h2_fields(&stand.all);
    let mut bytes = Vec::new();
    for stream in (1..6000).step_by(2) {
        bytes.extend(raw_h2::frame(
            raw_h2::HEADERS,
            raw_h2::END_HEADERS,
            stream,
            &raw_h2::block(&fields),
        ));
        bytes.extend(raw_h2::frame(
            raw_h2::RST_STREAM,
            0,
            stream,
            &8_u32.to_be_bytes(),
        ));
    }
    raw.send(&bytes);
    let start = Instant::now();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let outcome = attempt(|| raw.outcome(100_001));
    assert!(
        matches!(outcome, Ok(Outcome::Goaway | Outcome::Closed)),
        "{outcome:?}"
    );
}

#[test]
fn an_answer_that_comes_before_the_upstream_read_the_body_reaches_the_client_and_poisons_nothing() {
    let stand = Stand::new();
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(8 << 20));
    let call = Call::json("/v1/chat/completions", &stand.all.token, body);
    stand.up.script(|mut exchange| {
        exchange.send("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy");
    });
    let response = stand.gateway.ask(&call);
    let answered =
        response.status == 429 && response.text() == "busy" && response.end == End::Whole;
    assert!(answered || response.status == 502, "{response:?}");
    stand.up.script(|exchange| exchange.complete());
    for _ in 0..5 {
        let response: Response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
}
