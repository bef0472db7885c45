//! Contract 4, steps 1 to 5 and 7: who may ask, from where, for what; and what each refusal looks like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Setup;
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{self, Key, seconds_from_now};
use crate::support::{Cases, assert_error, is_error};

/// A chat without any credential.
fn anonymous() -> Call {
    Call::chat("x", "good").without("authorization")
}

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
    check("x-api-key", anonymous().header("x-api-key", token));
    check("api-key", anonymous().header("api-key", token));
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
fn a_key_is_refused_from_the_instant_of_its_expiry_on() {
    let expired = Key::all("key_expired").expires("2020-01-01T00:00:00Z");
    let lasting = Key::all("key_lasting").expires("9999-12-30T00:00:00Z");
    let in_a_zone = Key::all("key_zone").expires("2020-01-01T00:00:00+02:00");
    let soon = Key::all("key_soon").expires(&seconds_from_now(2));
    let stand = Stand::with(|setup| setup.keys(&[&expired, &lasting, &in_a_zone, &soon]));
    let gateway = &stand.gateway;
    assert_eq!(gateway.ask(&Call::chat(&lasting.token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&expired.token, "good")),
        401,
        "expired_api_key",
    );
    assert_error(
        &gateway.ask(&Call::chat(&in_a_zone.token, "good")),
        401,
        "expired_api_key",
    );
    // On one kept connection: what was true for the last request says nothing about the next.
    let mut client = gateway.client();
    let first = client.ask(&Call::chat(&soon.token, "good"));
    assert!(first.status == 200 || first.status == 401);
    let response = crate::support::eventually("the key expires", crate::support::DEADLINE, || {
        let response = gateway.ask(&Call::chat(&soon.token, "good"));
        (response.status != 200).then_some(response)
    });
    assert_error(&response, 401, "expired_api_key");
}

#[test]
fn the_last_second_that_rfc_3339_can_write_is_an_expiry() {
    let forever = Key::all("key_forever").expires("9999-12-31T23:59:59Z");
    let stand = Stand::with(|setup| setup.keys(&[&forever]));
    let shown = stand
        .gateway
        .ask(&Call::get("/v1/key", &forever.token))
        .json();
    assert_eq!(shown["expires_at"], "9999-12-31T23:59:59Z");
}

#[test]
fn a_key_with_networks_is_refused_outside_every_one_of_them() {
    let source = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 3, last));
    // Network, an address within, an address outside.
    let edges = [
        ("127.0.3.4", Some(4), Some(5)),
        ("127.0.3.4/32", Some(4), Some(3)),
        ("127.0.3.4/31", Some(5), Some(6)),
        ("127.0.3.7/30", Some(4), Some(8)),
        ("127.0.3.129/25", Some(255), Some(127)),
        ("0.0.0.0/0", Some(9), None),
        ("192.0.2.0/24", None, Some(1)),
    ];
    let keys: Vec<Key> = edges
        .iter()
        .enumerate()
        .map(|(at, (network, ..))| Key::all(&format!("key_{at}")).only_from(&[network]))
        .collect();
    let several =
        Key::all("key_several").only_from(&["192.0.2.0/24", "127.0.3.9/32", "10.0.0.0/8"]);
    let empty = Key::all("key_empty").only_from(&[]);
    let stand = Stand::with(|setup| {
        let mut all: Vec<&Key> = keys.iter().collect();
        all.extend([&several, &empty]);
        setup.keys(&all)
    });
    let ask = |key: &Key, last: u8| {
        Client::connect_from(source(last), stand.gateway.address)
            .ask(&Call::chat(&key.token, "good"))
    };
    let mut cases = Cases::new();
    let passes = |response: &Response| {
        (response.status == 200)
            .then_some(())
            .ok_or(response.text())
    };
    for ((network, within, outside), key) in edges.iter().zip(&keys) {
        if let Some(last) = within {
            cases.check(&format!("{network} from .{last}"), passes(&ask(key, *last)));
        }
        if let Some(last) = outside {
            let verdict = is_error(&ask(key, *last), 401, "ip_not_authorized");
            cases.check(&format!("{network} from .{last}"), verdict);
        }
    }
    cases.check("one of several", passes(&ask(&several, 9)));
    cases.check(
        "none of several",
        is_error(&ask(&several, 8), 401, "ip_not_authorized"),
    );
    cases.check("an empty list is any address", passes(&ask(&empty, 77)));
    cases.done();
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_judged_as_ipv4_and_an_ipv6_one_never_matches() {
    let here = Key::all("key_here").only_from(&["127.0.0.1/32"]);
    let anywhere = Key::all("key_anywhere").only_from(&["0.0.0.0/0"]);
    let up = Recorder::answering();
    let open = Key::all("key_open");
    let gateway = Setup::before(&up)
        .listen("[::]:0")
        .keys(&[&here, &anywhere, &open])
        .start();
    let port = gateway.address.port();
    let over_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let over_v6: SocketAddr = format!("[::1]:{port}").parse().expect("an address");
    for key in [&here, &anywhere, &open] {
        let response = Client::connect(over_v4).ask(&Call::chat(&key.token, "good"));
        assert_eq!(response.status, 200, "{}: {}", key.id, response.text());
    }
    let shown = Client::connect(over_v4)
        .ask(&Call::get("/v1/key", &here.token))
        .json();
    assert_eq!(shown["client_address"], "127.0.0.1");
    for key in [&here, &anywhere] {
        let response = Client::connect(over_v6).ask(&Call::chat(&key.token, "good"));
        assert_error(&response, 401, "ip_not_authorized");
    }
    // A key without networks is for any address, IPv6 too.
    let response = Client::connect(over_v6).ask(&Call::chat(&open.token, "good"));
    assert_eq!(response.status, 200, "{}", response.text());
    let shown = Client::connect(over_v6)
        .ask(&Call::get("/v1/key", &open.token))
        .json();
    assert_eq!(shown["client_address"], "::1");
}

