//! Which tokens a rotated key has, and for how long.

use serde_json::{Value, json};

use crate::rotation::rotated::{ask, key, previous, rotate, shown, statuses, token_of};
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::{Key, fresh, hash, seconds_from_now};
use crate::support::{Cases, DEADLINE, assert_error, eventually};

#[test]
fn both_tokens_work_during_the_grace_and_the_new_one_alone_after_it() {
    let mine = key("key_mine").with(
        "model_access",
        json!({"mode": "inclusive", "models": ["good"]}),
    );
    let stand = Stand::with(|setup| setup.keys(&[&mine]));
    let (gateway, old) = (&stand.gateway, &*mine.token);
    let rotated = rotate(gateway, "key_mine", 2);
    let new = token_of(&rotated);
    assert_eq!(statuses(gateway, [old, &new]), [200, 200]);
    // Both are the same key, with its rules.
    for token in [old, &new] {
        assert_error(
            &gateway.ask(&Call::chat(token, "bad")),
            404,
            "model_not_found",
        );
    }
    let refused = eventually("the end of the grace", DEADLINE, || {
        Some(ask(gateway, old)).filter(|answer| answer.status != 200)
    });
    assert_error(&refused, 401, "invalid_api_key");
    assert!(
        seconds_from_now(0).as_str() >= rotated["key"]["previous"]["not_after"].as_str().unwrap()
    );
    assert_eq!(statuses(gateway, [old, &new]), [401, 200]);
    // A token whose time is over is told from an unknown one by nothing.
    let unknown = ask(gateway, &fresh());
    assert_eq!(refused.body, unknown.body);
    let key = shown(gateway, "key_mine");
    assert_eq!(key["hint"], new[48..]);
    assert_eq!(
        key["previous"]["hint"],
        old[48..],
        "it is shown until the next rotation"
    );
}

#[test]
fn a_second_rotation_ends_the_oldest_token_at_once_and_says_so() {
    let mine = key("key_mine");
    let stand = Stand::with(|setup| setup.keys(&[&mine]));
    let (gateway, first) = (&stand.gateway, &*mine.token);
    let second = token_of(&rotate(gateway, "key_mine", 600));
    let rotated = rotate(gateway, "key_mine", 600);
    let third = token_of(&rotated);
    assert_eq!(statuses(gateway, [first, &second, &third]), [401, 200, 200]);
    let warning = rotated["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.contains(&first[48..]) && warning.contains("has ended"),
        "{warning}"
    );
}

#[test]
fn without_grace_and_when_ended_early_the_old_token_stops_at_once() {
    let stand = Stand::new();
    let (gateway, first) = (&stand.gateway, &*stand.all.token);
    let second = token_of(&rotate(gateway, "key_all", 0));
    assert_eq!(statuses(gateway, [first, &second]), [401, 200]);
    assert_eq!(shown(gateway, "key_all")["previous"], Value::Null);
    let third = token_of(&rotate(gateway, "key_all", 600));
    assert_eq!(statuses(gateway, [&second, &third]), [200, 200]);
    for _ in 0..2 {
        let ended = gateway.admin_json("POST", "/api/keys/key_all/expire-previous", None);
        assert_eq!(ended["previous"], Value::Null);
        assert_eq!(statuses(gateway, [&second, &third]), [401, 200]);
    }
}

