//! Tests of the tools themselves, since a test that can't see a fault proves nothing. The client speaks to the upstream
//! directly.

use std::time::Duration;

use super::client::{Call, Client, End, Gone};
use super::recorder::{Recorder, Reserved};
use super::{DEADLINE, WITHIN_A_SECOND};

#[test]
fn the_upstream_records_requests_byte_for_byte_and_by_connection() {
    let recorder = Recorder::answering();
    let call = Call::chat("kg_x", "good").header("X-Case", "Kept");
    let mut client = Client::connect(recorder.address);
    assert_eq!(client.ask(&call).status, 200);
    client.send(&call.chunked(&[1, 2, 3]));
    assert_eq!(client.answer().status, 200);
    assert_eq!(Client::connect(recorder.address).ask(&call).status, 200);
    let seen = recorder.requests();
    let on: Vec<usize> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(on, [0, 0, 1]);
    assert!(
        seen.iter()
            .all(|seen| seen.body == call.body && seen.complete)
    );
    assert_eq!(seen[0].header("x-case"), Some("Kept"));
    assert!(recorder.bytes().starts_with(&call.bytes()));
    assert!(recorder.untouched().is_err());
}

#[test]
fn the_upstream_sees_that_a_client_left_and_the_client_how_the_upstream_did() {
    let recorder = Recorder::held();
    let call = Call::chat("kg_x", "good");
    let mut client = Client::connect(recorder.address);
    client.send(&call.bytes());
    let mut exchange = recorder.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = client.head();
    client.until(&mut response, b"one");
    assert!(!exchange.gone_within(Duration::from_millis(20)));
    drop(client);
    assert!(exchange.gone_within(WITHIN_A_SECOND));

    for reset in [false, true] {
        let mut client = Client::connect(recorder.address);
        client.send(&call.bytes());
        let mut exchange = recorder.next();
        exchange.begin_stream();
        let mut response = client.head();
        if reset {
            exchange.reset();
        } else {
            drop(exchange);
        }
        client.finish(&mut response, DEADLINE);
        assert_eq!(response.end, End::Cut);
        let gone = if reset { Gone::Reset } else { Gone::Fin };
        assert_eq!(client.ends_within(DEADLINE), Some(gone));
    }
}

#[test]
fn the_client_tells_whole_bodies_from_cut_ones() {
    let answers: [(&str, End, &str); 5] = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            End::Whole,
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            End::Cut,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nok", End::UntilClose, "ok"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            End::Whole,
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            End::Cut,
            "ok",
        ),
    ];
    for (answer, end, body) in answers {
        let recorder = Recorder::start(move |exchange| exchange.answer_raw_and_close(answer));
        let response = Client::connect(recorder.address).ask(&Call::get("/", "kg_x"));
        assert_eq!(
            (response.end, response.text().as_str()),
            (end, body),
            "{answer:?}"
        );
        assert_eq!(
            response.interim.len(),
            usize::from(answer.contains(" 100 "))
        );
    }
}

#[test]
fn a_reserved_port_refuses_until_it_is_opened_and_again_when_it_goes_down() {
    let reserved = Reserved::new();
    let address = reserved.address;
    let refused = || std::net::TcpStream::connect(address).is_err();
    assert!(refused());
    let recorder = reserved.open(|exchange| exchange.complete());
    assert_eq!(
        Client::connect(address).ask(&Call::get("/", "kg_x")).status,
        200
    );
    let reserved = recorder.down();
    assert!(refused());
    let unanswering = reserved.unanswering();
    let attempt =
        std::net::TcpStream::connect_timeout(&unanswering.address, Duration::from_millis(200));
    assert_eq!(
        attempt.map(|_| ()).map_err(|error| error.kind()),
        Err(std::io::ErrorKind::TimedOut)
    );
}
