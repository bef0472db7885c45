//! Whoever changes the database cannot change a row, remove one, or exchange two without being found, and nothing that
//! happens to the gateway breaks the chain.

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit::trail::{assert_intact, change, column, create, edit, rows, verified};
use crate::support::client::{Call, Client};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

/// A gateway with five rows.
fn with_rows() -> Stand {
    let stand = Stand::new();
    for number in 1..=5 {
        let name = json!({"name": format!("n{number}")});
        assert_eq!(change(&stand.gateway, "key_all", name).status, 200);
    }
    stand
}

fn restart(gateway: &mut Gateway) {
    gateway.process.terminate();
    gateway.process.exits_within(DEADLINE);
    gateway.start_again();
}

const EDITS: [(&str, i64, &str); 6] = [
    (
        "UPDATE audit SET actor = 'uid 4711' WHERE n = 3",
        3,
        "changed_row",
    ),
    (
        "UPDATE audit SET after = NULL WHERE n = 2",
        2,
        "changed_row",
    ),
    ("DELETE FROM audit WHERE n = 3", 3, "missing_rows"),
    (
        "UPDATE audit SET n = -2 WHERE n = 2; UPDATE audit SET n = 2 WHERE n = 4; \
         UPDATE audit SET n = 4 WHERE n = -2",
        2,
        "swapped_rows",
    ),
    ("DELETE FROM audit WHERE n <= 2", 2, "cut_without_mark"),
    (
        "INSERT INTO audit SELECT 6, at, 'uid 0', via, action, target, before, after, address, request_id, hash, \
         previous_hash, account FROM audit WHERE n = 5",
        6,
        "changed_row",
    ),
];

#[test]
fn what_is_changed_in_the_database_is_found_while_the_gateway_runs() {
    for (sql, n, what) in EDITS {
        let stand = with_rows();
        assert_intact(&stand.gateway);
        edit(&stand.gateway, sql);
        let report = verified(&stand.gateway);
        assert_eq!(
            (
                &report["intact"],
                &report["broken"]["n"],
                &report["broken"]["what"]
            ),
            (&json!(false), &json!(n), &json!(what)),
            "{sql}: {report}"
        );
        let ran = stand.gateway.run(&["audit", "verify"], "");
        assert_eq!(ran.code, Some(1), "{sql}");
        assert!(
            ran.out.contains(&format!("broken at row {n}: ")),
            "{}",
            ran.out
        );
        // More rows do not hide it.
        assert_eq!(create(&stand.gateway, "later").status, 201);
        assert_eq!(verified(&stand.gateway)["broken"]["n"], n, "{sql}");
    }
}

#[test]
fn what_is_changed_in_the_database_while_the_gateway_is_stopped_is_found_after_the_start() {
    for (sql, n, what) in EDITS {
        let mut stand = with_rows();
        stand.gateway.process.terminate();
        stand.gateway.process.exits_within(DEADLINE);
        edit(&stand.gateway, sql);
        stand.gateway.start_again();
        let report = verified(&stand.gateway);
        assert_eq!(
            (&report["broken"]["n"], &report["broken"]["what"]),
            (&json!(n), &json!(what)),
            "{sql}: {report}"
        );
    }
}

#[test]
fn the_newest_rows_are_missed_while_the_gateway_runs() {
    let stand = with_rows();
    edit(&stand.gateway, "DELETE FROM audit WHERE n >= 4");
    let report = verified(&stand.gateway);
    assert_eq!(
        (&report["broken"]["n"], &report["broken"]["what"]),
        (&json!(4), &json!("missing_at_end")),
        "{report}"
    );
    // The next row does not take the place of one that is gone.
    assert_eq!(create(&stand.gateway, "later").status, 201);
    assert_eq!(rows(&stand.gateway).last().expect("a row")["n"], 6);
}

#[test]
fn the_chain_goes_on_after_a_restart_and_needs_the_same_key() {
    let mut stand = with_rows();
    restart(&mut stand.gateway);
    assert_eq!(create(&stand.gateway, "later").status, 201);
    let all = rows(&stand.gateway);
    assert_eq!(all.len(), 6);
    assert_eq!(all[5]["previous_hash"], all[4]["hash"]);
    assert_intact(&stand.gateway);
    // Without the key of the old rows nobody can verify them, and the start says so.
    std::fs::remove_file(stand.gateway.path("keygate.db-audit-key")).expect("removed");
    restart(&mut stand.gateway);
    stand.gateway.process.line("a warning", |line| {
        line.contains("newest audit row") && line.contains("keygate audit verify")
    });
    assert_eq!(verified(&stand.gateway)["broken"]["n"], 1);
}

