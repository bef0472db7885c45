//! What the calls, the log and the key itself tell of a rotation.

use std::thread;

use serde_json::{Value, json};

use crate::rotation::rotated::{ask, rotate, shown, token_of};
use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

fn post(gateway: &Gateway, path: &str, header: (&str, &str), body: &Value) -> Response {
    let call = Call::new("POST", path)
        .header("content-type", "application/json")
        .header(header.0, header.1)
        .body(body.to_string());
    Client::connect_unix(&gateway.socket())
        .expect("the admin socket")
        .ask(&call)
}

#[test]
fn the_key_the_log_and_the_list_tell_which_token_was_used() {
    let stand = Stand::new();
    let (gateway, old) = (&stand.gateway, &*stand.all.token);
    let own = |token: &str| {
        let answer = gateway.ask(&Call::get("/v1/key", token));
        answer.json()["token"].clone()
    };
    assert_eq!(own(old), "current");
    let new = token_of(&rotate(gateway, "key_all", 600));
    assert_eq!((own(old), own(&new)), (json!("previous"), json!("current")));
    assert_eq!(ask(gateway, &new).status, 200);
    let line = |token: &str| {
        let id = ask(gateway, token)
            .header("x-request-id")
            .expect("an id")
            .to_owned();
        eventually("the access line", DEADLINE, || {
            let log = gateway.log();
            let line = log
                .iter()
                .find(|line| line.contains("\"access\"") && line.contains(&id))?;
            serde_json::from_str::<Value>(line).ok()
        })
    };
    assert_eq!(line(old)["token"], "previous");
    assert_eq!(line(&new).get("token"), None);
    let previous = shown(gateway, "key_all")["previous"].clone();
    assert!(previous["last_used_at"].is_string(), "{previous}");
    let list = gateway.admin_json("GET", "/api/keys", None);
    let keys = list["keys"].as_array().expect("keys");
    let listed = keys
        .iter()
        .find(|key| key["id"] == "key_all")
        .expect("the key");
    assert_eq!(listed["previous"], previous);
    // Nobody has used this one since the next rotation.
    rotate(gateway, "key_all", 600);
    assert_eq!(
        shown(gateway, "key_all")["previous"]["last_used_at"],
        Value::Null
    );
    // Who still uses a token that has ended is seen, too.
    gateway.admin_json("POST", "/api/keys/key_all/expire-previous", None);
    assert_eq!(line(old)["key_id"], Value::Null);
}

#[test]
fn changes_are_logged_without_the_token_and_its_hash() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    rotate(gateway, "key_all", 600);
    gateway.admin_json("POST", "/api/keys/key_all/expire-previous", None);
    for (action, fields) in [
        ("rotate", json!(["hint", "previous", "token"])),
        ("expire_previous", json!(["previous"])),
    ] {
        let line = gateway.process.line(action, |line| {
            line.contains("\"change\"") && line.contains(&format!("\"{action}\""))
        });
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["fields"], fields);
        assert_eq!(
            (&line["key_id"], &line["result"]),
            (&json!("key_all"), &json!("ok"))
        );
        assert!(!line.to_string().contains("blake3"));
    }
}

#[test]
fn a_rotation_may_name_the_revision_that_it_is_meant_for() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let seen = shown(gateway, "key_all")["revision"]
        .as_str()
        .expect("a revision")
        .to_owned();
    let quoted = format!("\"{seen}\"");
    for path in ["rotate", "expire-previous"] {
        let path = format!("/api/keys/key_all/{path}");
        let stale = post(
            gateway,
            &path,
            ("if-match", "\"0000000000000000\""),
            &json!({}),
        );
        assert_eq!(stale.status, 412, "{}", stale.text());
    }
    assert_eq!(ask(gateway, &stand.all.token).status, 200);
    // Of many at once one is done, so that no token is lost that somebody was shown.
    let answers: Vec<u16> = thread::scope(|scope| {
        let (quoted, gateway) = (&quoted, &gateway);
        let calls: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let path = "/api/keys/key_all/rotate";
                    post(gateway, path, ("if-match", quoted), &json!({})).status
                })
            })
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("an answer"))
            .collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|status| **status == 412).count(), 7);
}

