//! Each ceiling of an account holds for new requests and for running streams, however the key came to be.

use serde_json::{Value, json};

use crate::support::client::{Call, End, Response};
use crate::support::gateway::Gateway;
use crate::support::h2::{BOTH, Protocol};
use crate::support::stand::Stand;
use crate::support::streams::begun;
use crate::support::token::{Key, seconds_from_now};
use crate::support::{DEADLINE, WITHIN_A_SECOND, assert_error};

/// A ceiling that refuses what the key alone would allow.
struct Ceiling {
    name: &'static str,
    rules: fn() -> Value,
    status: u16,
    code: &'static str,
}

const CEILINGS: [Ceiling; 5] = [
    Ceiling {
        name: "disabled",
        rules: || json!({"disabled": true}),
        status: 401,
        code: "invalid_api_key",
    },
    Ceiling {
        name: "another model",
        rules: || json!({"model_access": {"mode": "inclusive", "models": ["bad"]}}),
        status: 404,
        code: "model_not_found",
    },
    Ceiling {
        name: "the model excluded",
        rules: || json!({"model_access": {"mode": "exclusive", "models": ["good"]}}),
        status: 404,
        code: "model_not_found",
    },
    Ceiling {
        name: "another network",
        rules: || json!({"allow_from": ["192.0.2.0/24"]}),
        status: 401,
        code: "ip_not_authorized",
    },
    Ceiling {
        name: "a life that is over",
        rules: || json!({"max_key_days": 1}),
        status: 401,
        code: "expired_api_key",
    },
];

const DAY: i64 = 86_400;

fn of_acme() -> Key {
    let two_days_ago = seconds_from_now(-2 * DAY);
    Key::all("key_acme")
        .with("account", "acme")
        .with("created_at", two_days_ago)
}

fn ask(gateway: &Gateway, key: &Key) -> Response {
    gateway.ask(&Call::chat(&key.token, "good"))
}

fn create(gateway: &Gateway, rules: Value) -> Value {
    let mut body = rules;
    body["id"] = "acme".into();
    gateway.admin_json("POST", "/api/accounts", Some(&body))
}

#[test]
fn each_ceiling_refuses_new_requests_of_its_keys_alone() {
    for Ceiling {
        name,
        rules,
        status,
        code,
    } in CEILINGS
    {
        let (key, other) = (of_acme(), Key::all("key_other").with("account", "other"));
        let stand = Stand::with(|setup| setup.keys(&[&key, &other]));
        let gateway = &stand.gateway;
        assert_eq!(ask(gateway, &key).status, 200, "{name}");
        create(gateway, rules());
        assert_error(&ask(gateway, &key), status, code);
        assert_eq!(ask(gateway, &other).status, 200, "{name}");
        assert_eq!(ask(gateway, &stand.all).status, 200, "{name}");
    }
}

#[test]
fn narrowing_an_account_ends_the_running_streams_of_all_of_its_keys() {
    for Ceiling {
        name, rules, code, ..
    } in CEILINGS
    {
        for protocol in BOTH {
            let (key, other) = (of_acme(), Key::all("key_two").with("account", "acme"));
            let other = other.with("created_at", seconds_from_now(-3 * DAY));
            let stand = Stand::held_with(|setup| setup.keys(&[&key, &other]));
            create(&stand.gateway, json!({}));
            let mut running = [&key, &other].map(|key| begun(&stand, protocol, key));
            stand
                .gateway
                .admin_json("PATCH", "/api/accounts/acme", Some(&rules()));
            for (stream, response, exchange) in &mut running {
                stream.finish(response, DEADLINE);
                assert_eq!(response.end, End::Cut, "{name}");
                assert!(
                    response.text().contains(code),
                    "{name}: {}",
                    response.text()
                );
                assert!(exchange.gone_within(WITHIN_A_SECOND), "{name}");
            }
        }
    }
}

