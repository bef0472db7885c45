//! Refusals: the first broken rule answers, before anything of the body is awaited that the rule does not need.

use crate::support::chat::anonymous;
use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, is_error};

#[test]
fn the_first_refusal_answers() {
    let never = Key::all("key_never")
        .disabled()
        .expires("2020-01-01T00:00:00Z")
        .only_from(&["192.0.2.1"]);
    let late = Key::only("key_late", &["good"])
        .expires("2020-01-01T00:00:00Z")
        .only_from(&["192.0.2.1"]);
    let far = Key::only("key_far", &["good"]).only_from(&["192.0.2.1"]);
    let stand = Stand::with(|setup| {
        setup
            .keys(&[&never, &late, &far])
            .set("limits", "request_body = \"1KiB\"")
    });
    // Everything behind the step is wrong as well.
    let worst = |token: &str, method: &str, path: &str| {
        let mut call = Call::new(method, path)
            .header("content-type", "text/plain")
            .body("x".repeat(5000));
        if !token.is_empty() {
            call = call.bearer(token);
        }
        call
    };
    let mut cases = Cases::new();
    let mut check = |name: &str, call: &Call, status: u16, code: &str| {
        for protocol in BOTH {
            let response = h2::ask(protocol, &stand.gateway, call);
            cases.check(
                &format!("{name} over {protocol:?}"),
                is_error(&response, status, code),
            );
        }
    };
    let chat = "/v1/chat/completions";
    check(
        "1 credential",
        &worst("", "PUT", "/nowhere"),
        401,
        "missing_api_key",
    );
    check(
        "2 key",
        &worst("sk-unknown", "PUT", "/nowhere"),
        401,
        "invalid_api_key",
    );
    check(
        "2 disabled",
        &worst(&never.token, "PUT", "/nowhere"),
        401,
        "invalid_api_key",
    );
    check(
        "3 expiry",
        &worst(&late.token, "PUT", "/nowhere"),
        401,
        "expired_api_key",
    );
    check(
        "4 network",
        &worst(&far.token, "PUT", "/nowhere"),
        401,
        "ip_not_authorized",
    );
    check(
        "5 path",
        &worst(&stand.only.token, "PUT", "/nowhere"),
        404,
        "unknown_url",
    );
    check(
        "5 method",
        &worst(&stand.only.token, "PUT", chat),
        405,
        "method_not_allowed",
    );
    let media = Call::chat(&stand.only.token, "bad").without("content-type");
    check("6 before 7", &media, 415, "unsupported_media_type");
    check(
        "7 model",
        &Call::chat(&stand.only.token, "bad"),
        404,
        "model_not_found",
    );
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn nothing_of_the_body_is_awaited_before_the_steps_that_need_none() {
    let stand = Stand::with(|setup| setup.set("limits", "request_body = \"1KiB\""));
    let mut cases = Cases::new();
    let chat = "/v1/chat/completions";
    for (name, head, status, code) in [
        (
            "key",
            Call::json(chat, "sk-unknown", ""),
            401,
            "invalid_api_key",
        ),
        (
            "path",
            Call::json("/nowhere", &stand.all.token, ""),
            404,
            "unknown_url",
        ),
        (
            "method",
            Call {
                method: "PUT".to_owned(),
                ..Call::json(chat, &stand.all.token, "")
            },
            405,
            "method_not_allowed",
        ),
        (
            "media type",
            Call::json(chat, &stand.all.token, "").without("content-type"),
            415,
            "unsupported_media_type",
        ),
    ] {
        let mut client = stand.gateway.client();
        let mut bytes = head.head_without_length();
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b"content-length: 500\r\n\r\n");
        client.send(&bytes);
        cases.check(name, is_error(&client.answer(), status, code));
    }
    cases.done();
}

#[test]
fn an_error_carries_the_clients_request_id_where_it_is_one() {
    let stand = Stand::new();
    let longest = "a".repeat(128);
    for id in ["abc", "A-1_b.c", longest.as_str()] {
        let response = stand.gateway.ask(&anonymous().header("x-request-id", id));
        assert_eq!(response.all("x-request-id"), [id]);
    }
    let too_long = "a".repeat(129);
    for id in ["", "a b", "a/b", "ä", "a\tb", "<x>", too_long.as_str()] {
        let response = stand.gateway.ask(&anonymous().header("x-request-id", id));
        let ids = response.all("x-request-id");
        assert!(
            ids.len() == 1 && ids[0] != id && !ids[0].is_empty(),
            "{id:?}: {ids:?}"
        );
    }
    let response = stand.gateway.ask(
        &anonymous()
            .header("x-request-id", "one")
            .header("x-request-id", "two"),
    );
    let ids = response.all("x-request-id");
    assert!(
        ids.len() == 1 && ids[0] != "one" && ids[0] != "two",
        "{ids:?}"
    );
}