#[test]
fn only_the_paths_and_methods_of_the_contract_are_served() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let unserved = [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/Chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/../v1/chat/completions",
        "/v1/%63hat/completions",
        "/v1/chat%2Fcompletions",
        "/v1%2Fchat%2Fcompletions",
        "/v1/chat/completions%00",
        "/v1/chat/completions%20",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/chat/%zz",
        "/v1/chat/completions%252f",
        "/v1/chat/completions;x=1",
        "/v1;x/chat/completions",
        "/v1\\chat\\completions",
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/invocations",
        "/inference/v1/generate",
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/score",
        "/rerank",
        "/classify",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/slots",
        "/props",
        "/models",
        "/models/load",
        "/api/generate",
        "/api/chat",
        "/api/tags",
        "/api/keys",
        "/api/status",
        "/healthz",
        "/readyz",
        "/health",
        "/v1/batches",
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/assistants",
        "/v1/threads",
        "/v1/realtime",
        "/v1/realtime/client_secrets",
        "/v1/responses/resp_1",
        "/v1/chat/completions/chatcmpl-1",
        "/v1/engines/good/completions",
        "/openai/deployments/good/chat/completions",
        "/v1beta/models/good:generateContent",
        "/model/good/invoke",
        "/v2/rerank",
        "/v1/keys",
        "/v1/key/",
    ];
    for path in unserved {
        for key in [&stand.all, &stand.only] {
            let call = Call::json(path, &key.token, r#"{"model":"good"}"#);
            let verdict = is_error(&stand.gateway.ask(&call), 404, "unknown_url");
            cases.check(&format!("POST {path} as {}", key.id), verdict);
        }
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        cases.check(
            &format!("GET {path}"),
            is_error(&response, 404, "unknown_url"),
        );
    }
    let post_only = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/messages",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/variations",
    ];
    for path in post_only {
        for method in [
            "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "FOO",
        ] {
            let response = stand
                .gateway
                .ask(&Call::new(method, path).bearer(&stand.all.token));
            let verdict = is_error(&response, 405, "method_not_allowed").and_then(|()| {
                let allow = response.header("allow") == Some("POST");
                allow
                    .then_some(())
                    .ok_or(format!("Allow: {:?}", response.all("allow")))
            });
            cases.check(&format!("{method} {path}"), verdict);
        }
    }
    for path in [
        "/v1/models",
        "/v1/models/good",
        "/v1/models/org/name",
        "/v1/key",
    ] {
        for method in ["POST", "DELETE", "PUT"] {
            let response = stand
                .gateway
                .ask(&Call::new(method, path).bearer(&stand.all.token));
            let verdict = is_error(&response, 405, "method_not_allowed").and_then(|()| {
                let allow = response
                    .header("allow")
                    .is_some_and(|allow| allow.starts_with("GET"));
                allow
                    .then_some(())
                    .ok_or(format!("Allow: {:?}", response.all("allow")))
            });
            cases.check(&format!("{method} {path}"), verdict);
        }
    }
    cases.check("upstream", stand.up.untouched());
    cases.done();
}

