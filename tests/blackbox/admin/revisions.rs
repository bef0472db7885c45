//! A change of a key may name the revision that it is meant for, so that it does not undo what it did not see.

use std::thread;

use serde_json::{Value, json};

use crate::admin::calls::is_fault;
use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;

fn change(
    gateway: &Gateway,
    method: &str,
    if_match: Option<&str>,
    body: Option<&Value>,
) -> Response {
    let mut call = Call::new(method, "/api/keys/key_all");
    if let Some(if_match) = if_match {
        call = call.header("if-match", if_match);
    }
    if let Some(body) = body {
        call = call
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    Client::connect_unix(&gateway.socket())
        .expect("the admin socket")
        .ask(&call)
}

fn revision(gateway: &Gateway) -> String {
    let response = gateway.admin("GET", "/api/keys/key_all", None);
    let revision = response.json()["revision"]
        .as_str()
        .expect("a revision")
        .to_owned();
    assert_eq!(response.header("etag"), Some(&*format!("\"{revision}\"")));
    revision
}

#[test]
fn a_revision_changes_with_its_key_and_survives_reloads() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let first = revision(gateway);
    assert_eq!(
        gateway.ask(&Call::chat(&stand.all.token, "good")).status,
        200
    );
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(
        revision(gateway),
        first,
        "neither use nor a reload is a change"
    );
    let mut seen = vec![first];
    for body in [
        json!({"name": "another"}),
        json!({"disabled": true}),
        json!({"allow_from": ["10.0.0.0/8"]}),
        json!({"expires_at": "2099-01-01T00:00:00Z"}),
        json!({"account": "acme"}),
        json!({"model_access": {"mode": "exclusive", "models": ["bad"]}}),
    ] {
        let response = change(gateway, "PATCH", None, Some(&body));
        assert_eq!(response.status, 200, "{}", response.text());
        let now = revision(gateway);
        assert_eq!(response.json()["revision"], now.as_str());
        assert!(!seen.contains(&now), "{body}");
        seen.push(now);
    }
    // A change of the key file by somebody else is a change too.
    let before = revision(gateway);
    gateway.write_key_file(&gateway.key_file().replace("another", "by hand"));
    assert_eq!(gateway.reload().status, 200);
    assert_ne!(revision(gateway), before);
    let listed = gateway.admin_json("GET", "/api/keys", None);
    let listed = listed["keys"].as_array().expect("keys").iter();
    let shown = listed
        .filter(|key| key["id"] == "key_all")
        .map(|key| &key["revision"]);
    assert_eq!(shown.collect::<Vec<_>>(), [&json!(revision(gateway))]);
}

#[test]
fn a_change_meant_for_another_revision_is_412_and_changes_nothing() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let first = revision(gateway);
    let name = |name: &str| json!({"name": name});
    let quoted = format!("\"{first}\"");
    let done = change(gateway, "PATCH", Some(&quoted), Some(&name("one")));
    assert_eq!(done.status, 200, "{}", done.text());
    let second = revision(gateway);
    let file = gateway.key_file();
    let of_weak = format!("W/\"{second}\"");
    for stale in [&*quoted, &first, "\"\"", "x", "\"x\", \"y\"", &of_weak] {
        for (method, body) in [
            ("PATCH", Some(name("two"))),
            ("PATCH", Some(json!({"disabled": true}))),
            ("DELETE", None),
        ] {
            let refused = change(gateway, method, Some(stale), body.as_ref());
            is_fault(&refused, 412, None)
                .unwrap_or_else(|wrong| panic!("{method} {stale}: {wrong}"));
        }
    }
    assert_eq!(
        (revision(gateway), gateway.key_file()),
        (second.clone(), file)
    );
    for right in ["*", &second, &format!("\"x\", \"{second}\"")] {
        let same = change(gateway, "PATCH", Some(right), Some(&name("one")));
        assert_eq!(same.status, 200, "{right}: {}", same.text());
        assert_eq!(same.header("etag"), Some(&*format!("\"{second}\"")));
    }
    assert_eq!(
        change(gateway, "DELETE", Some(&format!("\"{second}\"")), None).status,
        204
    );
    assert_eq!(change(gateway, "DELETE", Some("*"), None).status, 404);
}

#[test]
fn of_many_changes_at_once_for_one_revision_one_is_done() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    for round in 0..5 {
        let quoted = format!("\"{}\"", revision(gateway));
        let answers: Vec<Response> = thread::scope(|scope| {
            let changes: Vec<_> = (0..8)
                .map(|at| {
                    let (quoted, body) = (
                        &quoted,
                        json!({"name": format!("round {round} writer {at}")}),
                    );
                    scope.spawn(move || change(gateway, "PATCH", Some(quoted), Some(&body)))
                })
                .collect();
            let changes = changes.into_iter();
            changes
                .map(|change| change.join().expect("an answer"))
                .collect()
        });
        let done: Vec<&Response> = answers
            .iter()
            .filter(|answer| answer.status == 200)
            .collect();
        assert_eq!(done.len(), 1);
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer.status, 200 | 412))
        );
        assert_eq!(done[0].json()["revision"], revision(gateway).as_str());
    }
}
