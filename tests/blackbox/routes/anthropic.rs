//! What clients of Anthropic's API rely on (Claude Code, its libraries): the token in x-api-key, errors in the form they
//! read, the count of tokens, and the list of models.

use serde_json::json;

use crate::support::client::{Call, Response};
use crate::support::h2::{self, BOTH};
use crate::support::stand::Stand;
use crate::support::streams::chat;
use crate::support::{Cases, DEADLINE, is_error};

const PATHS: [&str; 2] = ["/v1/messages", "/v1/messages/count_tokens"];

fn message(path: &str, token: &str, model: &str) -> Call {
    let body = format!(r#"{{"model":"{model}","max_tokens":1,"messages":[]}}"#);
    Call::new("POST", path)
        .header("x-api-key", token)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body)
}

#[track_caller]
fn assert_anthropic_error(response: &Response, status: u16, kind: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    let (body, id) = (response.json(), response.header("request-id"));
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(body["error"]["type"], kind, "{body}");
    assert!(!body["error"]["message"].as_str().unwrap_or("").is_empty());
    assert_eq!(body["request_id"].as_str(), id, "{body}");
    assert_eq!(response.header("x-request-id"), id);
    assert_eq!(response.all("content-type"), ["application/json"]);
    assert_eq!(response.all("cache-control"), ["no-store"]);
}

#[test]
fn the_token_is_taken_from_x_api_key_and_api_key_on_every_route() {
    let stand = Stand::new();
    let token = stand.all.token.as_str();
    let mut cases = Cases::new();
    for protocol in BOTH {
        for name in ["x-api-key", "api-key", "X-API-Key"] {
            for call in [
                chat(&stand.all),
                Call::get("/v1/models", token),
                Call::get("/v1/key", token),
                message("/v1/messages", token, "good").without("x-api-key"),
            ] {
                let call = call.without("authorization").header(name, token);
                let status = h2::ask(protocol, &stand.gateway, &call).status;
                let verdict = match status {
                    200 => Ok(()),
                    status => Err(status.to_string()),
                };
                cases.check(&format!("{name} {} {protocol:?}", call.target), verdict);
            }
        }
        let both = chat(&stand.all).header("x-api-key", token);
        assert_eq!(h2::ask(protocol, &stand.gateway, &both).status, 200);
        for (what, call) in [
            (
                "another token",
                chat(&stand.all).header("x-api-key", &stand.only.token),
            ),
            ("an empty one", chat(&stand.all).header("api-key", "")),
            (
                "two that differ",
                chat(&stand.all)
                    .without("authorization")
                    .header("x-api-key", token)
                    .header("api-key", &stand.only.token),
            ),
            (
                "one of them twice",
                chat(&stand.all)
                    .without("authorization")
                    .header("x-api-key", token)
                    .header("x-api-key", token),
            ),
        ] {
            let response = h2::ask(protocol, &stand.gateway, &call);
            cases.check(what, is_error(&response, 401, "invalid_api_key"));
        }
    }
    cases.done();
    for seen in stand.up.requests() {
        for name in ["x-api-key", "api-key", "authorization"] {
            assert!(seen.all(name).is_empty(), "{name} went upstream");
        }
    }
}

#[test]
fn errors_on_messages_have_anthropics_form() {
    let stand = Stand::new();
    let token = stand.all.token.as_str();
    for protocol in BOTH {
        for path in PATHS {
            let ask = |call: &Call| h2::ask(protocol, &stand.gateway, call);
            for (call, status, kind) in [
                (
                    message(path, token, "good").without("x-api-key"),
                    401,
                    "authentication_error",
                ),
                (
                    message(path, "sk-wrong", "good"),
                    401,
                    "authentication_error",
                ),
                (message(path, token, "nothing"), 404, "not_found_error"),
                (
                    message(path, token, "good").body("{"),
                    400,
                    "invalid_request_error",
                ),
                (
                    message(path, token, "good").without("content-type"),
                    415,
                    "invalid_request_error",
                ),
            ] {
                assert_anthropic_error(&ask(&call), status, kind);
            }
            for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                let mut call = message(path, token, "good").body("");
                call.method = method.into();
                let response = ask(&call);
                assert_anthropic_error(&response, 405, "invalid_request_error");
                assert_eq!(response.all("allow"), ["POST"], "{method} {path}");
            }
        }
        let unknown = message("/v1/messages/batches", token, "good");
        let response = h2::ask(protocol, &stand.gateway, &unknown);
        assert_anthropic_error(&response, 404, "not_found_error");
    }
}

