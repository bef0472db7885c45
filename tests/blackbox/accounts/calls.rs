//! The calls of the admin API on accounts, and the commands that make them.

use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;
use crate::support::token::{Key, seconds_from_now};

const DAY: i64 = 86_400;

fn create(gateway: &Gateway, body: &Value) -> Value {
    gateway.admin_json("POST", "/api/accounts", Some(body))
}

fn new_key(account: &str, expires_at: Option<String>) -> Value {
    json!({"name": "k", "model_access": {"mode": "all"}, "account": account, "expires_at": expires_at})
}

#[test]
fn an_account_is_made_shown_listed_changed_and_deleted() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let acme = create(
        gateway,
        &json!({"id": "acme", "name": "Acme", "max_keys": 5}),
    );
    assert_eq!(acme["keys"], 0);
    assert_eq!(acme["model_access"], json!({"mode": "all"}));
    let made = create(gateway, &json!({}));
    assert!(made["id"].as_str().unwrap().starts_with("account_"));
    let again = gateway.admin("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    assert_eq!(again.status, 409, "{}", again.text());
    let page = gateway.admin_json("GET", "/api/accounts?limit=1", None);
    assert_eq!(page["accounts"].as_array().unwrap().len(), 1);
    let next = page["next"].as_str().unwrap();
    let last = gateway.admin_json("GET", &format!("/api/accounts?limit=1&after={next}"), None);
    assert_eq!(last["accounts"], json!([acme]));
    assert_eq!(last["next"], Value::Null);
    let changed = gateway.admin_json(
        "PATCH",
        "/api/accounts/acme",
        Some(&json!({"max_keys": null})),
    );
    assert_eq!(changed["max_keys"], Value::Null);
    assert_eq!(changed["name"], "Acme");
    assert_ne!(changed["revision"], acme["revision"]);
    let rows = gateway.admin_json("GET", "/api/audit?action=change_account", None);
    assert_eq!(rows["rows"][0]["target"], "acme");
    assert_eq!(rows["rows"][0]["before"], json!({"max_keys": 5}));
    assert_eq!(rows["rows"][0]["after"], json!({"max_keys": null}));
    let deleted = gateway.admin("DELETE", "/api/accounts/acme", None);
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(gateway.admin("GET", "/api/accounts/acme", None).status, 404);
    let rows = gateway.admin_json("GET", "/api/audit?action=delete_account", None);
    assert_eq!(rows["rows"].as_array().unwrap().len(), 1);
}

#[test]
fn an_account_goes_only_with_as_many_keys_as_are_named() {
    let [one, two] = ["key_one", "key_two"].map(|id| Key::all(id).with("account", "acme"));
    let stand = Stand::with(|setup| setup.keys(&[&one, &two]));
    let gateway = &stand.gateway;
    create(gateway, &json!({"id": "acme"}));
    for path in ["/api/accounts/acme", "/api/accounts/acme?keys=1"] {
        let refused = gateway.admin("DELETE", path, None);
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert_eq!(refused.json()["keys"], 2);
    }
    assert_eq!(gateway.ask(&Call::chat(&one.token, "good")).status, 200);
    let deleted = gateway.admin("DELETE", "/api/accounts/acme?keys=2", None);
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    for key in [&one, &two] {
        assert_eq!(gateway.ask(&Call::chat(&key.token, "good")).status, 401);
    }
    assert!(!gateway.key_file().contains("acme"));
}

#[test]
fn a_key_beyond_the_ceilings_is_refused_with_its_field() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    create(
        gateway,
        &json!({"id": "acme", "max_keys": 1, "max_key_days": 90}),
    );
    let refused = |body: &Value, method: &str, path: &str, field: &str, ceiling: &str| {
        let refused = gateway.admin(method, path, Some(body));
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert_eq!(refused.json()["error"]["field"], field);
        assert!(refused.text().contains(ceiling), "{}", refused.text());
    };
    let late = Some(seconds_from_now(91 * DAY));
    refused(
        &new_key("acme", late),
        "POST",
        "/api/keys",
        "expires_at",
        "max_key_days",
    );
    refused(
        &new_key("acme", None),
        "POST",
        "/api/keys",
        "expires_at",
        "max_key_days",
    );
    let soon = Some(seconds_from_now(89 * DAY));
    let made = gateway.admin_json("POST", "/api/keys", Some(&new_key("acme", soon.clone())));
    let path = format!("/api/keys/{}", made["key"]["id"].as_str().unwrap());
    refused(
        &json!({"expires_at": null}),
        "PATCH",
        &path,
        "expires_at",
        "90 days",
    );
    refused(
        &new_key("acme", soon.clone()),
        "POST",
        "/api/keys",
        "account",
        "max_keys",
    );
    let other = gateway.admin_json("POST", "/api/keys", Some(&new_key("other", soon)));
    let path = format!("/api/keys/{}", other["key"]["id"].as_str().unwrap());
    refused(
        &json!({"account": "acme"}),
        "PATCH",
        &path,
        "account",
        "max_keys",
    );
    // Other changes of a key are never refused by its account.
    gateway.admin_json("PATCH", &path, Some(&json!({"name": "renamed"})));
}

