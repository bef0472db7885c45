//! Streams: each chunk as it comes, an upstream freed as soon as its client leaves, and a key that is taken back
//! reaching what already runs.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Call, End, Response};
use crate::support::gateway::Gateway;
use crate::support::h2::{self, BOTH, Protocol, Stream};
use crate::support::raw_h2::{HEADERS, RawH2, SETTINGS};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;
use crate::support::token::{Key, key_file, seconds_from_now};
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

/// A streamed chat.
fn chat(key: &Key) -> Call {
    Call::json(
        "/v1/chat/completions",
        &key.token,
        r#"{"model":"good","stream":true}"#,
    )
}

/// A stream of a key that has begun, in the hands of its client and its upstream.
fn begun(stand: &Stand, protocol: Protocol, key: &Key) -> (Stream, Response, Exchange) {
    let mut stream = Stream::open(protocol, &stand.gateway, &chat(key));
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "data: one\n\n");
    (stream, response, exchange)
}

#[test]
fn a_chunk_that_arrives_is_a_chunk_sent() {
    let stand = Stand::held();
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
fn a_client_that_takes_nothing_is_given_up_after_client_write() {
    let stand = Stand::held_with(|setup| setup.set("timeouts", "client_write = \"1s\""));
    let mut client = stand.gateway.client();
    client.send(&chat(&stand.all).bytes());
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    let piece = "x".repeat(1 << 20);
    let start = Instant::now();
    while !exchange.gone_within(Duration::ZERO) {
        exchange.chunk(&piece);
        assert!(
            start.elapsed() < DEADLINE,
            "the upstream is held for a client that takes nothing"
        );
    }
    // A client that has nothing to take is not given up.
    let (mut stream, mut response, mut exchange) = begun(&stand, Protocol::Http1, &stand.all);
    thread::sleep(Duration::from_millis(1500));
    exchange.chunk("data: two\n\n");
    stream.until(&mut response, "two");
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// By FIN; over HTTP/2, the whole connection.
    Close,
    /// By RST; over HTTP/2, of the stream alone.
    Reset,
    /// By shutting its own direction, which a client that still wants an answer does not do.
    HalfClose,
}

/// How far the exchange is when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeHead,
    AfterHead,
    MidStream,
    MidLength,
}

