//! `inject`: the gateway sets the cache salt of each key or account, so that nobody times another's prefix cache
//! (reference 2 and 4.12).

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::chat::{CHAT, chat};
use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{self, BOTH};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{Cases, assert_error};

fn setup(up: &Recorder, lines: &str, keys: &[&Key]) -> Setup {
    Setup::new()
        .upstream_with("up", &[&up.url()], &["good", "bad"], lines)
        .keys(keys)
}

/// The salt that the upstream gets, and the rest of the body.
fn salted(up: &Recorder) -> (String, String) {
    let body = String::from_utf8(up.last().body).expect("UTF-8");
    let value: Value = serde_json::from_str(&body).expect("JSON");
    let salt = value["cache_salt"].as_str().expect("a salt").to_owned();
    let member = format!("\"cache_salt\":\"{salt}\",");
    assert_eq!(body.matches("cache_salt").count(), 1, "{body}");
    (salt, body.replacen(&member, "", 1))
}

fn salt_of(gateway: &Gateway, up: &Recorder, key: &Key) -> String {
    let response = gateway.ask(&Call::chat(&key.token, "good"));
    assert_eq!(response.status, 200, "{}", response.text());
    salted(up).0
}

#[test]
fn each_key_has_a_salt_of_its_own_that_outlives_the_gateway() {
    let up = Recorder::answering();
    let (one, two) = (Key::all("key_one"), Key::all("key_two"));
    let shared = tempfile::tempdir().expect("a folder");
    let file = shared.path().join("secret");
    let line = format!("inject_secret_file = {file:?}");
    let lines = r#"inject = { cache_salt = "key" }"#;
    let start = || setup(&up, lines, &[&one, &two]).line(&line).start();
    let gateway = start();
    let mode = std::fs::metadata(&file).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let salt = salt_of(&gateway, &up, &one);
    assert!(salt.len() == 32 && salt.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(salt_of(&gateway, &up, &one), salt);
    assert_ne!(salt_of(&gateway, &up, &two), salt);
    assert_eq!(
        salt_of(&start(), &up, &one),
        salt,
        "another gateway with the same secret"
    );
    let alone = setup(&up, lines, &[&one, &two]).start();
    assert_ne!(salt_of(&alone, &up, &one), salt, "a secret of its own");
    assert!(alone.path("inject-secret").exists(), "beside the key file");
}

#[test]
fn the_bytes_around_a_salt_pass_unchanged_with_the_right_length() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = setup(
        &up,
        "inject = { cache_salt = \"key\" }\naliases = { \"a\" = \"good\" }",
        &[&key],
    )
    .start();
    let long = "x\\n\u{e4}".repeat(300_000);
    for body in [
        r#"{"model":"good"}"#.to_owned(),
        " {\n\"n\" : 1.0e0 , \"model\":\"good\" } \n".to_owned(),
        format!(r#"{{"messages":"{long}","model":"good"}}"#),
        format!(r#"{{"model":"good","messages":"{long}"}}"#),
    ] {
        for sent in [body.clone(), body.replace("\"good\"", "\"a\"")] {
            for protocol in BOTH {
                let response = h2::ask(protocol, &gateway, &chat(&key, sent.clone()));
                assert_eq!(response.status, 200, "{}", response.text());
                let length = up.last().body.len().to_string();
                assert_eq!(up.last().header("content-length"), Some(&*length));
                assert!(salted(&up).1 == body, "something else changed");
            }
        }
    }
}

#[test]
fn a_client_cannot_set_or_undo_the_salt() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let mut cases = Cases::new();
    for client_fields in ["refuse", "pass"] {
        let lines =
            format!("inject = {{ cache_salt = \"key\" }}\nclient_fields = \"{client_fields}\"");
        let gateway = setup(&up, &lines, &[&key]).start();
        let own = salt_of(&gateway, &up, &key);
        let plain_refused = client_fields == "refuse";
        for (fields, is_refused) in [
            (r#""cache_salt":"mine""#, plain_refused),
            (r#""cache_salt":null"#, false),
            (r#""cache_salt":null,"cache_salt":"mine""#, true),
            (r#""Cache_Salt":"mine""#, true),
            (r#""cache\u005fsalt":"mine""#, true),
            (r#""cache_salt":null,"CACHE_SALT":null"#, true),
            (r#""cache_salt\u0000":"mine""#, true),
        ] {
            let before = up.requests().len();
            let body = format!(r#"{{"model":"good",{fields}}}"#);
            let response = gateway.ask(&Call::json(CHAT, &key.token, body));
            let verdict = match is_refused {
                true => response.status == 400 && up.requests().len() == before,
                false => response.status == 200 && salted_value(&up) == own,
            };
            cases.check(
                &format!("{fields} with {client_fields}"),
                verdict.then_some(()).ok_or_else(|| response.text()),
            );
        }
    }
    cases.done();
}

fn salted_value(up: &Recorder) -> String {
    let value: Value = serde_json::from_slice(&up.last().body).expect("JSON");
    value["cache_salt"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_keys_of_an_account_share_a_salt_and_a_key_without_one_stands_alone() {
    let up = Recorder::answering();
    let of_account = |id: &str, account: &str| Key::all(id).with("account", account);
    let (a, b) = (of_account("key_a", "team"), of_account("key_b", "team"));
    let (other, alone) = (of_account("key_c", "key_d"), Key::all("key_d"));
    let lines = r#"inject = { cache_salt = "account" }"#;
    let gateway = setup(&up, lines, &[&a, &b, &other, &alone]).start();
    let salt = |key: &Key| salt_of(&gateway, &up, key);
    assert_eq!(salt(&a), salt(&b));
    assert_ne!(salt(&a), salt(&other));
    assert_ne!(salt(&other), salt(&alone));
}

#[test]
fn a_fault_in_inject_or_its_file_is_told_and_check_makes_no_file() {
    let up = Recorder::answering();
    for (lines, told) in [
        (
            "inject = { cache_salt = \"user\" }",
            "write \"key\" or \"account\"",
        ),
        ("inject = {}", "write inject = { cache_salt = \"key\" }"),
        ("inject = \"key\"", "is a string"),
        ("inject = { salt = \"key\" }", "is not a field"),
        ("stateful = 1", "write true or false"),
        ("client_fields = \"open\"", "write \"pass\" or \"refuse\""),
        ("unknown_fields = true", "write a text in double quotes"),
    ] {
        let (status, output) = setup(&up, lines, &[]).refused();
        assert_eq!(status.code(), Some(1), "{lines}");
        assert!(
            output.contains("keygate.toml:") && output.contains(told),
            "{lines}: {output}"
        );
    }
    let setup = setup(&up, "inject = { cache_salt = \"key\" }", &[]);
    std::fs::write(setup.path("inject-secret"), "nonsense").expect("written");
    let (_, output) = setup.refused();
    assert!(
        output.contains("inject-secret") && output.contains("chmod 600"),
        "{output}"
    );
}

#[test]
fn a_reload_sets_a_salt_that_was_not_set_before() {
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let gateway = setup(&up, "stateful = false", &[&key]).start();
    let response = gateway.ask(&chat(&key, r#"{"model":"good"}"#));
    assert_eq!(response.status, 200);
    assert_eq!(up.last().body, br#"{"model":"good"}"#);
    assert!(!gateway.path("inject-secret").exists());
    gateway.change_config("stateful = false", "inject = { cache_salt = \"key\" }");
    let dry = gateway.run(&["reload", "--dry-run"], "");
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(
        !gateway.path("inject-secret").exists(),
        "a dry run makes no file"
    );
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(salt_of(&gateway, &up, &key).len(), 32);
    let form = "--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngood\r\n--X--\r\n";
    let call = Call::new("POST", "/v1/audio/transcriptions")
        .bearer(&key.token)
        .header("content-type", "multipart/form-data; boundary=X")
        .body(form);
    assert_eq!(gateway.ask(&call).status, 200);
    assert_eq!(up.last().body, form.as_bytes(), "a form has no salt");
    assert_error(
        &gateway.ask(&chat(&key, r#"{"model":"good","cache_salt":"x"}"#)),
        400,
        "field_not_allowed",
    );
}
