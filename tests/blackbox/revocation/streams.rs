//! A key that is taken back ends what runs for it within a second, in every way a key can be taken back.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{End, Response};
use crate::support::gateway::Gateway;
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::raw_h2::{HEADERS, RawH2, SETTINGS};
use crate::support::stand::Stand;
use crate::support::streams::{begun, chat};
use crate::support::token::{Key, key_file};
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, assert_error, eventually};

/// A way to take a key back, and what its streams are then told.
struct Revocation {
    name: &'static str,
    code: &'static str,
    status: u16,
    take_back: fn(&Gateway, &Key),
}

pub fn patch(gateway: &Gateway, key: &Key, change: &Value) {
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
pub fn last_event(response: &Response) -> Result<Value, String> {
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