fn leave_and_see_the_upstream_freed(stand: &Stand) {
    let mut cases = Cases::new();
    for protocol in BOTH {
        for leaving in [Leaving::Close, Leaving::Reset, Leaving::HalfClose] {
            for moment in [
                Moment::BeforeHead,
                Moment::AfterHead,
                Moment::MidStream,
                Moment::MidLength,
            ] {
                if protocol == Protocol::Http2 && leaving == Leaving::HalfClose {
                    continue;
                }
                let connection = (protocol == Protocol::Http2).then(|| stand.gateway.h2());
                let mut stream = match &connection {
                    Some(connection) => Stream::Http2(connection.open(&chat(&stand.all))),
                    None => Stream::open(protocol, &stand.gateway, &chat(&stand.all)),
                };
                let mut exchange = stand.up.next();
                exchange.body();
                match moment {
                    Moment::BeforeHead => {}
                    Moment::AfterHead | Moment::MidStream => exchange.begin_stream(),
                    Moment::MidLength => exchange
                        .send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ndata: one\n\n"),
                }
                if moment == Moment::MidStream {
                    exchange.chunk("data: one\n\n");
                }
                if moment != Moment::BeforeHead {
                    let mut response = stream.head();
                    if moment != Moment::AfterHead {
                        stream.until(&mut response, "one");
                    }
                }
                let mut kept = None;
                let start = Instant::now();
                match (stream, leaving) {
                    (Stream::Http1(client, _), Leaving::Reset) => client.reset(),
                    (Stream::Http1(mut client, method), Leaving::HalfClose) => {
                        client.shut_write();
                        kept = Some(Stream::Http1(client, method));
                    }
                    (stream, Leaving::Reset) => {
                        drop(stream);
                        // The connection lives on.
                    }
                    (stream, _) => {
                        drop(stream);
                        drop(connection.clone());
                    }
                }
                let connection = if leaving == Leaving::Reset {
                    connection
                } else {
                    drop(connection);
                    None
                };
                let freed = exchange.gone_within(DEADLINE);
                let took = start.elapsed();
                let right = freed && took <= WITHIN_A_SECOND;
                cases.check(
                    &format!("{protocol:?} {leaving:?} {moment:?}"),
                    right
                        .then_some(())
                        .ok_or(format!("freed: {freed} after {took:?}")),
                );
                drop(kept);
                drop(connection);
            }
        }
    }
    cases.done();
    let in_flight = || (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(());
    eventually("nothing is in flight", DEADLINE, in_flight);
}

#[test]
fn a_client_that_leaves_frees_its_upstream_within_a_second() {
    leave_and_see_the_upstream_freed(&Stand::held());
}

#[test]
fn a_client_that_leaves_over_tls_frees_its_upstream_within_a_second() {
    leave_and_see_the_upstream_freed(&Stand::held_with(|setup| setup.tls()));
}

#[test]
fn many_streams_reset_at_once_free_all_their_upstreams() {
    let stand = Stand::held();
    let connection = stand.gateway.h2();
    let streams: Vec<_> = (0..100)
        .map(|_| connection.open(&chat(&stand.all)))
        .collect();
    let exchanges: Vec<Exchange> = (0..100).map(|_| stand.up.next()).collect();
    drop(streams);
    let start = Instant::now();
    for exchange in &exchanges {
        assert!(exchange.gone_within(DEADLINE), "an upstream is never freed");
    }
    assert!(
        start.elapsed() < WITHIN_A_SECOND * 2,
        "{:?}",
        start.elapsed()
    );
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    drop(connection);
}

/// A way to take a key back, and what its streams are then told.
struct Revocation {
    name: &'static str,
    code: &'static str,
    status: u16,
    take_back: fn(&Gateway, &Key),
}

fn patch(gateway: &Gateway, key: &Key, change: &Value) {
    let path = format!("/api/keys/{}", key.id);
    gateway.admin_json("PATCH", &path, Some(change));
}

/// The key file without this key.
fn remove_from_file(gateway: &Gateway, key: &Key) {
    let text = gateway.key_file();
    let mut kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains(&format!("\"{}\"", key.id)))
        .collect();
    kept.push("");
    gateway.write_key_file(&kept.join("\n"));
}

const REVOCATIONS: [Revocation; 8] = [
    Revocation {
        name: "deleted",
        code: "invalid_api_key",
        status: 401,
        take_back: |gateway, key| {
            let response = gateway.admin("DELETE", &format!("/api/keys/{}", key.id), None);
            assert_eq!(response.status, 204, "{}", response.text());
        },
    },
    Revocation {
        name: "disabled",
        code: "invalid_api_key",
        status: 401,
        take_back: |gateway, key| patch(gateway, key, &json!({"disabled": true})),
    },
    Revocation {
        name: "its model taken away",
        code: "model_not_found",
        status: 404,
        take_back: |gateway, key| {
            patch(
                gateway,
                key,
                &json!({"model_access": {"mode": "inclusive", "models": ["bad"]}}),
            )
        },
    },
    Revocation {
        name: "its model excluded",
        code: "model_not_found",
        status: 404,
        take_back: |gateway, key| {
            patch(
                gateway,
                key,
                &json!({"model_access": {"mode": "exclusive", "models": ["good"]}}),
            )
        },
    },
    Revocation {
        name: "its network taken away",
        code: "ip_not_authorized",
        status: 401,
        take_back: |gateway, key| patch(gateway, key, &json!({"allow_from": ["192.0.2.0/24"]})),
    },
    Revocation {
        name: "removed from the file, reloaded by the socket",
        code: "invalid_api_key",
        status: 401,
        take_back: |gateway, key| {
            remove_from_file(gateway, key);
            assert_eq!(gateway.reload().status, 200);
        },
    },
    Revocation {
        name: "removed from the file, reloaded by SIGHUP",
        code: "invalid_api_key",
        status: 401,
        take_back: |gateway, key| {
            remove_from_file(gateway, key);
            gateway.process.hang_up();
        },
    },
    Revocation {
        name: "expired in the file",
        code: "expired_api_key",
        status: 401,
        take_back: |gateway, key| {
            let text = gateway.key_file();
            let mut records: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("a record"))
                .collect();
            for record in &mut records {
                if record["id"] == key.id.as_str() {
                    record["expires_at"] = json!("2020-01-01T00:00:00Z");
                }
            }
            let lines: Vec<String> = records.iter().map(Value::to_string).collect();
            gateway.write_key_file(&(lines.join("\n") + "\n"));
            assert_eq!(gateway.reload().status, 200);
        },
    },
];

