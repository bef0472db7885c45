//! Status, models and explain say how the gateway stands and why it would decide as it does.

use serde_json::{Value, json};

use crate::admin::calls::{all, create, is_fault};
use crate::support::Cases;
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::{self, Key};

#[test]
fn the_status_tells_how_the_gateway_stands() {
    let stand = Stand::held();
    let status = stand.gateway.admin_json("GET", "/api/status", None);
    assert!(status["version"].is_string());
    assert_eq!(status["keys"], 3);
    assert_eq!(status["in_flight"], 0);
    assert_eq!(status["draining"], false);
    let generation = status["generation"].as_u64().expect("a number");
    let upstream = &status["upstreams"][0];
    assert_eq!(upstream["name"], "up");
    assert_eq!(
        upstream["replicas"],
        json!([{"url": stand.up.url(), "up": true, "tried": false}])
    );
    let mut client = stand.gateway.client();
    client.send(&Call::chat(&stand.all.token, "good").bytes());
    let exchange = stand.up.next();
    assert_eq!(
        stand.gateway.admin_json("GET", "/api/status", None)["in_flight"],
        1
    );
    exchange.complete();
    assert_eq!(client.answer().status, 200);
    create(&stand.gateway, &all("x"));
    let later = stand.gateway.admin_json("GET", "/api/status", None);
    let replica = &later["upstreams"][0]["replicas"][0];
    assert_eq!(*replica, json!({"url": stand.up.url(), "up": true}));
    assert_eq!(later["keys"], 4);
    assert!(later["generation"].as_u64().expect("a number") > generation);
}

#[test]
fn the_models_are_listed_with_who_serves_and_who_may_use_them() {
    let stand = Stand::new();
    let models = stand.gateway.admin_json("GET", "/api/models", None);
    let find = |id: &str| {
        let models = models["models"].as_array().expect("models");
        models
            .iter()
            .find(|model| model["id"] == id)
            .cloned()
            .expect("the model")
    };
    assert_eq!(
        find("good"),
        json!({"id": "good", "upstream": "up", "replicas": 1, "healthy": 1, "keys": 3})
    );
    assert_eq!(find("bad")["keys"], 1);
    assert_eq!(find("org/name")["keys"], 2);
}

#[test]
fn explain_decides_as_the_gateway_does_and_says_why() {
    let expired = Key::all("key_expired").expires("2020-01-01T00:00:00Z");
    let ending = Key::all("key_ending").expires("2050-01-01T00:00:00Z");
    let disabled = Key::all("key_disabled").disabled();
    let far = Key::all("key_far").only_from(&["192.0.2.0/24"]);
    let stand = Stand::with(|setup| setup.keys(&[&expired, &ending, &disabled, &far]));
    let explain = |question: Value| {
        stand
            .gateway
            .admin_json("POST", "/api/explain", Some(&question))
    };
    let mut cases = Cases::new();
    let mut check = |question: Value, denial: Value| {
        let answer = explain(question.clone());
        let right = answer["allowed"] == denial.is_null()
            && answer["denial"] == denial
            && answer["reason"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
        cases.check(
            &question.to_string().replace(&stand.all.token, "…"),
            right.then_some(()).ok_or(answer.to_string()),
        );
    };
    let here = "127.0.0.1";
    check(
        json!({"key": "key_all", "model": "good", "from": here}),
        json!(null),
    );
    check(
        json!({"token": stand.all.token, "model": "good", "from": here}),
        json!(null),
    );
    check(
        json!({"token": token::fresh(), "model": "good", "from": here}),
        json!("invalid_api_key"),
    );
    check(
        json!({"token": "kg_tooshort", "model": "good", "from": here}),
        json!("invalid_api_key"),
    );
    check(
        json!({"key": "key_disabled", "model": "good", "from": here}),
        json!("invalid_api_key"),
    );
    check(
        json!({"key": "key_expired", "model": "good", "from": here}),
        json!("expired_api_key"),
    );
    check(
        json!({"key": "key_expired", "model": "good", "from": here, "at": "2019-12-31T23:59:59Z"}),
        json!(null),
    );
    check(
        json!({"key": "key_expired", "model": "good", "from": here, "at": "2020-01-01T00:00:00Z"}),
        json!("expired_api_key"),
    );
    check(
        json!({"key": "key_ending", "model": "good", "from": here, "at": "2049-12-31T23:59:59Z"}),
        json!(null),
    );
    check(
        json!({"key": "key_ending", "model": "good", "from": here, "at": "2050-01-01T00:00:00Z"}),
        json!("expired_api_key"),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": here}),
        json!("ip_not_authorized"),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": "192.0.2.255"}),
        json!(null),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": "::ffff:192.0.2.1"}),
        json!(null),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": "::192.0.2.1"}),
        json!("ip_not_authorized"),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": "64:ff9b::192.0.2.1"}),
        json!("ip_not_authorized"),
    );
    check(
        json!({"key": "key_far", "model": "good", "from": "2002:c000:201::"}),
        json!("ip_not_authorized"),
    );
    check(
        json!({"key": "key_all", "model": "good", "from": "2001:db8::1"}),
        json!(null),
    );
    check(
        json!({"key": "key_only", "model": "bad", "from": here}),
        json!("model_not_found"),
    );
    check(
        json!({"key": "key_all", "model": "no-such-model", "from": here}),
        json!("model_not_found"),
    );
    check(
        json!({"key": "key_all_but", "model": "bad", "from": here}),
        json!("model_not_found"),
    );
    for (question, status) in [
        (
            json!({"key": "no_such_key", "model": "good", "from": here}),
            404,
        ),
        (json!({"model": "good", "from": here}), 422),
        (
            json!({"key": "key_all", "token": stand.all.token, "model": "good", "from": here}),
            422,
        ),
        (json!({"key": "key_all", "from": here}), 422),
        (json!({"key": "key_all", "model": "good"}), 422),
        (
            json!({"key": "key_all", "model": "good", "from": "nowhere"}),
            422,
        ),
        (
            json!({"key": "key_all", "model": "good", "from": here, "at": "soon"}),
            422,
        ),
        (
            json!({"key": "key_all", "model": "good", "from": here, "extra": 1}),
            422,
        ),
    ] {
        let response = stand.gateway.admin("POST", "/api/explain", Some(&question));
        let name = question.to_string().replace(&stand.all.token, "…");
        // A key that does not exist may also be told as a denial.
        if status == 404 && response.status == 200 {
            let denied = response.json()["denial"] == "invalid_api_key";
            cases.check(&name, denied.then_some(()).ok_or(response.text()));
        } else {
            cases.check(&name, is_fault(&response, status, None));
        }
    }
    // Asking is no use of the key.
    assert_eq!(
        stand.gateway.admin_json("GET", "/api/keys/key_all", None)["requests"],
        0
    );
    cases.done();
}
