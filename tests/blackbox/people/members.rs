//! From an invitation to a key that works, and what ends a session.

use serde_json::{Value, json};

use crate::people::panel::{PASSWORD, Person, accept, by_password, from_panel, invite, run, stand};
use crate::support::client::{Call, Client};
use crate::support::gateway::Gateway;

fn chat(gateway: &Gateway, token: &str) -> u16 {
    gateway.ask(&Call::chat(token, "good")).status
}

/// The rows of an action, newest first.
fn rows(gateway: &Gateway, action: &str) -> Vec<Value> {
    let rows = gateway.admin_json("GET", &format!("/api/audit?action={action}"), None);
    rows["rows"].as_array().expect("rows").clone()
}

#[test]
fn an_invited_owner_makes_a_key_that_works_within_what_the_account_allows() {
    let stand = stand();
    let gateway = &stand.gateway;
    let code = invite(gateway, "acme", "Alice@Example.com", "owner");
    let alice = Person::of(&accept(gateway, &code, PASSWORD));
    assert_eq!(alice.session["principal"]["email"], "alice@example.com");
    assert_eq!(alice.session["accounts"][0]["role"], "owner");
    assert_eq!(
        accept(gateway, &code, PASSWORD).status,
        401,
        "the link works once"
    );

    let (id, token) = alice.create_key(gateway);
    assert_eq!(chat(gateway, &token), 200);
    let created = &rows(gateway, "create")[0];
    assert_eq!(created["target"], id);
    assert_eq!(created["actor"], "alice@example.com");
    assert_eq!(created["account"], "acme");
    assert_eq!(created["via"], "panel");

    // The account is a ceiling for what its owner made too, and the operator alone moves it.
    let narrow = [
        "accounts",
        "update",
        "acme",
        "--model-access",
        "inclusive",
        "--model",
        "bad",
    ];
    run(gateway, &narrow);
    assert_eq!(chat(gateway, &token), 404);
    let wide = json!({"model_access": {"mode": "all"}});
    let widened = alice.ask(gateway, "PATCH", "/api/accounts/acme", &wide);
    assert_eq!(widened.status, 404, "{}", widened.text());
    // Keys of nobody's account do not exist for an owner.
    for path in ["/api/keys/key_all", "/api/status"] {
        let asked = alice.ask(gateway, "GET", path, &Value::Null);
        assert_eq!(asked.status, 404, "{path}: {}", asked.text());
    }
}

#[test]
fn a_session_outlives_a_restart_and_a_link_does_too() {
    let mut stand = stand();
    let alice = Person::invited(&stand.gateway, "acme", "alice@example.com", "member");
    let code = invite(&stand.gateway, "acme", "bob@example.com", "viewer");
    stand.gateway.start_again();
    let gateway = &stand.gateway;
    assert_eq!(alice.lives(gateway), 200);
    let (_, token) = alice.create_key(gateway);
    assert_eq!(chat(gateway, &token), 200);
    let bob = Person::of(&accept(gateway, &code, PASSWORD));
    assert_eq!(bob.session["accounts"][0]["role"], "viewer");
    assert_eq!(
        by_password(gateway, "alice@example.com", PASSWORD).status,
        200
    );
}

#[test]
fn a_removed_members_session_ends_at_once_and_the_members_keys_go_on() {
    let stand = stand();
    let gateway = &stand.gateway;
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let bob = Person::invited(gateway, "acme", "bob@example.com", "member");
    let (id, token) = bob.create_key(gateway);
    run(gateway, &["members", "remove", "acme", "bob@example.com"]);
    assert_eq!((bob.lives(gateway), alice.lives(gateway)), (401, 200));
    let again = by_password(gateway, "bob@example.com", PASSWORD);
    assert_eq!(again.status, 401, "{}", again.text());
    assert_eq!(again.json()["error"]["code"], "in_no_account");
    assert_eq!(chat(gateway, &token), 200);
    // The owner can end the key.
    let path = format!("/api/keys/{id}");
    let deleted = alice.ask(gateway, "DELETE", &path, &Value::Null);
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(chat(gateway, &token), 401);
}

#[test]
fn an_account_that_is_deleted_takes_its_members_and_invitations_with_it() {
    let stand = stand();
    let gateway = &stand.gateway;
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let (_, token) = alice.create_key(gateway);
    let open = invite(gateway, "acme", "bob@example.com", "member");
    let delete = ["accounts", "delete", "acme", "--keys", "1", "--yes"];
    run(gateway, &delete);
    assert_eq!((alice.lives(gateway), chat(gateway, &token)), (401, 401));
    assert_eq!(accept(gateway, &open, PASSWORD).status, 401);
    assert_eq!(
        by_password(gateway, "alice@example.com", PASSWORD).status,
        401
    );
    // An account of the same name is another one.
    run(gateway, &["accounts", "create", "acme"]);
    let members = gateway.admin_json("GET", "/api/accounts/acme/members", None);
    assert_eq!(members["members"], json!([]));
    assert_eq!(accept(gateway, &open, PASSWORD).status, 401);
    assert_eq!(alice.lives(gateway), 401);
}

