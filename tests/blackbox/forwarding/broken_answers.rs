//! An answer that is broken is a 502 before its head and a cut answer behind it; it is never shown as whole or to another
//! client.

use std::thread;
use std::time::Duration;

use crate::support::client::{Call, End};
use crate::support::h2::{self, BOTH, Stream};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, assert_error, is_error};

#[test]
fn an_upstream_that_resets_is_a_502_at_any_moment_before_its_answer() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let call = Call::chat(&stand.all.token, "good");
    let resets: [fn(Exchange); 3] = [
        |exchange| exchange.reset(),
        |mut exchange| {
            exchange.body();
            exchange.reset();
        },
        |mut exchange| {
            exchange.body();
            exchange.send("HTTP/1.1 200 OK\r\n");
            thread::sleep(Duration::from_millis(30));
            exchange.reset();
        },
    ];
    for reset in resets {
        for kept in [false, true] {
            if kept {
                stand.up.script(Exchange::complete);
                assert_eq!(stand.gateway.ask(&call).status, 200);
            }
            stand.up.script(reset);
            assert_error(&stand.gateway.ask(&call), 502, "upstream_unreachable");
        }
    }
    stand.up.script(Exchange::complete);
    assert_eq!(stand.gateway.ask(&call).status, 200);
}

#[test]
fn an_answer_that_is_broken_before_its_body_is_a_502_and_its_connection_is_discarded() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let wide = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok",
        "w".repeat(1 << 20)
    );
    let mut cases = Cases::new();
    for (name, answer) in [
        ("nothing", ""),
        ("half a head", "HTTP/1.1 200 OK\r\nx: y\r\n"),
        ("garbage", "garbage\r\n\r\n"),
        ("a TLS alert", "\x15\x03\x01\0\x02\x02\x0a"),
        ("HTTP/2", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            "no status",
            "HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a status of two digits",
            "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a status of four digits",
            "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "length and chunked",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        ),
        (
            "a signed length",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        ),
        (
            "an empty length",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nok",
        ),
        (
            "a length that is no number",
            "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        ),
        (
            "an unknown coding",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "CR in a header",
            "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "NUL in a header",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "no colon",
            "HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 2\r\n\r\nok",
        ),
        ("1 MiB of headers", wide.as_str()),
        (
            "101",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\nraw bytes",
        ),
    ] {
        let bytes = answer.to_owned();
        stand
            .up
            .script(move |exchange| exchange.answer_raw_and_close(&bytes));
        for protocol in BOTH {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            cases.check(
                &format!("{name} over {protocol:?}"),
                is_error(&response, 502, "upstream_unreachable"),
            );
        }
        if !answer.is_empty() {
            // Where the upstream would keep the connection, the gateway does not.
            let bytes = answer.to_owned();
            stand.up.script(move |exchange| {
                if bytes.ends_with("y\r\n") {
                    drop(exchange)
                } else {
                    exchange.answer_raw(&bytes)
                }
            });
            let before = stand.up.connections();
            let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            cases.check(
                &format!("{name}, kept"),
                (response.status == 502)
                    .then_some(())
                    .ok_or(response.text()),
            );
            stand.up.script(Exchange::complete);
            let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            let fresh = stand.up.last().connection > before;
            cases.check(
                &format!("{name}, after"),
                (response.status == 200 && fresh)
                    .then_some(())
                    .ok_or(format!("fresh: {fresh}, {}", response.text())),
            );
            stand.up.close_connections();
        }
    }
    cases.done();
}

#[test]
fn bytes_behind_a_whole_answer_are_never_shown_to_the_next_client() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let mut cases = Cases::new();
    for answer in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"),
        format!("HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nbody{evil}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nbody{evil}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{evil}"),
        format!("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n\r\n{evil}"),
    ] {
        let shown = format!("{:.50}", answer.replace("\r\n", " "));
        stand
            .up
            .script(move |exchange| exchange.answer_raw(&answer));
        let first = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        cases.check(
            &shown,
            (!first.text().contains("evil"))
                .then_some(())
                .ok_or(first.text()),
        );
        // Late ones too: by now the connection would be idle in a pool.
        thread::sleep(Duration::from_millis(20));
        stand.up.script(Exchange::complete);
        for _ in 0..3 {
            let next = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
            let right = next.status == 200 && next.text().contains("chat.completion");
            cases.check(
                &format!("{shown}, after"),
                right.then_some(()).ok_or(next.text()),
            );
        }
    }
    cases.done();
}

#[test]
fn a_truncated_answer_reaches_the_client_as_truncated() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (name, answer) in [
        (
            "short of its length",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"part\":",
        ),
        (
            "within a chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n40\r\nmore",
        ),
        (
            "between chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n",
        ),
        (
            "before the last line end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n0\r\n",
        ),
        (
            "a chunk size that is none",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\nzz\r\n",
        ),
        (
            "an event stream",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"part\":\r\n",
        ),
    ] {
        for reset in [false, true] {
            stand.up.script(move |mut exchange| {
                exchange.body();
                exchange.send(answer);
                if reset {
                    // What was sent must be on its way before the reset overtakes it.
                    thread::sleep(Duration::from_millis(50));
                    exchange.reset();
                }
            });
            for protocol in BOTH {
                let mut stream = Stream::open(
                    protocol,
                    &stand.gateway,
                    &Call::chat(&stand.all.token, "good"),
                );
                let mut response = stream.head();
                stream.finish(&mut response, DEADLINE);
                // What arrived is flushed first, head included; the end is no clean one.
                let right = response.status == 200
                    && response.text().starts_with("{\"part\":")
                    && response.end == End::Cut;
                let clean = response.text().contains("[DONE]");
                cases.check(
                    &format!("{name}, reset {reset}, {protocol:?}"),
                    (right && !clean)
                        .then_some(())
                        .ok_or(format!("{response:?}")),
                );
            }
        }
    }
    cases.done();
}

#[test]
fn a_head_alone_before_the_upstream_breaks_off_still_reaches_the_client() {
    let stand = Stand::new();
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        stand
            .up
            .script(move |exchange| exchange.answer_raw_and_close(answer));
        for protocol in BOTH {
            let mut stream = Stream::open(
                protocol,
                &stand.gateway,
                &Call::chat(&stand.all.token, "good"),
            );
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            assert_eq!(
                (response.status, response.end),
                (200, End::Cut),
                "{answer:?} over {protocol:?}"
            );
        }
    }
}
