//! Contract 5 and 6: the admin API over the Unix socket and over TCP, and the metrics.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use serde_json::{Value, json};

use crate::support::client::{Call, Client, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{self, Key};
use crate::support::{Cases, DEADLINE, assert_error, eventually};

fn create(gateway: &Gateway, record: &Value) -> Value {
    let response = gateway.admin("POST", "/api/keys", Some(record));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()
}

fn all(name: &str) -> Value {
    json!({"name": name, "model_access": {"mode": "all"}})
}

/// Whether a response is an error of the admin API.
fn is_fault(response: &Response, status: u16, field: Option<&str>) -> Result<(), String> {
    let wrong = || Err(format!("{} {}", response.status, response.text()));
    if response.status != status {
        return wrong();
    }
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return wrong();
    };
    let error = &body["error"];
    let named = field.is_none_or(|field| {
        error["field"]
            .as_str()
            .is_some_and(|named| named.contains(field))
    });
    let json = response
        .header("content-type")
        .is_some_and(|value| value.starts_with("application/json"));
    if error["message"]
        .as_str()
        .is_some_and(|text| !text.is_empty())
        && named
        && json
    {
        Ok(())
    } else {
        wrong()
    }
}

fn ids(list: &Value) -> Vec<String> {
    list["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| key["id"].as_str().expect("an id").to_owned())
        .collect()
}

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
        "disabled",
        "state",
        "last_used_at",
        "requests",
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
fn a_deleted_key_is_gone_at_the_answer() {
    let stand = Stand::new();
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    let response = stand.gateway.admin("DELETE", "/api/keys/key_all", None);
    assert_eq!((response.status, response.body.len()), (204, 0));
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "good")),
        401,
        "invalid_api_key",
    );
    assert!(!stand.gateway.key_file().contains("key_all\""));
    for method in ["GET", "DELETE"] {
        let again = stand.gateway.admin(method, "/api/keys/key_all", None);
        is_fault(&again, 404, None).expect("not found");
    }
    let patched = stand.gateway.admin(
        "PATCH",
        "/api/keys/key_all",
        Some(&json!({"disabled": true})),
    );
    is_fault(&patched, 404, None).expect("not found");
}

#[test]
fn keys_are_listed_newest_first_page_by_page() {
    let old = Key::all("key_older").with("created_at", "2001-01-01T00:00:00Z");
    let same = Key::all("key_same_second").with("created_at", "2001-01-01T00:00:00Z");
    let oldest = Key::all("key_oldest").with("created_at", "2000-01-01T00:00:00Z");
    let stand = Stand::with(|setup| setup.keys(&[&oldest, &old, &same]));
    // Without created_at they come last, the later in the file first.
    let expected = [
        "key_same_second",
        "key_older",
        "key_oldest",
        "key_all_but",
        "key_only",
        "key_all",
    ];
    let whole = stand.gateway.admin_json("GET", "/api/keys", None);
    assert_eq!(ids(&whole), expected);
    assert_eq!(whole["next"], json!(null));
    let made = create(&stand.gateway, &all("newest"));
    let newest = made["key"]["id"].as_str().expect("an id").to_owned();
    let mut pages = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/keys?limit=2{after}");
        let page = stand.gateway.admin_json("GET", &path, None);
        let ids = ids(&page);
        assert!(ids.len() <= 2);
        pages.extend(ids);
        let Some(next) = page["next"].as_str() else {
            break;
        };
        assert!(
            next.chars()
                .all(|sign| sign.is_ascii_alphanumeric() || "-_.~".contains(sign)),
            "{next} is not URL-safe"
        );
        after = format!("&after={next}");
    }
    let mut all = vec![newest];
    all.extend(expected.iter().map(|id| (*id).to_owned()));
    assert_eq!(pages, all);
    // The place stays valid when its key is gone.
    let page = stand.gateway.admin_json("GET", "/api/keys?limit=2", None);
    let next = page["next"].as_str().expect("more").to_owned();
    assert_eq!(
        stand
            .gateway
            .admin("DELETE", &format!("/api/keys/{}", all[1]), None)
            .status,
        204
    );
    let page = stand
        .gateway
        .admin_json("GET", &format!("/api/keys?limit=2&after={next}"), None);
    assert_eq!(ids(&page), all[2..4]);
    let mut cases = Cases::new();
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=",
        "after=%00",
        "after=nonsense!",
    ] {
        let response = stand
            .gateway
            .admin("GET", &format!("/api/keys?{query}"), None);
        cases.check(
            query,
            is_fault(&response, response.status, None).and_then(|()| {
                matches!(response.status, 400 | 422)
                    .then_some(())
                    .ok_or(response.text())
            }),
        );
    }
    cases.done();
    assert_eq!(
        stand
            .gateway
            .admin("GET", "/api/keys?limit=1000", None)
            .status,
        200
    );
}