#[test]
fn what_upstreams_do_wrong_has_anthropics_form_too() {
    let stand = Stand::new();
    for (status, expected, kind) in [("401 No", 502, "api_error"), ("403 No", 502, "api_error")] {
        stand
            .up
            .script(move |exchange| exchange.reply(status, "", "no"));
        let response = h2::ask(
            BOTH[0],
            &stand.gateway,
            &message(PATHS[0], &stand.all.token, "good"),
        );
        assert_anthropic_error(&response, expected, kind);
    }
    // What the upstream says itself passes as it is, with the id where Anthropic's libraries look for it.
    stand.up.script(|exchange| {
        exchange.reply(
            "529 Overloaded",
            "request-id: theirs\r\n",
            r#"{"type":"error"}"#,
        );
    });
    let response = h2::ask(
        BOTH[0],
        &stand.gateway,
        &message(PATHS[0], &stand.all.token, "good"),
    );
    assert_eq!(
        (response.status, response.text().as_str()),
        (529, r#"{"type":"error"}"#)
    );
    assert_eq!(response.all("request-id"), response.all("x-request-id"));
}

#[test]
fn tokens_are_counted_by_the_upstream_of_the_model() {
    let stand = Stand::new();
    for protocol in BOTH {
        let call = message(PATHS[1], &stand.only.token, "good");
        let response = h2::ask(protocol, &stand.gateway, &call);
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = stand.up.last();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str()),
            ("POST", PATHS[1])
        );
        assert_eq!(seen.body, call.body);
        let refused = message(PATHS[1], &stand.only.token, "bad");
        let response = h2::ask(protocol, &stand.gateway, &refused);
        assert_anthropic_error(&response, 404, "not_found_error");
    }
}

#[test]
fn a_revoked_stream_ends_with_anthropics_error_event() {
    let stand = Stand::held();
    for (protocol, key) in BOTH.into_iter().zip([&stand.only, &stand.all]) {
        let call = message(PATHS[0], &key.token, "good");
        let mut stream = h2::Stream::open(protocol, &stand.gateway, &call);
        let mut exchange = stand.up.next();
        exchange.begin_stream();
        exchange.chunk("event: message_start\ndata: {}\n\n");
        let mut response = stream.head();
        stream.until(&mut response, "message_start");
        let path = format!("/api/keys/{}", key.id);
        assert_eq!(stand.gateway.admin("DELETE", &path, None).status, 204);
        stream.finish(&mut response, DEADLINE);
        let text = response.text();
        let (_, event) = text
            .split_once("event: error\ndata: ")
            .expect("an error event");
        let event: serde_json::Value = serde_json::from_str(event.trim_end()).expect("JSON");
        assert_eq!(event["error"]["type"], "authentication_error", "{event}");
        exchange.assert_freed();
    }
}

#[test]
fn the_list_of_models_has_anthropics_form_for_its_clients() {
    let stand = Stand::new();
    for protocol in BOTH {
        let anthropic = |target: &str| {
            let call =
                Call::get(target, &stand.only.token).header("anthropic-version", "2023-06-01");
            h2::ask(protocol, &stand.gateway, &call).json()
        };
        let list = anthropic("/v1/models");
        assert_eq!(list["has_more"], false);
        assert_eq!(
            (&list["first_id"], &list["last_id"]),
            (&json!("good"), &json!("good"))
        );
        let model = &list["data"][0];
        assert_eq!(
            (&model["type"], &model["id"]),
            (&json!("model"), &json!("good"))
        );
        assert!(
            model["created_at"]
                .as_str()
                .is_some_and(|at| at.ends_with('Z')),
            "{model}"
        );
        assert_eq!(&anthropic("/v1/models/good"), model);
        let openai = Call::get("/v1/models", &stand.only.token);
        assert_eq!(
            h2::ask(protocol, &stand.gateway, &openai).json()["object"],
            "list"
        );
    }
}