/// A gateway with a key for each way to take one back, more keys than any way drops, and the keys.
fn with_keys_to_take_back(
    setup: impl FnOnce(crate::support::gateway::Setup) -> crate::support::gateway::Setup,
) -> (Stand, Vec<Key>) {
    let keys: Vec<Key> = (0..REVOCATIONS.len())
        .map(|at| Key::all(&format!("key_revoked_{at}")))
        .collect();
    let stand = Stand::held_with(|stand| setup(stand.keys(&keys.iter().collect::<Vec<_>>())));
    (stand, keys)
}

/// The error event at the end of an event stream, as a client's parser sees it: an event of its own.
fn last_event(response: &Response) -> Result<Value, String> {
    let text = response.text().replace("\r\n", "\n");
    let whole = text
        .strip_suffix("\n\n")
        .ok_or(format!("the last event has no end: {text:?}"))?;
    let event = whole
        .rsplit("\n\n")
        .next()
        .unwrap_or_default()
        .trim_start_matches('\n');
    let data = event
        .strip_prefix("data: ")
        .ok_or(format!("the last event is no data: {event:?}"))?;
    serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))
}

fn ended_by_revocation(
    stream: &mut Stream,
    response: &mut Response,
    code: &str,
) -> Result<(), String> {
    let start = Instant::now();
    stream.finish(response, DEADLINE);
    let took = start.elapsed();
    let event = last_event(response)?;
    let right = response.end == End::Cut
        && took <= WITHIN_A_SECOND
        && event["error"]["code"] == code
        && event["error"]["message"].is_string()
        && event["error"]["type"] == "invalid_request_error"
        && !response.text().contains("[DONE]");
    right.then_some(()).ok_or(format!(
        "{:?} after {took:?}: {}",
        response.end,
        response.text()
    ))
}

#[test]
fn a_key_taken_back_ends_its_idle_event_streams_with_an_error_event_within_a_second() {
    for protocol in BOTH {
        let (stand, keys) = with_keys_to_take_back(|setup| setup);
        let mut cases = Cases::new();
        let (mut other, mut others_response, mut others_exchange) =
            begun(&stand, protocol, &stand.all);
        for (revocation, key) in REVOCATIONS.iter().zip(&keys) {
            let (mut stream, mut response, exchange) = begun(&stand, protocol, key);
            (revocation.take_back)(&stand.gateway, key);
            cases.check(
                revocation.name,
                ended_by_revocation(&mut stream, &mut response, revocation.code),
            );
            let freed = exchange.gone_within(WITHIN_A_SECOND);
            cases.check(
                revocation.name,
                freed
                    .then_some(())
                    .ok_or("the upstream is not freed".to_owned()),
            );
            let next = stand.gateway.ask(&chat(key));
            let refused = next.status == revocation.status;
            cases.check(
                revocation.name,
                refused
                    .then_some(())
                    .ok_or(format!("the next request: {}", next.text())),
            );
        }
        // Another key's stream noticed nothing.
        others_exchange.chunk("data: two\n\n");
        other.until(&mut others_response, "data: two\n\n");
        others_exchange.end_stream();
        other.finish(&mut others_response, DEADLINE);
        assert_eq!(
            (others_response.text().as_str(), others_response.end),
            ("data: one\n\ndata: two\n\n", End::Whole)
        );
        cases.done();
    }
}

