//! An answer is passed on chunk by chunk and byte for byte, no faster than its client reads; the log says how it ended.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::revocation::streams::patch;
use crate::support::client::{Call, End};
use crate::support::gateway::Setup;
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::raw_h2::RawH2;
use crate::support::stand::Stand;
use crate::support::streams::{begun, chat};
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

#[test]
fn a_chunk_that_arrives_is_a_chunk_sent() {
    let stand = Stand::held_with(Setup::reading_usage);
    for protocol in BOTH {
        let mut stream = Stream::open(protocol, &stand.gateway, &chat(&stand.all));
        let mut exchange = stand.up.next();
        exchange.begin_stream();
        // The head comes before any chunk does.
        let mut response = stream.head();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        assert!(response.header("content-encoding").is_none());
        let mut sent = String::new();
        let mut slowest = Duration::ZERO;
        for at in 0..40 {
            let chunk = match at % 4 {
                0 => format!("data: {{\"token\":\"t{at}\"}}\n\n"),
                1 => format!(": ping {at}\n\n"),
                // Half an event, and its other half.
                2 => format!("data: {{\"half\":{at}"),
                _ => format!(",\"other\":{at}}}\r\n\r\n"),
            };
            let start = Instant::now();
            exchange.chunk(&chunk);
            sent.push_str(&chunk);
            stream.until(&mut response, &chunk);
            slowest = slowest.max(start.elapsed());
        }
        // 10 ms on a quiet machine; what must not be is a timer or a buffer that waits to fill.
        assert!(
            slowest < Duration::from_millis(400),
            "{slowest:?} over {protocol:?}"
        );
        exchange.chunk("data: [DONE]\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.text(), sent + "data: [DONE]\n\n");
        assert_eq!(response.end, End::Whole);
    }
}

#[test]
fn a_large_answer_arrives_byte_for_byte() {
    let stand = Stand::held();
    let mut noise = vec![0_u8; 12 << 20];
    getrandom::fill(&mut noise).expect("random bytes");
    let expected = blake3::hash(&noise);
    for protocol in BOTH {
        for chunked in [false, true] {
            let mut stream = Stream::open(protocol, &stand.gateway, &chat(&stand.all));
            let mut exchange = stand.up.next();
            let body = noise.clone();
            let upstream = thread::spawn(move || {
                if !chunked {
                    return exchange.reply("200 OK", "content-type: audio/wav\r\n", body);
                }
                exchange.begin_stream();
                for piece in body.chunks(100_003) {
                    exchange.chunk(piece);
                }
                exchange.end_stream();
            });
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE * 2);
            upstream.join().expect("the upstream has sent all");
            assert_eq!((response.body.len(), response.end), (12 << 20, End::Whole));
            assert_eq!(
                blake3::hash(&response.body),
                expected,
                "{protocol:?}, chunked: {chunked}"
            );
        }
    }
}

