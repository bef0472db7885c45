//! How the gateway ends a connection: a client always reads its answer first, a good end looks like one (over TLS with
//! close_notify), and an answer that was broken off never looks whole.

use std::time::Duration;

use serde_json::json;

use crate::support::balancer::Balancer;
use crate::support::client::{Call, Client, End, Response};
use crate::support::gateway::Setup;
use crate::support::http1::{
    Ending, as_http_1_0, attempt, ending, head_with_length, holds, send_body,
};
use crate::support::recorder::{Exchange, Recorder};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

/// A gateway over plain TCP and one over TLS, before an upstream whose requests the test answers.
fn held(with: impl Fn(Setup) -> Setup) -> [(&'static str, Stand); 2] {
    [
        ("plain", Stand::held_with(&with)),
        ("TLS", Stand::held_with(|setup| with(setup).tls())),
    ]
}

/// The same, before an upstream that answers.
fn answering(with: impl Fn(Setup) -> Setup) -> [(&'static str, Stand); 2] {
    [
        ("plain", Stand::with(&with)),
        ("TLS", Stand::with(|setup| with(setup).tls())),
    ]
}

/// What Java's HttpClient sends with every request over plain TCP.
const UPGRADE: [&str; 3] = [
    "connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "http2-settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
];

#[test]
fn an_offer_to_upgrade_does_not_cost_a_refused_client_its_answer() {
    const UPLOAD: usize = 5 << 20;
    let mut cases = Cases::new();
    for (name, stand) in answering(|setup| setup) {
        for offer in [&UPGRADE[..], &["connection: upgrade", "upgrade: websocket"]] {
            for reads_first in [true, false] {
                let call = Call::json("/v1/chat/completions", "sk-unknown", "");
                let mut client = stand.gateway.client();
                client.send(&head_with_length(&call, UPLOAD, offer));
                let mut check = || {
                    if reads_first {
                        is_error(&attempt(|| client.answer())?, 401, "invalid_api_key")?;
                    }
                    send_body(&mut client, UPLOAD)
                        .map_err(|(sent, error)| format!("after {sent} bytes: {error}"))?;
                    if !reads_first {
                        is_error(&attempt(|| client.answer())?, 401, "invalid_api_key")?;
                    }
                    let end = ending(&mut client, DEADLINE);
                    holds(end == Some(Ending::Clean), || format!("ended by {end:?}"))
                };
                let verdict = check();
                cases.check(
                    &format!("{name}, {}, reads first: {reads_first}", offer[1]),
                    verdict,
                );
            }
        }
    }
    cases.done();
}

#[test]
fn an_offer_to_upgrade_keeps_the_connection_of_a_small_request() {
    let mut cases = Cases::new();
    for (name, stand) in answering(|setup| setup) {
        let mut client = stand.gateway.client();
        for token in [&stand.all.token, "sk-unknown", &stand.all.token] {
            let call = Call::chat(token, "good");
            let mut bytes = head_with_length(&call, call.body.len(), &UPGRADE);
            bytes.extend_from_slice(&call.body);
            let expected = if token == "sk-unknown" { 401 } else { 200 };
            let verdict = client
                .try_send(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|()| attempt(|| client.answer().status))
                .and_then(|status| holds(status == expected, || status.to_string()));
            cases.check(name, verdict);
        }
    }
    cases.done();
}

/// The connection ends, with nothing before it, by FIN and over TLS behind close_notify.
fn ends_cleanly(client: &mut Client, within: Duration) -> Result<(), String> {
    let end = ending(client, within);
    holds(
        end == Some(Ending::Clean) && client.unread().is_empty(),
        || {
            format!(
                "ended by {end:?}, {} bytes before it",
                client.unread().len()
            )
        },
    )
}

#[test]
fn an_answer_with_connection_close_ends_cleanly() {
    let mut cases = Cases::new();
    for (name, stand) in answering(|setup| setup) {
        for (what, call, status) in [
            ("forwarded", Call::chat(&stand.all.token, "good"), 200),
            ("local", Call::get("/v1/models", &stand.all.token), 200),
            ("refused", Call::get("/v1/models", "sk-unknown"), 401),
            ("refused with a body", Call::chat("sk-unknown", "good"), 401),
        ] {
            let mut client = stand.gateway.client();
            let verdict = attempt(|| client.ask(&call.clone().header("connection", "close")))
                .and_then(|response| {
                    holds(
                        response.status == status && response.end == End::Whole,
                        || format!("{response:?}"),
                    )
                })
                .and_then(|()| ends_cleanly(&mut client, DEADLINE));
            cases.check(&format!("{name}, {what}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn an_idle_connection_ends_cleanly_after_keep_alive() {
    let mut cases = Cases::new();
    for (name, stand) in answering(|setup| setup.set("timeouts", "keep_alive = \"1s\"")) {
        let mut client = stand.gateway.client();
        for call in [
            Call::chat(&stand.all.token, "good"),
            Call::get("/v1/models", "sk-unknown"),
        ] {
            client.ask(&call);
        }
        cases.check(name, ends_cleanly(&mut client, DEADLINE));
    }
    cases.done();
}

#[test]
fn a_drain_ends_idle_connections_cleanly_and_running_ones_behind_their_answer() {
    let mut cases = Cases::new();
    for (name, stand) in held(|setup| setup) {
        let mut idle = stand.gateway.client();
        let models = Call::get("/v1/models", &stand.all.token);
        assert_eq!(idle.ask(&models).status, 200);
        let mut running = stand.gateway.client();
        running.send(&Call::chat(&stand.all.token, "good").bytes());
        let exchange = stand.up.next();
        stand.gateway.process.terminate();
        cases.check(&format!("{name}, idle"), ends_cleanly(&mut idle, DEADLINE));
        exchange.complete();
        let verdict = attempt(|| running.answer())
            .and_then(|response| {
                holds(response.status == 200 && response.end == End::Whole, || {
                    format!("{response:?}")
                })
            })
            .and_then(|()| ends_cleanly(&mut running, DEADLINE));
        cases.check(&format!("{name}, running"), verdict);
    }
    cases.done();
}

#[test]
fn a_head_that_is_not_http_is_answered_and_its_connection_ends_cleanly() {
    let mut cases = Cases::new();
    for (name, stand) in answering(|setup| setup) {
        for head in [
            "GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET /v1/models HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        ] {
            let mut client = stand.gateway.client();
            client.send(head.as_bytes());
            let verdict = attempt(|| client.answer().status)
                .and_then(|status| holds(status == 400, || status.to_string()))
                .and_then(|()| ends_cleanly(&mut client, DEADLINE));
            cases.check(&format!("{name}, {head:?}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn a_whole_answer_to_an_http_1_0_client_is_complete_and_ends_cleanly() {
    let mut cases = Cases::new();
    for (name, stand) in held(|setup| setup) {
        for (what, answer) in [
            (
                "an event stream",
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
            (
                "JSON in chunks",
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
        ] {
            let mut client = stand.gateway.client();
            client.send(&as_http_1_0(&Call::chat(&stand.all.token, "good")));
            let mut exchange = stand.up.next();
            exchange.body();
            exchange.send(answer);
            let text = format!("data: {}\n\n", "x".repeat(300_000));
            exchange.chunk(&text);
            exchange.chunk(&text);
            exchange.end_stream();
            let verdict = attempt(|| client.answer())
                .and_then(|response| {
                    let right = response.header("transfer-encoding").is_none()
                        && response.text() == text.repeat(2)
                        && response.end == End::UntilClose;
                    holds(right, || {
                        format!("{} bytes, {:?}", response.body.len(), response.headers)
                    })
                })
                .and_then(|()| ends_cleanly(&mut client, DEADLINE));
            cases.check(&format!("{name}, {what}"), verdict);
        }
    }
    cases.done();
}

/// A way in which an answer is broken off, once its first event has reached the client.
struct BreakingOff {
    name: &'static str,
    /// Whether the client reads the denial before the end.
    says_why: bool,
    break_off: fn(&Stand, Exchange) -> Option<Exchange>,
}

const WAYS: [BreakingOff; 7] = [
    BreakingOff {
        name: "the upstream closes",
        says_why: false,
        break_off: |_, exchange| {
            drop(exchange);
            None
        },
    },
    BreakingOff {
        name: "the upstream resets",
        says_why: false,
        break_off: |_, exchange| {
            exchange.reset();
            None
        },
    },
    BreakingOff {
        name: "the upstream sends a chunk that is none",
        says_why: false,
        break_off: |_, mut exchange| {
            exchange.send("zz\r\n");
            Some(exchange)
        },
    },
    BreakingOff {
        name: "the upstream falls silent",
        says_why: false,
        break_off: |_, exchange| Some(exchange),
    },
    BreakingOff {
        name: "the key is revoked",
        says_why: true,
        break_off: |stand, exchange| {
            let path = format!("/api/keys/{}", stand.all.id);
            stand
                .gateway
                .admin_json("PATCH", &path, Some(&json!({"disabled": true})));
            Some(exchange)
        },
    },
    BreakingOff {
        name: "the drain is over",
        says_why: false,
        break_off: |stand, exchange| {
            stand.gateway.process.terminate();
            Some(exchange)
        },
    },
    BreakingOff {
        name: "a second SIGTERM",
        says_why: false,
        break_off: |stand, exchange| {
            stand.gateway.process.terminate();
            let socket = stand.gateway.socket();
            eventually("the drain begins", DEADLINE, || {
                (!socket.exists()).then_some(())
            });
            stand.gateway.process.terminate();
            Some(exchange)
        },
    },
];

/// Settings under which each way of breaking off happens soon, and no other one.
fn soon(way: &BreakingOff, setup: Setup) -> Setup {
    match way.name {
        "the upstream falls silent" => setup.set("timeouts", "stream_idle = \"1s\""),
        "the drain is over" => setup.set("timeouts", "drain = \"1s\""),
        _ => setup,
    }
}

/// A stream that has begun: its client holds the first event.
fn begun(stand: &Stand, request: &[u8]) -> (Client, Response, Exchange) {
    let mut client = stand.gateway.client();
    client.send(request);
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = client.head_of("POST");
    client.until(&mut response, b"data: one\n\n");
    (client, response, exchange)
}

#[test]
fn an_answer_to_an_http_1_0_client_that_is_broken_off_ends_by_reset() {
    let mut cases = Cases::new();
    for way in &WAYS {
        for (name, stand) in held(|setup| soon(way, setup)) {
            let request = as_http_1_0(&Call::chat(&stand.all.token, "good"));
            let (mut client, mut response, exchange) = begun(&stand, &request);
            let kept = (way.break_off)(&stand, exchange);
            let mut check = || {
                attempt(|| client.finish(&mut response, DEADLINE))?;
                let end = ending(&mut client, DEADLINE);
                holds(end == Some(Ending::Reset), || format!("ended by {end:?}"))?;
                let text = response.text();
                let said = text.contains("invalid_api_key");
                holds(
                    text.starts_with("data: one\n\n") && said == way.says_why,
                    || format!("{text:?}"),
                )
            };
            let verdict = check();
            cases.check(&format!("{name}, {}", way.name), verdict);
            drop(kept);
        }
    }
    cases.done();
}

#[test]
fn a_chunked_answer_that_is_broken_off_ends_without_its_last_chunk() {
    let mut cases = Cases::new();
    for way in &WAYS {
        for (name, stand) in held(|setup| soon(way, setup)) {
            let request = Call::chat(&stand.all.token, "good").bytes();
            let (mut client, mut response, exchange) = begun(&stand, &request);
            let kept = (way.break_off)(&stand, exchange);
            let mut check = || {
                attempt(|| client.finish(&mut response, DEADLINE))?;
                holds(response.end == End::Cut, || format!("{:?}", response.end))?;
                let text = response.text();
                let said = text.contains("invalid_api_key");
                holds(
                    text.starts_with("data: one\n\n") && said == way.says_why,
                    || format!("{text:?}"),
                )
            };
            let verdict = check();
            cases.check(&format!("{name}, {}", way.name), verdict);
            drop(kept);
        }
    }
    cases.done();
}

#[test]
fn all_that_came_reaches_an_http_1_0_client_before_the_reset_does() {
    // A reset overtakes what still waits in the sender's socket, so all of it must have been taken first.
    const PIECES: usize = 64;
    let mut cases = Cases::new();
    for (name, stand) in held(|setup| setup) {
        let request = as_http_1_0(&Call::chat(&stand.all.token, "good"));
        let (mut client, mut response, mut exchange) = begun(&stand, &request);
        let piece = format!("data: {}\n\n", "x".repeat(64 << 10));
        let writer = std::thread::spawn(move || {
            for _ in 0..PIECES {
                exchange.chunk(&piece);
            }
        });
        let verdict = attempt(|| client.finish(&mut response, DEADLINE)).and_then(|()| {
            let whole = "data: one\n\n".len() + PIECES * ((64 << 10) + "data: \n\n".len());
            let end = ending(&mut client, DEADLINE);
            holds(
                response.body.len() == whole && end == Some(Ending::Reset),
                || format!("{} of {whole} bytes, then {end:?}", response.body.len()),
            )
        });
        cases.check(name, verdict);
        writer.join().expect("no panic");
    }
    cases.done();
}

/// nginx as it is without a word about HTTP versions: HTTP/1.0 toward the gateway.
fn nginx_before(stand: &Stand) -> Balancer {
    Balancer::nginx(&format!(
        "http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            server {{ listen 127.0.0.1:{{port}}; location / {{
              proxy_pass http://{}; proxy_http_version 1.0; proxy_buffering off; }} }} }}",
        stand.gateway.address
    ))
}

#[test]
fn behind_nginx_as_it_comes_an_answer_that_is_broken_off_does_not_look_whole() {
    let stand = Stand::held();
    let nginx = nginx_before(&stand);
    for whole in [true, false] {
        let mut client = Client::connect(nginx.address);
        client.send(&Call::chat(&stand.all.token, "good").bytes());
        let mut exchange = stand.up.next();
        assert_eq!(exchange.seen.version, "HTTP/1.1");
        exchange.begin_stream();
        exchange.chunk("data: one\n\n");
        let mut response = client.head_of("POST");
        client.until(&mut response, b"data: one\n\n");
        if whole {
            exchange.chunk("data: [DONE]\n\n");
            exchange.end_stream();
        } else {
            drop(exchange);
        }
        client.finish(&mut response, DEADLINE);
        let end = if whole { End::Whole } else { End::Cut };
        assert_eq!(response.end, end, "{}", response.text());
    }
}

#[test]
fn behind_nginx_as_it_comes_a_refused_upload_reads_why() {
    let stand = Stand::before(Recorder::answering(), |setup| setup);
    let nginx = nginx_before(&stand);
    // As much as nginx takes by itself: 1 MB.
    let body = vec![b' '; 1_000_000];
    let call = Call::json("/v1/chat/completions", "sk-unknown", body);
    for _ in 0..5 {
        let response = Client::connect(nginx.address).ask(&call);
        assert_error(&response, 401, "invalid_api_key");
    }
}
