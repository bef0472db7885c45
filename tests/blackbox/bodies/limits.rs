//! How large a body may be, and how much all bodies may take at once.

use std::time::Duration;

use crate::support::chat::{chat, passed};
use crate::support::client::{Call, Client, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE, assert_error, eventually, is_error};

/// A 413 that names the limit of 64 KiB.
fn too_large(response: &Response) -> Result<(), String> {
    is_error(response, 413, "request_too_large")?;
    let message = response.text();
    message
        .contains("64 KiB (65536 bytes)")
        .then_some(())
        .ok_or(format!("does not name the limit: {message}"))
}

#[test]
fn a_body_over_the_limit_is_too_large_and_one_at_the_limit_is_not() {
    let stand = Stand::with(|setup| setup.set("limits", "request_body = \"64KiB\""));
    let limit = 64 << 10;
    let sized = |size: usize| {
        let frame = r#"{"model":"good","x":""}"#.len();
        format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(size - frame))
    };
    let mut cases = Cases::new();
    for protocol in BOTH {
        let ask = |size: usize| h2::ask(protocol, &stand.gateway, &chat(&stand.only, sized(size)));
        cases.check(
            &format!("at the limit over {protocol:?}"),
            passed(&ask(limit)),
        );
        for size in [limit + 1, limit * 3] {
            let verdict = too_large(&ask(size));
            cases.check(&format!("{size} over {protocol:?}"), verdict);
        }
    }
    let mut client = stand.gateway.client();
    client.send(&chat(&stand.only, sized(limit)).chunked(&[10_000, 20_000]));
    cases.check("chunked at the limit", passed(&client.answer()));
    stand.up.forget();
    let mut client = stand.gateway.client();
    let _ = client.try_send(&chat(&stand.only, sized(limit + 1)).chunked(&[10_000, 20_000]));
    cases.check("chunked over the limit", too_large(&client.answer()));
    // Content-Length alone is enough to know.
    let mut client = stand.gateway.client();
    let mut head = chat(&stand.only, "").head_without_length();
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"content-length: 999999999999\r\n\r\n");
    client.send(&head);
    cases.check("by its length", too_large(&client.answer()));
    let call = chat(&stand.only, "").header("content-length", "65537");
    let (mut stream, _sending) = stand.gateway.h2().begin(&call);
    let mut response = stream.head();
    stream.finish(&mut response, DEADLINE);
    cases.check("by its length in HTTP/2", too_large(&response));
    cases.check(
        "upstream",
        if stand.up.requests().is_empty() {
            Ok(())
        } else {
            Err("saw some".to_owned())
        },
    );
    cases.done();
}

#[test]
fn bodies_held_at_once_are_bounded_and_past_it_the_gateway_is_overloaded() {
    let stand = Stand::with(|setup| {
        setup
            .set("limits", "request_body = \"200KiB\"")
            .set("limits", "buffered_bodies = \"256KiB\"")
    });
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(150_000));
    let call = chat(&stand.only, body.as_str());
    let bytes = call.bytes();
    let (most, rest) = bytes.split_at(bytes.len() - 1000);
    // There is room for one of them, whichever is read first.
    let mut held: Vec<Client> = (0..4).map(|_| stand.gateway.client()).collect();
    for client in &mut held {
        client.send(most);
    }
    let mut refused = Vec::new();
    eventually("the others are refused", DEADLINE, || {
        if let Some(at) = held
            .iter_mut()
            .position(|client| !client.silent_for(Duration::from_millis(1)))
        {
            refused.push(held.remove(at));
        }
        (held.len() == 1).then_some(())
    });
    for mut client in refused {
        assert_error(&client.answer(), 503, "overloaded");
    }
    assert_error(&stand.gateway.ask(&call), 503, "overloaded");
    let small = stand.gateway.ask(&Call::chat(&stand.only.token, "good"));
    assert_eq!(
        small.status,
        200,
        "there is room for a small one: {}",
        small.text()
    );
    let mut holding = held.remove(0);
    holding.send(rest);
    assert_eq!(holding.answer().status, 200);
    for _ in 0..5 {
        let response = stand.gateway.ask(&call);
        assert_eq!(
            response.status,
            200,
            "the room is given back: {}",
            response.text()
        );
    }
}

/// One tenant uploads to a model that thinks for long; nobody else waits for that.
#[test]
fn bodies_that_were_sent_are_given_back_while_their_model_thinks() {
    let stand = Stand::held_with(|setup| {
        setup
            .set("limits", "request_body = \"1MiB\"")
            .set("limits", "buffered_bodies = \"2MiB\"")
    });
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(900_000));
    let call = chat(&stand.all, body.as_str());
    // The first goes over a fresh connection, the others over kept ones too.
    let mut thinking = Vec::new();
    for round in 0..3 {
        for _ in 0..8 {
            let mut client = stand.gateway.client();
            let started = eventually("there is room", DEADLINE, || {
                let _ = client.try_send(&call.bytes());
                let refused = !client.silent_for(Duration::from_millis(300));
                if refused {
                    client = stand.gateway.client();
                }
                (!refused).then(|| stand.up.next())
            });
            thinking.push((client, started));
        }
        if round == 1 {
            for (mut client, mut exchange) in thinking.drain(..) {
                exchange.body();
                exchange.complete();
                assert_eq!(client.answer().status, 200);
            }
        }
    }
    assert_eq!(thinking.len(), 8);
    let small = stand
        .gateway
        .client()
        .ask(&Call::get("/v1/models", &stand.only.token));
    assert_eq!(small.status, 200);
}

#[test]
fn a_key_that_uploads_leaves_room_for_the_others() {
    let stand = Stand::with(|setup| {
        setup
            .set("limits", "request_body = \"1MiB\"")
            .set("limits", "buffered_bodies = \"8MiB\"")
    });
    let body = format!(r#"{{"model":"good","x":"{}"}}"#, "a".repeat(900_000));
    let upload = |key: &Key| {
        let bytes = chat(key, body.as_str()).bytes();
        let mut client = stand.gateway.client();
        let _ = client.try_send(&bytes[..bytes.len() - 1000]);
        client
    };
    // What one holds of the budget alone is at most half of it.
    let mut held: Vec<Client> = (0..12).map(|_| upload(&stand.all)).collect();
    eventually("the rest is refused", DEADLINE, || {
        held.retain_mut(|client| client.silent_for(Duration::from_millis(1)));
        (held.len() == 4).then_some(())
    });
    let response = stand.gateway.ask(&chat(&stand.only, body.as_str()));
    assert_eq!(response.status, 200, "{}", response.text());
    let response = stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn a_body_that_is_only_announced_takes_no_memory() {
    let stand = Stand::new();
    let status = format!("/proc/{}/status", stand.gateway.process.pid());
    let megabytes = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:"));
        let size = line.and_then(|line| line.split_whitespace().nth(1));
        size.unwrap().parse::<u64>().unwrap() >> 10
    };
    let before = megabytes();
    let head = Call::json("/v1/chat/completions", &stand.all.token, "")
        .without("content-length")
        .header("content-length", "30000000")
        .head_without_length();
    let mut clients: Vec<_> = (0..40).map(|_| stand.gateway.client()).collect();
    for piece in [&head[..], b"{", b"\"", b"x"] {
        for client in &mut clients {
            client.send(piece);
        }
        // An answer to another request says that these bytes were read.
        assert_eq!(
            stand
                .gateway
                .ask(&Call::chat(&stand.all.token, "good"))
                .status,
            200
        );
    }
    assert!(megabytes() - before < 400, "more than was sent is held");
}
