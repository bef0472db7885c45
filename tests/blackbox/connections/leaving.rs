//! A client that leaves frees its upstream within a second, even where bytes of its next request are already there.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::client::{Call, Client, End};
use crate::support::gateway::Setup;
use crate::support::h2::{BOTH, Protocol, Stream};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;
use crate::support::streams::chat;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, eventually};

/// How a client leaves, and what is left of it.
type Leave = fn(Client) -> Option<Client>;

const WAYS: [(&str, Leave); 3] = [
    ("by closing", |client| {
        drop(client);
        None
    }),
    ("by a reset", |client| {
        client.reset();
        None
    }),
    ("by ending its direction", |mut client| {
        client.shut_write();
        Some(client)
    }),
];

/// A request is running, the next one has come in part or whole, and then the client leaves.
fn leave_with_more_on_the_way(stand: &Stand) {
    let call = Call::chat(&stand.all.token, "good");
    let next = call.bytes();
    let mut cases = Cases::new();
    for (way, leave) in WAYS {
        for (how_much, more) in [
            ("a byte", &next[..1]),
            ("half", &next[..next.len() / 2]),
            ("all", &next[..]),
        ] {
            for streaming in [false, true] {
                let mut client = stand.gateway.client();
                client.send(&[&call.bytes(), more].concat());
                let mut exchange = stand.up.next();
                exchange.body();
                if streaming {
                    exchange.begin_stream();
                    exchange.chunk("data: one\n\n");
                    let mut response = client.head_of("POST");
                    client.until(&mut response, b"one");
                }
                let start = Instant::now();
                let kept = leave(client);
                let freed = exchange.gone_within(DEADLINE);
                let took = start.elapsed();
                cases.check(
                    &format!("{way}, {how_much} of the next request, streaming: {streaming}"),
                    (freed && took <= WITHIN_A_SECOND)
                        .then_some(())
                        .ok_or(format!("freed: {freed} after {took:?}")),
                );
                drop(kept);
            }
        }
    }
    cases.done();
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
}

#[test]
fn a_client_that_leaves_behind_its_next_request_frees_its_upstream_within_a_second() {
    leave_with_more_on_the_way(&Stand::held());
}

#[test]
fn a_client_that_leaves_behind_its_next_request_over_tls_frees_its_upstream_within_a_second() {
    leave_with_more_on_the_way(&Stand::held_with(|setup| setup.tls()));
}

#[test]
fn a_client_that_sends_its_next_request_early_and_waits_gets_both_answers() {
    for stand in [Stand::held(), Stand::held_with(|setup| setup.tls())] {
        let call = Call::chat(&stand.all.token, "good");
        let mut client = stand.gateway.client();
        client.send(&[call.bytes(), call.bytes()].concat());
        let mut exchange = stand.up.next();
        // Long enough for the gateway to look several times whether the client is still there.
        assert!(!exchange.gone_within(Duration::from_millis(700)));
        exchange.begin_stream();
        exchange.chunk("data: one\n\n");
        let mut response = client.head_of("POST");
        client.until(&mut response, b"one");
        assert!(!exchange.gone_within(Duration::from_millis(700)));
        exchange.chunk("data: two\n\n");
        exchange.end_stream();
        client.finish(&mut response, DEADLINE);
        assert_eq!(
            (response.text().as_str(), response.end),
            ("data: one\n\ndata: two\n\n", End::Whole)
        );
        let second: Exchange = stand.up.next();
        second.complete();
        assert_eq!(client.answer_to("POST").status, 200);
    }
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

/// An upstream whose connection a client's leaving breaks sees a reset: FIN would keep the gateway's local port in use.
#[test]
fn an_unfinished_upstream_connection_ends_with_a_reset_and_keeps_no_local_port() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&url], &["good"])
        .keys(&[&key])
        .start();
    for begins in [false, true] {
        let mut client = gateway.client();
        client.send(&chat(&key).bytes());
        let mut upstream = loop {
            let (mut stream, _) = listener.accept().expect("a connection");
            // The gateway may connect once before, to see whether the upstream is up.
            if stream.read_exact(&mut [0; 64]).is_ok() {
                break stream;
            }
        };
        upstream
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        if begins {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n";
            upstream.write_all(head.as_bytes()).expect("sent");
            let mut response = client.head();
            client.until(&mut response, b"data");
        }
        drop(client);
        let mut rest = Vec::new();
        let ended = upstream
            .read_to_end(&mut rest)
            .map_err(|error| error.kind());
        assert_eq!(
            ended.map(drop),
            Err(ErrorKind::ConnectionReset),
            "begun: {begins}"
        );
    }
}
