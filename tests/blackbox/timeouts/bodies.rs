//! A body that stalls is given up, and one that is only slow is not. (For compressed bodies: `bodies/compressed.rs`.)

use std::thread;
use std::time::{Duration, Instant};

use crate::support::chat::chat;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, assert_error};

#[test]
fn a_stalled_body_is_timed_out_and_a_slow_one_is_not() {
    let stand = Stand::with(|setup| setup.set("timeouts", "body_idle = \"1s\""));
    let call = chat(
        &stand.only,
        r#"{"model":"good","messages":["hello","world"]}"#,
    );
    let bytes = call.bytes();
    let half = bytes.len() - 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            let mut client = stand.gateway.client();
            client.send(&bytes[..half]);
            let response = client.answer();
            assert_error(&response, 408, "request_timeout");
            // What still comes would be taken for the rest of the body, or for a request.
            assert_eq!(response.header("connection"), Some("close"));
            let took = start.elapsed();
            assert!(
                took >= Duration::from_millis(900) && took < Duration::from_secs(4),
                "{took:?}"
            );
            client.assert_closed();
        });
        scope.spawn(|| {
            let mut client = stand.gateway.client();
            let mut head = call.head_without_length();
            head.truncate(head.len() - 2);
            head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n5\r\n{\"mod");
            client.send(&head);
            assert_error(&client.answer(), 408, "request_timeout");
        });
        scope.spawn(|| {
            let (mut stream, sending) = stand.gateway.h2().begin(&call);
            sending.data(&call.body[..10]);
            let mut response = stream.head();
            stream.finish(&mut response, DEADLINE);
            assert_error(&response, 408, "request_timeout");
        });
        scope.spawn(|| {
            // Two seconds in all, but never one without a byte.
            let mut client = stand.gateway.client();
            client.send(&call.head());
            for piece in call.body.chunks(6) {
                thread::sleep(Duration::from_millis(250));
                client.send(piece);
            }
            assert_eq!(client.answer().status, 200);
        });
    });
    let seen = stand.up.requests();
    assert_eq!(seen.len(), 1, "only the slow one goes on");
}
