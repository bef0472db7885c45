//! How the gateway ends: running requests may finish, nobody new is taken, and nobody holds up the end.

use std::time::Duration;

use crate::support::client::{Call, Client};
use crate::support::raw_h2::{Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

#[test]
fn an_idle_http_2_client_that_does_not_answer_does_not_hold_up_the_end() {
    let mut stand = Stand::new();
    let mut client = RawH2::connect(stand.gateway.address);
    client.chat(1, &stand.all.token);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    eventually("the answer is out", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
    // From here on the client reads nothing, so that GOAWAY and PING stay unanswered.
    stand.gateway.process.terminate();
    let status = stand.gateway.process.exits_within(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn half_a_head_and_half_a_handshake_do_not_hold_up_the_end() {
    for tls in [false, true] {
        let mut stand = Stand::with(|setup| {
            let setup = setup.set("timeouts", "header_read = \"1s\"");
            if tls { setup.tls() } else { setup }
        });
        let mut kept = stand.gateway.client();
        let call = Call::get("/v1/models", &stand.all.token);
        assert_eq!(kept.ask(&call).status, 200);
        kept.send(&call.bytes()[..20]);
        let mut fresh = stand.gateway.client();
        fresh.send(&call.bytes()[..20]);
        let mut half = Client::connect(stand.gateway.address);
        half.send(&[0x16, 3, 1]);
        // An answer to another says that these bytes were read.
        assert_eq!(stand.gateway.ask(&call).status, 200);
        stand.gateway.process.terminate();
        let status = stand.gateway.process.exits_within(Duration::from_secs(6));
        assert_eq!(status.code(), Some(0), "TLS: {tls}");
    }
}
