//! A connection without a running request is closed after `keep_alive`.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, End};
use crate::support::h2::{BOTH, Stream};
use crate::support::raw_h2::{self, RawH2};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, about_a_second};
use crate::timeouts::heads::ends_after;

/// Sends these frames each 100 ms until the connection ends; returns how long that took.
fn repeat(raw: &mut RawH2, frames: &[u8]) -> Duration {
    let start = Instant::now();
    loop {
        raw.send(frames);
        if raw.ends_within(Duration::from_millis(100)) {
            return start.elapsed();
        }
        assert!(start.elapsed() < DEADLINE, "it may go on for ever");
    }
}

#[test]
fn an_http_2_client_that_only_keeps_busy_is_closed_as_one_that_is_silent() {
    let stand = Stand::with(|setup| {
        setup
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "keep_alive = \"1s\"")
    });
    let address = stand.gateway.address;
    let ping = raw_h2::frame(raw_h2::PING, 0, 0, &[7; 8]);
    let settings = raw_h2::frame(raw_h2::SETTINGS, 0, 0, &[]);
    let window = raw_h2::frame(raw_h2::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let unknown = raw_h2::frame(0xbe, 0, 0, b"anything");
    let busy = [&ping[..], &settings, &window, &unknown].concat();
    let request = raw_h2::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/models"),
    ]);
    let whole = raw_h2::END_HEADERS | raw_h2::END_STREAM;
    let mut cases = Cases::new();

    let mut raw = RawH2::connect(address);
    let took = repeat(&mut raw, &busy);
    cases.check("before any request", about_a_second(took));

    // As fast as it can: there is never a moment in which nothing waits to be read.
    let mut raw = RawH2::connect(address);
    let volley = unknown.repeat(5000);
    let start = Instant::now();
    while raw.send_within(&volley, DEADLINE) && start.elapsed() < DEADLINE {}
    cases.check("without a pause", about_a_second(start.elapsed()));

    let mut raw = RawH2::connect(address);
    raw.frame(raw_h2::HEADERS, whole, 1, &request);
    assert_eq!(raw.outcome(1), raw_h2::Outcome::Status(401));
    let took = repeat(&mut raw, &busy);
    cases.check("after a request", about_a_second(took));

    let mut raw = RawH2::connect(address);
    raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM, 1, &request);
    let took = repeat(&mut raw, &[]);
    cases.check("within a head", about_a_second(took));
    cases.done();
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive_and_no_sooner() {
    let stand = Stand::with(|setup| setup.set("timeouts", "keep_alive = \"1s\""));
    let call = Call::get("/v1/models", &stand.all.token);
    let mut client = stand.gateway.client();
    for _ in 0..4 {
        assert_eq!(client.ask(&call).status, 200);
        assert!(client.silent_for(Duration::from_millis(500)));
    }
    assert_eq!(client.ask(&call).status, 200);
    about_a_second(ends_after(&mut client)).expect("closed");
    let connection = stand.gateway.h2();
    assert_eq!(connection.ask(&call).status, 200);
    let start = Instant::now();
    assert!(
        connection.ends_within(DEADLINE),
        "an idle HTTP/2 connection is kept"
    );
    about_a_second(start.elapsed()).expect("closed");
}

#[test]
fn a_request_that_runs_is_not_an_idle_connection() {
    let stand = Stand::held_with(|setup| {
        setup
            .set("timeouts", "keep_alive = \"1s\"")
            .set("timeouts", "header_read = \"1s\"")
            .set("timeouts", "body_idle = \"1s\"")
    });
    for protocol in BOTH {
        let mut stream = Stream::open(
            protocol,
            &stand.gateway,
            &Call::chat(&stand.all.token, "good"),
        );
        let mut exchange = stand.up.next();
        exchange.body();
        thread::sleep(Duration::from_millis(2500));
        exchange.begin_stream();
        exchange.chunk("data: one\n\n");
        let mut response = stream.head();
        stream.until(&mut response, "one");
        thread::sleep(Duration::from_millis(2500));
        exchange.chunk("data: two\n\n");
        exchange.end_stream();
        stream.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Whole);
    }
}
