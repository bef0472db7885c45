//! Requests that are refused before their body was read: the client reads why, whatever it still sends, and no byte of
//! the body is ever taken for a request.

use std::time::Duration;

use crate::support::client::{Call, Client, End, Gone, Response};
use crate::support::gateway::Setup;
use crate::support::http1::{
    BODY, attempt, head_with_length, holds, says_close, send_body, serves_next, timed,
};
use crate::support::raw_h2::{self, RawH2};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, assert_error, eventually, is_error};

/// Contract 8: what is left of a refused body may be this long, and its connection is kept.
const KEPT: usize = 64 << 10;

/// Contract 8: what comes behind an early answer is taken for at most this long.
const LINGER: Duration = Duration::from_secs(10);

/// A refusal, and the request without a body that meets it.
struct Refusal {
    status: u16,
    code: &'static str,
    call: Call,
}

/// Every refusal that is given before any of the body is read.
fn refusals(key: &Key) -> Vec<Refusal> {
    let path = "/v1/chat/completions";
    let put = Call {
        method: "PUT".to_owned(),
        ..Call::json(path, &key.token, "")
    };
    let text = Call::json(path, &key.token, "").without("content-type");
    [
        (401, "invalid_api_key", Call::json(path, "sk-unknown", "")),
        (
            401,
            "missing_api_key",
            Call::json(path, "", "").without("authorization"),
        ),
        (404, "unknown_url", Call::json("/nowhere", &key.token, "")),
        (405, "method_not_allowed", put),
        (
            415,
            "unsupported_media_type",
            text.header("content-type", "text/plain"),
        ),
    ]
    .into_iter()
    .map(|(status, code, call)| Refusal { status, code, call })
    .collect()
}

/// A gateway over plain TCP and one over TLS, with these settings.
fn plain_and_tls(with: impl Fn(Setup) -> Setup) -> [(&'static str, Stand); 2] {
    [
        ("plain", Stand::with(&with)),
        ("TLS", Stand::with(|setup| with(setup).tls())),
    ]
}

/// A body of this length that begins with a whole request of a key that may do everything.
fn smuggled(key: &Key, length: usize) -> Vec<u8> {
    let mut body = Call::chat(&key.token, "bad").bytes();
    assert!(body.len() <= length || length == 0, "no room for a request");
    body.resize(length, b' ');
    body
}

/// The refusal came, and its connection is not one that ends behind it.
fn refused_and_kept(response: &Response, refusal: &Refusal) -> Result<(), String> {
    is_error(response, refusal.status, refusal.code)?;
    holds(!says_close(response), || "Connection: close".to_owned())
}

/// The refusal came, and it says that its connection ends.
fn refused_and_closing(response: &Response, refusal: &Refusal) -> Result<(), String> {
    is_error(response, refusal.status, refusal.code)?;
    holds(says_close(response), || {
        format!("no Connection: close: {:?}", response.headers)
    })
}

#[test]
fn a_refused_request_whose_small_body_came_with_it_keeps_its_connection() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            for length in [0, 2000, KEPT] {
                let call = refusal.call.clone().body(smuggled(&stand.all, length));
                let mut client = stand.gateway.client();
                client.send(&call.bytes());
                let verdict = attempt(|| client.answer())
                    .and_then(|response| refused_and_kept(&response, &refusal))
                    .and_then(|()| serves_next(&mut client, &stand.only));
                cases.check(&format!("{name}, {}, {length}", refusal.code), verdict);
            }
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
}

#[test]
fn a_refused_request_whose_small_chunked_body_came_with_it_keeps_its_connection() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            let call = refusal.call.clone().body(smuggled(&stand.all, 1500));
            for sizes in [&[][..], &[1, 2, 700]] {
                let mut client = stand.gateway.client();
                client.send(&call.chunked(sizes));
                let verdict = attempt(|| client.answer())
                    .and_then(|response| refused_and_kept(&response, &refusal))
                    .and_then(|()| serves_next(&mut client, &stand.only));
                cases.check(&format!("{name}, {}, {sizes:?}", refusal.code), verdict);
            }
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
}

