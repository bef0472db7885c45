//! The head of a request must be whole within `header_read`.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client};
use crate::support::raw_h2::RawH2;
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, about_a_second};

/// How long until the other side ends the connection.
pub fn ends_after(client: &mut Client) -> Duration {
    let start = Instant::now();
    assert!(
        client.ends_within(DEADLINE).is_some(),
        "the connection stays open"
    );
    start.elapsed()
}

#[test]
fn a_head_must_be_whole_within_header_read_however_it_trickles_in() {
    let stand = Stand::with(|setup| setup.set("timeouts", "header_read = \"1s\""));
    let mut cases = Cases::new();
    let bytes = Call::get("/v1/models", &stand.all.token).bytes();
    thread::scope(|scope| {
        let (stand, bytes) = (&stand, &bytes);
        let silent = scope.spawn(move || ends_after(&mut stand.gateway.client()));
        let one_byte = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(b"G");
            ends_after(&mut client)
        });
        let trickling = scope.spawn(move || {
            let mut client = stand.gateway.client();
            let start = Instant::now();
            for byte in bytes {
                if client.try_send(&[*byte]).is_err()
                    || client.ends_within(Duration::from_millis(100)).is_some()
                {
                    break;
                }
            }
            start.elapsed()
        });
        let half_preface = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM");
            ends_after(&mut client)
        });
        let no_settings = scope.spawn(move || {
            let mut raw = RawH2::connect_silently(stand.gateway.address);
            raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            let start = Instant::now();
            assert!(raw.ends_within(DEADLINE), "a silent HTTP/2 peer is kept");
            start.elapsed()
        });
        let second_head = scope.spawn(move || {
            let mut client = stand.gateway.client();
            client.send(bytes);
            assert_eq!(client.answer().status, 200);
            // Idle for longer than a head may take: that clock starts with a head's first byte.
            assert!(
                client.silent_for(Duration::from_millis(1800)),
                "an idle connection is not a slow head"
            );
            client.send(&bytes[..10]);
            ends_after(&mut client)
        });
        for (name, thread) in [
            ("silent from the start", silent),
            ("one byte", one_byte),
            ("a byte each 100 ms", trickling),
            ("half a preface", half_preface),
            ("a preface without SETTINGS", no_settings),
            ("a second head", second_head),
        ] {
            let verdict = thread
                .join()
                .map_err(|_| "panicked".to_owned())
                .and_then(about_a_second);
            cases.check(name, verdict);
        }
    });
    cases.done();
}