#[test]
fn an_upstream_is_slowed_to_the_speed_of_its_client() {
    let stand = Stand::held();
    for protocol in BOTH {
        // It takes nothing. Over HTTP/2 its windows are open, so that the gateway alone decides how much it holds.
        let client: Box<dyn Any> = match protocol {
            Protocol::Http1 => Box::new(Stream::open(protocol, &stand.gateway, &chat(&stand.all))),
            Protocol::Http2 => {
                let mut client = RawH2::connect_greedily(stand.gateway.address);
                client.chat(1, &stand.all.token);
                Box::new(client)
            }
        };
        let mut exchange = stand.up.next();
        exchange.begin_stream();
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            let sent = &sent;
            let upstream = scope.spawn(move || {
                let piece = "x".repeat(1 << 20);
                for _ in 0..200 {
                    if exchange.gone_within(Duration::ZERO) {
                        return;
                    }
                    exchange.chunk(&piece);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            // It comes to a halt, with what the kernels and the gateway hold.
            let mut before = usize::MAX;
            eventually("the upstream is held back", DEADLINE, || {
                thread::sleep(Duration::from_millis(300));
                let now = sent.load(Ordering::Relaxed);
                let halted = now == before;
                before = now;
                halted.then_some(())
            });
            assert!(
                before < 100,
                "{before} MB were taken from the upstream over {protocol:?}"
            );
            // The client leaves: the upstream is let go.
            drop(client);
            upstream.join().expect("the upstream ends");
        });
    }
}

#[test]
fn a_stream_to_an_http_1_0_client_ends_with_its_connection() {
    let stand = Stand::held();
    let mut client = stand.gateway.client();
    let bytes = String::from_utf8(chat(&stand.all).bytes()).expect("text");
    client.send(bytes.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = client.head();
    assert!(response.header("transfer-encoding").is_none());
    client.until(&mut response, b"data: one\n\n");
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    client.finish(&mut response, DEADLINE);
    assert_eq!(
        (response.text().as_str(), response.end),
        ("data: one\n\ndata: two\n\n", End::UntilClose)
    );
}

#[test]
fn the_log_tells_how_each_request_ended() {
    let key = Key::all("key_logged");
    let stand = Stand::held_with(|setup| setup.keys(&[&key]));
    let access = |id: &str| -> Value {
        let line = stand
            .gateway
            .process
            .line(id, |line| line.contains(id) && line.contains("\"status\""));
        serde_json::from_str(&line).expect("a line of JSON")
    };
    let open = |id: &str| {
        let mut stream = Stream::open(
            Protocol::Http1,
            &stand.gateway,
            &chat(&key).header("x-request-id", id),
        );
        let mut exchange = stand.up.next();
        exchange.begin_stream();
        exchange.chunk("data: one\n\n");
        let mut response = stream.head();
        stream.until(&mut response, "one");
        (stream, response, exchange)
    };
    let (mut stream, mut response, exchange) = open("id-complete");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert!(access("id-complete").to_string().contains("complete"));
    let (stream, _response, _exchange) = open("id-left");
    drop(stream);
    assert!(
        access("id-left")
            .to_string()
            .replace('_', " ")
            .contains("client left")
    );
    let (mut stream, mut response, exchange) = open("id-failed");
    drop(exchange);
    stream.finish(&mut response, DEADLINE);
    assert!(
        access("id-failed")
            .to_string()
            .replace('_', " ")
            .contains("upstream failed")
    );
    let (mut stream, mut response, _exchange) = open("id-revoked");
    patch(&stand.gateway, &key, &json!({"disabled": true}));
    stream.finish(&mut response, DEADLINE);
    let line = access("id-revoked");
    assert!(line.to_string().contains("revoked"));
    // What contract 7 lists is there, whatever its name.
    let line = line.to_string();
    for fact in [
        "key_logged",
        "127.0.0.1",
        "POST",
        "/v1/chat/completions",
        "\"good\"",
        "\"up\"",
        "200",
        "invalid_api_key",
    ] {
        assert!(line.contains(fact), "{fact} is not in {line}");
    }
}

#[test]
fn a_client_that_leaves_behind_the_last_event_has_a_complete_answer() {
    let stand = Stand::held_with(Setup::reading_usage);
    let end_of = |id: &str| -> Value {
        let line = stand
            .gateway
            .process
            .line(id, |line| line.contains(id) && line.contains("\"status\""));
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        line["end"].clone()
    };
    for protocol in BOTH {
        for (name, path, last, expected) in [
            (
                "chat",
                "/v1/chat/completions",
                "data: [DONE]\n\n",
                "complete",
            ),
            (
                "messages",
                "/v1/messages",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                "complete",
            ),
            (
                "responses",
                "/v1/responses",
                "event: response.completed\r\ndata: {\"type\":\"response.completed\"}\r\n\r\n",
                "complete",
            ),
            (
                "open",
                "/v1/messages",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n",
                "client_left",
            ),
            (
                "quoted",
                "/v1/chat/completions",
                "data: {\"text\":\"data: [DONE]\"}\n\n",
                "client_left",
            ),
        ] {
            let id = format!("ends-{name}-{protocol:?}");
            let body = r#"{"model":"good","stream":true}"#;
            let call = Call::json(path, &stand.all.token, body).header("x-request-id", &id);
            let mut stream = Stream::open(protocol, &stand.gateway, &call);
            let mut exchange = stand.up.next();
            exchange.begin_stream();
            exchange.chunk("data: one\n\n");
            // Cut, as networks cut it.
            let (start, rest) = last.split_at(9);
            exchange.chunk(start);
            let mut response = stream.head();
            stream.until(&mut response, start);
            exchange.chunk(rest);
            stream.until(&mut response, last);
            drop(stream);
            assert_eq!(end_of(&id), expected, "{id}");
            exchange.assert_freed();
        }
        // A body of known length is complete with its last byte, whatever its client does then.
        let id = format!("ends-length-{protocol:?}");
        let call = chat(&stand.all).header("x-request-id", &id);
        let mut stream = Stream::open(protocol, &stand.gateway, &call);
        stand.up.next().send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        );
        let mut response = stream.head();
        stream.until(&mut response, "{}");
        drop(stream);
        assert_eq!(end_of(&id), "complete", "{id}");
    }
}

#[test]
fn a_silent_event_stream_is_kept_alive_by_comments_between_its_events() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "sse_ping = \"300ms\""));
    for protocol in BOTH {
        let (mut stream, mut response, mut exchange) = begun(&stand, protocol, &stand.all);
        stream.until(&mut response, ": ping\n\n: ping\n\n");
        exchange.chunk("data: tw");
        stream.until(&mut response, "data: tw");
        // Inside an event nothing is added: longer than a comment would take.
        thread::sleep(Duration::from_secs(1));
        exchange.chunk("o\n\n");
        stream.until(&mut response, "data: two\n\n");
        stream.until(&mut response, "data: two\n\n: ping\n\n");
        exchange.chunk("data: [DONE]\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Whole);
        let events = response.text().replace(": ping\n\n", "");
        assert_eq!(events, "data: one\n\ndata: two\n\ndata: [DONE]\n\n");
    }
}

#[test]
fn comments_neither_prolong_a_silent_upstream_nor_change_another_body() {
    let stand = Stand::held_with(|setup| {
        setup.set("timeouts", "sse_ping = \"200ms\"\nstream_idle = \"2s\"")
    });
    for protocol in BOTH {
        let (mut stream, mut response, exchange) = begun(&stand, protocol, &stand.all);
        stream.finish(&mut response, Duration::from_secs(5));
        assert_eq!(response.end, End::Cut);
        assert!(response.text().contains(": ping\n\n"));
        exchange.assert_freed();
        for head in [
            "content-type: application/json\r\n",
            "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n",
        ] {
            let mut stream = Stream::open(protocol, &stand.gateway, &chat(&stand.all));
            let mut exchange = stand.up.next();
            exchange.send(format!(
                "HTTP/1.1 200 OK\r\n{head}transfer-encoding: chunked\r\n\r\n"
            ));
            exchange.chunk("a\n\n");
            let mut response = stream.head();
            stream.until(&mut response, "a\n\n");
            thread::sleep(Duration::from_millis(600));
            exchange.chunk("b");
            exchange.end_stream();
            stream.finish(&mut response, DEADLINE);
            assert_eq!(response.text(), "a\n\nb", "{head}");
        }
    }
}