#[test]
fn a_small_body_that_comes_behind_its_refusal_is_thrown_away_and_its_connection_is_kept() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            for length in [1000, KEPT] {
                let body = smuggled(&stand.all, length);
                let mut client = stand.gateway.client();
                client.send(&head_with_length(&refusal.call, length, &[]));
                let (answer, took) = timed(|| attempt(|| client.answer()));
                let verdict = answer
                    .and_then(|response| refused_and_kept(&response, &refusal))
                    .and_then(|()| holds(took < WITHIN_A_SECOND, || format!("after {took:?}")))
                    .and_then(|()| {
                        let (first, rest) = body.split_at(length / 3);
                        for piece in [first, rest] {
                            client.try_send(piece).map_err(|error| error.to_string())?;
                        }
                        serves_next(&mut client, &stand.only)
                    });
                cases.check(&format!("{name}, {}, {length}", refusal.code), verdict);
            }
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
}

#[test]
fn of_a_refused_body_only_what_is_still_to_come_counts() {
    let stand = Stand::new();
    let call = Call::json("/v1/chat/completions", "sk-unknown", "");
    let refusal = &refusals(&stand.all)[0];
    // A byte more than may be left, and the answer comes before any of them.
    let mut client = stand.gateway.client();
    client.send(&head_with_length(&call, KEPT + 1, &[]));
    refused_and_closing(&client.answer(), refusal).expect("one byte too many");
    send_body(&mut client, KEPT + 1).expect("it is still read");
    assert_eq!(client.ends_within(DEADLINE), Some(Gone::Fin));
}

#[test]
fn a_body_over_a_small_limit_is_refused_and_keeps_its_connection() {
    let stand = Stand::with(|setup| setup.set("limits", "request_body = \"4KiB\""));
    let mut client = stand.gateway.client();
    let body = smuggled(&stand.all, 10_000);
    let call = Call::json("/v1/chat/completions", &stand.all.token, body);
    for _ in 0..3 {
        let response = client.ask(&call);
        assert_error(&response, 413, "request_too_large");
        assert!(!says_close(&response));
    }
    serves_next(&mut client, &stand.only).expect("kept");
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_small_body_that_never_comes_does_not_hold_its_connection() {
    let stand = Stand::with(|setup| {
        setup
            .set("timeouts", "body_idle = \"1s\"")
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "keep_alive = \"1s\"")
    });
    let mut client = stand.gateway.client();
    let call = Call::json("/v1/chat/completions", "sk-unknown", "");
    client.send(&head_with_length(&call, 1000, &[]));
    assert_error(&client.answer(), 401, "invalid_api_key");
    client.send(&[b' '; 500]);
    assert!(
        client
            .ends_within(LINGER + Duration::from_secs(3))
            .is_some()
    );
    assert!(client.unread().is_empty());
}

#[test]
fn a_refused_upload_is_answered_at_once_and_may_go_on_without_an_error() {
    // As real clients do it: some read only once all is sent, some read first and send on.
    const UPLOAD: usize = 5 << 20;
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            for reads_first in [true, false] {
                let mut client = stand.gateway.client();
                client.send(&head_with_length(&refusal.call, UPLOAD, &[]));
                let mut check = || {
                    if reads_first {
                        let (answer, took) = timed(|| attempt(|| client.answer()));
                        refused_and_closing(&answer?, &refusal)?;
                        holds(took < WITHIN_A_SECOND, || format!("after {took:?}"))?;
                    }
                    send_body(&mut client, UPLOAD)
                        .map_err(|(sent, error)| format!("after {sent} bytes: {error}"))?;
                    if !reads_first {
                        refused_and_closing(&attempt(|| client.answer())?, &refusal)?;
                    }
                    let gone = client.ends_within(LINGER + DEADLINE);
                    holds(
                        gone == Some(Gone::Fin) && client.unread().is_empty(),
                        || format!("ended by {gone:?}"),
                    )
                };
                let verdict = check();
                let reads = if reads_first { "first" } else { "last" };
                cases.check(&format!("{name}, {}, reads {reads}", refusal.code), verdict);
            }
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
}

#[test]
fn a_refused_chunked_upload_is_answered_at_once_and_may_go_on_without_an_error() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            let mut client = stand.gateway.client();
            let mut check = || {
                let mut head = refusal.call.head_without_length();
                head.truncate(head.len() - 2);
                head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                client.send(&head);
                refused_and_closing(&attempt(|| client.answer())?, &refusal)?;
                let piece = crate::support::client::chunk(&vec![b' '; 64 << 10]);
                for at in 0..80 {
                    client
                        .try_send(&piece)
                        .map_err(|error| format!("chunk {at}: {error}"))?;
                }
                client
                    .try_send(b"0\r\n\r\n")
                    .map_err(|error| error.to_string())?;
                let gone = client.ends_within(LINGER + DEADLINE);
                holds(gone == Some(Gone::Fin), || format!("ended by {gone:?}"))
            };
            let verdict = check();
            cases.check(&format!("{name}, {}", refusal.code), verdict);
        }
    }
    cases.done();
}

