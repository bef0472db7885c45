//! A database that cannot be written: what gives access is refused, what takes it away is in force and recorded later.

use serde_json::{Value, json};

use crate::audit::trail::{
    assert_intact, change, column, create, locked, over_tcp, rows, sign_in, verified,
};
use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::small_disk::SmallDisk;
use crate::support::stand::Stand;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, eventually};

fn status_of(gateway: &Gateway, key: &Key) -> u16 {
    gateway.ask(&Call::chat(&key.token, "good")).status
}

pub fn audit_status(gateway: &Gateway) -> Value {
    gateway.admin_json("GET", "/api/status", None)["audit"].clone()
}

#[track_caller]
pub fn assert_refused(response: &crate::support::client::Response) {
    assert_eq!(response.status, 507, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["in_force"], false, "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("cannot be audited"), "{message}");
}

#[test]
fn what_gives_access_is_refused_and_what_takes_it_away_is_in_force_and_recorded_later() {
    let (stand, token) = over_tcp(|setup| setup);
    let gateway = &stand.gateway;
    let lock = locked(gateway);
    let file = gateway.key_file();
    assert_refused(&create(gateway, "new"));
    assert_refused(&change(
        gateway,
        "key_only",
        json!({"model_access": {"mode": "all"}}),
    ));
    assert_refused(&change(gateway, "key_only", json!({"name": "renamed"})));
    assert_refused(&change(
        gateway,
        "key_only",
        json!({"expires_at": "2999-01-01", "model_access": {"mode": "exclusive", "models": ["x"]}}),
    ));
    assert_eq!(gateway.key_file(), file);
    // Whoever knows the admin token could change everything, and so a sign-in gives access.
    assert_refused(&sign_in(gateway, &json!({"token": token})));
    assert_eq!(sign_in(gateway, &json!({"token": "wrong"})).status, 401);
    // Disabled, deleted, narrower: in force and in the key file.
    assert_eq!(
        change(gateway, "key_only", json!({"disabled": true})).status,
        200
    );
    assert_eq!(status_of(gateway, &stand.only), 401);
    assert_eq!(
        gateway
            .admin("DELETE", "/api/keys/key_all_but", None)
            .status,
        204
    );
    assert_eq!(status_of(gateway, &stand.all_but), 401);
    assert_eq!(
        change(gateway, "key_all", json!({"allow_from": ["192.0.2.0/24"]})).status,
        200
    );
    assert_eq!(status_of(gateway, &stand.all), 401);
    assert!(!gateway.key_file().contains("key_all_but"));
    // An enable would give access again.
    assert_refused(&change(gateway, "key_only", json!({"disabled": false})));
    assert_eq!(rows(gateway), Vec::<Value>::new());
    assert_eq!(audit_status(gateway), json!({"waiting": 4, "lost": 0}));
    assert!((gateway.metric("keygate_audit_rows_waiting") - 4.0).abs() < 0.1);
    let shown = gateway.run(&["status"], "");
    assert!(
        shown.out.contains("4 rows wait for the database"),
        "{}",
        shown.out
    );
    drop(lock);
    eventually("the rows are written", DEADLINE, || {
        (audit_status(gateway)["waiting"] == 0).then_some(())
    });
    let all = rows(gateway);
    assert_eq!(
        column(&all, "action"),
        ["sign_in_failed", "change", "delete", "change"]
    );
    assert_eq!(all[1]["after"], json!({"disabled": true}));
    assert_intact(gateway);
    assert_eq!(create(gateway, "new").status, 201);
    assert_eq!(verified(gateway)["rows"], 5);
}

#[test]
fn a_reload_that_gives_access_is_refused_whole_and_one_that_takes_it_away_is_not() {
    let stand = Stand::new();
    let gateway = &stand.gateway;
    let lock = locked(gateway);
    let new = Key::all("key_new");
    gateway.write_keys(&[&stand.all, &stand.only, &new]);
    assert_refused(&gateway.reload());
    assert_eq!(status_of(gateway, &new), 401);
    assert_eq!(status_of(gateway, &stand.all_but), 200);
    // A create finds that file too.
    assert_eq!(create(gateway, "mine").status, 507);
    gateway.write_keys(&[&stand.all, &stand.only]);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(status_of(gateway, &stand.all_but), 401);
    drop(lock);
    gateway.write_keys(&[&stand.all, &stand.only, &new]);
    eventually("the database is free", DEADLINE, || {
        (gateway.reload().status == 200).then_some(())
    });
    assert_eq!(status_of(gateway, &new), 200);
    assert_eq!(column(&rows(gateway), "action"), ["reload", "reload"]);
    assert_intact(gateway);
}

#[test]
fn a_watched_file_that_could_not_be_recorded_is_loaded_once_it_can_be() {
    let stand = Stand::with(|setup| setup.set("keys", "watch = true"));
    let gateway = &stand.gateway;
    let lock = locked(gateway);
    let new = Key::all("key_new");
    gateway.write_keys(&[&stand.all, &stand.only, &stand.all_but, &new]);
    gateway.process.line("the refusal", |line| {
        line.contains("key_file_refused") && line.contains("cannot be audited")
    });
    assert_eq!(status_of(gateway, &new), 401);
    drop(lock);
    eventually("the new key is in force", DEADLINE, || {
        (status_of(gateway, &new) == 200).then_some(())
    });
    assert_eq!(column(&rows(gateway), "via"), ["file"]);
}

#[test]
fn rows_that_wait_when_the_gateway_stops_are_written_before_its_end() {
    let mut stand = Stand::new();
    let lock = locked(&stand.gateway);
    let disabled = change(&stand.gateway, "key_only", json!({"disabled": true}));
    assert_eq!(disabled.status, 200);
    drop(lock);
    stand.gateway.process.terminate();
    stand.gateway.process.exits_within(DEADLINE);
    stand.gateway.start_again();
    assert_eq!(column(&rows(&stand.gateway), "action"), ["change"]);
    assert_intact(&stand.gateway);
}

#[test]
fn on_a_full_disk_what_takes_access_away_is_recorded_once_there_is_room() {
    let Some(disk) = SmallDisk::mounted("256k") else {
        return;
    };
    let url = format!("url = \"sqlite:{}\"", disk.path("keygate.db").display());
    let stand = Stand::with(|setup| setup.set("database", &url));
    let gateway = &stand.gateway;
    let filler = disk.fill();
    // What is left of the log's file takes some rows.
    eventually("the disk is full", DEADLINE, || {
        let name = "x".repeat(100);
        let refused = change(gateway, "key_all", json!({"name": name, "account": name}));
        let back = change(gateway, "key_all", json!({"name": "n", "account": null}));
        (refused.status == 507 && back.status == 507).then_some(())
    });
    let written = rows(gateway).len();
    assert_eq!(
        change(gateway, "key_only", json!({"disabled": true})).status,
        200
    );
    assert_eq!(status_of(gateway, &stand.only), 401);
    std::fs::remove_file(filler).expect("there is room");
    eventually("the row is written", DEADLINE, || {
        (audit_status(gateway)["waiting"] == 0).then_some(())
    });
    let all = rows(gateway);
    assert_eq!(all.len(), written + 1);
    assert_eq!(all[written]["after"], json!({"disabled": true}));
    assert_intact(gateway);
}

#[test]
fn a_change_that_has_a_row_but_not_its_place_in_the_key_file_has_a_second_row() {
    let Some(disk) = SmallDisk::mounted("256k") else {
        return;
    };
    let file = disk.path("keys.jsonl");
    let (only, kept) = (Key::all("key_only"), Key::all("key_kept"));
    std::fs::write(&file, key_file(&[only, kept])).expect("written");
    let up = Recorder::answering();
    let file = format!("file = {:?}", file.display().to_string());
    let gateway = &Setup::before(&up).set("keys", &file).start();
    let filler = disk.fill();
    assert_eq!(create(gateway, "new").status, 507);
    let deleted = gateway.admin("DELETE", "/api/keys/key_only", None);
    assert_eq!(deleted.status, 507);
    assert_eq!(deleted.json()["in_force"], true);
    std::fs::remove_file(filler).expect("there is room");
    let all = rows(gateway);
    assert_eq!(column(&all, "action"), ["create", "not_written", "delete"]);
    assert_eq!(all[1]["target"], all[0]["target"]);
    assert_eq!(all[1]["after"], json!({"row": 1}));
    assert_intact(gateway);
}