#[test]
fn a_change_is_made_only_at_an_expected_revision() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let made = create(gateway, &json!({"id": "acme"}));
    let change = |revision: &str, most: u64| {
        let call = Call::new("PATCH", "/api/accounts/acme")
            .header("content-type", "application/json")
            .header("if-match", &format!("\"{revision}\""))
            .body(json!({"max_keys": most}).to_string());
        let mut client = Client::connect_unix(&gateway.socket()).unwrap();
        client.ask(&call)
    };
    let revision = made["revision"].as_str().unwrap();
    let changed = change(revision, 3);
    assert_eq!(changed.status, 200, "{}", changed.text());
    let new_revision = changed.json()["revision"].clone();
    let tag = format!("\"{}\"", new_revision.as_str().unwrap());
    assert_eq!(changed.header("etag"), Some(&*tag));
    assert_eq!(change(revision, 4).status, 412);
    let shown = gateway.admin_json("GET", "/api/accounts/acme", None);
    assert_eq!(shown["max_keys"], 3);
    assert_eq!(shown["revision"], new_revision);
}

#[test]
fn the_commands_do_what_the_calls_do() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let run = |arguments: &[&str]| {
        let ran = gateway.run(arguments, "");
        assert!(ran.code == Some(0), "{arguments:?}: {}", ran.err);
        ran.out
    };
    let made = run(&[
        "accounts",
        "create",
        "acme",
        "--name",
        "Acme",
        "--max-key-days",
        "90",
        "--requests-per-minute",
        "60",
        "--budget",
        "tokens=5M/month",
    ]);
    assert!(made.contains("Key days: 90"), "{made}");
    assert!(made.contains("tokens=5000000/month"), "{made}");
    assert!(run(&["accounts", "list"]).contains("acme"));
    assert!(run(&["accounts", "disable", "acme"]).contains("State: disabled"));
    assert!(run(&["accounts", "enable", "acme"]).contains("State: active"));
    assert!(run(&["accounts", "update", "acme", "--max-key-days", "none"]).contains("any"));
    assert!(run(&["accounts", "show", "acme"]).contains("Name: Acme"));
    let refused = gateway.run(&["accounts", "delete", "acme"], "");
    assert!(refused.code != Some(0));
    assert!(run(&["accounts", "delete", "acme", "--yes"]).contains("deleted acme"));
}

#[test]
fn a_key_that_its_account_refuses_is_shown_and_counted_as_refused() {
    let begin = seconds_from_now(-2 * DAY);
    let key = Key::only("key_acme", &["good"])
        .only_from(&["127.0.0.0/8"])
        .with("account", "acme")
        .with("created_at", begin);
    let stand = Stand::with(|setup| setup.keys(&[&key]));
    let gateway = &stand.gateway;
    create(gateway, &json!({"id": "acme"}));
    let active = |gateway: &Gateway| {
        let overview = gateway.admin_json("GET", "/api/overview", None);
        overview["keys"]["active"].as_u64().unwrap()
    };
    let may_use_good = |gateway: &Gateway| {
        let models = gateway.admin_json("GET", "/api/models", None);
        let models = models["models"].as_array().unwrap().clone();
        let good = models.iter().find(|model| model["id"] == "good").unwrap();
        good["keys"].as_u64().unwrap()
    };
    let (all_active, all_good) = (active(gateway), may_use_good(gateway));
    let only = |model: &str| json!({"mode": "inclusive", "models": [model]});
    let all = json!({"mode": "all"});
    // The field of the account, its value, its value before; what is shown; the keys that count less.
    for (field, value, before, refused, state, inactive, not_good) in [
        (
            "disabled",
            json!(true),
            json!(false),
            json!("disabled"),
            "disabled",
            1,
            1,
        ),
        (
            "max_key_days",
            json!(1),
            Value::Null,
            json!("expired"),
            "expired",
            1,
            1,
        ),
        (
            "max_key_days",
            json!(3),
            Value::Null,
            Value::Null,
            "active",
            0,
            0,
        ),
        (
            "model_access",
            only("bad"),
            all.clone(),
            json!("models"),
            "active",
            0,
            1,
        ),
        (
            "model_access",
            only("good"),
            all,
            Value::Null,
            "active",
            0,
            0,
        ),
        (
            "allow_from",
            json!(["192.0.2.0/24"]),
            json!([]),
            json!("networks"),
            "active",
            0,
            0,
        ),
    ] {
        let patch = |value: Value| {
            gateway.admin_json("PATCH", "/api/accounts/acme", Some(&json!({field: value})));
        };
        patch(value);
        let shown = gateway.admin_json("GET", "/api/keys/key_acme", None);
        assert_eq!(shown["refused_by_account"], refused, "{field}");
        assert_eq!(shown["state"], state, "{field}");
        assert_eq!(shown["disabled"], false);
        assert_eq!(shown["expires_at"], Value::Null);
        assert_eq!(shown["ends_at"].is_string(), field == "max_key_days");
        let target = format!("/api/keys?account=acme&state={state}");
        let listed = gateway.admin_json("GET", &target, None);
        assert_eq!(listed["keys"][0], shown, "{field}");
        let rotated = gateway.admin_json("POST", "/api/keys/key_acme/rotate", None);
        let warnings = rotated["warnings"].as_array().unwrap();
        let is_warned = warnings
            .iter()
            .any(|warning| warning.as_str().unwrap().contains("account refuses"));
        assert_eq!(is_warned, refused.is_string(), "{field}: {warnings:?}");
        assert_eq!(active(gateway), all_active - inactive, "{field}");
        assert_eq!(may_use_good(gateway), all_good - not_good, "{field}");
        patch(before);
    }
}
