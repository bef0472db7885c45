//! Keys are created, changed and deleted over the admin socket (contract 5).

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::admin::calls::{all, create, is_fault};
use crate::support::client::{Call, Client};
use crate::support::stand::Stand;
use crate::support::token::{self, Key};
use crate::support::{Cases, assert_error};

#[test]
fn a_created_key_is_shown_with_its_token_once_is_on_disk_and_works_at_once() {
    let stand = Stand::with(|setup| setup.line("public_url = \"https://ai.example.com\""));
    let made = create(
        &stand.gateway,
        &json!({"name": "web site", "model_access": {"mode": "inclusive", "models": ["good"]}, "allow_from": ["127.0.0.9/8"],
                "expires_at": "2099-01-01T01:00:00+01:00", "account": "acme"}),
    );
    let bearer = made["token"].as_str().expect("a token");
    assert!(
        bearer.starts_with("kg_")
            && bearer.len() == 52
            && bearer[3..].chars().all(|sign| sign.is_ascii_alphanumeric())
    );
    assert_eq!(token::with_checksum(&bearer[..46]), bearer);
    assert_eq!(made["url"], "https://ai.example.com/v1");
    assert_eq!(made["warnings"], json!([]));
    let key = &made["key"];
    let fields: BTreeSet<&str> = key
        .as_object()
        .expect("a key")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "id",
        "name",
        "hint",
        "model_access",
        "allow_from",
        "expires_at",
        "created_at",
        "account",
        "limits",
        "budgets",
        "budget_used_ratio",
        "created_by",
        "disabled",
        "state",
        "last_used_at",
        "requests",
        "previous",
        "ends_at",
        "refused_by_account",
        "revision",
    ];
    assert_eq!(fields, expected.into_iter().collect());
    assert_eq!(key["name"], "web site");
    assert_eq!(key["hint"], bearer[48..]);
    assert_eq!(
        key["model_access"],
        json!({"mode": "inclusive", "models": ["good"]})
    );
    assert_eq!(key["allow_from"], json!(["127.0.0.0/8"]));
    assert_eq!(key["expires_at"], "2099-01-01T00:00:00Z");
    assert_eq!(key["account"], "acme");
    assert_eq!(key["state"], "active");
    assert_eq!(
        (&key["last_used_at"], &key["requests"]),
        (&json!(null), &json!(0))
    );
    let id = key["id"].as_str().expect("an id");
    assert!(id.starts_with("key_"), "{id}");
    // On disk, by its hash and never by itself.
    let file = stand.gateway.key_file();
    assert!(file.contains(&token::hash(bearer)) && !file.contains(bearer));
    assert_eq!(file.lines().count(), 4);
    assert_eq!(stand.gateway.ask(&Call::chat(bearer, "good")).status, 200);
    assert_error(
        &stand.gateway.ask(&Call::chat(bearer, "bad")),
        404,
        "model_not_found",
    );
    // Nobody shows it again, nor its hash.
    for path in [
        "/api/keys".to_owned(),
        format!("/api/keys/{id}"),
        "/api/status".to_owned(),
        "/metrics".to_owned(),
    ] {
        let shown = stand.gateway.admin("GET", &path, None).text();
        assert!(
            !shown.contains(bearer) && !shown.contains("blake3:"),
            "{path}: {shown}"
        );
    }
    let log = stand.gateway.log().join("\n");
    assert!(!log.contains(bearer) && !log.contains("blake3:"));
}

#[test]
fn the_least_that_makes_a_key_is_a_name_and_a_model_access() {
    let stand = Stand::new();
    let made = create(&stand.gateway, &all("least"));
    assert_eq!(made["key"]["allow_from"], json!([]));
    assert_eq!(made["key"]["expires_at"], json!(null));
    assert_eq!(made["key"]["account"], json!(null));
    assert_eq!(made["key"]["disabled"], json!(false));
    assert!(
        made["url"]
            .as_str()
            .is_some_and(|url| url.starts_with("http://") && url.ends_with("/v1")),
        "{made}"
    );
    // The same name again is another key.
    let again = create(&stand.gateway, &all("least"));
    assert_ne!(made["key"]["id"], again["key"]["id"]);
    assert_ne!(made["token"], again["token"]);
}