#[test]
fn keys_are_found_by_name_id_account_and_hint_whatever_the_case() {
    let web = Key::all("key_web")
        .with("name", "Web Site")
        .with("account", "ACME")
        .with("hint", "x9Qz");
    let batch = Key::all("key_batch")
        .with("name", "Nächtlicher Lauf")
        .with("account", "other");
    let stand = Stand::with(|setup| setup.keys(&[&web, &batch]));
    for (query, found) in [
        ("web%20site", &["key_web"][..]),
        ("WEB+SITE", &["key_web"]),
        ("acm", &["key_web"]),
        ("X9qz", &["key_web"]),
        ("KEY_BATCH", &["key_batch"]),
        ("n%C3%84CHT", &["key_batch"]),
        ("no-such-key", &[]),
        ("blake3", &[]),
        (
            "",
            &["key_batch", "key_web", "key_all_but", "key_only", "key_all"],
        ),
    ] {
        let list = stand
            .gateway
            .admin_json("GET", &format!("/api/keys?query={query}"), None);
        assert_eq!(ids(&list), found, "{query}");
    }
}

#[test]
fn the_default_page_holds_fifty() {
    let keys: Vec<Key> = (0..60).map(|at| Key::all(&format!("key_{at}"))).collect();
    let stand = Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()));
    let page = stand.gateway.admin_json("GET", "/api/keys", None);
    assert_eq!(ids(&page).len(), 50);
    assert!(page["next"].is_string());
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
        json!([{"url": stand.up.url(), "up": true}])
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

#[test]
fn what_the_api_does_not_have_is_told_in_its_own_shape() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    for (method, path, status) in [
        ("GET", "/api/nothing", 404),
        ("GET", "/api", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models", 404),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/api/keys/", 404),
        ("GET", "/api/keys/a/b", 404),
        ("GET", "/api/keys/no_such_key", 404),
        ("GET", "/api/keys/%2e%2e", 404),
        ("GET", "//api/keys", 404),
        ("PUT", "/api/keys", 405),
        ("DELETE", "/api/keys", 405),
        ("POST", "/api/keys/key_all", 405),
        ("PUT", "/api/keys/key_all", 405),
        ("GET", "/api/reload", 405),
        ("POST", "/api/status", 405),
        ("POST", "/api/models", 405),
        ("GET", "/api/explain", 405),
        ("POST", "/metrics", 405),
        ("DELETE", "/healthz", 405),
    ] {
        let response = stand.gateway.admin(method, path, None);
        cases.check(
            &format!("{method} {path}"),
            is_fault(&response, status, None),
        );
        if status == 405 {
            cases.check(
                &format!("{method} {path}"),
                response
                    .header("allow")
                    .map(|_| ())
                    .ok_or("no Allow".to_owned()),
            );
        }
    }
    cases.done();
    let document = stand.gateway.admin_json("GET", "/api/openapi.json", None);
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    for path in [
        "/api/keys",
        "/api/keys/{id}",
        "/api/reload",
        "/api/status",
        "/api/models",
        "/api/explain",
    ] {
        assert!(
            document["paths"].get(path).is_some(),
            "{path} is not described"
        );
    }
}

#[test]
fn nonsense_on_the_admin_socket_harms_nothing() {
    let stand = Stand::new();
    let mut noise = vec![0_u8; 256 << 10];
    getrandom::fill(&mut noise).expect("random bytes");
    let wide = format!(
        "GET /api/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "w".repeat(4 << 20)
    );
    let mut held = Vec::new();
    for bytes in [
        noise.as_slice(),
        b"\0\0\0\0",
        b"GET /api/status HTTP/1.1\r\n",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\n{",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /api/keys HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        wide.as_bytes(),
    ] {
        let mut client = Client::connect_unix(&stand.gateway.socket()).expect("the socket");
        let _ = client.try_send(bytes);
        held.push(client);
    }
    let flood = (0..500).filter_map(|_| Client::connect_unix(&stand.gateway.socket()).ok());
    held.extend(flood);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    drop(held);
    eventually("the socket answers again", DEADLINE, || {
        let mut client = Client::connect_unix(&stand.gateway.socket()).ok()?;
        client
            .try_send(&Call::new("GET", "/api/status").bytes())
            .ok()?;
        (!client.silent_for(DEADLINE) && client.unread().starts_with(b"HTTP/1.1 200")).then_some(())
    });
}

/// A gateway with the admin API over TCP, and its token.
fn over_tcp(more: impl FnOnce(Setup) -> Setup) -> (Stand, String) {
    let stand = Stand::with(|setup| more(setup.set("admin", "listen = \"127.0.0.1:0\"")));
    let file = stand.gateway.path("admin.token");
    let token = std::fs::read_to_string(&file).expect("the admin token");
    let mode = std::fs::metadata(file)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "the admin token is not private");
    (stand, token.trim().to_owned())
}

