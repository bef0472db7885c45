//! `Expect`: a client is told to continue only after it is let in, and an unknown expectation is refused.

use crate::framing::verdict::BODY;
use crate::support::client::{Call, Client};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, assert_error};

#[test]
fn a_client_that_expects_100_continue_is_told_so_only_once_it_is_let_in() {
    let stand = Stand::new();
    let head = |token: &str| {
        let call = Call::json("/v1/chat/completions", token, BODY).header("expect", "100-continue");
        call.head()
    };
    let mut client = Client::connect(stand.gateway.address);
    client.send(&head("sk-unknown"));
    let response = client.answer();
    assert_error(&response, 401, "invalid_api_key");
    assert!(response.interim.is_empty(), "{:?}", response.interim);
    let mut client = Client::connect(stand.gateway.address);
    client.send(&head(&stand.all.token));
    // Only the 100 can come now: nothing of the body was sent.
    assert!(!client.silent_for(DEADLINE), "no 100 Continue");
    assert!(client.unread().starts_with(b"HTTP/1.1 100"));
    client.send(BODY.as_bytes());
    let response = client.answer();
    assert_eq!(
        (response.status, response.interim.as_slice()),
        (200, &[100][..])
    );
    assert_eq!(stand.up.last().header("expect"), None);
}

#[test]
fn an_expectation_that_nobody_knows_is_refused() {
    let stand = Stand::new();
    for expectation in ["200-ok", "100-continue, 200-ok", "", "100-continue-not"] {
        let call = Call::chat(&stand.all.token, "good").header("expect", expectation);
        for protocol in BOTH {
            let response = h2::ask(protocol, &stand.gateway, &call);
            assert_eq!(response.status, 417, "{expectation:?}: {}", response.text());
        }
        // Who has no key is not told more than that.
        let call = Call::chat("sk-unknown", "good").header("expect", expectation);
        assert_error(&stand.gateway.ask(&call), 401, "invalid_api_key");
    }
    stand.up.untouched().expect("nothing is forwarded");
}