#[test]
fn a_rotation_keeps_everything_else_of_the_key_and_outlives_a_restart_and_a_reload() {
    let stand = Stand::with(|setup| {
        setup.keys(&[&Key::only("key_mine", &["good"])
            .with("account", "acme")
            .with("created_at", "2026-01-01T00:00:00Z")
            .expires("2099-01-01T00:00:00Z")])
    });
    let mut gateway = stand.gateway;
    let before = shown(&gateway, "key_mine");
    let old = fresh();
    let file = gateway.key_file();
    let hash_before = serde_json::from_str::<Value>(file.lines().last().expect("a line"))
        .expect("a record")["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    gateway.write_key_file(&file.replace(&hash_before, &hash(&old)));
    assert_eq!(gateway.reload().status, 200);
    let new = token_of(&rotate(&gateway, "key_mine", 600));
    let after = shown(&gateway, "key_mine");
    for (field, value) in before.as_object().expect("a key") {
        if !["hint", "previous", "revision"].contains(&field.as_str()) {
            assert_eq!(after[field], *value, "{field}");
        }
    }
    let generation = gateway.admin_json("GET", "/api/status", None)["generation"].clone();
    let reloaded = gateway.reload().json();
    assert_eq!(
        (&reloaded["changed"], &reloaded["generation"]),
        (&json!(0), &generation)
    );
    assert_eq!(statuses(&gateway, [&old, &new]), [200, 200]);
    gateway.start_again();
    assert_eq!(statuses(&gateway, [&old, &new]), [200, 200]);
    assert_eq!(
        shown(&gateway, "key_mine")["previous"]["not_after"],
        after["previous"]["not_after"]
    );
    // Neither token is in the file, and neither hash is in an answer.
    let (file, answer) = (gateway.key_file(), shown(&gateway, "key_mine").to_string());
    for token in [&old, &new] {
        let hash = hash(token);
        assert!(file.contains(&hash) && !file.contains(&**token));
        assert!(!answer.contains(&hash["blake3:".len()..]));
    }
    // Another change keeps the old token.
    gateway.admin_json(
        "PATCH",
        "/api/keys/key_mine",
        Some(&json!({"name": "renamed"})),
    );
    assert_eq!(statuses(&gateway, [&old, &new]), [200, 200]);
}

#[test]
fn a_previous_token_written_by_hand_works_until_its_time_and_a_reload_tells_the_change() {
    let old = fresh();
    let ended = fresh();
    let key = Key::all("key_hand").with("previous", previous(&old, &seconds_from_now(600)));
    let late = Key::all("key_late").with("previous", previous(&ended, &seconds_from_now(-1)));
    let stand = Stand::with(|setup| setup.keys(&[&key, &late]));
    let gateway = &stand.gateway;
    assert_eq!(statuses(gateway, [&old, &key.token]), [200, 200]);
    assert_eq!(statuses(gateway, [&ended, &late.token]), [401, 200]);
    // Whose token it was that has ended, its operator still sees.
    let line = gateway.process.line("the refusal", |line| {
        line.contains("\"access\"") && line.contains("\"key_late\"") && line.contains("401")
    });
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["token"], &line["denial"]),
        (&json!("previous"), &json!("invalid_api_key"))
    );
    // Its time is moved, then it is taken out.
    let keys = |key: &Key| [&stand.all, &stand.only, &stand.all_but, key, &late].map(Key::clone);
    let moved = key
        .clone()
        .with("previous", previous(&old, &seconds_from_now(-1)));
    gateway.write_keys(&keys(&moved).each_ref());
    assert_eq!(gateway.reload().json()["changed"], 1);
    assert_eq!(statuses(gateway, [&old, &key.token]), [401, 200]);
    let without = key.clone().with("previous", Value::Null);
    gateway.write_keys(&keys(&without).each_ref());
    let dry = gateway.admin_json("POST", "/api/reload", Some(&json!({"dry_run": true})));
    assert_eq!(dry["changed"], 1);
    assert_eq!(gateway.reload().json()["changed"], 1);
    assert_eq!(gateway.reload().json()["changed"], 0);
    // The tokens of one key are no other key's.
    for taken in [&stand.all.token, &key.token] {
        let faulty = without
            .clone()
            .with("previous", previous(taken, &seconds_from_now(600)));
        gateway.write_keys(&keys(&faulty).each_ref());
        let refused = gateway.reload();
        assert_eq!(refused.status, 422);
        assert_eq!(refused.json()["error"]["field"], "previous.hash");
        assert_eq!(statuses(gateway, [taken]), [200]);
    }
}

#[test]
fn what_ends_the_key_ends_both_of_its_tokens() {
    let mut cases = Cases::new();
    let ends: [(&str, &str, Option<Value>, &str); 3] = [
        (
            "disabled",
            "PATCH",
            Some(json!({"disabled": true})),
            "invalid_api_key",
        ),
        ("deleted", "DELETE", None, "invalid_api_key"),
        (
            "its network taken away",
            "PATCH",
            Some(json!({"allow_from": ["192.0.2.0/24"]})),
            "ip_not_authorized",
        ),
    ];
    for (name, method, body, code) in ends {
        let stand = Stand::new();
        let new = token_of(&rotate(&stand.gateway, "key_all", 600));
        let answer = stand
            .gateway
            .admin(method, "/api/keys/key_all", body.as_ref());
        assert!(answer.status < 300, "{}", answer.text());
        for token in [&stand.all.token, &new] {
            let refused = ask(&stand.gateway, token);
            let right = refused.status == 401 && refused.json()["error"]["code"] == code;
            cases.check(name, right.then_some(()).ok_or(refused.text()));
        }
    }
    let old = fresh();
    let expired = Key::all("key_expired")
        .expires("2020-01-01T00:00:00Z")
        .with("previous", previous(&old, &seconds_from_now(600)));
    let stand = Stand::with(|setup| setup.keys(&[&expired]));
    for token in [&old, &expired.token] {
        assert_error(&ask(&stand.gateway, token), 401, "expired_api_key");
    }
    cases.done();
}
