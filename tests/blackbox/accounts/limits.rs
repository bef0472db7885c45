//! Limits and budgets of an account are shared by all of its keys.

use serde_json::{Value, json};

use crate::support::client::{Call, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::usage::records;
use crate::support::{DEADLINE, eventually};

const USED: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":60,"completion_tokens":40,"total_tokens":100}}"#;

fn of_acme(id: &str) -> Key {
    Key::all(id).with("account", "acme")
}

fn create(gateway: &Gateway, rules: Value) {
    let mut body = rules;
    body["id"] = "acme".into();
    gateway.admin_json("POST", "/api/accounts", Some(&body));
}

fn ask(gateway: &Gateway, key: &Key) -> Response {
    let body = r#"{"model":"good","max_tokens":1}"#;
    gateway.ask(&Call::json("/v1/chat/completions", &key.token, body))
}

fn own(gateway: &Gateway, key: &Key) -> Value {
    gateway.ask(&Call::get("/v1/key", &key.token)).json()
}

#[track_caller]
fn assert_limited(response: &Response, code: &str) {
    assert_eq!(response.status, 429, "{}", response.text());
    assert_eq!(response.json()["error"]["code"], code);
}

#[test]
fn two_keys_share_the_requests_of_their_account() {
    let up = Recorder::start(|exchange| exchange.reply_json(USED));
    let [one, two] = ["key_one", "key_two"].map(of_acme);
    let free = Key::all("key_free");
    let gateway = Setup::before(&up).keys(&[&one, &two, &free]).start();
    create(&gateway, json!({"limits": {"requests_per_minute": 3}}));
    let answers = [&one, &two, &one].map(|key| ask(&gateway, key).status);
    assert_eq!(answers, [200; 3]);
    for key in [&one, &two] {
        assert_limited(&ask(&gateway, key), "rate_limit_exceeded");
        let limits = &own(&gateway, key)["limits"];
        assert_eq!(limits[0]["remaining"], 0, "{limits}");
    }
    assert_eq!(ask(&gateway, &free).status, 200);
}

#[test]
fn the_tighter_of_both_limits_holds_and_is_shown() {
    let up = Recorder::start(|exchange| exchange.reply_json(USED));
    let tight = of_acme("key_tight").with("limits", json!({"requests_per_minute": 1}));
    let wide = of_acme("key_wide").with("limits", json!({"requests_per_minute": 100}));
    let gateway = Setup::before(&up).keys(&[&tight, &wide]).start();
    create(&gateway, json!({"limits": {"requests_per_minute": 2}}));
    let first = ask(&gateway, &tight);
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_limited(&ask(&gateway, &tight), "rate_limit_exceeded");
    // What the key itself refused has taken nothing from the account.
    let second = ask(&gateway, &wide);
    assert_eq!(second.status, 200);
    assert_eq!(second.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(second.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_limited(&ask(&gateway, &wide), "rate_limit_exceeded");
    // And what the account refused has taken nothing from the key.
    let wider = json!({"limits": {"requests_per_minute": 1000}});
    gateway.admin_json("PATCH", "/api/accounts/acme", Some(&wider));
    let limits = &own(&gateway, &wide)["limits"];
    assert_eq!(limits[0]["limit"], 100, "{limits}");
    assert_eq!(limits[0]["remaining"], 99, "{limits}");
}

#[test]
fn two_keys_share_the_places_of_their_account() {
    let up = Recorder::held();
    let [one, two] = ["key_one", "key_two"].map(of_acme);
    let gateway = Setup::before(&up).keys(&[&one, &two]).start();
    create(&gateway, json!({"limits": {"concurrent_requests": 1}}));
    let mut client = gateway.client();
    client.send(&Call::chat(&one.token, "good").bytes());
    let running = up.next();
    assert_limited(&ask(&gateway, &two), "rate_limit_exceeded");
    running.reply_json("{}");
    assert_eq!(client.answer().status, 200);
    eventually("the place is free", DEADLINE, || {
        (own(&gateway, &two)["limits"][0]["remaining"] == 1).then_some(())
    });
}

#[test]
fn two_keys_share_the_budget_of_their_account_over_a_restart() {
    let up = Recorder::start(|exchange| exchange.reply_json(USED));
    let [one, two] = ["key_one", "key_two"].map(of_acme);
    let mut gateway = Setup::before(&up).keys(&[&one, &two]).start();
    let budget = json!({"unit": "tokens", "amount": 150, "per": "total"});
    create(&gateway, json!({"budgets": [budget]}));
    let used = |gateway: &Gateway, key: &Key| own(gateway, key)["budgets"][0].clone();
    for (key, wanted) in [(&one, 100), (&two, 200)] {
        assert_eq!(ask(&gateway, key).status, 200);
        eventually("the budget is settled", DEADLINE, || {
            (used(&gateway, key)["used"] == wanted).then_some(())
        });
    }
    assert_limited(&ask(&gateway, &one), "insufficient_quota");
    records(&gateway, 2);
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
    let shown = used(&gateway, &two);
    assert_eq!(
        (&shown["used"], &shown["shared"]),
        (&json!(200), &json!(true))
    );
    assert_limited(&ask(&gateway, &two), "insufficient_quota");
}
