//! Changes from outside: the key file, the upstreams; each taken whole or not at all, and nothing that runs is
//! disturbed. And the way back: what the admin API changes is on disk, beside what others changed there.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Call, End};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{Protocol, Stream};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::token::{Key, key_file};
use crate::support::{Cases, DEADLINE, assert_error, eventually};

fn status(gateway: &Gateway, key: &Key) -> u16 {
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

fn refs<'k>(keys: &'k [Key], more: &[&'k Key]) -> Vec<&'k Key> {
    keys.iter().chain(more.iter().copied()).collect()
}

/// A gateway with ten keys and those that the test is about.
fn with_crowd(more: &[&Key], setup: impl FnOnce(Setup) -> Setup) -> (Recorder, Gateway, Vec<Key>) {
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
    let counts = gateway.admin_json("POST", "/api/reload", None);
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

#[test]
fn upstreams_are_reloaded_while_what_runs_goes_on() {
    let stand = Stand::held();
    let other = Recorder::answering();
    let mut stream = Stream::open(
        Protocol::Http1,
        &stand.gateway,
        &Call::chat(&stand.all.token, "good"),
    );
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    stand.gateway.change_config(&stand.up.url(), &other.url());
    stand.gateway.change_config("\"bad\"", "\"new\"");
    assert_eq!(stand.gateway.reload().status, 200);
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "good"))
            .status,
        200
    );
    assert_eq!(
        stand
            .gateway
            .ask(&Call::chat(&stand.all.token, "new"))
            .status,
        200
    );
    assert_error(
        &stand.gateway.ask(&Call::chat(&stand.all.token, "bad")),
        404,
        "model_not_found",
    );
    assert_eq!(other.requests().len(), 2);
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(
        (response.text().as_str(), response.end),
        ("data: one\n\ndata: two\n\n", End::Whole)
    );
}

#[test]
fn what_is_faulty_stays_as_it_was_and_the_rest_is_taken() {
    let (old, new) = (Key::all("key_old"), Key::all("key_new"));
    let (_up, gateway, keys) = with_crowd(&[&old], |setup| setup);
    let config = std::fs::read_to_string(gateway.path("keygate.toml")).expect("the config");
    // A faulty config, and a sound key file.
    std::fs::write(
        gateway.path("keygate.toml"),
        config.replace("url = ", "uri = "),
    )
    .expect("written");
    gateway.write_keys(&refs(&keys, &[&new]));
    let response = gateway.reload();
    assert_eq!(response.status, 422, "{}", response.text());
    let faults = response.json()["error"]["faults"].clone();
    assert!(faults.to_string().contains("keygate.toml"), "{faults}");
    assert_eq!(status(&gateway, &new), 200, "the key file is sound");
    assert_eq!(status(&gateway, &old), 401);
    // A faulty key file, and a sound config with a model more.
    std::fs::write(
        gateway.path("keygate.toml"),
        config.replace("\"bad\"", "\"bad\", \"more\""),
    )
    .expect("written");
    gateway.write_key_file("nonsense\n");
    assert_eq!(gateway.reload().status, 422);
    assert_eq!(
        gateway.ask(&Call::chat(&new.token, "more")).status,
        200,
        "the upstreams are sound"
    );
}

#[test]
fn what_needs_a_restart_is_named() {
    let key = Key::all("key_here");
    let (_up, gateway, _) = with_crowd(&[&key], |setup| {
        setup
            .line("workers = 1")
            .set("limits", "request_body = \"1MiB\"")
    });
    gateway.change_config("workers = 1", "workers = 2");
    gateway.change_config("1MiB", "2MiB");
    let answer = gateway.admin_json("POST", "/api/reload", None);
    let needed = answer["restart_needed"].as_array().expect("a list");
    assert!(
        needed.iter().any(|field| field
            .as_str()
            .is_some_and(|field| field.contains("workers"))),
        "{answer}"
    );
    assert_eq!(status(&gateway, &key), 200);
}