fn tcp(stand: &Stand, call: &Call) -> Response {
    Client::connect(stand.gateway.admin_address()).ask(call)
}

/// Every call of the API.
const CALLS: [(&str, &str, &str); 13] = [
    ("GET", "/api/keys", ""),
    (
        "POST",
        "/api/keys",
        r#"{"name":"x","model_access":{"mode":"all"}}"#,
    ),
    ("GET", "/api/keys/key_all", ""),
    ("PATCH", "/api/keys/key_all", r#"{"name":"x"}"#),
    ("DELETE", "/api/keys/key_only", ""),
    ("POST", "/api/reload", "{}"),
    ("GET", "/api/status", ""),
    ("GET", "/api/models", ""),
    (
        "POST",
        "/api/explain",
        r#"{"key":"key_all","model":"good","from":"127.0.0.1"}"#,
    ),
    ("GET", "/api/openapi.json", ""),
    ("GET", "/metrics", ""),
    ("GET", "/api/nothing", ""),
    ("GET", "/api/overview", ""),
];

fn tcp_call(method: &str, path: &str, body: &str) -> Call {
    let call = Call::new(method, path);
    if body.is_empty() {
        call
    } else {
        call.header("content-type", "application/json").body(body)
    }
}

#[test]
fn over_tcp_every_call_needs_the_admin_token() {
    let (stand, admin) = over_tcp(|setup| setup);
    let mut cases = Cases::new();
    for (method, path, body) in CALLS {
        let call = tcp_call(method, path, body);
        let wrong = format!("{}x", &admin[..admin.len() - 1]);
        let (longer, shorter) = (format!("{admin}x"), admin[..admin.len() - 1].to_owned());
        for (name, header) in [
            ("none", None),
            ("empty", Some("Bearer ".to_owned())),
            ("wrong", Some(format!("Bearer {wrong}"))),
            ("longer", Some(format!("Bearer {longer}"))),
            ("shorter", Some(format!("Bearer {shorter}"))),
            ("a key's", Some(format!("Bearer {}", stand.all.token))),
            ("another scheme", Some(format!("Basic {admin}"))),
            ("in lists", Some(format!("Bearer {admin}, Bearer {admin}"))),
        ] {
            let call = header.iter().fold(call.clone(), |call, value| {
                call.header("authorization", value)
            });
            cases.check(
                &format!("{method} {path}, {name}"),
                is_fault(&tcp(&stand, &call), 401, None),
            );
        }
        let twice = call.clone().bearer(&wrong).bearer(&admin);
        cases.check(
            &format!("{method} {path}, two"),
            is_fault(&tcp(&stand, &twice), 401, None),
        );
        let query = Call {
            target: format!("{path}?token={admin}"),
            ..call.clone()
        };
        cases.check(
            &format!("{method} {path}, by query"),
            is_fault(&tcp(&stand, &query), 401, None),
        );
    }
    // Nothing of all that was done.
    let unchanged = stand.gateway.admin_json("GET", "/api/keys", None);
    cases.check(
        "unchanged",
        (ids(&unchanged).len() == 3)
            .then_some(())
            .ok_or(unchanged.to_string()),
    );
    for (method, path, body) in CALLS {
        let response = tcp(&stand, &tcp_call(method, path, body).bearer(&admin));
        let done = matches!(response.status, 200 | 201 | 204)
            || (path == "/api/nothing" && response.status == 404)
            || path == "/api/overview";
        cases.check(
            &format!("{method} {path}, right"),
            done.then_some(())
                .ok_or(format!("{} {}", response.status, response.text())),
        );
        let foreign = response
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control"));
        cases.check(
            path,
            (!foreign).then_some(()).ok_or("CORS headers".to_owned()),
        );
    }
    for path in ["/healthz", "/readyz"] {
        let status = tcp(&stand, &Call::new("GET", path)).status;
        cases.check(
            path,
            (status == 200).then_some(()).ok_or(status.to_string()),
        );
    }
    // The admin token is no key.
    cases.check(
        "data port",
        crate::support::is_error(
            &stand.gateway.ask(&Call::chat(&admin, "good")),
            401,
            "invalid_api_key",
        ),
    );
    let log = stand.gateway.log().join("\n");
    cases.check(
        "log",
        (!log.contains(&admin))
            .then_some(())
            .ok_or("holds the admin token".to_owned()),
    );
    cases.done();
}

#[test]
fn over_tcp_only_hosts_that_are_meant_are_answered() {
    let (stand, admin) = over_tcp(|setup| setup.set("admin", "hosts = [\"admin.example.com\"]"));
    let port = stand.gateway.admin_address().port();
    let mut cases = Cases::new();
    let ask =
        |host: &str, path: &str| tcp(&stand, &Call::get(path, &admin).header("host", host)).status;
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "admin.example.com",
        "Admin.Example.com",
        "localhost:1",
        "admin.example.com:443",
    ] {
        let status = ask(host, "/api/status");
        cases.check(
            host,
            (status == 200).then_some(()).ok_or(status.to_string()),
        );
    }
    let own = format!("127.0.0.1:{port}");
    cases.check(
        &own,
        (ask(&own, "/api/status") == 200)
            .then_some(())
            .ok_or(String::new()),
    );
    for host in [
        "evil.example",
        "127.0.0.2",
        "localhost.evil.example",
        "admin.example.com.evil.example",
        "xadmin.example.com",
        "example.com",
        "0.0.0.0",
        "[::1]",
        "127.1",
        "2130706433",
    ] {
        for path in ["/api/status", "/metrics", "/api/nothing"] {
            let call = Call::get(path, &admin).header("host", host);
            cases.check(
                &format!("{host} {path}"),
                is_fault(&tcp(&stand, &call), 421, None),
            );
        }
        let status = ask(host, "/healthz");
        cases.check(
            host,
            (status == 200)
                .then_some(())
                .ok_or(format!("healthz {status}")),
        );
        let status = ask(host, "/readyz");
        cases.check(
            host,
            (status == 200)
                .then_some(())
                .ok_or(format!("readyz {status}")),
        );
    }
    cases.done();
}