#[test]
fn a_body_over_the_limit_is_refused_at_once_and_its_client_reads_why() {
    const LIMIT: usize = 2 << 20;
    for (name, stand) in plain_and_tls(|setup| setup.set("limits", "request_body = \"2MiB\"")) {
        // Its head says how long it is, so nothing has to come first; what comes up to the limit is taken.
        let call = Call::json("/v1/chat/completions", &stand.all.token, "");
        let mut client = stand.gateway.client();
        client.send(&head_with_length(&call, LIMIT + (1 << 20), &[]));
        let response = client.answer();
        assert_error(&response, 413, "request_too_large");
        assert!(says_close(&response), "{name}: {:?}", response.headers);
        send_body(&mut client, LIMIT + (1 << 20)).expect("the socket holds what is not read");
        drop(client);
        // In chunks it is known only once the limit is passed.
        let mut client = stand.gateway.client();
        let body = vec![b' '; LIMIT + (1 << 20)];
        let call = Call::json("/v1/chat/completions", &stand.all.token, body);
        let chunked = call.chunked(&[1 << 20, 1 << 20, 1 << 19]);
        let sent = client.try_send(&chunked);
        assert!(sent.is_ok(), "{name}: {sent:?}");
        let response = client.answer();
        assert_error(&response, 413, "request_too_large");
        assert!(says_close(&response), "{name}: {:?}", response.headers);
        stand.up.untouched().expect("nothing is forwarded");
    }
}

/// Refused, told so, and past the limit of what is thrown away: the client, and what it had sent by then.
fn past_the_limit(stand: &Stand) -> Client {
    let mut client = stand.gateway.client();
    let call = Call::json("/v1/chat/completions", "sk-unknown", "");
    client.send(&head_with_length(&call, 1 << 40, &[]));
    let response = client.answer();
    assert_error(&response, 401, "invalid_api_key");
    assert!(says_close(&response), "{:?}", response.headers);
    // A little more than is read, so that all of it fits into the sockets' buffers.
    send_body(&mut client, (1 << 20) + (128 << 10)).expect("taken");
    client
}

fn with_a_limit_of_a_megabyte() -> Stand {
    Stand::with(|setup| setup.set("limits", "request_body = \"1MiB\""))
}

