//! The body of a refused request: the client reads the refusal, what is drained is bounded, and nothing of the body is
//! taken for a request.

use std::time::Duration;

use crate::framing::verdict::{attempt, smuggled};
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::{Cases, is_error};

#[test]
fn the_unread_body_of_a_refused_request_is_never_taken_for_a_request() {
    let stand = Stand::new();
    let inner = smuggled(&stand.all);
    let mut cases = Cases::new();
    for (name, call) in [
        (
            "invalid key",
            Call::json("/v1/chat/completions", "sk-x", inner.as_str()),
        ),
        (
            "no key",
            Call::json("/v1/chat/completions", "", inner.as_str()).without("authorization"),
        ),
        (
            "unknown path",
            Call::json("/nowhere", &stand.all.token, inner.as_str()),
        ),
        (
            "wrong method",
            Call {
                method: "PUT".to_owned(),
                ..Call::json("/v1/chat/completions", &stand.all.token, inner.as_str())
            },
        ),
        (
            "media type",
            Call::json("/v1/chat/completions", &stand.all.token, inner.as_str())
                .without("content-type"),
        ),
        (
            "GET with a body",
            Call::json("/v1/chat/completions", &stand.all.token, inner.as_str()),
        ),
    ] {
        for bytes in [call.bytes(), call.chunked(&[40])] {
            let mut client = Client::connect(stand.gateway.address);
            client.send(&bytes);
            let status = attempt(|| client.answer().status);
            let refused = matches!(status, Ok(400..=499));
            cases.check(name, refused.then_some(()).ok_or(format!("{status:?}")));
            // The whole of that body was its own: at most the connection lives on for the next request.
            let after = client.silent_for(Duration::from_millis(100)) || client.unread().is_empty();
            cases.check(
                name,
                after.then_some(()).ok_or("a second answer".to_owned()),
            );
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

/// A client that is refused while it still sends reads the whole error (SECURITY.md, A18).
fn reads_its_refusal(stand: &Stand) {
    let body = vec![b' '; 2 << 20];
    let mut lost = Vec::new();
    for attempts in 0..100 {
        let mut client = stand.gateway.client();
        let mut bytes = Call::json("/v1/chat/completions", "sk-unknown", "").head_without_length();
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        let _ = client.try_send(&bytes);
        let _ = client.try_send(&body);
        let verdict = attempt(|| client.answer_or_end()).and_then(|answer| match answer {
            Some(response) => is_error(&response, 401, "invalid_api_key"),
            None => Err("no answer".to_owned()),
        });
        if let Err(failure) = verdict {
            lost.push(format!("{attempts}: {failure}"));
        }
    }
    assert!(
        lost.len() <= 1,
        "{} of 100 lost their answer: {lost:?}",
        lost.len()
    );
}

#[test]
fn a_client_refused_in_the_middle_of_its_upload_reads_why() {
    reads_its_refusal(&Stand::new());
}

#[test]
fn a_client_refused_in_the_middle_of_its_upload_over_tls_reads_why() {
    reads_its_refusal(&Stand::with(|setup| setup.tls()));
}