#[test]
fn a_key_taken_back_ends_its_streams_at_their_next_chunk() {
    for protocol in BOTH {
        let (stand, keys) = with_keys_to_take_back(|setup| setup);
        let mut cases = Cases::new();
        for (revocation, key) in REVOCATIONS.iter().zip(&keys) {
            let (mut stream, mut response, mut exchange) = begun(&stand, protocol, key);
            let feeding = thread::spawn(move || {
                let start = Instant::now();
                while !exchange.gone_within(Duration::from_millis(5)) {
                    // A chunk that ends inside an event.
                    exchange.chunk("data: {\"x\":1}\n\ndata: {\"unfinished\":\"");
                    if start.elapsed() > DEADLINE {
                        return false;
                    }
                }
                true
            });
            stream.until(&mut response, "unfinished");
            (revocation.take_back)(&stand.gateway, key);
            cases.check(
                revocation.name,
                ended_by_revocation(&mut stream, &mut response, revocation.code),
            );
            let freed = feeding.join().expect("the upstream's thread");
            cases.check(
                revocation.name,
                freed
                    .then_some(())
                    .ok_or("the upstream is not freed".to_owned()),
            );
        }
        cases.done();
    }
}

#[test]
fn a_key_taken_back_breaks_off_an_answer_that_is_no_plain_event_stream_without_a_word() {
    for protocol in BOTH {
        let mut cases = Cases::new();
        for headers in [
            "content-type: application/json\r\n",
            "content-type: text/plain\r\n",
            "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n",
        ] {
            let (stand, keys) = with_keys_to_take_back(|setup| setup);
            for (revocation, key) in REVOCATIONS.iter().zip(&keys).take(5) {
                let mut stream = Stream::open(protocol, &stand.gateway, &chat(key));
                let mut exchange = stand.up.next();
                exchange.body();
                exchange.send(format!(
                    "HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n"
                ));
                exchange.chunk("{\"part\":");
                let mut response = stream.head();
                stream.until(&mut response, "part");
                (revocation.take_back)(&stand.gateway, key);
                let start = Instant::now();
                stream.finish(&mut response, DEADLINE);
                let right = response.end == End::Cut
                    && response.text() == "{\"part\":"
                    && start.elapsed() <= WITHIN_A_SECOND;
                cases.check(
                    &format!("{headers:?} {}", revocation.name),
                    right.then_some(()).ok_or(format!("{response:?}")),
                );
                let freed = exchange.gone_within(WITHIN_A_SECOND);
                cases.check(
                    revocation.name,
                    freed
                        .then_some(())
                        .ok_or("the upstream is not freed".to_owned()),
                );
            }
        }
        cases.done();
    }
}

#[test]
fn a_key_taken_back_answers_a_request_that_still_waits_with_the_denial() {
    for protocol in BOTH {
        let (stand, keys) = with_keys_to_take_back(|setup| setup);
        for (revocation, key) in REVOCATIONS.iter().zip(&keys) {
            let mut stream = Stream::open(protocol, &stand.gateway, &chat(key));
            let mut exchange = stand.up.next();
            exchange.body();
            (revocation.take_back)(&stand.gateway, key);
            let start = Instant::now();
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            assert_error(&response, revocation.status, revocation.code);
            assert!(
                start.elapsed() <= WITHIN_A_SECOND,
                "{} after {:?}",
                revocation.name,
                start.elapsed()
            );
            assert!(
                exchange.gone_within(WITHIN_A_SECOND),
                "{}: the upstream is not freed",
                revocation.name
            );
        }
    }
}