#[test]
fn every_served_path_is_forwarded_as_it_was_sent() {
    let stand = Stand::new();
    let json = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/score",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/messages",
    ];
    let mut cases = Cases::new();
    for path in json {
        let target = format!("{path}?stream=1&x=%20y&&z");
        for protocol in BOTH {
            let call = Call::json(&target, &stand.only.token, r#"{"model":"good"}"#);
            let response = h2::ask(protocol, &stand.gateway, &call);
            let verdict = (response.status == 200)
                .then_some(())
                .ok_or(response.text());
            cases.check(
                path,
                verdict.and_then(|()| {
                    let seen = stand.up.last();
                    (seen.target == target && seen.method == "POST" && seen.version == "HTTP/1.1")
                        .then_some(())
                        .ok_or(format!("the upstream saw {} {}", seen.method, seen.target))
                }),
            );
        }
    }
    cases.done();
}

#[test]
fn an_options_request_is_a_request_like_any_other() {
    let stand = Stand::new();
    let call =
        Call::new("OPTIONS", "/v1/chat/completions").header("origin", "https://app.example.com");
    assert_error(&stand.gateway.ask(&call), 401, "missing_api_key");
    let response = stand.gateway.ask(&call.bearer(&stand.all.token));
    assert_error(&response, 405, "method_not_allowed");
    assert!(
        response
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("access-control-"))
    );
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_model_that_is_unknown_and_one_that_is_not_allowed_get_the_same_bytes() {
    let stand = Stand::new();
    let body = |key: &Key, model: &str| {
        let response = stand.gateway.ask(&Call::chat(&key.token, model));
        assert_error(&response, 404, "model_not_found");
        response.body
    };
    let unknown = body(&stand.all, "no-such-model");
    assert_eq!(unknown, body(&stand.only, "bad"));
    assert_eq!(unknown, body(&stand.all_but, "bad"));
    assert_eq!(unknown, body(&stand.all_but, "no-such-model"));
    let get = |key: &Key, path: &str| {
        let response = stand.gateway.ask(&Call::get(path, &key.token));
        assert_error(&response, 404, "model_not_found");
        response.body
    };
    assert_eq!(unknown, get(&stand.all, "/v1/models/no-such-model"));
    assert_eq!(unknown, get(&stand.only, "/v1/models/bad"));
    assert_eq!(unknown, get(&stand.all_but, "/v1/models/bad"));
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn model_names_match_exactly_or_not_at_all() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let alike = [
        "Good",
        "GOOD",
        "good ",
        " good",
        "good\n",
        "good:online",
        "good:latest",
        "good:adapter",
        "good-2024-08-06",
        "library/good",
        "good\u{0}bad",
        "good\u{0}",
        "gооd",
        "good\u{200b}",
        "ｇｏｏｄ",
        "org/name/",
        "org\\name",
        "*",
        "",
    ];
    for model in alike.iter().filter(|model| !model.is_empty()) {
        for key in [&stand.all, &stand.only, &stand.all_but] {
            let response = stand.gateway.ask(&Call::chat(&key.token, model));
            let verdict = is_error(&response, 404, "model_not_found");
            cases.check(&format!("{model:?} as {}", key.id), verdict);
        }
    }
    for (key, model, status) in [
        (&stand.all, "good", 200),
        (&stand.all, "bad", 200),
        (&stand.all, "org/name", 200),
        (&stand.only, "good", 200),
        (&stand.only, "bad", 404),
        (&stand.only, "org/name", 404),
        (&stand.all_but, "good", 200),
        (&stand.all_but, "bad", 404),
        (&stand.all_but, "org/name", 200),
    ] {
        let response = stand.gateway.ask(&Call::chat(&key.token, model));
        let verdict = (response.status == status)
            .then_some(())
            .ok_or(response.text());
        cases.check(&format!("{model} as {}", key.id), verdict);
    }
    // However JSON writes it, it is the same name.
    for (key, model, status) in [
        (&stand.all_but, r"\u0062ad", 404),
        (&stand.all_but, r"org\/name", 200),
        (&stand.only, r"g\u006fod", 200),
        (&stand.only, r"\u0062ad", 404),
    ] {
        let call = Call::json(
            "/v1/chat/completions",
            &key.token,
            format!(r#"{{"model":"{model}"}}"#),
        );
        let response = stand.gateway.ask(&call);
        let verdict = (response.status == status)
            .then_some(())
            .ok_or(response.text());
        cases.check(&format!("{model} as {}", key.id), verdict);
    }
    cases.done();
}

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
fn a_list_of_models_shows_those_that_the_key_may_use() {
    let stand = Stand::new();
    let list = |key: &Key| {
        let response = stand.gateway.ask(&Call::get("/v1/models", &key.token));
        assert_eq!(response.status, 200);
        let list = response.json();
        assert_eq!(list["object"], "list");
        let data = list["data"].as_array().expect("a list");
        for model in data {
            assert_eq!(model["object"], "model");
            assert!(
                model["created"].is_i64() || model["created"].is_u64(),
                "{model}"
            );
            assert!(model["owned_by"].is_string(), "{model}");
        }
        let mut ids: Vec<String> = data
            .iter()
            .map(|model| model["id"].as_str().expect("an id").to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(list(&stand.all), ["bad", "good", "org/name"]);
    assert_eq!(list(&stand.only), ["good"]);
    assert_eq!(list(&stand.all_but), ["good", "org/name"]);
    stand.up.untouched().expect("the gateway answers by itself");
}

#[test]
fn a_single_model_is_shown_with_its_id_decoded_once() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (path, id) in [
        ("/v1/models/good", "good"),
        ("/v1/models/org/name", "org/name"),
        ("/v1/models/org%2Fname", "org/name"),
        ("/v1/models/org%2fname", "org/name"),
        ("/v1/models/%67ood", "good"),
    ] {
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        let right = response.status == 200
            && response.json()["id"] == id
            && response.json()["object"] == "model";
        cases.check(path, right.then_some(()).ok_or(response.text()));
    }
    for path in [
        "/v1/models/org%252Fname",
        "/v1/models/%2567ood",
        "/v1/models/good%00",
        "/v1/models/Good",
        "/v1/models/good%20",
        "/v1/models/good/",
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/v1/models/%",
        "/v1/models/../models/good",
    ] {
        let response = stand.gateway.ask(&Call::get(path, &stand.all.token));
        cases.check(path, is_error(&response, 404, "model_not_found"));
    }
    let empty = stand
        .gateway
        .ask(&Call::get("/v1/models/", &stand.all.token));
    cases.check(
        "no id",
        (empty.status == 404).then_some(()).ok_or(empty.text()),
    );
    cases.done();
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

/// A gateway that believes X-Forwarded-For from 127.0.0.1 and 10.0.0.0/8, and a key for 203.0.113.0/24 alone.
fn behind_proxies() -> (Stand, Key) {
    let there = Key::all("key_there").only_from(&["203.0.113.0/24"]);
    let stand = Stand::with(|setup| {
        setup
            .keys(&[&there])
            .set("client_address", "from = \"x-forwarded-for\"")
            .set(
                "client_address",
                "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]",
            )
    });
    (stand, there)
}

/// A call with these X-Forwarded-For lines.
fn forwarded(call: Call, lines: &[&str]) -> Call {
    lines
        .iter()
        .fold(call, |call, line| call.header("x-forwarded-for", line))
}

#[test]
fn a_trusted_proxys_list_is_walked_from_the_right_over_all_its_lines() {
    let (stand, there) = behind_proxies();
    let mut cases = Cases::new();
    for (lines, client) in [
        (&["203.0.113.5"][..], "203.0.113.5"),
        (&["203.0.113.5, 10.1.2.3"], "203.0.113.5"),
        (&["203.0.113.5", "10.1.2.3"], "203.0.113.5"),
        (&["203.0.113.5,10.1.2.3 ,127.0.0.1"], "203.0.113.5"),
        (&["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
        (&["203.0.113.5, 198.51.100.1"], "198.51.100.1"),
        (&["203.0.113.5", "198.51.100.1"], "198.51.100.1"),
        (&["unknown, 203.0.113.5"], "203.0.113.5"),
        (&["<script>, 203.0.113.5, 10.0.0.1"], "203.0.113.5"),
        (&["::ffff:203.0.113.5"], "203.0.113.5"),
        (&["203.0.113.5, ::ffff:10.0.0.1"], "203.0.113.5"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["2001:DB8:0::1"], "2001:db8::1"),
    ] {
        let shown = stand
            .gateway
            .ask(&forwarded(Call::get("/v1/key", &stand.all.token), lines));
        let right = shown.status == 200 && shown.json()["client_address"] == client;
        cases.check(
            &format!("{lines:?}"),
            right.then_some(()).ok_or(shown.text()),
        );
        let response = stand
            .gateway
            .ask(&forwarded(Call::chat(&there.token, "good"), lines));
        let verdict = if client.starts_with("203.") {
            (response.status == 200)
                .then_some(())
                .ok_or(response.text())
        } else {
            is_error(&response, 401, "ip_not_authorized")
        };
        cases.check(&format!("{lines:?} restricted"), verdict);
    }
    cases.done();
}

#[test]
fn a_client_that_a_trusted_proxy_does_not_name_is_unknown_and_restricted_keys_are_refused() {
    let (stand, there) = behind_proxies();
    let many = vec!["10.0.0.1"; 2000].join(", ");
    let mut cases = Cases::new();
    for lines in [
        &[][..],
        &[""],
        &[" , "],
        &["127.0.0.1"],
        &["10.0.0.1, 127.0.0.1"],
        &[many.as_str()],
        &["203.0.113.5, unknown"],
        &["203.0.113.5, _hidden"],
        &["203.0.113.5:80"],
        &["203.0.113.5, 203.0.113.x"],
        &["203.0.113.5, [::1"],
        &["203.0.113.5, [::1]"],
        &["203.0.113.5, [2001:db8::1]:443"],
        &["2001:db8::1, 203.0.113.5:443"],
        &["fe80::1%eth0"],
        &["203.0.113.05"],
        &["0xcb.0.113.5"],
        &["203.0.113"],
        &["203.0.113.5/32"],
        &["２０３.0.113.5"],
        &["203.0.113.5 203.0.113.6"],
        &["\"203.0.113.5\""],
        &["203.0.113.5", "nonsense"],
    ] {
        let name = format!("{:.60}", format!("{lines:?}"));
        let response = stand
            .gateway
            .ask(&forwarded(Call::chat(&there.token, "good"), lines));
        cases.check(&name, is_error(&response, 401, "ip_not_authorized"));
        let open = stand
            .gateway
            .ask(&forwarded(Call::chat(&stand.all.token, "good"), lines));
        cases.check(
            &format!("{name} for a key without networks"),
            (open.status == 200).then_some(()).ok_or(open.text()),
        );
    }
    cases.done();
}

#[test]
fn a_key_is_told_why_its_client_is_taken_to_be_there() {
    let (stand, _) = behind_proxies();
    let there = "203.0.113.5";
    for (lines, client, reason) in [
        (&[][..], None, "a trusted proxy sent no X-Forwarded-For"),
        (
            &[there],
            Some(there),
            "a trusted proxy named it in X-Forwarded-For",
        ),
        (
            &["203.0.113.5, unknown"],
            None,
            "X-Forwarded-For holds something else where the client's address should be",
        ),
        (
            &["10.0.0.1"],
            None,
            "X-Forwarded-For names trusted proxies alone",
        ),
    ] {
        let call = forwarded(Call::get("/v1/key", &stand.all.token), lines);
        let shown = stand.gateway.ask(&call).json();
        assert_eq!(shown["client_address"], json!(client), "{lines:?}");
        assert_eq!(shown["client_address_reason"], reason, "{lines:?}");
    }
    let outside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    for (stand, reason) in [
        (
            stand,
            "the connection came from it, and it is no trusted proxy",
        ),
        (Stand::new(), "the connection came from it"),
    ] {
        let call = Call::get("/v1/key", &stand.all.token).header("x-forwarded-for", there);
        let shown = Client::connect_from(outside, stand.gateway.address).ask(&call);
        assert_eq!(shown.json()["client_address"], "127.0.0.2");
        assert_eq!(shown.json()["client_address_reason"], reason);
    }
}

#[test]
fn an_untrusted_peer_is_the_client_itself_whatever_it_claims() {
    let (stand, there) = behind_proxies();
    let outside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let claims = [
        ("x-forwarded-for", "203.0.113.5"),
        ("forwarded", "for=203.0.113.5"),
        ("x-real-ip", "203.0.113.5"),
        ("cf-connecting-ip", "203.0.113.5"),
        ("true-client-ip", "203.0.113.5"),
        ("x-client-ip", "203.0.113.5"),
        ("x_forwarded_for", "203.0.113.5"),
    ];
    let mut cases = Cases::new();
    for (name, value) in claims {
        let ask = |call: Call| {
            Client::connect_from(outside, stand.gateway.address).ask(&call.header(name, value))
        };
        cases.check(
            name,
            is_error(
                &ask(Call::chat(&there.token, "good")),
                401,
                "ip_not_authorized",
            ),
        );
        let shown = ask(Call::get("/v1/key", &stand.all.token)).json();
        let right = shown["client_address"] == "127.0.0.2";
        cases.check(name, right.then_some(()).ok_or(shown.to_string()));
        // And from the trusted peer, only X-Forwarded-For speaks.
        if name != "x-forwarded-for" {
            let response = stand
                .gateway
                .ask(&Call::chat(&there.token, "good").header(name, value));
            cases.check(name, is_error(&response, 401, "ip_not_authorized"));
        }
    }
    cases.done();
    // Where the config believes nobody, a claim is nothing either.
    let near = Key::all("key_near").only_from(&["127.0.0.1"]);
    let plain = Stand::with(|setup| setup.keys(&[&near]));
    let response = plain
        .gateway
        .ask(&Call::chat(&near.token, "good").header("x-forwarded-for", "203.0.113.5"));
    assert_eq!(response.status, 200);
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

#[test]
fn browser_origins_that_are_configured_may_ask_and_others_are_told_nothing() {
    let stand = Stand::with(|setup| setup.line("cors_origins = [\"https://app.example.com\"]"));
    let mine = "https://app.example.com";
    for protocol in BOTH {
        let preflight = Call::new("OPTIONS", "/v1/chat/completions")
            .header("origin", mine)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization, content-type, x-custom",
            );
        let response = h2::ask(protocol, &stand.gateway, &preflight);
        assert_eq!(response.status, 204, "{}", response.text());
        assert_eq!(response.all("access-control-allow-origin"), [mine]);
        assert!(
            response
                .header("access-control-allow-methods")
                .is_some_and(|methods| methods.contains("POST"))
        );
        let headers = response
            .header("access-control-allow-headers")
            .map(str::to_ascii_lowercase);
        assert!(headers.is_some_and(
            |headers| headers.contains("authorization") && headers.contains("x-custom")
        ));
        assert_eq!(response.header("access-control-max-age"), Some("600"));
        // Every other answer to that origin, errors too.
        for (call, status) in [
            (Call::chat(&stand.all.token, "good"), 200),
            (Call::chat(&stand.only.token, "bad"), 404),
            (Call::get("/v1/models", &stand.all.token), 200),
            (anonymous(), 401),
            (Call::get("/nowhere", &stand.all.token), 404),
            (
                Call::chat(&stand.all.token, "good").without("content-type"),
                415,
            ),
        ] {
            let response = h2::ask(
                protocol,
                &stand.gateway,
                &call.clone().header("origin", mine),
            );
            assert_eq!(response.status, status, "{}", response.text());
            assert_eq!(
                response.all("access-control-allow-origin"),
                [mine],
                "{} {status}",
                call.target
            );
            assert!(
                response
                    .header("access-control-expose-headers")
                    .is_some_and(|names| names.contains("x-request-id"))
            );
            assert!(
                response
                    .all("vary")
                    .iter()
                    .any(|names| names.eq_ignore_ascii_case("origin")),
                "{:?}",
                response.headers
            );
            for other in [
                "https://evil.example",
                "http://app.example.com",
                "https://app.example.com:444",
                "https://app.example.com.evil.example",
                "null",
            ] {
                let response = h2::ask(
                    protocol,
                    &stand.gateway,
                    &call.clone().header("origin", other),
                );
                assert_eq!(response.status, status);
                assert!(
                    response.header("access-control-allow-origin").is_none(),
                    "{other}"
                );
            }
        }
        let unserved = Call {
            target: "/v1/files".to_owned(),
            ..preflight.clone()
        };
        assert_error(
            &h2::ask(protocol, &stand.gateway, &unserved),
            401,
            "missing_api_key",
        );
        let foreign = preflight
            .without("origin")
            .header("origin", "https://evil.example");
        assert_error(
            &h2::ask(protocol, &stand.gateway, &foreign),
            401,
            "missing_api_key",
        );
    }
    assert_eq!(stand.up.requests().len(), 2 * 6);
}
