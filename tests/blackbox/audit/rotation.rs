//! Rotations and the end of a previous token: each makes exactly one row.

use std::fs::File;
use std::thread;

use serde_json::{Value, json};

use crate::audit::trail::{assert_intact, column, create, locked, rows};
use crate::audit::unwritable::{assert_refused, audit_status};
use crate::rotation::rotated::{rotate, statuses, token_of};
use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

fn hint(token: &str) -> &str {
    &token[token.len() - 4..]
}

fn asked_to_rotate(gateway: &Gateway, id: &str, grace_seconds: u64) -> Response {
    let body = json!({ "grace_seconds": grace_seconds });
    gateway.admin("POST", &format!("/api/keys/{id}/rotate"), Some(&body))
}

fn expire_previous(gateway: &Gateway, id: &str) -> Response {
    gateway.admin("POST", &format!("/api/keys/{id}/expire-previous"), None)
}

#[test]
fn a_rotation_and_the_end_of_an_old_token_make_one_row_each_without_a_hash() {
    let mut stand = Stand::new();
    let gateway = &stand.gateway;
    let made = create(gateway, "noted").json();
    let id = made["key"]["id"].as_str().expect("an id").to_owned();
    let first = token_of(&made);
    let second = token_of(&rotate(gateway, &id, 600));
    let third = token_of(&rotate(gateway, &id, 0));
    let fourth = rotate(gateway, &id, 600);
    let not_after = fourth["key"]["previous"]["not_after"].clone();
    let fourth = token_of(&fourth);
    assert_eq!(expire_previous(gateway, &id).status, 200);
    // Nothing is left to end, a key that is not there, a body that is refused.
    assert_eq!(expire_previous(gateway, &id).status, 200);
    assert_eq!(asked_to_rotate(gateway, "key_nobody", 1).status, 404);
    assert_eq!(expire_previous(gateway, "key_nobody").status, 404);
    assert_eq!(asked_to_rotate(gateway, &id, 1 << 40).status, 422);
    let all = rows(gateway);
    assert_eq!(
        column(&all, "action"),
        ["create", "rotate", "rotate", "rotate", "expire_previous"]
    );
    for row in &all {
        assert_eq!(
            (&row["target"], &row["via"]),
            (&json!(id), &json!("socket"))
        );
    }
    let of_second = &all[1]["after"]["previous"]["not_after"];
    assert!(of_second.is_string(), "{}", all[1]);
    let previous =
        |token: &str, not_after: &Value| json!({"hint": hint(token), "not_after": not_after});
    let expected = [
        (
            json!({"hint": hint(&first), "previous": null}),
            json!({"hint": hint(&second), "previous": previous(&first, of_second), "token": "replaced"}),
        ),
        (
            json!({"hint": hint(&second), "previous": previous(&first, of_second)}),
            json!({"hint": hint(&third), "previous": null, "token": "replaced"}),
        ),
        (
            json!({"hint": hint(&third), "previous": null}),
            json!({"hint": hint(&fourth), "previous": previous(&third, &not_after), "token": "replaced"}),
        ),
        (
            json!({"previous": previous(&third, &not_after)}),
            json!({"previous": null}),
        ),
    ];
    for (row, (before, after)) in all[1..].iter().zip(&expected) {
        assert_eq!((&row["before"], &row["after"]), (before, after));
    }
    let text = gateway.admin("GET", "/api/audit", None).text();
    let log = gateway.log().join("\n");
    for token in [&first, &second, &third, &fourth] {
        assert!(!text.contains(token.as_str()) && !log.contains(token.as_str()));
    }
    assert!(!text.contains("blake3") && !log.contains("blake3"));
    // Its log line names the row.
    let line = gateway.process.line("the end of the old token", |line| {
        line.contains("\"expire_previous\"") && line.contains("\"n\":5")
    });
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["hash"], &line["before"], &line["result"]),
        (&all[4]["hash"], &all[4]["before"], &json!("ok"))
    );
    for (action, count) in [("rotate", 3), ("expire_previous", 1)] {
        let target = format!("/api/audit?action={action}&key={id}");
        let found = gateway.admin_json("GET", &target, None);
        assert_eq!(found["rows"].as_array().expect("rows").len(), count);
    }
    // After a restart the key file has what the rows say.
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    stand.gateway.start_again();
    assert_eq!(rows(&stand.gateway), all);
    assert_intact(&stand.gateway);
}

#[test]
fn a_repeated_rotation_makes_no_second_row() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let call = Call::new("POST", "/api/keys/key_all/rotate")
        .header("content-type", "application/json")
        .header("idempotency-key", "once")
        .body("{}");
    for status in [201, 409] {
        let mut client = Client::connect_unix(&gateway.socket()).expect("the admin socket");
        assert_eq!(client.ask(&call).status, status);
    }
    assert_eq!(column(&rows(gateway), "action"), ["rotate"]);
}