#[test]
fn a_repeated_idempotency_key_is_answered_with_the_key_and_never_a_token() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let (rotate, create) = ("/api/keys/key_all/rotate", "/api/keys");
    let new_key = json!({"name": "mine", "model_access": {"mode": "all"}});
    for (path, body) in [(rotate, json!({"grace_seconds": 600})), (create, new_key)] {
        // What fails is not done, and so may be tried again.
        let faulty = post(gateway, path, ("idempotency-key", "one"), &json!({"x": 1}));
        assert_eq!(faulty.status, 422);
        let done = post(gateway, path, ("idempotency-key", "one"), &body);
        assert_eq!(done.status, 201, "{}", done.text());
        let again = post(gateway, path, ("idempotency-key", "one"), &body);
        assert_eq!(again.status, 409, "{}", again.text());
        assert!(!again.text().contains("kg_") && again.json().get("token").is_none());
        assert_eq!(again.json()["key"], done.json()["key"]);
        assert_eq!(
            post(gateway, path, ("idempotency-key", "two"), &body).status,
            201
        );
        let bad = post(gateway, path, ("idempotency-key", ""), &body);
        assert_eq!(
            (bad.status, &bad.json()["error"]["field"]),
            (422, &json!("Idempotency-Key"))
        );
    }
    assert_eq!(
        gateway.admin_json("GET", "/api/keys", None)["keys"]
            .as_array()
            .map(Vec::len),
        Some(5)
    );
    // A call that was refused after its key was taken may be made again under the same one.
    let attempt = |revision: Option<&str>| {
        let mut call = Call::new("POST", rotate).header("idempotency-key", "refused");
        if let Some(revision) = revision {
            call = call.header("if-match", revision);
        }
        let mut admin = Client::connect_unix(&gateway.socket()).expect("the admin socket");
        admin.ask(&call).status
    };
    assert_eq!(attempt(Some("\"0000000000000000\"")), 412);
    assert_eq!(attempt(None), 201);
    assert_eq!(attempt(None), 409);
    // A revision that is no longer right is no failure of the first call.
    let repeated = Call::new("POST", rotate)
        .header("idempotency-key", "one")
        .header("if-match", "\"0000000000000000\"");
    let mut admin = Client::connect_unix(&gateway.socket()).expect("the admin socket");
    assert_eq!(admin.ask(&repeated).status, 409);
    // Of many at once one is done.
    let answers: Vec<u16> = thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| {
                scope
                    .spawn(|| post(gateway, rotate, ("idempotency-key", "many"), &json!({})).status)
            })
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("an answer"))
            .collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|status| **status == 409).count(), 7);
}

#[test]
fn explain_says_that_a_token_is_the_previous_one_and_until_when() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let rotated = rotate(gateway, "key_all", 600);
    let end = rotated["key"]["previous"]["not_after"]
        .as_str()
        .expect("a time");
    let question = ["explain", "--model", "good", "--from", "::1"];
    let explained = gateway.run(&question, &stand.all.token).out;
    assert!(explained.starts_with("allowed: "), "{explained}");
    assert!(
        explained.contains(&format!("previous token, which works until {end}")),
        "{explained}"
    );
    let explained = gateway.run(&question, &token_of(&rotated)).out;
    assert!(
        explained.starts_with("allowed: ") && !explained.contains("previous"),
        "{explained}"
    );
    let at = [&question[..], &["--at", end]].concat();
    let explained = gateway.run(&at, &stand.all.token).out;
    assert!(explained.starts_with("denied: "), "{explained}");
    assert!(
        explained.contains(&format!("previous token, which ended at {end}")),
        "{explained}"
    );
}
