//! An answer that its client does not read is given up after `client_write`.

use std::thread;
use std::time::{Duration, Instant};

use crate::floods::http2::block;
use crate::support::h2::Protocol;
use crate::support::raw_h2::{self, RawH2};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::streams::{begun, chat};
use crate::support::{DEADLINE, eventually};

/// INITIAL_WINDOW_SIZE 0: nothing of a body may be sent.
const SHUT: [u8; 6] = [0, 4, 0, 0, 0, 0];

#[test]
fn an_answer_that_a_client_never_takes_is_given_up_after_client_write() {
    let stand = Stand::before(Recorder::held(), |setup| {
        setup.set("timeouts", "client_write = \"1s\"")
    });
    let mut raw = RawH2::connect_silently(stand.gateway.address);
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    raw.frame(raw_h2::SETTINGS, 0, 0, &SHUT);
    raw.frame(raw_h2::HEADERS, raw_h2::END_HEADERS, 1, &block(&stand.all));
    raw.frame(raw_h2::DATA, raw_h2::END_STREAM, 1, br#"{"model":"good"}"#);
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let start = Instant::now();
    assert!(
        exchange.gone_within(DEADLINE),
        "the upstream is held for a window that never opens"
    );
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(700) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn answers_of_the_gateways_own_that_a_client_never_takes_keep_its_connection_no_longer_than_keep_alive()
 {
    let stand = Stand::with(|setup| setup.set("timeouts", "keep_alive = \"1s\""));
    let mut raw = RawH2::connect_silently(stand.gateway.address);
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    raw.frame(raw_h2::SETTINGS, 0, 0, &SHUT);
    // Nobody vouches for these: no key, a wrong one, and a right one whose answer the gateway makes itself.
    let models = format!("Bearer {}", stand.all.token);
    for (stream, authorization) in [(1, ""), (3, "Bearer nobody"), (5, &models)] {
        raw.headers(
            stream,
            raw_h2::END_STREAM,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "localhost"),
                (":path", "/v1/models"),
                ("authorization", authorization),
            ],
        );
    }
    let asked = || {
        stand
            .gateway
            .metric("keygate_requests_total{outcome=\"allowed\"}")
    };
    eventually("the last one is answered", DEADLINE, || {
        (asked() == 1.0).then_some(())
    });
    assert!(raw.ends_within(DEADLINE), "the connection is kept");
    eventually("it is forgotten", DEADLINE, || {
        (stand.gateway.metric("keygate_connections") == 0.0).then_some(())
    });
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
