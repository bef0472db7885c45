//! Keys are made, shown, changed, listed and deleted by commands (contract 1).

use serde_json::{Value, json};

use crate::commands::ran::{bearer, ok};
use crate::support::assert_error;
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::{self, Key};

#[test]
fn a_key_is_made_shown_changed_and_deleted() {
    let stand = Stand::with(|setup| setup.line("public_url = \"https://ai.example.com\""));
    let gateway = &stand.gateway;
    let made = ok(
        gateway,
        &[
            "keys",
            "create",
            "--name",
            "web site",
            "--model-access",
            "inclusive",
            "--model",
            "good",
            "--model",
            "org/name",
            "--allow-from",
            "127.0.0.0/8",
            "--expires",
            "2099-01-31",
            "--account",
            "acme",
        ],
    );
    assert!(
        made.contains("OpenAI Compatible URL") && made.contains("https://ai.example.com/v1"),
        "{made}"
    );
    assert!(made.contains("Bearer Token"), "{made}");
    let token = bearer(&made);
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&token, "bad")),
        404,
        "model_not_found",
    );
    let list: Value =
        serde_json::from_str(&ok(gateway, &["keys", "list", "--json"])).expect("JSON");
    assert_eq!(list["next"], json!(null));
    let key = list["keys"][0].clone();
    assert_eq!(key["name"], "web site", "newest first: {list}");
    // A date is through the end of that day, UTC.
    assert_eq!(key["expires_at"], "2099-02-01T00:00:00Z");
    let id = key["id"].as_str().expect("an id").to_owned();
    for arguments in [
        vec!["keys", "list"],
        vec!["keys", "show", &id],
        vec!["keys", "show", &id, "--json"],
        vec!["status"],
        vec!["keys", "list", "--json"],
    ] {
        let text = ok(gateway, &arguments);
        assert!(
            !text.contains(&token) && !text.contains(&token::hash(&token)["blake3:".len()..]),
            "{arguments:?}: {text}"
        );
    }
    let text = ok(gateway, &["keys", "list"]);
    let line = text
        .lines()
        .find(|line| line.contains(&id))
        .expect("a line");
    for fact in [
        "web site",
        "good",
        "org/name",
        "127.0.0.0/8",
        "2099-02-01",
        "active",
        &token[48..],
    ] {
        assert!(line.contains(fact), "{fact} is not in {line:?}");
    }
    ok(
        gateway,
        &[
            "keys",
            "update",
            &id,
            "--name",
            "renamed",
            "--expires",
            "never",
            "--allow-from",
            "any",
        ],
    );
    let shown: Value =
        serde_json::from_str(&ok(gateway, &["keys", "show", &id, "--json"])).expect("JSON");
    let shown = shown.get("key").unwrap_or(&shown);
    assert_eq!(
        (&shown["name"], &shown["expires_at"], &shown["allow_from"]),
        (&json!("renamed"), &json!(null), &json!([]))
    );
    assert_eq!(shown["model_access"]["models"], json!(["good", "org/name"]));
    ok(gateway, &["keys", "disable", &id]);
    assert_error(
        &gateway.ask(&Call::chat(&token, "good")),
        401,
        "invalid_api_key",
    );
    ok(gateway, &["keys", "enable", &id]);
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    // Without a terminal to ask on, a delete needs --yes.
    let asked = gateway.run(&["keys", "delete", &id], "y\n");
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert_eq!(gateway.ask(&Call::chat(&token, "good")).status, 200);
    ok(gateway, &["keys", "delete", &id, "--yes"]);
    assert_error(
        &gateway.ask(&Call::chat(&token, "good")),
        401,
        "invalid_api_key",
    );
}

#[test]
fn a_created_keys_json_is_the_apis() {
    let stand = Stand::new();
    let made: Value = serde_json::from_str(&ok(
        &stand.gateway,
        &["keys", "create", "--name", "x", "--json"],
    ))
    .expect("JSON");
    assert!(
        made["token"]
            .as_str()
            .is_some_and(|token| token.starts_with("kg_"))
    );
    assert_eq!(made["key"]["model_access"], json!({"mode": "all"}));
    assert!(made["url"].is_string() && made["warnings"].is_array());
    for (expires, hours) in [("12h", 12), ("30d", 30 * 24)] {
        let made: Value = serde_json::from_str(&ok(
            &stand.gateway,
            &[
                "keys",
                "create",
                "--name",
                "x",
                "--expires",
                expires,
                "--json",
            ],
        ))
        .expect("JSON");
        let at: jiff::Timestamp = made["key"]["expires_at"]
            .as_str()
            .and_then(|at| at.parse().ok())
            .expect("a time");
        let expected = jiff::Timestamp::now().as_second() + hours * 3600;
        assert!((at.as_second() - expected).abs() < 60, "{expires}: {at}");
    }
}

#[test]
fn the_list_shows_all_pages_and_cuts_nothing_off() {
    let long = "a model with a name that is far longer than any column of a table would be, and then some more";
    let keys: Vec<Key> = (0..120)
        .map(|at| Key::only(&format!("key_{at}"), &[long]))
        .collect();
    let stand = Stand::with(|setup| setup.keys(&keys.iter().collect::<Vec<_>>()));
    let text = ok(&stand.gateway, &["keys", "list"]);
    for key in &keys {
        assert!(
            text.lines()
                .any(|line| line.contains(&key.id) && line.contains(long)),
            "{}",
            key.id
        );
    }
    let list: Value =
        serde_json::from_str(&ok(&stand.gateway, &["keys", "list", "--json"])).expect("JSON");
    assert_eq!(list["keys"].as_array().map(Vec::len), Some(123));
    assert_eq!(list["next"], json!(null));
}