#[test]
fn over_tcp_a_foreign_origin_is_refused() {
    let (stand, admin) = over_tcp(|setup| setup);
    let port = stand.gateway.admin_address().port();
    let mut cases = Cases::new();
    let call = tcp_call(
        "POST",
        "/api/keys",
        r#"{"name":"x","model_access":{"mode":"all"}}"#,
    )
    .bearer(&admin)
    .header("host", &format!("127.0.0.1:{port}"));
    for origin in [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost.evil.example",
        &format!("http://127.0.0.1:{port}.evil.example"),
        "file://",
        "",
    ] {
        let response = tcp(&stand, &call.clone().header("origin", origin));
        cases.check(origin, is_fault(&response, 403, None));
    }
    let own = format!("http://127.0.0.1:{port}");
    let response = tcp(&stand, &call.header("origin", &own));
    cases.check(
        &own,
        (response.status == 201)
            .then_some(())
            .ok_or(response.text()),
    );
    cases.done();
}

#[test]
fn over_tcp_a_body_is_json_and_says_so_and_on_the_socket_it_need_not() {
    let (stand, admin) = over_tcp(|setup| setup);
    let mut cases = Cases::new();
    let body = r#"{"name":"x","model_access":{"mode":"all"}}"#;
    let bare = Call::new("POST", "/api/keys").bearer(&admin).body(body);
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonx",
        "text/plain; application/json",
    ] {
        let response = tcp(&stand, &bare.clone().header("content-type", content_type));
        cases.check(&format!("{content_type:?}"), is_fault(&response, 415, None));
    }
    cases.check("none", is_fault(&tcp(&stand, &bare), 415, None));
    for content_type in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
    ] {
        let response = tcp(&stand, &bare.clone().header("content-type", content_type));
        cases.check(
            content_type,
            (response.status == 201)
                .then_some(())
                .ok_or(response.text()),
        );
    }
    let empty = tcp(&stand, &Call::new("POST", "/api/reload").bearer(&admin));
    cases.check(
        "an empty body",
        (empty.status == 200).then_some(()).ok_or(empty.text()),
    );
    let call = Call::new("POST", "/api/keys").body(body);
    let response = Client::connect_unix(&stand.gateway.socket())
        .expect("the socket")
        .ask(&call);
    cases.check(
        "the socket",
        (response.status == 201)
            .then_some(())
            .ok_or(response.text()),
    );
    cases.done();
}