#[test]
fn a_database_of_an_older_version_gets_its_table_of_audit_rows() {
    let mut stand = Stand::new();
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    edit(
        &stand.gateway,
        // What the later versions added.
        "DROP TABLE audit; DROP TABLE persons; DROP TABLE members; DROP TABLE invitations; DROP TABLE sessions; \
         DELETE FROM schema_migrations WHERE version IN (2, 6)",
    );
    stand.gateway.start_again();
    assert_eq!(create(&stand.gateway, "first").status, 201);
    assert_eq!(column(&rows(&stand.gateway), "action"), ["create"]);
}

#[test]
fn kill_9_in_the_middle_of_changes_breaks_no_chain_and_loses_no_row_of_a_change() {
    let mut stand = Stand::new();
    for round in 0..6 {
        let socket = stand.gateway.socket();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let socket = socket.clone();
                std::thread::spawn(move || {
                    // Until the gateway is gone.
                    while let Ok(mut client) = Client::connect_unix(&socket) {
                        let body =
                            json!({"name": "x", "model_access": {"mode": "all"}}).to_string();
                        let call = Call::new("POST", "/api/keys").body(body);
                        if client.try_send(&call.bytes()).is_err() {
                            break;
                        }
                        match client.answer_or_end() {
                            Some(response) if response.status == 201 => {}
                            _ => break,
                        }
                    }
                })
            })
            .collect();
        let before = round * 10;
        eventually("some keys", DEADLINE, || {
            let file = stand.gateway.key_file();
            (file.lines().count() > before + 10).then_some(())
        });
        stand.gateway.process.signal(Signal::KILL);
        stand.gateway.process.exits_within(DEADLINE);
        for thread in threads {
            thread.join().expect("joined");
        }
        stand.gateway.start_again();
        assert_intact(&stand.gateway);
        // Each key of the file has its row: the row is on disk before the key.
        let mut target = "/api/audit?action=create&limit=1000".to_owned();
        let mut known = HashSet::new();
        loop {
            let page = stand.gateway.admin_json("GET", &target, None);
            let ids = page["rows"].as_array().expect("rows").iter();
            known.extend(ids.map(|row| row["target"].as_str().expect("an id").to_owned()));
            match page["next"].as_str() {
                Some(next) => target = format!("/api/audit?action=create&limit=1000&after={next}"),
                None => break,
            }
        }
        for line in stand.gateway.key_file().lines() {
            let key: Value = serde_json::from_str(line).expect("a key");
            let id = key["id"].as_str().expect("an id");
            let is_made = ![&stand.all, &stand.only, &stand.all_but]
                .iter()
                .any(|key| key.id == id);
            assert!(!is_made || known.contains(id), "{id} has no row");
        }
    }
}

#[test]
fn a_key_file_that_is_not_what_the_rows_say_is_told_at_the_start() {
    let mut stand = Stand::new();
    let gateway = &stand.gateway;
    let made = create(gateway, "noted").json();
    let id = made["key"]["id"].as_str().expect("an id").to_owned();
    change(gateway, "key_all", json!({"account": "acme"}));
    change(gateway, "key_only", json!({"name": "kept"}));
    let with_all = gateway.key_file();
    assert_eq!(
        gateway
            .admin("DELETE", "/api/keys/key_all_but", None)
            .status,
        204
    );
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    // A deleted key is back, a created one is missing, and a change is undone.
    let file: Vec<String> = with_all
        .lines()
        .filter(|line| !line.contains(&id))
        .map(|line| line.replace("acme", "other"))
        .collect();
    stand.gateway.write_key_file(&(file.join("\n") + "\n"));
    stand.gateway.start_again();
    let all = rows(&stand.gateway);
    let found = &all[4..];
    assert_eq!(column(found, "action"), ["differs_at_start"; 3]);
    assert_eq!(column(found, "target"), ["key_all_but", "key_all", &id]);
    assert_eq!(found[0]["before"], json!({"row": 4}));
    assert_eq!(found[0]["after"]["name"], "key_all_but");
    assert_eq!(found[1]["after"], json!({"account": "other"}));
    assert_eq!(found[2]["after"], Value::Null);
    stand.gateway.process.line("a warning", |line| {
        line.contains("newest audit row of this key") && line.contains(&id)
    });
    // It is told once.
    restart(&mut stand.gateway);
    assert_eq!(rows(&stand.gateway).len(), 7);
    assert_intact(&stand.gateway);
}