#[test]
fn a_stream_of_another_key_goes_on() {
    let (key, other) = (of_acme(), Key::all("key_free"));
    let stand = Stand::held_with(|setup| setup.keys(&[&key, &other]));
    create(&stand.gateway, json!({}));
    let (mut stream, mut response, mut exchange) = begun(&stand, Protocol::Http1, &other);
    let disable = json!({"disabled": true});
    stand
        .gateway
        .admin_json("PATCH", "/api/accounts/acme", Some(&disable));
    exchange.chunk("data: two\n\n");
    stream.until(&mut response, "data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole);
}

#[test]
fn a_key_that_comes_by_the_key_file_passes_no_ceiling() {
    let days_ago = |days: i64| seconds_from_now(-days * DAY);
    let imported = Key::all("key_imported")
        .with("account", "acme")
        .with("created_at", days_ago(1));
    let undated = Key::all("key_undated").with("account", "acme");
    let to_come = Key::all("key_to_come")
        .with("account", "acme")
        .with("created_at", days_ago(-400));
    let stand = Stand::new();
    let gateway = &stand.gateway;
    create(
        gateway,
        json!({"model_access": {"mode": "exclusive", "models": ["bad"]}, "max_key_days": 90}),
    );
    gateway.write_keys(&[
        &stand.all,
        &stand.only,
        &stand.all_but,
        &imported,
        &undated,
        &to_come,
    ]);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(ask(gateway, &imported).status, 200);
    let bad = gateway.ask(&Call::chat(&imported.token, "bad"));
    assert_error(&bad, 404, "model_not_found");
    assert_error(&ask(gateway, &undated), 401, "expired_api_key");
    assert_error(&ask(gateway, &to_come), 401, "expired_api_key");
    // Nor does the edit of a key: its own rule is as wide as can be already.
    let wide = json!({"model_access": {"mode": "all"}, "allow_from": []});
    gateway.admin_json("PATCH", "/api/keys/key_imported", Some(&wide));
    let bad = gateway.ask(&Call::chat(&imported.token, "bad"));
    assert_error(&bad, 404, "model_not_found");
}

#[test]
fn what_a_key_is_shown_is_what_is_left_after_both() {
    let (created, ends) = (seconds_from_now(-DAY), seconds_from_now(89 * DAY));
    let key = Key::all_but("key_acme", &["bad"])
        .with("account", "acme")
        .with("created_at", created);
    let stand = Stand::with(|setup| setup.keys(&[&key]));
    let gateway = &stand.gateway;
    let models = |key: &Key| -> Vec<String> {
        let listed = gateway.ask(&Call::get("/v1/models", &key.token)).json();
        let listed = listed["data"].as_array().unwrap().clone();
        listed
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = models(&key);
    assert!(before.iter().any(|model| model == "good"));
    create(
        gateway,
        json!({
            "model_access": {"mode": "exclusive", "models": ["good"]},
            "allow_from": ["127.0.0.0/8"],
            "max_key_days": 90,
        }),
    );
    let left: Vec<String> = before.into_iter().filter(|model| model != "good").collect();
    assert_eq!(models(&key), left);
    let own = gateway.ask(&Call::get("/v1/key", &key.token)).json();
    assert_eq!(own["models"], json!(left));
    assert_eq!(own["allow_from"], json!(["127.0.0.0/8"]));
    assert_eq!(own["expires_at"], json!(ends));
    let question = json!({"key": "key_acme", "model": "good", "from": "127.0.0.1"});
    let explained = gateway.admin_json("POST", "/api/explain", Some(&question));
    assert_eq!(explained["denial"], "model_not_found");
    let reason = explained["reason"].as_str().unwrap();
    assert!(reason.contains("account acme"), "{reason}");
}

#[test]
fn accounts_outlive_a_restart() {
    let key = of_acme();
    let mut stand = Stand::with(|setup| setup.keys(&[&key]));
    let made = create(&stand.gateway, json!({"name": "Acme", "disabled": true}));
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    stand.gateway.start_again();
    let kept = stand.gateway.admin_json("GET", "/api/accounts/acme", None);
    assert_eq!(kept, made);
    assert_error(&ask(&stand.gateway, &key), 401, "invalid_api_key");
    stand.gateway.admin_json(
        "PATCH",
        "/api/accounts/acme",
        Some(&json!({"disabled": false})),
    );
    assert_eq!(ask(&stand.gateway, &key).status, 200);
}