#[test]
fn where_it_cannot_be_recorded_no_token_is_made_and_an_old_one_ends_and_is_recorded_later() {
    let stand = Stand::new();
    let (gateway, old) = (&stand.gateway, &*stand.all.token);
    let new = token_of(&rotate(gateway, "key_all", 600));
    let lock = locked(gateway);
    let file = gateway.key_file();
    for grace_seconds in [0, 600] {
        assert_refused(&asked_to_rotate(gateway, "key_all", grace_seconds));
    }
    assert_eq!(gateway.key_file(), file);
    assert_eq!(statuses(gateway, [old, &new]), [200, 200]);
    for _ in 0..2 {
        let ended = expire_previous(gateway, "key_all");
        assert_eq!(ended.status, 200, "{}", ended.text());
    }
    assert_eq!(statuses(gateway, [old, &new]), [401, 200]);
    assert!(!gateway.key_file().contains("previous"));
    assert_eq!(audit_status(gateway), json!({"waiting": 1, "lost": 0}));
    drop(lock);
    eventually("the row is written", DEADLINE, || {
        (audit_status(gateway)["waiting"] == 0).then_some(())
    });
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["rotate", "expire_previous"]);
    assert_eq!(all[1]["before"]["previous"], all[0]["after"]["previous"]);
    assert_eq!(all[1]["after"], json!({"previous": null}));
    assert_intact(gateway);
    rotate(gateway, "key_all", 600);
}

#[test]
fn a_token_that_ends_while_the_key_file_cannot_be_written_has_one_row() {
    let stand = Stand::new();
    let (gateway, old) = (&stand.gateway, &*stand.all.token);
    let new = token_of(&rotate(gateway, "key_all", 600));
    let file = gateway.key_file();
    gateway.write_key_file("faulty\n");
    for _ in 0..2 {
        let ended = expire_previous(gateway, "key_all");
        assert_eq!(ended.status, 507, "{}", ended.text());
        assert_eq!(ended.json()["in_force"], true);
    }
    assert_eq!(asked_to_rotate(gateway, "key_all", 600).status, 422);
    assert_eq!(statuses(gateway, [old, &new]), [401, 200]);
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["rotate", "expire_previous"]);
    assert_eq!(all[1]["before"]["previous"], all[0]["after"]["previous"]);
    assert_eq!(all[1]["after"], json!({"previous": null}));
    gateway.write_key_file(&file);
    eventually("it is written", DEADLINE, || {
        (!gateway.key_file().contains("previous")).then_some(())
    });
    assert_eq!(rows(gateway), all);
    assert_eq!(statuses(gateway, [old, &new]), [401, 200]);
    assert_intact(gateway);
}

#[test]
fn a_token_that_ends_while_another_process_holds_the_key_file_has_one_row() {
    let stand = Stand::new();
    let (gateway, old) = (&stand.gateway, &*stand.all.token);
    rotate(gateway, "key_all", 600);
    let lock = File::create(gateway.path(".keys.jsonl.lock")).expect("the lock");
    lock.lock().expect("locked");
    thread::scope(|scope| {
        let ending = scope.spawn(|| expire_previous(gateway, "key_all"));
        eventually("the old token is refused", DEADLINE, || {
            (statuses(gateway, [old]) == [401]).then_some(())
        });
        drop(lock);
        assert_eq!(ending.join().expect("an answer").status, 200);
    });
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["rotate", "expire_previous"]);
    assert_eq!(all[1]["before"]["previous"], all[0]["after"]["previous"]);
    assert_eq!(all[1]["after"], json!({"previous": null}));
    assert_intact(gateway);
}

#[test]
fn concurrent_rotations_and_ends_have_one_row_each_in_the_order_in_which_they_are_in_force() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..6 {
                    rotate(gateway, "key_all", 600);
                }
            });
            scope.spawn(|| {
                for _ in 0..6 {
                    assert_eq!(expire_previous(gateway, "key_all").status, 200);
                }
            });
        }
    });
    let all = rows(gateway);
    let rotations = all.iter().filter(|row| row["action"] == "rotate");
    assert_eq!(rotations.count(), 24);
    // Each change begins where the one before it ended.
    let (mut previous, mut hint) = (Value::Null, Value::Null);
    for row in &all {
        assert_eq!(row["before"]["previous"], previous, "{row}");
        previous = row["after"]["previous"].clone();
        if row["action"] == "rotate" {
            assert_eq!(row["before"]["hint"], hint, "{row}");
            assert_eq!(previous["hint"], hint, "{row}");
            hint = row["after"]["hint"].clone();
        } else {
            assert_eq!(row["after"], json!({"previous": null}));
        }
    }
    let key = gateway.admin_json("GET", "/api/keys/key_all", None);
    assert_eq!(key["hint"], hint);
    assert_eq!(key["previous"]["not_after"], previous["not_after"]);
    assert_intact(gateway);
}
