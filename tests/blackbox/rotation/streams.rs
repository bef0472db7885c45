//! A stream ends with the token that it was opened with.

use std::time::Instant;

use serde_json::json;

use crate::revocation::streams::last_event;
use crate::rotation::rotated::{rotate, token_of};
use crate::support::client::End;
use crate::support::h2::{BOTH, Stream};
use crate::support::stand::Stand;
use crate::support::streams::{begun, chat};
use crate::support::token::Key;
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error};

#[test]
fn a_stream_of_the_old_token_ends_at_the_end_of_the_grace_and_one_of_the_new_token_goes_on() {
    for protocol in BOTH {
        let stand = Stand::held();
        let (mut stream, mut response, exchange) = begun(&stand, protocol, &stand.all);
        // Still waiting for its upstream's head.
        let mut waiting = Stream::open(protocol, &stand.gateway, &chat(&stand.all));
        let mut held = stand.up.next();
        held.body();
        let begin = Instant::now();
        let new = token_of(&rotate(&stand.gateway, "key_all", 2));
        let new = Key::with_token("key_all", &new, json!({"mode": "all"}));
        let (mut other, mut others_response, mut others_exchange) = begun(&stand, protocol, &new);
        stream.finish(&mut response, DEADLINE);
        // Times are whole seconds, so that the grace may be shorter by less than one.
        assert!(begin.elapsed().as_millis() > 900, "{:?}", begin.elapsed());
        assert!(begin.elapsed() < std::time::Duration::from_secs(2) + WITHIN_A_SECOND);
        let event = last_event(&response).expect("an error event");
        assert_eq!(event["error"]["code"], "invalid_api_key");
        assert_eq!(response.end, End::Cut);
        assert!(exchange.gone_within(WITHIN_A_SECOND));
        let mut answer = waiting.head();
        waiting.finish(&mut answer, DEADLINE);
        assert_error(&answer, 401, "invalid_api_key");
        assert!(held.gone_within(WITHIN_A_SECOND));
        others_exchange.chunk("data: two\n\n");
        other.until(&mut others_response, "data: two\n\n");
        others_exchange.end_stream();
        other.finish(&mut others_response, DEADLINE);
        assert_eq!(others_response.end, End::Whole);
    }
}

#[test]
fn streams_end_within_a_second_where_the_old_token_ends_at_once() {
    for protocol in BOTH {
        for ending in ["without grace", "rotated again", "ended early"] {
            let stand = Stand::held();
            let (mut stream, mut response, exchange) = begun(&stand, protocol, &stand.all);
            let begin = match ending {
                "without grace" => {
                    let begin = Instant::now();
                    rotate(&stand.gateway, "key_all", 0);
                    begin
                }
                "rotated again" => {
                    rotate(&stand.gateway, "key_all", 600);
                    let begin = Instant::now();
                    rotate(&stand.gateway, "key_all", 600);
                    begin
                }
                _ => {
                    rotate(&stand.gateway, "key_all", 600);
                    let begin = Instant::now();
                    let path = "/api/keys/key_all/expire-previous";
                    stand.gateway.admin_json("POST", path, None);
                    begin
                }
            };
            stream.finish(&mut response, DEADLINE);
            assert!(
                begin.elapsed() < WITHIN_A_SECOND,
                "{ending}: {:?}",
                begin.elapsed()
            );
            let event = last_event(&response).expect("an error event");
            assert_eq!(event["error"]["code"], "invalid_api_key", "{ending}");
            assert!(exchange.gone_within(WITHIN_A_SECOND), "{ending}");
        }
    }
}
