//! A key that expires ends its running streams at that instant.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::revocation::streams::{last_event, patch};
use crate::support::client::End;
use crate::support::h2::{self, BOTH, Protocol, Stream};
use crate::support::stand::Stand;
use crate::support::streams::{begun, chat};
use crate::support::token::{Key, seconds_from_now};
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error};

#[test]
fn a_key_that_expires_ends_its_streams_at_that_instant() {
    for protocol in BOTH {
        let key = Key::all("key_short").expires(&seconds_from_now(3));
        let stand = Stand::held_with(|setup| setup.keys(&[&key]));
        let (mut stream, mut response, exchange) = begun(&stand, protocol, &key);
        let mut waiting = Stream::open(protocol, &stand.gateway, &chat(&key));
        let mut held = stand.up.next();
        held.body();
        stream.finish(&mut response, DEADLINE);
        let event = last_event(&response).expect("an error event");
        assert_eq!(event["error"]["code"], "expired_api_key");
        assert_eq!(response.end, End::Cut);
        assert!(exchange.gone_within(WITHIN_A_SECOND));
        let mut answer = waiting.head();
        waiting.finish(&mut answer, DEADLINE);
        assert_error(&answer, 401, "expired_api_key");
        assert!(held.gone_within(WITHIN_A_SECOND));
        assert_error(
            &h2::ask(protocol, &stand.gateway, &chat(&key)),
            401,
            "expired_api_key",
        );
    }
}

#[test]
fn a_key_whose_expiry_is_moved_up_ends_its_streams_then_and_one_moved_back_does_not() {
    let sooner = Key::all("key_sooner");
    let later = Key::all("key_later").expires(&seconds_from_now(4));
    let stand = Stand::held_with(|setup| setup.keys(&[&sooner, &later]));
    let (mut ending, mut ended, _exchange) = begun(&stand, Protocol::Http1, &sooner);
    let (mut lasting, mut lasted, mut exchange) = begun(&stand, Protocol::Http1, &later);
    patch(
        &stand.gateway,
        &sooner,
        &json!({"expires_at": seconds_from_now(3)}),
    );
    patch(&stand.gateway, &later, &json!({"expires_at": null}));
    ending.finish(&mut ended, DEADLINE);
    assert_eq!(
        last_event(&ended).expect("an error event")["error"]["code"],
        "expired_api_key"
    );
    // Past the instant at which it would have ended.
    thread::sleep(Duration::from_millis(2500));
    exchange.chunk("data: two\n\n");
    lasting.until(&mut lasted, "data: two\n\n");
    exchange.end_stream();
    lasting.finish(&mut lasted, DEADLINE);
    assert_eq!(lasted.end, End::Whole);
}