#[test]
fn an_admin_token_that_is_there_is_kept() {
    let up = Recorder::answering();
    let setup = Setup::before(&up)
        .set("admin", "listen = \"127.0.0.1:0\"")
        .secret("my-own-admin-token-of-some-length-0123456789");
    std::fs::write(
        setup.path("admin.token"),
        "my-own-admin-token-of-some-length-0123456789\n",
    )
    .expect("written");
    std::fs::set_permissions(
        setup.path("admin.token"),
        std::fs::Permissions::from_mode(0o600),
    )
    .expect("private");
    let gateway = setup.start();
    let call = Call::get(
        "/api/status",
        "my-own-admin-token-of-some-length-0123456789",
    );
    assert_eq!(
        Client::connect(gateway.admin_address()).ask(&call).status,
        200
    );
}

#[test]
fn metrics_over_tcp_are_open_only_where_the_config_says_so() {
    let (closed, admin) = over_tcp(|setup| setup);
    assert_eq!(tcp(&closed, &Call::new("GET", "/metrics")).status, 401);
    assert_eq!(tcp(&closed, &Call::get("/metrics", &admin)).status, 200);
    let (open, _) = over_tcp(|setup| setup.set("admin", "open_metrics = true"));
    assert_eq!(tcp(&open, &Call::new("GET", "/metrics")).status, 200);
    assert_eq!(tcp(&open, &Call::new("GET", "/api/status")).status, 401);
    let foreign = Call::new("GET", "/metrics").header("host", "evil.example");
    assert_eq!(tcp(&open, &foreign).status, 421);
}

#[test]
fn the_metrics_count_what_happens() {
    let stand = Stand::held();
    let expired = json!({"name": "x", "model_access": {"mode": "all"}});
    create(&stand.gateway, &expired);
    let complete = |call: &Call| {
        let mut client = stand.gateway.client();
        client.send(&call.bytes());
        stand.up.next().complete();
        assert_eq!(client.answer().status, 200);
    };
    complete(&Call::chat(&stand.all.token, "good"));
    complete(&Call::chat(&stand.only.token, "good"));
    stand.gateway.ask(&Call::chat("sk-unknown", "good"));
    stand.gateway.ask(&Call::chat(&stand.only.token, "bad"));
    stand
        .gateway
        .ask(&Call::new("POST", "/v1/chat/completions"));
    assert_eq!(stand.gateway.reload().status, 200);
    eventually("the requests are counted", DEADLINE, || {
        (stand
            .gateway
            .metric("keygate_requests_total{outcome=\"allowed\"}")
            >= 2.0)
            .then_some(())
    });
    let metrics = stand.gateway.admin("GET", "/metrics", None);
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/plain"))
    );
    let mut cases = Cases::new();
    for (name, value) in [
        ("keygate_requests_total{outcome=\"allowed\"}", 2.0),
        ("keygate_requests_total{outcome=\"invalid_api_key\"}", 1.0),
        ("keygate_requests_total{outcome=\"missing_api_key\"}", 1.0),
        ("keygate_requests_total{outcome=\"model_not_found\"}", 1.0),
        (
            "keygate_responses_total{status=\"200\",upstream=\"up\"}",
            2.0,
        ),
        ("keygate_in_flight", 0.0),
        ("keygate_keys", 4.0),
        ("keygate_reloads_total{result=\"ok\"}", 1.0),
    ] {
        let shown = stand.gateway.metric(name);
        cases.check(
            name,
            ((shown - value).abs() < 0.5)
                .then_some(())
                .ok_or(format!("{shown} instead of {value}:\n{}", metrics.text())),
        );
    }
    let url = stand.up.url();
    for name in [
        "keygate_request_seconds",
        "keygate_first_byte_seconds",
        "keygate_overhead_seconds",
        "keygate_in_flight",
        "keygate_connections",
        "keygate_keys",
        "keygate_generation",
        "keygate_reloads_total",
        "keygate_last_reload_timestamp_seconds",
        "keygate_upstream_up",
        "keygate_build_info",
    ] {
        let there = metrics.text().lines().any(|line| line.starts_with(name));
        cases.check(name, there.then_some(()).ok_or("is not there".to_owned()));
    }
    let up = metrics.text().lines().any(|line| {
        line.starts_with("keygate_upstream_up{")
            && line.contains("upstream=\"up\"")
            && line.contains(&url)
            && line.ends_with(" 1")
    });
    cases.check(
        "keygate_upstream_up",
        up.then_some(()).ok_or(metrics.text()),
    );
    cases.done();
}

