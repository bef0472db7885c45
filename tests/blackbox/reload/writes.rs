//! What the admin API changes is written to the key file, beside what others changed there.

use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::reload::key_file::{refs, status, with_crowd};
use crate::support::client::Call;
use crate::support::gateway::Setup;
use crate::support::recorder::Recorder;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, eventually};

#[test]
fn a_change_made_on_disk_by_others_is_merged_and_not_lost() {
    let (here, theirs) = (Key::all("key_here"), Key::all("key_theirs"));
    let (_up, gateway, keys) = with_crowd(&[&here], |setup| setup);
    gateway.write_keys(&refs(&keys, &[&here, &theirs]));
    let made = gateway.admin(
        "POST",
        "/api/keys",
        Some(&json!({"name": "mine", "model_access": {"mode": "all"}})),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let file = gateway.key_file();
    assert_eq!(file.lines().count(), 13);
    assert!(file.contains("key_theirs") && file.contains("\"mine\""));
    assert_eq!(
        status(&gateway, &theirs),
        200,
        "what was merged is in force"
    );
    let bearer = made.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(gateway.ask(&Call::chat(&bearer, "good")).status, 200);
}

#[test]
fn a_rewrite_keeps_mode_and_symlink_and_leaves_nothing_beside() {
    let key = Key::all("key_here");
    let up = Recorder::answering();
    let setup = Setup::before(&up).without_key_file();
    std::fs::create_dir(setup.path("elsewhere")).expect("made");
    let target = setup.path("elsewhere/real.jsonl");
    std::fs::write(&target, key_file(std::slice::from_ref(&key))).expect("written");
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    symlink("elsewhere/real.jsonl", setup.path("keys.jsonl")).expect("linked");
    let gateway = setup.start();
    let made = gateway.admin(
        "POST",
        "/api/keys",
        Some(&json!({"name": "x", "model_access": {"mode": "all"}})),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(
        gateway.path("keys.jsonl").is_symlink(),
        "the link was replaced"
    );
    let target = gateway.path("elsewhere/real.jsonl");
    assert_eq!(
        std::fs::read_to_string(&target)
            .expect("the file")
            .lines()
            .count(),
        2
    );
    assert_eq!(
        std::fs::metadata(&target)
            .expect("the file")
            .permissions()
            .mode()
            & 0o777,
        0o640
    );
    let beside: Vec<_> = std::fs::read_dir(gateway.path("elsewhere"))
        .expect("the folder")
        .collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
}

#[test]
fn a_write_beside_a_faulty_file_is_refused_but_taking_a_key_back_is_in_force_at_once() {
    let (gone, off, kept) = (
        Key::all("key_gone"),
        Key::all("key_off"),
        Key::all("key_kept"),
    );
    let (_up, gateway, keys) = with_crowd(&[&gone, &off, &kept], |setup| setup);
    let sound = gateway.key_file();
    let broken = format!("{sound}broken\n");
    gateway.write_key_file(&broken);
    let refused = |method: &str, path: &str, body: Value| {
        let response = gateway.admin(method, path, Some(&body));
        assert_eq!(response.status, 422, "{}", response.text());
        assert!(
            response.text().contains("keys.jsonl"),
            "{}",
            response.text()
        );
    };
    refused(
        "POST",
        "/api/keys",
        json!({"name": "x", "model_access": {"mode": "all"}}),
    );
    refused("PATCH", "/api/keys/key_kept", json!({"name": "renamed"}));
    assert_eq!(
        gateway.admin_json("GET", "/api/keys/key_kept", None)["name"],
        "key_kept"
    );
    for response in [
        gateway.admin("DELETE", "/api/keys/key_gone", None),
        gateway.admin(
            "PATCH",
            "/api/keys/key_off",
            Some(&json!({"disabled": true})),
        ),
    ] {
        assert_eq!(response.status, 507, "{}", response.text());
        assert!(
            response
                .text()
                .replace(' ', "")
                .contains("\"in_force\":true"),
            "{}",
            response.text()
        );
    }
    assert_eq!(gateway.key_file(), broken, "nothing was written");
    assert_eq!(
        (
            status(&gateway, &gone),
            status(&gateway, &off),
            status(&gateway, &kept)
        ),
        (401, 401, 200)
    );
    // A reload of the repaired file does not bring them back, and then they are written.
    gateway.write_key_file(&sound);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(
        (
            status(&gateway, &gone),
            status(&gateway, &off),
            status(&gateway, &kept)
        ),
        (401, 401, 200)
    );
    eventually("both are on disk", DEADLINE, || {
        let file = gateway.key_file();
        let off = file.lines().any(|line| {
            line.contains("key_off") && line.replace(' ', "").contains("\"disabled\":true")
        });
        (!file.contains("key_gone") && off).then_some(())
    });
    assert_eq!(gateway.key_file().lines().count(), keys.len() + 2);
}

#[test]
fn a_write_whose_merge_would_drop_too_many_is_refused() {
    let key = Key::all("key_here");
    let (_up, gateway, keys) = with_crowd(&[&key], |setup| setup);
    gateway.write_keys(&refs(&keys[..2], &[]));
    let response = gateway.admin(
        "POST",
        "/api/keys",
        Some(&json!({"name": "x", "model_access": {"mode": "all"}})),
    );
    assert_eq!(response.status, 409, "{}", response.text());
    assert_eq!(gateway.key_file().lines().count(), 2, "nothing was written");
    assert_eq!(status(&gateway, &key), 200);
    let deleted = gateway.admin("DELETE", "/api/keys/key_here", None);
    assert_eq!(deleted.status, 507, "{}", deleted.text());
    assert_eq!(status(&gateway, &key), 401);
    assert_eq!(status(&gateway, &keys[9]), 200);
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    let up = Recorder::answering();
    let setup = Setup::before(&up);
    let gateway = setup.start();
    let mut made = Vec::new();
    for at in 0..20 {
        let answer = gateway.admin_json(
            "POST",
            "/api/keys",
            Some(&json!({"name": format!("k{at}"), "model_access": {"mode": "all"}})),
        );
        made.push(answer["token"].as_str().expect("a token").to_owned());
    }
    gateway.process.signal(rustix::process::Signal::KILL);
    let file = gateway.key_file();
    for bearer in &made {
        assert!(file.contains(&crate::support::token::hash(bearer)));
    }
}