#[test]
fn a_model_that_nobody_serves_is_taken_with_a_warning() {
    let stand = Stand::new();
    for mode in ["inclusive", "exclusive"] {
        let record = json!({"name": "x", "model_access": {"mode": mode, "models": ["good", "no-such-model"]}});
        let made = create(&stand.gateway, &record);
        let warnings = made["warnings"].as_array().expect("warnings");
        assert_eq!(warnings.len(), 1, "{made}");
        assert!(
            warnings[0]
                .as_str()
                .is_some_and(|text| text.contains("no-such-model")),
            "{made}"
        );
    }
}

#[test]
fn what_breaks_the_key_files_rules_is_refused_with_its_field() {
    let stand = Stand::new();
    let before = stand.gateway.key_file();
    let mut cases = Cases::new();
    let long = "n".repeat(101);
    for (record, field) in [
        (json!({"model_access": {"mode": "all"}}), "name"),
        (json!({"name": "x"}), "model_access"),
        (json!({"name": "", "model_access": {"mode": "all"}}), "name"),
        (
            json!({"name": long, "model_access": {"mode": "all"}}),
            "name",
        ),
        (
            json!({"name": "a\nb", "model_access": {"mode": "all"}}),
            "name",
        ),
        (
            json!({"name": "a\u{202e}b", "model_access": {"mode": "all"}}),
            "name",
        ),
        (
            json!({"name": "a\u{200b}", "model_access": {"mode": "all"}}),
            "name",
        ),
        (
            json!({"name": "x", "account": "\u{e0041}x", "model_access": {"mode": "all"}}),
            "account",
        ),
        (json!({"name": 7, "model_access": {"mode": "all"}}), "name"),
        (json!({"name": "x", "model_access": null}), "model_access"),
        (
            json!({"name": "x", "model_access": {"mode": "some"}}),
            "mode",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all", "models": ["good"]}}),
            "models",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "inclusive"}}),
            "models",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "exclusive", "models": []}}),
            "models",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "allow_from": ["10.0.0.0/33"]}),
            "allow_from",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "allow_from": ["::1"]}),
            "allow_from",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "allow_from": "10.0.0.0/8"}),
            "allow_from",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "expires_at": "2020-01-01T00:00:00Z"}),
            "expires_at",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "expires_at": "2099-01-01T00:00:00"}),
            "expires_at",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "expires_at": 7}),
            "expires_at",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "id": "mine"}),
            "id",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "hash": token::hash("x")}),
            "hash",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "token": "kg_x"}),
            "token",
        ),
        (
            json!({"name": "x", "model_access": {"mode": "all"}, "models": []}),
            "models",
        ),
    ] {
        let response = stand.gateway.admin("POST", "/api/keys", Some(&record));
        cases.check(
            &format!("{record:.120}"),
            is_fault(&response, 422, Some(field)),
        );
    }
    let v6 = stand.gateway.admin(
        "POST",
        "/api/keys",
        Some(&json!({"name": "x", "model_access": {"mode": "all"}, "allow_from": ["::/0"]})),
    );
    cases.check(
        "IPv6",
        v6.text().contains("IPv6").then_some(()).ok_or(v6.text()),
    );
    let raw = |body: &str| {
        let call = Call::new("POST", "/api/keys")
            .header("content-type", "application/json")
            .body(body);
        Client::connect_unix(&stand.gateway.socket())
            .expect("the socket")
            .ask(&call)
    };
    for body in [
        "",
        "{",
        "nonsense",
        "{\"name\":\"x\",}",
        "{\"name\":\"x\"} {}",
        "\u{feff}{}",
    ] {
        let status = raw(body).status;
        cases.check(
            &format!("{body:?}"),
            matches!(status, 400 | 422)
                .then_some(())
                .ok_or(format!("{status}")),
        );
    }
    cases.check("not JSON", is_fault(&raw("nonsense"), 400, None));
    cases.check(
        "a repeated field",
        is_fault(
            &raw(r#"{"name":"x","name":"y","model_access":{"mode":"all"}}"#),
            422,
            None,
        ),
    );
    cases.check(
        "a repeated nested field",
        is_fault(
            &raw(r#"{"name":"x","model_access":{"mode":"all","mode":"all"}}"#),
            422,
            None,
        ),
    );
    for body in ["[]", "7", "null", "\"x\""] {
        let response = raw(body);
        cases.check(
            body,
            is_fault(&response, response.status, None).and_then(|()| {
                matches!(response.status, 400 | 422)
                    .then_some(())
                    .ok_or(format!("{}", response.status))
            }),
        );
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let status = raw(&nested).status;
    cases.check(
        "100 000 arrays",
        matches!(status, 400 | 413 | 422)
            .then_some(())
            .ok_or(format!("{status}")),
    );
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(40 << 20));
    let mut client = Client::connect_unix(&stand.gateway.socket()).expect("the socket");
    let _ = client.try_send(&Call::new("POST", "/api/keys").body(huge).bytes());
    cases.check("40 MB", is_fault(&client.answer(), 413, None));
    cases.check(
        "the file",
        (stand.gateway.key_file() == before)
            .then_some(())
            .ok_or("changed".to_owned()),
    );
    cases.done();
}

#[test]
fn a_patch_changes_what_it_names_and_null_or_an_empty_list_clears() {
    let stand = Stand::new();
    let made = create(
        &stand.gateway,
        &json!({"name": "before", "model_access": {"mode": "inclusive", "models": ["good"]}, "allow_from": ["127.0.0.0/8"], "expires_at": "2099-01-01T00:00:00Z", "account": "acme"}),
    );
    let path = format!("/api/keys/{}", made["key"]["id"].as_str().expect("an id"));
    let bearer = made["token"].as_str().expect("a token").to_owned();
    let patch = |change: Value| stand.gateway.admin_json("PATCH", &path, Some(&change));
    let mut expected = made["key"].clone();
    let mut check = |change: Value, field: &str, value: Value| {
        expected[field] = value;
        let changed = patch(change.clone());
        expected["ends_at"] = expected["expires_at"].clone();
        // revisions.rs looks at it.
        expected["revision"] = changed["revision"].clone();
        assert_eq!(changed, expected, "after {change}");
        assert_eq!(stand.gateway.admin_json("GET", &path, None), expected);
    };
    check(json!({"name": "after"}), "name", json!("after"));
    check(json!({"account": null}), "account", json!(null));
    check(json!({"account": "other"}), "account", json!("other"));
    check(
        json!({"allow_from": ["192.0.2.7"]}),
        "allow_from",
        json!(["192.0.2.7/32"]),
    );
    check(json!({"allow_from": []}), "allow_from", json!([]));
    check(
        json!({"allow_from": ["127.0.0.1"]}),
        "allow_from",
        json!(["127.0.0.1/32"]),
    );
    check(json!({"allow_from": null}), "allow_from", json!([]));
    check(json!({"expires_at": null}), "expires_at", json!(null));
    check(
        json!({"expires_at": "2098-01-01T00:00:00Z"}),
        "expires_at",
        json!("2098-01-01T00:00:00Z"),
    );
    check(
        json!({"model_access": {"mode": "exclusive", "models": ["bad"]}}),
        "model_access",
        json!({"mode": "exclusive", "models": ["bad"]}),
    );
    check(
        json!({"model_access": {"mode": "all"}}),
        "model_access",
        json!({"mode": "all"}),
    );
    check(json!({}), "name", json!("after"));
    assert_eq!(stand.gateway.ask(&Call::chat(&bearer, "bad")).status, 200);
    let disabled = patch(json!({"disabled": true}));
    assert_eq!(
        (&disabled["disabled"], &disabled["state"]),
        (&json!(true), &json!("disabled"))
    );
    assert_error(
        &stand.gateway.ask(&Call::chat(&bearer, "good")),
        401,
        "invalid_api_key",
    );
    assert_eq!(patch(json!({"disabled": false}))["state"], "active");
    assert_eq!(stand.gateway.ask(&Call::chat(&bearer, "good")).status, 200);
    // And what was said is on disk.
    let id = made["key"]["id"].as_str().expect("an id");
    let file = stand.gateway.key_file();
    let record = file
        .lines()
        .find(|line| line.contains(id))
        .expect("the record");
    let record: Value = serde_json::from_str(record).expect("JSON");
    assert_eq!(
        (&record["name"], &record["account"]),
        (&json!("after"), &json!("other"))
    );
    assert_eq!(record["hash"], token::hash(&bearer));
}

#[test]
fn a_patch_that_breaks_a_rule_changes_nothing() {
    let stand = Stand::new();
    let before = (
        stand.gateway.key_file(),
        stand.gateway.admin_json("GET", "/api/keys/key_all", None),
    );
    let mut cases = Cases::new();
    for (change, field) in [
        (json!({"id": "other"}), "id"),
        (json!({"hash": token::hash("x")}), "hash"),
        (json!({"created_at": "2020-01-01T00:00:00Z"}), "created_at"),
        (json!({"hint": "abcd"}), "hint"),
        (json!({"state": "active"}), "state"),
        (json!({"nmae": "x"}), "nmae"),
        (json!({"name": null}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"model_access": null}), "model_access"),
        (json!({"model_access": {"models": ["good"]}}), "mode"),
        (json!({"disabled": "true"}), "disabled"),
        (json!({"disabled": null}), "disabled"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"allow_from": ["::1"]}), "allow_from"),
        (
            json!({"name": "fine", "allow_from": ["nonsense"]}),
            "allow_from",
        ),
    ] {
        let response = stand
            .gateway
            .admin("PATCH", "/api/keys/key_all", Some(&change));
        if change == json!({"disabled": null}) && response.status == 200 {
            // null clears: what is not set is not disabled.
            continue;
        }
        cases.check(&change.to_string(), is_fault(&response, 422, Some(field)));
    }
    cases.done();
    let mut after = stand.gateway.admin_json("GET", "/api/keys/key_all", None);
    after["disabled"] = before.1["disabled"].clone();
    assert_eq!(after, before.1);
}

