//! Which connections to an upstream are used again: none on which bytes of an old answer could still come.

use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Exchange;
use crate::support::stand::Stand;

/// Answers the first request with these bytes and leaves the connection open, then the second one; the connections
/// that they came on.
fn connections_of_two(stand: &Stand, call: &Call, status: u16, answer: &str) -> [usize; 2] {
    let answer = answer.to_owned();
    stand.up.script(move |exchange| {
        if exchange.seen.target.ends_with("first") {
            exchange.answer_raw(&answer);
        } else {
            exchange.complete();
        }
    });
    let before = stand.up.requests().len();
    let mut first = call.clone();
    first.target.push_str("?first");
    let response = stand.gateway.ask(&first);
    assert_eq!(response.status, status, "{}", response.text());
    assert!(response.body.is_empty(), "{}", response.text());
    let second = stand.gateway.ask(call);
    assert_eq!(second.status, 200, "{}", second.text());
    assert!(second.text().contains("chat.completion"));
    let seen = stand.up.requests();
    assert_eq!(seen.len(), before + 2);
    [seen[before].connection, seen[before + 1].connection]
}

/// One worker, so that every request finds the connections of the one before it.
fn one_worker() -> Stand {
    Stand::with(|setup| setup.line("workers = 1"))
}

const WITHOUT_A_BODY: [(u16, &str); 6] = [
    (204, "HTTP/1.1 204 No Content\r\n\r\n"),
    (204, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
    (
        204,
        "HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n",
    ),
    (304, "HTTP/1.1 304 Not Modified\r\n\r\n"),
    (
        304,
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 20\r\n\r\n",
    ),
    (304, "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"),
];

#[test]
fn a_connection_that_brought_a_204_or_304_is_never_used_again() {
    let stand = one_worker();
    let call = Call::chat(&stand.all.token, "good");
    for (status, answer) in WITHOUT_A_BODY {
        let [first, second] = connections_of_two(&stand, &call, status, answer);
        assert_ne!(first, second, "{answer:?}");
        stand.up.wait_gone(first);
    }
}

#[test]
fn a_body_that_follows_a_204_or_304_all_the_same_reaches_nobody() {
    let stand = one_worker();
    let call = Call::chat(&stand.all.token, "good");
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for (status, answer) in WITHOUT_A_BODY {
        let [first, second] =
            connections_of_two(&stand, &call, status, &format!("{answer}{smuggled}"));
        assert_ne!(first, second, "{answer:?}");
    }
}

#[test]
fn a_connection_that_brought_a_whole_answer_is_used_again() {
    let stand = one_worker();
    let call = Call::chat(&stand.all.token, "good");
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let [first, second] = connections_of_two(&stand, &call, 200, answer);
        assert_eq!(first, second, "{answer:?}");
    }
}

#[test]
fn an_answer_without_a_body_keeps_the_clients_connection() {
    let stand = Stand::with(|setup| setup.line("workers = 1"));
    for (status, answer) in WITHOUT_A_BODY {
        stand.up.script(move |exchange| {
            if exchange.seen.target.ends_with("first") {
                exchange.answer_raw(answer);
            } else {
                exchange.complete();
            }
        });
        let mut first = Call::chat(&stand.all.token, "good");
        first.target.push_str("?first");
        let mut client = stand.gateway.client();
        let response = client.ask(&first);
        assert_eq!(response.status, status);
        // RFC 9110, 8.6 and 9112, 6.1: neither framing stands in a 204.
        if status == 204 {
            assert_eq!(response.header("content-length"), None);
        }
        assert_eq!(response.header("transfer-encoding"), None);
        let response = client.ask(&Call::chat(&stand.all.token, "good"));
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(h2::ask(BOTH[1], &stand.gateway, &first).status, status);
    }
    stand.up.script(Exchange::complete);
}
