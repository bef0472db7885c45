//! A connection without a running request is closed after `keep_alive`.

use std::time::{Duration, Instant};

use crate::support::raw_h2::{self, RawH2};
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, about_a_second};

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
