//! Connections to upstreams are kept and reused; a request is retried only where the upstream cannot have seen it.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::assert_error;
use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::{Exchange, Recorder};
use crate::support::stand::Stand;

#[test]
fn upstream_connections_are_kept_and_given_up_when_idle() {
    let stand = Stand::with(|setup| {
        setup
            .line("workers = 1")
            .set("timeouts", "upstream_keep_alive = \"1s\"")
    });
    for _ in 0..5 {
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    assert_eq!(stand.up.connections(), 1);
    let idle = Instant::now();
    stand.up.wait_gone(0);
    let idle = idle.elapsed();
    assert!(
        idle > Duration::from_millis(700) && idle < Duration::from_secs(4),
        "{idle:?}"
    );
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    // An upstream that says close is believed.
    stand
        .up
        .script(|exchange| exchange.reply("200 OK", "connection: close\r\n", "{}"));
    let before = stand.up.requests().len();
    for _ in 0..2 {
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    let on: Vec<usize> = stand.up.requests()[before..]
        .iter()
        .map(|seen| seen.connection)
        .collect();
    assert_ne!(on[0], on[1]);
}

#[test]
fn a_request_is_retried_once_when_a_reused_connection_closed_before_any_byte() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    for protocol in BOTH {
        stand.up.forget();
        stand.up.script(Exchange::complete);
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
        let reused = stand.up.last().connection;
        stand.up.script(move |exchange| {
            if exchange.seen.connection == reused {
                drop(exchange)
            } else {
                exchange.complete()
            }
        });
        let call = Call::chat(&stand.all.token, "good");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.requests();
        assert_eq!(seen.len(), 3, "one, its unanswered second, and the retry");
        assert_eq!(seen[1].connection, reused);
        assert_ne!(
            seen[2].connection, reused,
            "the retry has a connection of its own"
        );
        assert_eq!(seen[2].body, call.body, "the retry sends the whole body");
    }
}

#[test]
fn a_retry_that_fails_too_is_not_retried_again() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    stand.up.script(drop);
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        502,
        "upstream_unreachable",
    );
    assert_eq!(stand.up.requests().len(), 3);
}

#[test]
fn a_fresh_connection_that_closes_is_not_retried() {
    let stand = Stand::before(Recorder::start(drop), |setup| setup);
    for asked in 1..=3 {
        for_status(&stand, asked);
    }
    fn for_status(stand: &Stand, asked: usize) {
        assert_error(
            &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
            502,
            "upstream_unreachable",
        );
        assert_eq!(stand.up.requests().len(), asked);
    }
}

#[test]
fn a_reused_connection_that_breaks_after_a_byte_is_not_retried() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    stand.up.script(|mut exchange| {
        exchange.body();
        exchange.send("H");
    });
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        502,
        "upstream_unreachable",
    );
    assert_eq!(stand.up.requests().len(), 2);
}

#[test]
fn an_upstream_that_closes_idle_connections_is_never_seen_as_an_error() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    let mut client = stand.gateway.client();
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(client.ask(&call).status, 200);
    for gap in [0, 1, 2, 5, 10, 20, 50] {
        for _ in 0..20 {
            let (up, idle) = (&stand.up, stand.up.last().connection);
            thread::scope(|scope| {
                // The close races the next request.
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(gap));
                    up.close_connection(idle);
                });
                thread::sleep(Duration::from_millis(gap));
                let response = client.ask(&call);
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
    }
}
