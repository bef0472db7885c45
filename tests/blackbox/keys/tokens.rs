//! Who is let in by which token, and what a key is told about itself (contract 4, steps 1 to 3).

use serde_json::json;

use crate::support::chat::anonymous;
use crate::support::client::{Call, Response};
use crate::support::gateway::Setup;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{self, Key};
use crate::support::{Cases, assert_error, is_error};

#[test]
fn a_valid_key_is_let_through_whatever_the_case_of_the_scheme() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let call = anonymous().header("authorization", &format!("{scheme} {}", stand.all.token));
        for protocol in BOTH {
            let response = h2::ask(protocol, &stand.gateway, &call);
            let passed = response.status == 200 && response.all("x-request-id").len() == 1;
            let verdict = passed.then_some(()).ok_or(format!("{response:?}"));
            cases.check(&format!("{scheme} over {protocol:?}"), verdict);
        }
    }
    cases.done();
}

#[test]
fn a_request_without_a_bearer_token_is_told_that_it_is_missing() {
    let stand = Stand::new();
    let token = &stand.all.token;
    let mut cases = Cases::new();
    let mut check = |name: &str, call: Call| {
        for protocol in BOTH {
            let response = h2::ask(protocol, &stand.gateway, &call);
            let verdict = is_error(&response, 401, "missing_api_key");
            cases.check(&format!("{name} over {protocol:?}"), verdict);
        }
    };
    check("no Authorization", anonymous());
    check("an empty one", anonymous().header("authorization", ""));
    check(
        "Basic",
        anonymous().header("authorization", "Basic dXNlcjpwYXNz"),
    );
    check(
        "the token alone",
        anonymous().header("authorization", token),
    );
    check(
        "a longer scheme",
        anonymous().header("authorization", &format!("BearerToken {token}")),
    );
    check(
        "the scheme alone",
        anonymous().header("authorization", "Bearer"),
    );
    check(
        "an empty token",
        anonymous().header("authorization", "Bearer "),
    );
    check("an empty x-api-key", anonymous().header("x-api-key", ""));
    check("an empty api-key", anonymous().header("api-key", ""));
    check("x-token", anonymous().header("x-token", token));
    check(
        "a cookie",
        anonymous().header("cookie", &format!("token={token}")),
    );
    check(
        "Proxy-Authorization",
        anonymous().header("proxy-authorization", &format!("Bearer {token}")),
    );
    let protocol = format!("realtime, openai-insecure-api-key.{token}");
    check(
        "a WebSocket protocol",
        anonymous().header("sec-websocket-protocol", &protocol),
    );
    let mut query = anonymous();
    query
        .target
        .push_str(&format!("?api_key={token}&access_token={token}"));
    check("the query", query);
    check(
        "the body",
        anonymous().body(format!(r#"{{"model":"good","api_key":"{token}"}}"#)),
    );
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn a_token_that_no_enabled_key_has_is_invalid() {
    let disabled = Key::all("key_disabled").disabled();
    let reserved = Key::with_token("key_reserved", "kg_tooshort", json!({"mode": "all"}));
    let unchecked = format!("{}000000", &token::fresh()[..46]);
    let miscounted = Key::with_token("key_crc", &unchecked, json!({"mode": "all"}));
    let stand = Stand::with(|setup| setup.keys(&[&disabled, &reserved, &miscounted]));
    let token = &stand.all.token;
    let swapped_case: String = token
        .char_indices()
        .map(|(at, sign)| match sign {
            sign if at < 3 => sign,
            sign if sign.is_ascii_lowercase() => sign.to_ascii_uppercase(),
            sign => sign.to_ascii_lowercase(),
        })
        .collect();
    let mut last = token.clone().into_bytes();
    let end = last.len() - 1;
    last[end] = if last[end] == b'0' { b'1' } else { b'0' };
    let bearers = [
        ("unknown", token::fresh()),
        ("made elsewhere, unknown", "sk-unknown".to_owned()),
        ("disabled", disabled.token.clone()),
        (
            "reserved prefix, wrong form, though the table has its hash",
            reserved.token.clone(),
        ),
        (
            "reserved prefix, wrong checksum, though the table has its hash",
            miscounted.token.clone(),
        ),
        (
            "another last character",
            String::from_utf8_lossy(&last).into_owned(),
        ),
        ("the other case", swapped_case),
        ("one character more", format!("{token}0")),
        ("one character less", token[..51].to_owned()),
        ("the hash", token::hash(token)),
        (
            "the bare hash",
            token::hash(token)["blake3:".len()..].to_owned(),
        ),
        ("two spaces before it", format!(" {token}")),
        ("two words", format!("{token} {token}")),
        ("a list", format!("{token}, Bearer {token}")),
        ("a trailing comma", format!("{token},")),
        ("in quotes", format!("\"{token}\"")),
        ("513 characters", "x".repeat(513)),
        ("8 KiB", "x".repeat(8192)),
        ("SQL", "'OR'1'='1".to_owned()),
        ("a path", "../../etc/passwd".to_owned()),
        ("a lookup", "${jndi:ldap://x}".to_owned()),
        ("a format", "%s%n".to_owned()),
    ];
    let mut cases = Cases::new();
    for (name, bearer) in bearers {
        let response = stand.gateway.ask(&Call::chat(&bearer, "good"));
        let verdict = is_error(&response, 401, "invalid_api_key");
        cases.check(name, verdict);
        let echoed = response.text().contains(&bearer);
        cases.check(
            name,
            (!echoed)
                .then_some(())
                .ok_or("the answer repeats it".to_owned()),
        );
    }
    for (name, line) in [
        ("a tab", format!("Bearer\t{token}")),
        (
            "two lines",
            format!("Bearer {token}\r\nauthorization: Bearer {token}"),
        ),
        (
            "two lines, the second of another scheme",
            format!("Bearer {token}\r\nauthorization: Basic eDp5"),
        ),
        (
            "two lines, the first invalid",
            format!("Bearer sk-unknown\r\nAuthorization: Bearer {token}"),
        ),
    ] {
        let response = stand
            .gateway
            .ask(&anonymous().header("authorization", line.as_str()));
        cases.check(name, is_error(&response, 401, "invalid_api_key"));
    }
    let twice = anonymous().bearer(token).bearer(token);
    let response = stand.gateway.h2().ask(&twice);
    cases.check(
        "two fields in HTTP/2",
        is_error(&response, 401, "invalid_api_key"),
    );
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn an_unknown_key_and_a_disabled_one_get_the_same_bytes() {
    let disabled = Key::all("key_disabled").disabled();
    let stand = Stand::with(|setup| setup.keys(&[&disabled]));
    let facts = |response: Response| {
        let mut headers = response.headers.clone();
        headers.retain(|(name, _)| name != "x-request-id" && name != "date");
        (response.status, headers, response.body)
    };
    let unknown = facts(stand.gateway.ask(&Call::chat(&token::fresh(), "good")));
    let known = facts(stand.gateway.ask(&Call::chat(&disabled.token, "good")));
    assert_eq!(unknown, known);
}

#[test]
fn a_token_made_elsewhere_is_taken_from_1_to_512_visible_characters() {
    let everything: String = ('!'..='~').collect();
    let tokens = [
        "x".to_owned(),
        "y".repeat(512),
        everything,
        "sk-proj-abc/+=".to_owned(),
    ];
    let keys: Vec<Key> = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| Key::with_token(&format!("key_{at}"), token, json!({"mode": "all"})))
        .collect();
    let stand = Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()));
    let mut cases = Cases::new();
    for key in &keys {
        let response = stand.gateway.ask(&Call::chat(&key.token, "good"));
        let verdict = (response.status == 200).then_some(());
        cases.check(&key.token, verdict.ok_or(response.text()));
    }
    cases.done();
}

#[test]
fn every_request_on_a_connection_is_judged_by_its_own_key() {
    let stand = Stand::new();
    let mut client = stand.gateway.client();
    assert_eq!(
        client
            .ask(&Call::get("/v1/models", &stand.all.token))
            .status,
        200
    );
    assert_error(
        &client.ask(&Call::new("GET", "/v1/models")),
        401,
        "missing_api_key",
    );
    let connection = stand.gateway.h2();
    assert_eq!(
        connection.ask(&Call::chat(&stand.all.token, "bad")).status,
        200
    );
    assert_error(
        &connection.ask(&Call::chat(&stand.only.token, "bad")),
        404,
        "model_not_found",
    );
    assert_error(&connection.ask(&anonymous()), 401, "missing_api_key");
}

#[test]
fn a_table_without_a_key_refuses_everybody() {
    let up = Recorder::answering();
    let gateway = Setup::before(&up).start();
    assert_error(&gateway.ask(&anonymous()), 401, "missing_api_key");
    assert_error(
        &gateway.ask(&Call::chat(&token::fresh(), "good")),
        401,
        "invalid_api_key",
    );
    assert_error(
        &gateway.ask(&Call::chat("sk-any", "good")),
        401,
        "invalid_api_key",
    );
    up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_key_can_be_asked_what_it_may_do() {
    let key = Key::all_but("key_shown", &["bad"])
        .only_from(&["127.0.0.9/8"])
        .expires("2099-01-02T03:04:05+01:00");
    let stand = Stand::with(|setup| setup.keys(&[&key]));
    let shown = stand.gateway.ask(&Call::get("/v1/key", &key.token));
    assert_eq!(shown.status, 200);
    let shown = shown.json();
    assert_eq!(shown["id"], "key_shown");
    assert_eq!(shown["name"], "key_shown");
    assert_eq!(
        shown["model_access"],
        json!({"mode": "exclusive", "models": ["bad"]})
    );
    let mut models: Vec<&str> = shown["models"]
        .as_array()
        .expect("models")
        .iter()
        .filter_map(|m| m.as_str())
        .collect();
    models.sort_unstable();
    assert_eq!(models, ["good", "org/name"]);
    assert_eq!(shown["allow_from"], json!(["127.0.0.0/8"]));
    assert_eq!(shown["expires_at"], "2099-01-02T02:04:05Z");
    assert_eq!(shown["client_address"], "127.0.0.1");
    assert!(shown.get("hash").is_none());
    let plain = stand
        .gateway
        .ask(&Call::get("/v1/key", &stand.all.token))
        .json();
    assert_eq!(plain["expires_at"], json!(null));
    assert_eq!(plain["allow_from"], json!([]));
    stand.up.untouched().expect("the gateway answers by itself");
}