#[test]
fn a_key_taken_back_while_its_request_is_still_being_sent_is_denied() {
    for protocol in BOTH {
        let (stand, keys) = with_keys_to_take_back(|setup| setup);
        for (revocation, key) in REVOCATIONS.iter().zip(&keys) {
            let call = chat(key);
            let (first, rest) = call.body.split_at(10);
            let response = match protocol {
                Protocol::Http1 => {
                    let mut client = stand.gateway.client();
                    client.send(&[&call.head(), first].concat());
                    assert!(client.silent_for(Duration::from_millis(50)));
                    (revocation.take_back)(&stand.gateway, key);
                    let _ = client.try_send(rest);
                    client.answer()
                }
                Protocol::Http2 => {
                    let (mut stream, sending) = stand.gateway.h2().begin(&call);
                    sending.data(first);
                    thread::sleep(Duration::from_millis(50));
                    (revocation.take_back)(&stand.gateway, key);
                    sending.data(rest);
                    drop(sending);
                    let mut response = stream.head();
                    stream.finish(&mut response, DEADLINE);
                    response
                }
            };
            // By SIGHUP it may come a moment later, to a request that waits for its upstream by then.
            assert_error(&response, revocation.status, revocation.code);
        }
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
fn a_key_that_expires_ends_its_streams_at_that_instant() {
    for protocol in BOTH {
        let key = Key::all("key_short").expires(&seconds_from_now(3));
        let stand = Stand::held_with(|setup| setup.keys(&[&key]));
        let (mut stream, mut response, exchange) = begun(&stand, protocol, &key);
        let mut waiting = Stream::open(protocol, &stand.gateway, &chat(&key));
        let mut held = stand.up.next();
        held.body();
        stream.finish(&mut response, DEADLINE);
        let event = last_event(&response).expect("an error event");
        assert_eq!(event["error"]["code"], "expired_api_key");
        assert_eq!(response.end, End::Cut);
        assert!(exchange.gone_within(WITHIN_A_SECOND));
        let mut answer = waiting.head();
        waiting.finish(&mut answer, DEADLINE);
        assert_error(&answer, 401, "expired_api_key");
        assert!(held.gone_within(WITHIN_A_SECOND));
        assert_error(
            &h2::ask(protocol, &stand.gateway, &chat(&key)),
            401,
            "expired_api_key",
        );
    }
}

#[test]
fn a_key_whose_expiry_is_moved_up_ends_its_streams_then_and_one_moved_back_does_not() {
    let sooner = Key::all("key_sooner");
    let later = Key::all("key_later").expires(&seconds_from_now(4));
    let stand = Stand::held_with(|setup| setup.keys(&[&sooner, &later]));
    let (mut ending, mut ended, _exchange) = begun(&stand, Protocol::Http1, &sooner);
    let (mut lasting, mut lasted, mut exchange) = begun(&stand, Protocol::Http1, &later);
    patch(
        &stand.gateway,
        &sooner,
        &json!({"expires_at": seconds_from_now(3)}),
    );
    patch(&stand.gateway, &later, &json!({"expires_at": null}));
    ending.finish(&mut ended, DEADLINE);
    assert_eq!(
        last_event(&ended).expect("an error event")["error"]["code"],
        "expired_api_key"
    );
    // Past the instant at which it would have ended.
    thread::sleep(Duration::from_millis(2500));
    exchange.chunk("data: two\n\n");
    lasting.until(&mut lasted, "data: two\n\n");
    exchange.end_stream();
    lasting.finish(&mut lasted, DEADLINE);
    assert_eq!(lasted.end, End::Whole);
}

#[test]
fn a_change_that_leaves_a_stream_allowed_does_not_touch_it() {
    for protocol in BOTH {
        let key = Key::all("key_changed");
        let stand = Stand::held_with(|setup| setup.keys(&[&key]));
        let (mut stream, mut response, mut exchange) = begun(&stand, protocol, &key);
        patch(&stand.gateway, &key, &json!({"name": "renamed"}));
        patch(
            &stand.gateway,
            &key,
            &json!({"model_access": {"mode": "inclusive", "models": ["good"]}}),
        );
        patch(
            &stand.gateway,
            &key,
            &json!({"model_access": {"mode": "exclusive", "models": ["bad"]}}),
        );
        patch(
            &stand.gateway,
            &key,
            &json!({"allow_from": ["127.0.0.0/8"], "expires_at": "2099-01-01T00:00:00Z"}),
        );
        assert_eq!(stand.gateway.reload().status, 200);
        patch(&stand.gateway, &stand.only, &json!({"disabled": true}));
        exchange.chunk("data: two\n\n");
        stream.until(&mut response, "data: two\n\n");
        thread::sleep(Duration::from_millis(1200));
        exchange.chunk("data: [DONE]\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(
            (response.text().as_str(), response.end),
            ("data: one\n\ndata: two\n\ndata: [DONE]\n\n", End::Whole)
        );
    }
}

#[test]
fn every_stream_of_a_key_ends_when_it_is_taken_back() {
    let key = Key::all("key_many");
    let stand = Stand::held_with(|setup| setup.keys(&[&key]));
    let mut streams: Vec<_> = (0..40)
        .map(|at| begun(&stand, BOTH[at % 2], &key))
        .collect();
    patch(&stand.gateway, &key, &json!({"disabled": true}));
    let start = Instant::now();
    let mut cases = Cases::new();
    for (stream, response, exchange) in &mut streams {
        cases.check(
            "a stream",
            ended_by_revocation(stream, response, "invalid_api_key"),
        );
        cases.check(
            "an upstream",
            exchange
                .gone_within(DEADLINE)
                .then_some(())
                .ok_or("not freed".to_owned()),
        );
    }
    cases.done();
    assert!(
        start.elapsed() < WITHIN_A_SECOND + Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
}

#[test]
fn a_key_taken_back_frees_the_upstream_even_where_the_client_reads_nothing() {
    let key = Key::all("key_stuck");
    let stand = Stand::held_with(|setup| setup.keys(&[&key]));
    let mut client = stand.gateway.client();
    client.send(&chat(&key).bytes());
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    let gone = thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let piece = "x".repeat(1 << 20);
            while !exchange.gone_within(Duration::ZERO) {
                exchange.chunk(&piece);
            }
            Instant::now()
        });
        // Until what lies between the two is full.
        thread::sleep(Duration::from_millis(1500));
        patch(&stand.gateway, &key, &json!({"disabled": true}));
        let start = Instant::now();
        eventually("the upstream is freed", DEADLINE, || {
            feeding.is_finished().then_some(())
        });
        start.elapsed()
    });
    assert!(gone <= WITHIN_A_SECOND, "{gone:?}");
}

