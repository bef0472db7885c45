//! A body has one clean framing: what two servers could cut at two places is refused or forwarded with one length.

use crate::framing::verdict::{BODY, attempt, clean, raw, refused, refused_or_clean, smuggled};
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, assert_error};

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