#[test]
fn a_key_counts_the_requests_that_were_its_own() {
    let far = Key::all("key_far").only_from(&["192.0.2.0/24"]);
    let stand = Stand::with(|setup| setup.keys(&[&far]));
    let shown = |id: &str| {
        stand
            .gateway
            .admin_json("GET", &format!("/api/keys/{id}"), None)
    };
    assert_eq!(shown("key_only")["requests"], 0);
    let token = &stand.only.token;
    for (call, status) in [
        (Call::chat(token, "good"), 200),
        (Call::chat(token, "bad"), 404),
        (Call::get("/v1/models", token), 200),
        (Call::get("/nowhere", token), 404),
        (Call::chat(token, "good").without("content-type"), 415),
    ] {
        assert_eq!(stand.gateway.ask(&call).status, status);
    }
    let used = shown("key_only");
    assert_eq!(used["requests"], 5);
    assert!(
        used["last_used_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z')),
        "{used}"
    );
    assert_error(
        &stand.gateway.ask(&Call::chat(&far.token, "good")),
        401,
        "ip_not_authorized",
    );
    assert_eq!(shown("key_far")["requests"], 0);
    // A reload and a change keep the count.
    assert_eq!(stand.gateway.reload().status, 200);
    stand.gateway.admin_json(
        "PATCH",
        "/api/keys/key_only",
        Some(&json!({"name": "renamed"})),
    );
    assert_eq!(shown("key_only")["requests"], 5);
    assert_eq!(shown("key_only")["last_used_at"], used["last_used_at"]);
}

#[test]
fn concurrent_creates_and_deletes_lose_nothing() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let made: Vec<Value> = thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                scope.spawn(move || {
                    (0..12)
                        .map(|at| {
                            let made = create(gateway, &all(&format!("w{worker}-{at}")));
                            if at % 3 == 0 {
                                let path = format!(
                                    "/api/keys/{}",
                                    made["key"]["id"].as_str().expect("an id")
                                );
                                assert_eq!(gateway.admin("DELETE", &path, None).status, 204);
                                return json!(null);
                            }
                            made
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    let kept: Vec<&Value> = made.iter().filter(|made| !made.is_null()).collect();
    assert_eq!(kept.len(), 64);
    let file = gateway.key_file();
    assert_eq!(file.lines().count(), 3 + kept.len());
    let hashes: BTreeSet<String> = kept
        .iter()
        .map(|made| token::hash(made["token"].as_str().expect("a token")))
        .collect();
    assert!(hashes.len() == 64 && hashes.iter().all(|hash| file.contains(hash)));
    assert_eq!(gateway.reload().json()["added"], 0);
}