#[test]
fn a_page_of_another_site_signs_nobody_in() {
    let stand = stand();
    let gateway = &stand.gateway;
    let code = invite(gateway, "acme", "alice@example.com", "owner");
    drop(Person::invited(
        gateway,
        "acme",
        "mallory@example.com",
        "member",
    ));
    let password = json!({"email": "mallory@example.com", "password": PASSWORD});
    let invitation = json!({"invitation": code, "password": PASSWORD});
    for (path, body) in [
        ("/api/session", &password),
        ("/api/session", &invitation),
        ("/api/invitations/look", &json!({"invitation": code})),
    ] {
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let call = from_panel("POST", path, body).header(name, value);
            let answer = Client::connect(gateway.admin_address()).ask(&call);
            assert_eq!(answer.status, 403, "{path} {name}: {}", answer.text());
            assert_eq!(answer.header("set-cookie"), None);
        }
        // What a form of another site can send.
        let form = Call::new("POST", path)
            .header("content-type", "text/plain")
            .body(body.to_string());
        let answer = Client::connect(gateway.admin_address()).ask(&form);
        assert_eq!(answer.status, 415, "{path}: {}", answer.text());
    }
    assert_eq!(accept(gateway, &code, PASSWORD).status, 200);
}

#[test]
fn every_change_of_people_has_a_row_that_names_the_person_and_the_account() {
    let stand = stand();
    let gateway = &stand.gateway;
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let bob = Person::invited(gateway, "acme", "bob@example.com", "member");
    let id = bob.session["principal"]["id"].as_str().expect("an id");
    let path = format!("/api/accounts/acme/members/{id}");
    let role = json!({"role": "viewer"});
    assert_eq!(alice.ask(gateway, "PATCH", &path, &role).status, 200);
    let reset = format!("{path}/reset-password");
    assert_eq!(alice.ask(gateway, "POST", &reset, &json!({})).status, 201);
    assert_eq!(
        alice.ask(gateway, "DELETE", &path, &Value::Null).status,
        204
    );
    for (action, actor, target) in [
        ("accept_invitation", "bob@example.com", Some(id)),
        ("change_member", "alice@example.com", Some(id)),
        ("reset_password", "alice@example.com", None),
        ("remove_member", "alice@example.com", Some(id)),
    ] {
        let row = &rows(gateway, action)[0];
        assert_eq!(row["actor"], actor, "{row}");
        assert_eq!(row["account"], "acme", "{row}");
        if let Some(target) = target {
            assert_eq!(row["target"], target, "{row}");
        }
        assert!(row.to_string().contains("bob@example.com"), "{row}");
    }
    let invited = &rows(gateway, "invite")[0];
    assert!(invited["actor"].as_str().unwrap().starts_with("uid "));
    // An owner sees the rows of the account, and no others.
    let seen = alice.ask(gateway, "GET", "/api/audit", &Value::Null).json();
    let seen = seen["rows"].as_array().expect("rows");
    assert!(!seen.is_empty() && seen.iter().all(|row| row["account"] == "acme"));
    let verified = run(gateway, &["audit", "verify"]);
    assert!(verified.starts_with("intact"), "{verified}");
}

#[test]
fn sign_ins_are_counted_by_way_and_result() {
    let stand = stand();
    let gateway = &stand.gateway;
    let count = |way: &str, result: &str| {
        let labels = format!("{{result=\"{result}\",way=\"{way}\"}}");
        gateway.metric(&format!("keygate_sign_ins_total{labels}"))
    };
    assert!(
        gateway
            .metrics()
            .contains("keygate_sign_ins_total{result=\"ok\",way=\"password\"} 0")
    );
    drop(Person::invited(
        gateway,
        "acme",
        "alice@example.com",
        "viewer",
    ));
    let wrong = by_password(gateway, "alice@example.com", "not the password");
    assert_eq!(wrong.status, 401);
    let right = by_password(gateway, "alice@example.com", PASSWORD);
    assert_eq!(right.status, 200);
    assert!((count("invitation", "ok") - 1.0).abs() < f64::EPSILON);
    assert!((count("password", "ok") - 1.0).abs() < f64::EPSILON);
    assert!((count("password", "wrong_password") - 1.0).abs() < f64::EPSILON);
}