#[test]
fn no_label_grows_with_what_clients_send() {
    let stand = Stand::new();
    let series = || {
        stand
            .gateway
            .metrics()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    let provoke = |at: usize| {
        stand.gateway.ask(&Call::chat(&stand.all.token, "good"));
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, &format!("model-{at}")));
        stand.gateway.ask(&Call::chat(&format!("sk-{at}"), "good"));
        stand
            .gateway
            .ask(&Call::get(&format!("/path-{at}"), &stand.all.token));
        stand.gateway.ask(
            &Call::new(&format!("METHOD{at}"), "/v1/chat/completions").bearer(&stand.all.token),
        );
        stand.gateway.ask(
            &Call::get("/v1/models", &stand.all.token)
                .header("host", &format!("host-{at}.example")),
        );
    };
    provoke(0);
    let before = series();
    for at in 1..40 {
        provoke(at);
    }
    assert_eq!(series(), before);
    let text = stand.gateway.metrics();
    for word in [
        "model-",
        "sk-",
        "path-",
        "METHOD",
        "host-",
        "127.0.0.1\"",
        "key_all",
        "kg_",
    ] {
        assert!(!text.contains(word), "{word} is in the metrics");
    }
}

#[test]
fn a_log_line_stays_one_line_whatever_a_client_sends() {
    let stand = Stand::new();
    let hostile = "a\u{1b}[31m\u{202e}\"},{\"event\":\"forged\u{2028}";
    let body = json!({"model": hostile}).to_string();
    stand
        .gateway
        .ask(&Call::json("/v1/chat/completions", &stand.all.token, body));
    stand.gateway.ask(&Call::get(
        "/v1/models/%0a%0d%1b%5b31m%22",
        &stand.all.token,
    ));
    stand
        .gateway
        .ask(&Call::get("/\"},{\\\"", &stand.all.token).header("user-agent", "\"\u{e4}\u{202e}"));
    stand.gateway.ask(&Call::get(
        "/v1/models?secret=query-string",
        &stand.all.token,
    ));
    let prompt =
        json!({"model": "good", "messages": [{"role": "user", "content": "a very secret prompt"}]})
            .to_string();
    stand.gateway.ask(
        &Call::json(
            "/v1/chat/completions?api_key=query-string",
            &stand.all.token,
            prompt,
        )
        .header("x-request-id", "last-one"),
    );
    stand
        .gateway
        .process
        .line("the last request", |line| line.contains("last-one"));
    for line in stand.gateway.log() {
        let parsed: Result<Value, _> = serde_json::from_str(&line);
        assert!(parsed.is_ok(), "not one JSON object: {line}");
        assert!(
            line.chars()
                .all(|sign| !sign.is_control() && !"\u{202e}\u{2028}".contains(sign)),
            "control characters: {line:?}"
        );
        assert_ne!(parsed.expect("JSON")["event"], "forged");
        for secret in ["query-string", "secret prompt"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn every_change_leaves_a_line_that_says_who_did_what() {
    let stand = Stand::new();
    let made = create(&stand.gateway, &all("noted"));
    let id = made["key"]["id"].as_str().expect("an id").to_owned();
    stand.gateway.admin_json(
        "PATCH",
        &format!("/api/keys/{id}"),
        Some(&json!({"account": "acme"})),
    );
    stand
        .gateway
        .admin("DELETE", &format!("/api/keys/{id}"), None);
    stand.gateway.reload();
    let lines = || -> Vec<String> {
        stand
            .gateway
            .log()
            .into_iter()
            .filter(|line| line.contains(&id))
            .collect()
    };
    eventually("create, change and delete are logged", DEADLINE, || {
        (lines().len() >= 3).then_some(())
    });
    let uid = rustix::process::getuid().as_raw().to_string();
    for line in lines() {
        assert!(line.contains(&uid), "who did it is not in {line}");
    }
    assert!(
        lines().iter().any(|line| line.contains("account")),
        "the changed field is not named: {:?}",
        lines()
    );
    stand
        .gateway
        .process
        .line("the reload", |line| line.contains("reload"));
}