#[test]
fn past_its_limit_a_refused_upload_is_no_longer_read_and_its_connection_ends_after_ten_seconds() {
    let stand = with_a_limit_of_a_megabyte();
    let mut client = past_the_limit(&stand);
    // Its own direction may be shut long before; what counts is whether it still takes what comes, or answers by RST.
    let ((), took) = timed(|| {
        while client.try_send(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let bounds = Duration::from_secs(7)..LINGER + Duration::from_secs(4);
    assert!(bounds.contains(&took), "closed after {took:?}");
    let connections = || (stand.gateway.metric("keygate_connections") == 0.0).then_some(());
    eventually("the connection is forgotten", DEADLINE, connections);
}

#[test]
fn a_refused_upload_without_an_end_is_neither_reset_nor_read_on() {
    let stand = with_a_limit_of_a_megabyte();
    let mut client = past_the_limit(&stand);
    let reader = std::thread::spawn(move || {
        let sent = send_body(&mut client, 1 << 30);
        (client, sent)
    });
    // It ends with the gateway's 10 s, or with the client's own write timeout of 15 s: not earlier.
    let ((client, sent), took) = timed(|| reader.join().expect("no panic"));
    let (count, error) = sent.expect_err("a gigabyte was taken");
    // What the kernels hold on both sides: at most tcp_rmem and tcp_wmem.
    assert!(count < 64 << 20, "{count} bytes were taken");
    assert!(took > Duration::from_secs(5), "{error} after {took:?}");
    drop(client);
}

#[test]
fn a_client_that_leaves_past_the_limit_is_let_go_at_once() {
    let stand = with_a_limit_of_a_megabyte();
    for leave in [Client::reset as fn(Client), drop::<Client>] {
        let client = past_the_limit(&stand);
        leave(client);
        let connections = || (stand.gateway.metric("keygate_connections") == 0.0).then_some(());
        // Far below the time for which a client that stays is read from.
        eventually("it is let go", LINGER - Duration::from_secs(2), connections);
    }
}

#[test]
fn a_refused_request_that_waits_for_100_continue_gets_its_answer_alone_and_at_once() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup.set("limits", "request_body = \"2MiB\"")) {
        let mut all = refusals(&stand.all);
        all.push(Refusal {
            status: 413,
            code: "request_too_large",
            call: Call::json("/v1/chat/completions", &stand.all.token, ""),
        });
        for refusal in all {
            for length in [1000, 5 << 20] {
                if refusal.status == 413 && length == 1000 {
                    continue;
                }
                let mut client = stand.gateway.client();
                client.send(&head_with_length(
                    &refusal.call,
                    length,
                    &["expect: 100-continue"],
                ));
                let mut check = || {
                    let (answer, took) = timed(|| attempt(|| client.answer()));
                    let response = answer?;
                    refused_and_closing(&response, &refusal)?;
                    holds(
                        response.interim.is_empty() && took < WITHIN_A_SECOND,
                        || format!("{:?} before it, after {took:?}", response.interim),
                    )?;
                    // Nothing is waited for: the client may never send its body.
                    let gone = client.ends_within(WITHIN_A_SECOND);
                    holds(
                        gone == Some(Gone::Fin) && client.unread().is_empty(),
                        || format!("then {gone:?}"),
                    )
                };
                let verdict = check();
                cases.check(&format!("{name}, {}, {length}", refusal.code), verdict);
            }
        }
        cases.check("upstream", stand.up.untouched());
    }
    cases.done();
}

#[test]
fn a_client_that_sends_its_body_without_the_100_it_asked_for_still_reads_its_refusal() {
    for (name, stand) in plain_and_tls(|setup| setup) {
        let mut client = stand.gateway.client();
        let body = smuggled(&stand.all, 1000);
        let call =
            Call::json("/v1/chat/completions", "sk-unknown", body).header("expect", "100-continue");
        client.send(&call.bytes());
        let response = client.answer();
        assert_error(&response, 401, "invalid_api_key");
        assert_eq!(response.interim, [0_u16; 0], "{name}");
        stand.up.untouched().expect("no request was in that body");
    }
}

#[test]
fn a_request_that_is_taken_gets_its_100_before_its_body_and_keeps_its_connection() {
    for (_, stand) in plain_and_tls(|setup| setup) {
        let mut client = stand.gateway.client();
        let call = Call::json("/v1/chat/completions", &stand.all.token, "");
        client.send(&head_with_length(
            &call,
            BODY.len(),
            &["expect: 100-continue"],
        ));
        let mut bytes = Vec::new();
        eventually("100 comes before the body is sent", DEADLINE, || {
            let _ = client.silent_for(Duration::from_millis(5));
            bytes = client.unread().to_vec();
            bytes.ends_with(b"\r\n\r\n").then_some(())
        });
        assert!(bytes.starts_with(b"HTTP/1.1 100"), "{bytes:?}");
        client.send(BODY.as_bytes());
        let response = client.answer();
        assert_eq!(
            (response.status, response.interim.as_slice()),
            (200, &[100][..])
        );
        serves_next(&mut client, &stand.only).expect("kept");
    }
}

#[test]
fn of_two_pipelined_requests_a_refused_first_one_leaves_the_second_in_order() {
    let mut cases = Cases::new();
    for (name, stand) in plain_and_tls(|setup| setup) {
        for refusal in refusals(&stand.all) {
            let first = refusal.call.clone().body(smuggled(&stand.all, 1000));
            for chunked in [false, true] {
                let mut bytes = if chunked {
                    first.chunked(&[300])
                } else {
                    first.bytes()
                };
                bytes.extend(Call::get("/v1/key", &stand.only.token).bytes());
                bytes.extend(Call::chat(&stand.all.token, "good").bytes());
                let before = stand.up.requests().len();
                let mut client = stand.gateway.client();
                client.send(&bytes);
                let mut check = || {
                    is_error(&attempt(|| client.answer())?, refusal.status, refusal.code)?;
                    let second = attempt(|| client.answer())?;
                    holds(
                        second.status == 200 && second.json()["id"] == "key_only",
                        || format!("second: {} {}", second.status, second.text()),
                    )?;
                    let third = attempt(|| client.answer())?;
                    holds(third.status == 200 && third.end == End::Whole, || {
                        format!("third: {third:?}")
                    })?;
                    let count = stand.up.requests().len() - before;
                    holds(count == 1, || format!("{count} requests were forwarded"))
                };
                let verdict = check();
                cases.check(&format!("{name}, {}, {chunked}", refusal.code), verdict);
            }
        }
    }
    cases.done();
}

/// The head of a chat that will be refused.
fn begin_refused(raw: &mut RawH2, stream: u32) {
    raw.begin_chat(stream, "sk-unknown");
}

/// Reads until the stream's answer has ended; fails where it is reset before that.
#[track_caller]
fn answered_over_h2(raw: &mut RawH2, stream: u32) {
    let mut has_head = false;
    loop {
        let frame = raw.next(DEADLINE).expect("a frame");
        match frame.kind {
            raw_h2::SETTINGS if frame.flags & raw_h2::ACK == 0 => {
                raw.frame(raw_h2::SETTINGS, raw_h2::ACK, 0, &[]);
            }
            raw_h2::GOAWAY => panic!("the connection is given up: {frame:?}"),
            raw_h2::RST_STREAM if frame.stream == stream => {
                panic!("reset before its answer had ended: {frame:?}")
            }
            raw_h2::HEADERS | raw_h2::DATA if frame.stream == stream => {
                has_head |= frame.kind == raw_h2::HEADERS;
                if frame.flags & raw_h2::END_STREAM != 0 {
                    assert!(has_head, "a body without a head");
                    return;
                }
            }
            _ => {}
        }
    }
}

/// The next RST_STREAM of this stream within this time.
fn reset_within(raw: &mut RawH2, stream: u32, within: Duration) -> Option<Duration> {
    let start = std::time::Instant::now();
    loop {
        let left = within.checked_sub(start.elapsed())?;
        let frame = raw.next(left)?;
        if frame.kind == raw_h2::RST_STREAM && frame.stream == stream {
            return Some(start.elapsed());
        }
    }
}

#[test]
fn over_http_2_a_refusal_ends_before_its_stream_is_reset_and_a_body_on_its_way_is_not_reset_at_once()
 {
    let stand = Stand::new();
    // Many times, since it is a race; what is left of the body comes a moment after the answer.
    let mut raw = RawH2::connect(stand.gateway.address);
    let mut at_once = Vec::new();
    for number in 0..20 {
        let stream = 2 * number + 1;
        begin_refused(&mut raw, stream);
        raw.frame(raw_h2::DATA, 0, stream, &[b' '; 500]);
        answered_over_h2(&mut raw, stream);
        if let Some(after) = reset_within(&mut raw, stream, Duration::from_millis(50)) {
            at_once.push(after);
        }
        raw.frame(raw_h2::DATA, raw_h2::END_STREAM, stream, &[b' '; 500]);
    }
    assert!(at_once.is_empty(), "reset at once: {at_once:?}");
    raw.chat(101, &stand.all.token);
    assert_eq!(raw.outcome(101), raw_h2::Outcome::Status(200));
}

#[test]
fn over_http_2_a_refused_body_that_has_come_whole_is_not_reset_at_all() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    for number in 0..20 {
        let stream = 2 * number + 1;
        begin_refused(&mut raw, stream);
        raw.frame(raw_h2::DATA, raw_h2::END_STREAM, stream, BODY.as_bytes());
        answered_over_h2(&mut raw, stream);
    }
    let reset = reset_within(&mut raw, 39, Duration::from_millis(300));
    assert_eq!(reset, None);
}

#[test]
fn over_http_2_a_refused_upload_that_never_ends_is_reset_at_last() {
    let stand = Stand::new();
    let mut raw = RawH2::connect(stand.gateway.address);
    begin_refused(&mut raw, 1);
    answered_over_h2(&mut raw, 1);
    let reset = reset_within(&mut raw, 1, LINGER + DEADLINE);
    assert!(reset.is_some(), "its stream is held for ever");
    raw.chat(3, &stand.all.token);
    assert_eq!(raw.outcome(3), raw_h2::Outcome::Status(200));
}

#[test]
fn over_http_2_refused_uploads_take_nothing_of_the_connections_window() {
    for (_, stand) in plain_and_tls(|setup| setup) {
        let connection = stand.gateway.h2();
        for _ in 0..10 {
            let call = Call::json("/v1/chat/completions", "sk-unknown", vec![b' '; 1 << 20]);
            assert_error(&connection.ask(&call), 401, "invalid_api_key");
        }
        let body = format!(r#"{{"model":"good","text":"{}"}}"#, "x".repeat(1 << 20));
        let call = Call::json("/v1/chat/completions", &stand.all.token, body);
        assert_eq!(connection.ask(&call).status, 200);
    }
}
