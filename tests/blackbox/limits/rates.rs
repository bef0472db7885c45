//! How fast a key may be used: requests and tokens a minute.

use serde_json::{Value, json};

use crate::support::client::{Call, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::{Recorder, Reserved};
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually};

const USED: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":60,"completion_tokens":40,"total_tokens":100}}"#;

/// An upstream whose answers say that they used 100 tokens.
fn counting() -> Recorder {
    Recorder::start(|exchange| exchange.reply_json(USED))
}

fn limited(limits: Value) -> Key {
    Key::all("key_limited").with("limits", limits)
}

fn started(up: &Recorder, key: &Key) -> Gateway {
    Setup::before(up)
        .keys(&[key, &Key::all("key_free")])
        .start()
}

#[track_caller]
fn assert_limited(response: &Response, kind: &str) {
    assert_eq!(response.status, 429, "{}", response.text());
    let error = &response.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"], &error["param"]),
        (&json!("rate_limit_exceeded"), &json!(kind), &Value::Null)
    );
    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
    assert_eq!(seconds, millis.div_ceil(1000));
    assert!((1..=61).contains(&seconds), "{seconds}");
}

#[test]
fn a_key_starts_no_more_requests_a_minute_than_its_limit_and_another_key_is_not_slowed() {
    let up = counting();
    let key = limited(json!({"requests_per_minute": 3}));
    let free = Key::all("key_free2");
    let gateway = Setup::before(&up).keys(&[&key, &free]).start();
    let mut client = gateway.client();
    for left in ["2", "1", "0"] {
        let answer = client.ask(&Call::chat(&key.token, "good"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        assert!(
            answer
                .header("x-ratelimit-reset-requests")
                .unwrap()
                .ends_with('s')
        );
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
    }
    let refused = client.ask(&Call::chat(&key.token, "good"));
    assert_limited(&refused, "requests");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    // What the gateway answers itself is not limited, and tells what is left.
    let own = client.ask(&Call::get("/v1/models", &key.token));
    assert_eq!(
        (own.status, own.header("x-ratelimit-remaining-requests")),
        (200, Some("0"))
    );
    let other = client.ask(&Call::chat(&free.token, "good"));
    assert_eq!(
        (other.status, other.header("x-ratelimit-limit-requests")),
        (200, None)
    );
    assert_eq!(up.requests().len(), 4);
}

#[test]
fn a_key_that_has_used_up_its_requests_is_refused_before_its_body_is_read() {
    let up = counting();
    let key = limited(json!({"requests_per_minute": 1}));
    let gateway = started(&up, &key);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    let mut client = gateway.client();
    let call = Call::json("/v1/chat/completions", &key.token, vec![b' '; 1 << 20]);
    client.send(&call.head());
    assert_limited(&client.answer(), "requests");
}

#[test]
fn a_refused_request_costs_nothing() {
    let up = counting();
    let key = Key::only("key_limited", &["good"]).with(
        "limits",
        json!({"requests_per_minute": 1, "tokens_per_minute": 2000}),
    );
    let gateway = started(&up, &key);
    for (call, status) in [
        (Call::chat(&key.token, "bad"), 404),
        (Call::json("/v1/chat/completions", &key.token, "{"), 400),
        (Call::json("/v1/nothing", &key.token, "{}"), 404),
        (
            Call::json(
                "/v1/chat/completions",
                &key.token,
                r#"{"model":"good","max_tokens":2001}"#,
            ),
            400,
        ),
    ] {
        let refused = gateway.ask(&call);
        assert_eq!(refused.status, status, "{}", refused.text());
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("1"));
        assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("2000"));
    }
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}

#[test]
fn a_request_whose_upstream_cannot_be_reached_costs_nothing() {
    let key = limited(json!({"requests_per_minute": 1, "tokens_per_minute": 2000}));
    let nobody = Reserved::new();
    let gateway = Setup::new()
        .upstream("up", &[&nobody.url()], &["good"])
        .keys(&[&key])
        .start();
    for _ in 0..3 {
        let refused = gateway.ask(&Call::chat(&key.token, "good"));
        assert!(matches!(refused.status, 502 | 503), "{}", refused.status);
    }
    let _up = nobody.open(|exchange| exchange.reply_json(USED));
    eventually("the upstream is up", DEADLINE, || {
        (gateway.ask(&Call::chat(&key.token, "good")).status == 200).then_some(())
    });
}

