//! A changed key file is taken whole or not at all, and what was in force stays in force until then.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::{Key, key_file};
use crate::support::{Cases, DEADLINE, assert_error, eventually};

pub fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.ask(&Call::chat(&key.token, "good")).status
}

fn generation(gateway: &Gateway) -> u64 {
    gateway.admin_json("GET", "/api/status", None)["generation"]
        .as_u64()
        .expect("a number")
}

/// Keys that nobody uses, so that others are a small part of the table.
fn crowd(count: usize) -> Vec<Key> {
    (0..count)
        .map(|at| Key::all(&format!("key_crowd_{at}")))
        .collect()
}

pub fn refs<'k>(keys: &'k [Key], more: &[&'k Key]) -> Vec<&'k Key> {
    keys.iter().chain(more.iter().copied()).collect()
}

/// A gateway with ten keys and those that the test is about.
pub fn with_crowd(
    more: &[&Key],
    setup: impl FnOnce(Setup) -> Setup,
) -> (Recorder, Gateway, Vec<Key>) {
    let up = Recorder::answering();
    let keys = crowd(10);
    let gateway = setup(Setup::before(&up).keys(&refs(&keys, more))).start();
    (up, gateway, keys)
}

#[test]
fn a_reload_by_the_socket_is_in_force_at_its_answer_and_counts_what_changed() {
    let (kept, changed, removed, added) = (
        Key::all("key_kept"),
        Key::all("key_changed"),
        Key::all("key_removed"),
        Key::all("key_added"),
    );
    let (_up, gateway, keys) = with_crowd(&[&kept, &changed, &removed], |setup| setup);
    let before = generation(&gateway);
    let changed_now = changed.clone().with("name", "renamed").disabled();
    gateway.write_keys(&refs(&keys, &[&kept, &changed_now, &added]));
    assert_eq!(status(&gateway, &added), 401, "nothing is read unasked");
    let answer = gateway.admin_json("POST", "/api/reload?ids=true", None);
    assert_eq!(status(&gateway, &added), 200);
    assert_eq!(status(&gateway, &kept), 200);
    assert_eq!(status(&gateway, &changed), 401);
    assert_eq!(status(&gateway, &removed), 401);
    assert_eq!(answer["keys"], 13);
    assert_eq!(answer["restart_needed"], json!([]));
    assert!(answer["generation"].as_u64().expect("a number") > before);
    let text = answer.to_string();
    for id in ["key_added", "key_removed", "key_changed"] {
        assert!(text.contains(id), "{id} is not listed: {text}");
    }
    assert!(
        !text.contains("key_kept") && !text.contains("key_crowd_"),
        "{text}"
    );
    assert_eq!(
        answer["names"],
        json!({"key_added": "key_added", "key_removed": "key_removed", "key_changed": "renamed"})
    );
    assert_eq!(
        answer["changes"],
        json!({"key_changed": ["name", "disabled"]})
    );
    let counts = gateway.admin_json("POST", "/api/reload", None);
    assert_eq!(counts.get("names"), None);
    assert_eq!(
        (&counts["added"], &counts["removed"], &counts["changed"]),
        (&json!(0), &json!(0), &json!(0))
    );
    gateway.write_keys(&refs(&keys, &[&removed]));
    let counts = gateway.admin_json("POST", "/api/reload", Some(&json!({})));
    assert_eq!(
        (&counts["added"], &counts["removed"], &counts["changed"]),
        (&json!(1), &json!(3), &json!(0))
    );
}

#[test]
fn a_reload_by_sighup_or_by_watching_comes_by_itself() {
    for watch in [false, true] {
        let (first, second) = (Key::all("key_first"), Key::all("key_second"));
        let (_up, gateway, keys) = with_crowd(&[&first], |setup| {
            setup.set("keys", &format!("watch = {watch}"))
        });
        gateway.write_keys(&refs(&keys, &[&second]));
        if !watch {
            gateway.process.hang_up();
        }
        eventually("the new key works", DEADLINE, || {
            (status(&gateway, &second) == 200).then_some(())
        });
        assert_eq!(status(&gateway, &first), 401);
        let last = gateway.admin_json("GET", "/api/status", None)["last_reload"].clone();
        assert_eq!(last["result"], "ok");
        assert!(
            last["at"].as_str().is_some_and(|at| at.ends_with('Z')),
            "{last}"
        );
        if watch {
            // Written in place too, and through a symlinked folder as mounted secrets are.
            std::fs::write(
                gateway.path("keys.jsonl"),
                key_file(
                    &refs(&keys, &[&first])
                        .into_iter()
                        .cloned()
                        .collect::<Vec<_>>(),
                ),
            )
            .expect("written");
            eventually("the first key is back", DEADLINE, || {
                (status(&gateway, &first) == 200).then_some(())
            });
        }
    }
}

#[test]
fn a_mounted_secret_that_is_swapped_by_its_symlink_is_noticed() {
    let (first, second) = (Key::all("key_first"), Key::all("key_second"));
    let up = Recorder::answering();
    let keys = crowd(4);
    let setup = Setup::before(&up)
        .without_key_file()
        .set("keys", "watch = true");
    for (folder, key) in [("..one", &first), ("..two", &second)] {
        std::fs::create_dir(setup.path(folder)).expect("made");
        let text = key_file(&refs(&keys, &[key]).into_iter().cloned().collect::<Vec<_>>());
        std::fs::write(setup.path(folder).join("keys.jsonl"), text).expect("written");
    }
    symlink("..one", setup.path("..data")).expect("linked");
    symlink("..data/keys.jsonl", setup.path("keys.jsonl")).expect("linked");
    let gateway = setup.start();
    assert_eq!(status(&gateway, &first), 200);
    symlink("..two", gateway.path("..data_tmp")).expect("linked");
    std::fs::rename(gateway.path("..data_tmp"), gateway.path("..data")).expect("swapped");
    eventually("the second key works", DEADLINE, || {
        (status(&gateway, &second) == 200).then_some(())
    });
    assert_eq!(status(&gateway, &first), 401);
}

#[test]
fn a_faulty_file_leaves_the_table_in_force_and_every_fault_is_answered() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let (_up, gateway, keys) = with_crowd(&[&old], |setup| setup);
    let before = generation(&gateway);
    let mut text = key_file(
        &refs(&keys, &[&new])
            .into_iter()
            .cloned()
            .collect::<Vec<_>>(),
    );
    text.push_str("{\"id\":\"key_x\"\n");
    text.push_str(&Key::all("key_y").with("allow_from", json!(["::1"])).line());
    text.push('\n');
    gateway.write_key_file(&text);
    let response = gateway.reload();
    assert_eq!(response.status, 422, "{}", response.text());
    let error = &response.json()["error"];
    let faults = error["faults"].as_array().expect("faults").clone();
    let lines: Vec<u64> = faults
        .iter()
        .filter_map(|fault| fault["line"].as_u64())
        .collect();
    assert_eq!(lines, [12, 13], "{error}");
    for fault in &faults {
        assert!(
            fault["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("keys.jsonl")),
            "{fault}"
        );
        assert!(
            fault["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{fault}"
        );
    }
    assert!(
        faults[1]["field"]
            .as_str()
            .is_some_and(|field| field.contains("allow_from")),
        "{error}"
    );
    assert!(
        faults[1]["message"]
            .as_str()
            .is_some_and(|text| text.contains("IPv6")),
        "{error}"
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("keys.jsonl:12")),
        "{error}"
    );
    assert_eq!(status(&gateway, &old), 200);
    assert_eq!(status(&gateway, &new), 401);
    assert_eq!(generation(&gateway), before);
    let last = gateway.admin_json("GET", "/api/status", None)["last_reload"].clone();
    assert_eq!(last["result"], "faulty");
    assert!(
        last["message"]
            .as_str()
            .is_some_and(|text| text.contains("keys.jsonl")),
        "{last}"
    );
    assert!((gateway.metric("keygate_reloads_total{result=\"faulty\"}") - 1.0).abs() < 0.1);
    gateway.process.hang_up();
    eventually("the second try is counted", DEADLINE, || {
        (gateway.metric("keygate_reloads_total{result=\"faulty\"}") > 1.5).then_some(())
    });
    assert_eq!(status(&gateway, &old), 200);
    gateway.write_keys(&refs(&keys, &[&new]));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(status(&gateway, &new), 200);
}

#[test]
fn a_missing_file_is_a_fault_and_leaves_the_table_in_force() {
    let key = Key::all("key_here");
    let (_up, gateway, _) = with_crowd(&[&key], |setup| setup);
    std::fs::remove_file(gateway.path("keys.jsonl")).expect("removed");
    let response = gateway.reload();
    assert_eq!(response.status, 422, "{}", response.text());
    assert!(response.text().contains("keys.jsonl"));
    gateway.process.hang_up();
    assert_eq!(status(&gateway, &key), 200);
    std::fs::create_dir(gateway.path("keys.jsonl")).expect("made");
    assert_eq!(gateway.reload().status, 422);
    assert_eq!(status(&gateway, &key), 200);
}

#[test]
fn a_file_cut_off_at_any_byte_is_never_half_a_table() {
    let keys = crowd(3);
    let up = Recorder::answering();
    let gateway = Setup::before(&up).keys(&refs(&keys, &[])).start();
    let whole = key_file(&keys);
    let mut cases = Cases::new();
    for length in 0..whole.len() {
        gateway.write_key_file(&whole[..length]);
        let response = gateway.reload();
        let lines = whole[..length].trim_end_matches('\n');
        let at_a_line =
            whole[length..].starts_with('\n') || length == 0 || whole[..length].ends_with('\n');
        let count = lines.lines().count();
        let expected = if !at_a_line {
            422
        } else if count * 2 < keys.len() {
            409
        } else {
            200
        };
        let name = format!("{length} of {} bytes", whole.len());
        cases.check(
            &name,
            (response.status == expected).then_some(()).ok_or(format!(
                "{} instead of {expected}: {}",
                response.status,
                response.text()
            )),
        );
        if expected == 200 {
            let right = response.json()["keys"] == count;
            cases.check(&name, right.then_some(()).ok_or(response.text()));
            gateway.write_key_file(&whole);
            assert_eq!(gateway.reload().status, 200);
        }
    }
    for key in &keys {
        assert_eq!(status(&gateway, key), 200);
    }
    cases.done();
}

#[test]
fn a_reload_that_drops_more_keys_than_allowed_is_refused_unless_forced() {
    let keys = crowd(10);
    let up = Recorder::answering();
    let gateway = Setup::before(&up).keys(&refs(&keys, &[])).start();
    let others = (0..10)
        .map(|at| Key::all(&format!("key_other_{at}")))
        .collect::<Vec<_>>();
    for (name, drops) in [
        ("most are gone", key_file(&keys[..4])),
        ("all are gone", String::new()),
        ("all are others", key_file(&others)),
    ] {
        gateway.write_key_file(&drops);
        let response = gateway.reload();
        assert_eq!(response.status, 409, "{name}: {}", response.text());
        assert!(
            response.json()["error"]["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10)
        );
        for key in &keys {
            assert_eq!(status(&gateway, key), 200, "{name}");
        }
        assert_eq!(
            gateway.admin_json("GET", "/api/status", None)["last_reload"]["result"],
            "dropped"
        );
    }
    gateway.process.hang_up();
    eventually("SIGHUP is refused as well", DEADLINE, || {
        (gateway.metric("keygate_reloads_total{result=\"dropped\"}") > 3.5).then_some(())
    });
    assert_eq!(status(&gateway, &keys[9]), 200);
    // Half is not more than half.
    gateway.write_key_file(&key_file(&keys[..5]));
    assert_eq!(gateway.reload().status, 200);
    gateway.write_key_file(&key_file(&keys[..1]));
    assert_eq!(gateway.reload().status, 409);
    let forced = gateway.admin_json("POST", "/api/reload", Some(&json!({"force": true})));
    assert_eq!(
        (&forced["keys"], &forced["removed"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(status(&gateway, &keys[0]), 200);
    assert_eq!(status(&gateway, &keys[1]), 401);
    gateway.write_key_file("");
    let response = gateway.admin("POST", "/api/reload", Some(&json!({"force": true})));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_error(
        &gateway.ask(&Call::chat(&keys[0].token, "good")),
        401,
        "invalid_api_key",
    );
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let (_up, gateway, keys) = with_crowd(&[&old], |setup| setup);
    let before = generation(&gateway);
    gateway.write_keys(&refs(&keys, &[&new]));
    let answer = gateway.admin_json(
        "POST",
        "/api/reload?ids=true",
        Some(&json!({"dry_run": true})),
    );
    let text = answer.to_string();
    assert!(
        text.contains("key_new") && text.contains("key_old"),
        "{text}"
    );
    assert_eq!(status(&gateway, &old), 200);
    assert_eq!(status(&gateway, &new), 401);
    assert_eq!(generation(&gateway), before);
    // What a real one would refuse, a dry run tells.
    gateway.write_key_file("nonsense\n");
    assert_eq!(
        gateway
            .admin("POST", "/api/reload", Some(&json!({"dry_run": true})))
            .status,
        422
    );
    gateway.write_keys(&refs(&keys[..2], &[]));
    let dropping = gateway.admin("POST", "/api/reload", Some(&json!({"dry_run": true})));
    assert!(matches!(dropping.status, 200 | 409), "{}", dropping.text());
    assert_eq!(status(&gateway, &keys[9]), 200);
    for body in [
        json!({"dry_run": "yes"}),
        json!({"dryrun": true}),
        json!([]),
    ] {
        let response = gateway.admin("POST", "/api/reload", Some(&body));
        assert!(
            matches!(response.status, 400 | 422),
            "{body}: {}",
            response.text()
        );
    }
}
