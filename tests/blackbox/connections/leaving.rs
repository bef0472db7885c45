//! Clients that leave while bytes of their next request are already there: those bytes must not hide it.

use crate::support::client::{Call, Client, End};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;
use crate::support::{Cases, DEADLINE, WITHIN_A_SECOND, eventually};

use std::time::{Duration, Instant};

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