#[test]
fn tokens_are_reserved_and_then_settled_by_what_the_upstream_says() {
    let up = Recorder::held();
    let key = limited(json!({"tokens_per_minute": 1000}));
    let gateway = started(&up, &key);
    // 40 bytes are 10 tokens, and 3 answers of 100.
    let body = r#"{"model":"good","max_tokens":100,"n":3} "#;
    assert_eq!(body.len(), 40, "{body}");
    let mut client = gateway.client();
    client.send(&Call::json("/v1/chat/completions", &key.token, body).bytes());
    let running = up.next();
    let left = || {
        let own = gateway.ask(&Call::get("/v1/key", &key.token));
        own.header("x-ratelimit-remaining-tokens")
            .map(str::to_owned)
    };
    assert_eq!(left().as_deref(), Some("690"));
    // What does not fit now is told to wait; what never fits is told so.
    let wanted = |tokens: u64| {
        let body = format!(r#"{{"model":"good","max_completion_tokens":{tokens}}}"#);
        gateway.ask(&Call::json("/v1/chat/completions", &key.token, body))
    };
    assert_limited(&wanted(700), "tokens");
    assert_error(&wanted(1000), 400, "request_too_large_for_limit");
    running.reply_json(USED);
    assert_eq!(client.answer().status, 200);
    eventually("what was not used is given back", DEADLINE, || {
        (left().as_deref() == Some("900")).then_some(())
    });
}

#[test]
fn what_is_used_beyond_the_reservation_is_owed() {
    let up = counting();
    let key = limited(json!({"tokens_per_minute": 150}));
    let gateway = started(&up, &key);
    let body = r#"{"model":"good","max_tokens":1}"#;
    let call = Call::json("/v1/chat/completions", &key.token, body);
    assert_eq!(gateway.ask(&call).status, 200);
    eventually("the first is settled", DEADLINE, || {
        let own = gateway.ask(&Call::get("/v1/key", &key.token));
        (own.header("x-ratelimit-remaining-tokens") == Some("50")).then_some(())
    });
    assert_eq!(gateway.ask(&call).status, 200);
    eventually("the second is settled", DEADLINE, || {
        let own = gateway.ask(&Call::get("/v1/key", &key.token));
        (own.header("x-ratelimit-remaining-tokens") == Some("0")).then_some(())
    });
    assert_limited(&gateway.ask(&call), "tokens");
}

#[test]
fn an_answer_without_usage_keeps_its_reservation_and_an_error_of_the_upstream_costs_no_tokens() {
    let up = Recorder::held();
    let key = limited(json!({"tokens_per_minute": 5000}));
    let gateway = started(&up, &key);
    let mut client = gateway.client();
    let body = r#"{"model":"good","max_tokens":1000}"#;
    let call = Call::json("/v1/chat/completions", &key.token, body);
    client.send(&call.bytes());
    up.next().reply_json("{}");
    assert_eq!(client.answer().status, 200);
    client.send(&call.bytes());
    up.next().reply(
        "400 Bad Request",
        "content-type: application/json\r\n",
        "{}",
    );
    assert_eq!(client.answer().status, 400);
    eventually("both are settled", DEADLINE, || {
        let own = gateway.ask(&Call::get("/v1/key", &key.token));
        (own.header("x-ratelimit-remaining-tokens") == Some("3992")).then_some(())
    });
}

#[test]
fn a_client_that_leaves_before_the_answer_is_charged_what_was_expected() {
    let up = Recorder::held();
    let key = limited(json!({"tokens_per_minute": 5000}));
    let gateway = started(&up, &key);
    let mut client = gateway.client();
    let body = r#"{"model":"good","max_tokens":1000}"#;
    client.send(&Call::json("/v1/chat/completions", &key.token, body).bytes());
    let exchange = up.next();
    drop(client);
    eventually("it has ended", DEADLINE, || {
        let is_end = |line: &String| line.contains("client_left");
        gateway.log().iter().any(is_end).then_some(())
    });
    drop(exchange);
    let own = gateway.ask(&Call::get("/v1/key", &key.token));
    assert_eq!(own.header("x-ratelimit-remaining-tokens"), Some("3992"));
}

/// However much it asks for, no other request's use is lost.
#[test]
fn a_request_that_asks_for_more_than_a_number_holds_disturbs_no_other() {
    let up = Recorder::held();
    let key = limited(json!({"requests_per_minute": 100}));
    let gateway = started(&up, &key);
    let mut clients = [gateway.client(), gateway.client()];
    let mut exchanges = Vec::new();
    for (client, most) in clients.iter_mut().zip(["1e30", "5000"]) {
        let body = format!(r#"{{"model":"good","max_tokens":{most}}}"#);
        client.send(&Call::json("/v1/chat/completions", &key.token, body).bytes());
        exchanges.push(up.next());
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    for (client, exchange) in clients.iter_mut().zip(exchanges) {
        exchange.reply_json(USED);
        assert_eq!(client.answer().status, 200);
    }
    crate::support::usage::records(&gateway, 2);
}

#[test]
fn the_upstreams_own_limits_are_not_shown() {
    let up = Recorder::start(|exchange| {
        let fields = "anthropic-ratelimit-tokens-limit: 1\r\nx-ratelimit-limit-requests: 1\r\n";
        exchange.reply("200 OK", fields, "{}");
    });
    let key = Key::all("key_unlimited");
    let gateway = started(&up, &key);
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let body = r#"{"model":"good","max_tokens":1}"#;
        let answer = gateway.ask(&Call::json(path, &key.token, body));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("anthropic-ratelimit-tokens-limit"), None);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
    }
}

/// A client that has read an answer may send its next request at once, on another connection.
#[test]
fn one_request_after_the_other_never_finds_the_place_of_the_one_before_taken() {
    let up = counting();
    let key = limited(json!({"concurrent_requests": 1})).with(
        "budgets",
        json!([{"unit": "tokens", "amount": 1_000_000, "per": "day"}]),
    );
    let gateway = started(&up, &key);
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for number in 0..1000 {
        let client = &mut clients[number % 4];
        client.send(&Call::chat(&key.token, "good").bytes());
        assert_eq!(client.answer().status, 200, "{number}");
    }
}

#[test]
fn defaults_hold_for_keys_that_set_nothing_else() {
    let up = counting();
    let plain = Key::all("key_plain");
    let own = limited(json!({"requests_per_minute": 2}));
    let unlimited =
        Key::all("key_unlimited").with("limits", json!({"requests_per_minute": "unlimited"}));
    let gateway = Setup::before(&up)
        .set("keys.default_limits", "requests_per_minute = 1")
        .keys(&[&plain, &own, &unlimited])
        .start();
    for (key, allowed) in [(&plain, 1), (&own, 2), (&unlimited, 4)] {
        for at in 0..4 {
            let answer = gateway.ask(&Call::chat(&key.token, "good"));
            assert_eq!(answer.status == 200, at < allowed, "{} {at}", key.id);
        }
    }
}

#[test]
fn counters_outlive_a_reload_and_an_edit_and_a_changed_limit_counts_at_once() {
    let up = counting();
    let key = limited(json!({"requests_per_minute": 1}));
    let gateway = started(&up, &key);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    gateway.write_keys(&[&key.clone().with("name", "renamed")]);
    assert_eq!(gateway.reload().status, 200);
    assert_limited(&gateway.ask(&Call::chat(&key.token, "good")), "requests");
    let path = format!("/api/keys/{}", key.id);
    let changed = gateway.admin_json(
        "PATCH",
        &path,
        Some(&json!({"limits": {"requests_per_minute": 2}})),
    );
    assert_eq!(changed["limits"], json!({"requests_per_minute": 2}));
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
    assert_limited(&gateway.ask(&Call::chat(&key.token, "good")), "requests");
    let cleared = gateway.admin_json("PATCH", &path, Some(&json!({"limits": null})));
    assert_eq!(cleared["limits"], Value::Null);
    assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 200);
}

#[test]
fn on_anthropics_paths_limits_have_anthropics_form() {
    let up = counting();
    let key = limited(json!({"requests_per_minute": 1, "tokens_per_minute": 100_000}));
    let gateway = started(&up, &key);
    let body = r#"{"model":"good","max_tokens":5,"messages":[]}"#;
    let call = Call::json("/v1/messages", &key.token, body);
    let answer = gateway.ask(&call);
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("anthropic-ratelimit-requests-limit", "1"),
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-tokens-limit", "100000"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(
        answer
            .header("anthropic-ratelimit-tokens-reset")
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
    let refused = gateway.ask(&call);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!(refused.header("retry-after").is_some());
}