#[test]
fn a_key_that_comes_back_in_the_same_reload_is_the_same_key() {
    let key = Key::all("key_kept");
    let stand = Stand::held_with(|setup| setup.keys(&[&key]));
    let (mut stream, mut response, mut exchange) = begun(&stand, Protocol::Http1, &key);
    // The file in another order, with another key gone.
    let text = key_file(&[key.clone(), stand.all_but.clone(), stand.all.clone()]);
    stand.gateway.write_key_file(&text);
    assert_eq!(stand.gateway.reload().status, 200);
    thread::sleep(Duration::from_millis(1200));
    exchange.chunk("data: two\n\n");
    stream.until(&mut response, "two");
    drop(stream);
    assert!(exchange.gone_within(WITHIN_A_SECOND));
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

const SETTINGS_INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

#[test]
fn a_client_that_keeps_its_window_shut_does_not_keep_the_upstream_past_its_key() {
    let stand = Stand::held();
    let mut client = RawH2::connect_silently(stand.gateway.address);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let shut = [&SETTINGS_INITIAL_WINDOW_SIZE[..], &[0; 4]].concat();
    client.frame(SETTINGS, 0, 0, &shut);
    client.chat(1, &stand.all.token);
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: 1\n\n");
    let head = loop {
        let frame = client.next(DEADLINE).expect("a head");
        if frame.kind == HEADERS {
            break frame;
        }
    };
    assert_eq!(head.stream, 1);
    let path = "/api/keys/key_all";
    assert_eq!(stand.gateway.admin("DELETE", path, None).status, 204);
    assert!(exchange.gone_within(Duration::from_secs(2)));
}
