//! A body is judged as a whole, however it is cut into chunks and segments; half a body is never forwarded.

use crate::support::Cases;
use crate::support::chat::{chat, same_bytes};
use crate::support::client::Client;
use crate::support::stand::Stand;

/// Every such connection was closed: hyper does not say of a chunked body that it has ended.
#[test]
fn a_connection_serves_on_after_a_chunked_body_that_was_read_to_its_end() {
    let stand = Stand::new();
    let mut client = stand.gateway.client();
    for model in ["good", "bad", "good"] {
        let call = chat(&stand.only, format!(r#"{{"model":"{model}"}}"#));
        for splits in [&[][..], &[5]] {
            client.send(&call.chunked(splits));
            let response = client.answer();
            assert_eq!(response.status, if model == "good" { 200 } else { 404 });
            assert!(response.header("connection").is_none(), "{response:?}");
        }
    }
}

#[test]
fn a_chunked_body_is_judged_the_same_wherever_it_is_split() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (key, model, status) in [
        (&stand.only, "bad", 404),
        (&stand.all_but, "bad", 404),
        (&stand.only, "good", 200),
    ] {
        let call = chat(key, format!(r#"{{"model":"{model}","x":"ä"}}"#));
        for split in 0..=call.body.len() {
            let mut client = stand.gateway.client();
            client.send(&call.chunked(&[split]));
            let response = client.answer();
            let mut verdict = (response.status == status)
                .then_some(())
                .ok_or(response.text());
            if status == 200 && verdict.is_ok() {
                verdict = same_bytes(&stand, &call.body);
            }
            cases.check(&format!("{model} as {} split at {split}", key.id), verdict);
        }
        let mut client = stand.gateway.client();
        client.send(&call.chunked(&vec![1; call.body.len()]));
        let response = client.answer();
        cases.check(
            "byte by byte",
            (response.status == status)
                .then_some(())
                .ok_or(response.text()),
        );
    }
    let seen = stand.up.requests();
    assert!(
        seen.iter()
            .all(|seen| !String::from_utf8_lossy(&seen.body).contains("bad"))
    );
    cases.done();
}

#[test]
fn a_body_that_comes_in_many_segments_is_judged_as_one() {
    let stand = Stand::new();
    let call = chat(&stand.only, r#"{"model":"good","messages":[]}"#);
    let mut client = stand.gateway.client();
    for byte in call.bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.answer().status, 200);
    assert_eq!(stand.up.last().body, call.body);
    let connection = stand.gateway.h2();
    let (mut stream, sending) = connection.begin(&call);
    for byte in &call.body {
        sending.data(&[*byte]);
    }
    drop(sending);
    assert_eq!(stream.head().status, 200);
    assert_eq!(stand.up.last().body, call.body);
}

#[test]
fn a_body_that_ends_early_is_not_forwarded() {
    let stand = Stand::new();
    let call = chat(&stand.only, r#"{"model":"good","messages":[]}"#);
    let mut client = stand.gateway.client();
    let bytes = call.bytes();
    client.send(&bytes[..bytes.len() - 5]);
    client.shut_write();
    if let Some(response) = client.answer_or_end() {
        assert_eq!(response.status, 400, "{}", response.text());
    }
    client.assert_closed();
    let mut client = stand.gateway.client();
    let mut chunked = call.chunked(&[7]);
    chunked.truncate(chunked.len() - 5);
    client.send(&chunked);
    client.shut_write();
    if let Some(response) = client.answer_or_end() {
        assert_eq!(response.status, 400, "{}", response.text());
    }
    let (stream, sending) = stand.gateway.h2().begin(&call);
    sending.data(&call.body[..10]);
    drop(stream);
    drop(sending);
    // A request behind it on a fresh connection shows that all was read.
    assert_eq!(
        Client::connect(stand.gateway.address).ask(&call).status,
        200
    );
    assert_eq!(stand.up.requests().len(), 1);
}