#[test]
fn a_thousand_swaps_under_load_never_give_a_wrong_answer() {
    let (steady, swapped) = (Key::all("key_steady"), Key::all("key_swapped"));
    let (_up, gateway, keys) = with_crowd(&[&steady], |setup| setup);
    let without = key_file(
        &refs(&keys, &[&steady])
            .into_iter()
            .cloned()
            .collect::<Vec<_>>(),
    );
    let with = key_file(
        &refs(&keys, &[&steady, &swapped])
            .into_iter()
            .cloned()
            .collect::<Vec<_>>(),
    );
    let done = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..3 {
            let (gateway, steady, done, asked) = (&gateway, &steady, &done, &asked);
            scope.spawn(move || {
                let call = Call::chat(&steady.token, "good");
                let mut client = gateway.client();
                let connection = gateway.h2();
                while !done.load(Ordering::Relaxed) {
                    let response = if worker == 0 {
                        connection.ask(&call)
                    } else {
                        client.ask(&call)
                    };
                    assert_eq!(
                        response.status,
                        200,
                        "a key that nobody changed: {}",
                        response.text()
                    );
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = gateway.client();
            for swap in 0..1000 {
                let (text, expected) = if swap % 2 == 0 {
                    (&with, 200)
                } else {
                    (&without, 401)
                };
                gateway.write_key_file(text);
                assert_eq!(gateway.reload().status, 200);
                // The very next request sees it.
                let response = client.ask(&Call::chat(&swapped.token, "good"));
                assert_eq!(
                    response.status,
                    expected,
                    "after swap {swap}: {}",
                    response.text()
                );
                if response
                    .header("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"))
                {
                    client = gateway.client();
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(asked.load(Ordering::Relaxed) > 500, "there was no load");
    assert!((gateway.metric("keygate_reloads_total{result=\"ok\"}") - 1000.0).abs() < 0.5);
}

#[test]
fn a_thousand_sighups_end_with_the_last_file_in_force() {
    let (first, last) = (Key::all("key_first"), Key::all("key_last"));
    let stand = Stand::held_with(|setup| setup.keys(&[&first]));
    let keys = [stand.all.clone(), stand.only.clone(), stand.all_but.clone()];
    let mut stream = Stream::open(
        Protocol::Http2,
        &stand.gateway,
        &Call::chat(&stand.all.token, "good"),
    );
    let mut exchange = stand.up.next();
    exchange.begin_stream();
    exchange.chunk("data: one\n\n");
    let mut response = stream.head();
    stream.until(&mut response, "one");
    for at in 0..1000 {
        match at {
            500 => stand.gateway.write_keys(&refs(&keys, &[])),
            999 => stand.gateway.write_keys(&refs(&keys, &[&last])),
            _ => {}
        }
        stand.gateway.process.hang_up();
    }
    let shows = |key: &Key| stand.gateway.ask(&Call::get("/v1/key", &key.token)).status;
    eventually("the last file is in force", DEADLINE, || {
        (shows(&last) == 200).then_some(())
    });
    assert_eq!(shows(&first), 401);
    assert_eq!(shows(&stand.all), 200);
    exchange.chunk("data: two\n\n");
    exchange.end_stream();
    stream.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole, "a running stream noticed");
}

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

#[test]
fn a_reload_of_many_keys_does_not_delay_running_requests() {
    let key = Key::all("key_steady");
    let up = Recorder::answering();
    let gateway = Setup::before(&up).keys(&[&key]).start();
    let many: Vec<Key> = (0..50_000)
        .map(|at| {
            Key::with_token(
                &format!("key_{at}"),
                &format!("sk-{at}"),
                json!({"mode": "all"}),
            )
        })
        .collect();
    gateway.write_keys(&refs(&many, &[&key]));
    let slowest = thread::scope(|scope| {
        let reload = scope.spawn(|| gateway.reload().status);
        let mut client = gateway.client();
        let mut slowest = Duration::ZERO;
        while !reload.is_finished() {
            let start = Instant::now();
            assert_eq!(client.ask(&Call::chat(&key.token, "good")).status, 200);
            slowest = slowest.max(start.elapsed());
        }
        assert_eq!(reload.join().expect("the reload"), 200);
        slowest
    });
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert_eq!(gateway.ask(&Call::chat("sk-49999", "good")).status, 200);
}
