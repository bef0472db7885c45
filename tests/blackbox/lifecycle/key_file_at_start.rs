//! A key file with any fault starts nothing, and every fault is named with its line.

use std::os::unix::fs::symlink;

use crate::lifecycle::start::{assert_refused, sound};
use crate::support::client::Call;
use crate::support::gateway::{Process, Setup, serve_in};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{Cases, DEADLINE};

#[test]
fn a_key_file_that_is_named_and_missing_is_fatal() {
    assert_refused(&sound().without_key_file(), "keys.jsonl");
}

#[test]
fn a_key_file_with_any_fault_is_fatal_and_every_fault_is_named_with_its_line() {
    let good = Key::all("key_good").line();
    let record = |change: &str| {
        let mut record: serde_json::Value =
            serde_json::from_str(&Key::all("key_x").line()).expect("JSON");
        let change: serde_json::Value = serde_json::from_str(change).expect("JSON");
        for (name, value) in change.as_object().expect("fields") {
            record[name] = value.clone();
        }
        record.to_string()
    };
    let without = |field: &str| {
        let mut record: serde_json::Value =
            serde_json::from_str(&Key::all("key_x").line()).expect("JSON");
        record.as_object_mut().expect("an object").remove(field);
        record.to_string()
    };
    let twin = Key::all("key_good").line();
    let same_hash = record(&format!(
        r#"{{"hash":{}}}"#,
        serde_json::from_str::<serde_json::Value>(&good).expect("JSON")["hash"]
    ));
    let torn = &good[..good.len() / 2];
    let repeated = good.replacen('{', r#"{"name":"twice","#, 1);
    let mut faulty: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a torn line", torn.into(), ""),
        (
            "two objects on a line",
            format!("{good}{}", Key::all("key_y").line()).into(),
            "",
        ),
        ("an array", format!("[{good}]").into(), ""),
        ("no JSON", b"nonsense".to_vec(), ""),
        ("NUL", b"\0\0\0\0".to_vec(), ""),
        ("the same id twice", twin.into(), "id"),
        ("the same hash twice", same_hash.into(), "hash"),
        (
            "a repeated field",
            repeated.replace("key_good", "key_z").into(),
            "name",
        ),
        (
            "an unknown field",
            record(r#"{"allow_form":[]}"#).into(),
            "allow_form",
        ),
        (
            "a misspelt field of the model access",
            record(r#"{"model_access":{"mode":"all","model":[]}}"#).into(),
            "model",
        ),
        ("no id", without("id").into(), "id"),
        ("no name", without("name").into(), "name"),
        ("no hash", without("hash").into(), "hash"),
        (
            "no model access",
            without("model_access").into(),
            "model_access",
        ),
        ("an id with a space", record(r#"{"id":"a b"}"#).into(), "id"),
        ("an empty id", record(r#"{"id":""}"#).into(), "id"),
        (
            "an id of 65 characters",
            record(&format!(r#"{{"id":"{}"}}"#, "i".repeat(65))).into(),
            "id",
        ),
        ("an id that is no text", record(r#"{"id":7}"#).into(), "id"),
        ("an empty name", record(r#"{"name":""}"#).into(), "name"),
        (
            "a name of 101 characters",
            record(&format!(r#"{{"name":"{}"}}"#, "n".repeat(101))).into(),
            "name",
        ),
        (
            "a name with a line feed",
            record(r#"{"name":"a\nb"}"#).into(),
            "name",
        ),
        (
            "a name with a change of direction",
            record(r#"{"name":"a\u202eb"}"#).into(),
            "name",
        ),
        (
            "a name with an escape",
            record(r#"{"name":"a\u001bb"}"#).into(),
            "name",
        ),
        (
            "a hash of another kind",
            record(&format!(r#"{{"hash":"sha256:{}"}}"#, "a".repeat(64))).into(),
            "hash",
        ),
        (
            "a short hash",
            record(r#"{"hash":"blake3:abcd"}"#).into(),
            "hash",
        ),
        (
            "a hash that is no hexadecimal",
            record(&format!(r#"{{"hash":"blake3:{}"}}"#, "g".repeat(64))).into(),
            "hash",
        ),
        (
            "an unknown mode",
            record(r#"{"model_access":{"mode":"some"}}"#).into(),
            "mode",
        ),
        (
            "a mode of another case",
            record(r#"{"model_access":{"mode":"All"}}"#).into(),
            "mode",
        ),
        (
            "all with models",
            record(r#"{"model_access":{"mode":"all","models":["x"]}}"#).into(),
            "models",
        ),
        (
            "inclusive without models",
            record(r#"{"model_access":{"mode":"inclusive"}}"#).into(),
            "models",
        ),
        (
            "inclusive of nothing",
            record(r#"{"model_access":{"mode":"inclusive","models":[]}}"#).into(),
            "models",
        ),
        (
            "exclusive of nothing",
            record(r#"{"model_access":{"mode":"exclusive","models":[]}}"#).into(),
            "models",
        ),
        (
            "a model access of null",
            record(r#"{"model_access":null}"#).into(),
            "model_access",
        ),
        (
            "an expiry without a zone",
            record(r#"{"expires_at":"2027-01-01T00:00:00"}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that is a date",
            record(r#"{"expires_at":"2027-01-01"}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that is a number",
            record(r#"{"expires_at":1800000000}"#).into(),
            "expires_at",
        ),
        (
            "an expiry that does not exist",
            record(r#"{"expires_at":"2027-02-30T00:00:00Z"}"#).into(),
            "expires_at",
        ),
        (
            "disabled as text",
            record(r#"{"disabled":"false"}"#).into(),
            "disabled",
        ),
        (
            "invalid UTF-8",
            [record("{}").as_bytes(), b"\n\xff\xfe"].concat(),
            "",
        ),
    ];
    for network in [
        "/33",
        "/-1",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "0/0",
        "010.0.0.1/8",
        "1.2.3/24",
        "1.2.3.4.5",
        "10.0.0.0/8 ",
        " 10.0.0.0/8",
        "10.0.0.0/08",
        "10.0.0.0/",
        "0x0a.0.0.1",
        "",
        "localhost",
        "10.0.0.1-10.0.0.9",
    ] {
        faulty.push((
            "a network",
            record(&format!(r#"{{"allow_from":["192.0.2.0/24",{network:?}]}}"#)).into(),
            "allow_from",
        ));
    }
    for network in [
        "::/0",
        "2001:db8::/32",
        "::1",
        "::ffff:192.0.2.1",
        "::ffff:0:0/96",
        "::192.0.2.1",
    ] {
        faulty.push((
            "an IPv6 network",
            record(&format!(r#"{{"allow_from":[{network:?}]}}"#)).into(),
            "IPv6",
        ));
    }
    let mut cases = Cases::new();
    for (name, line, says) in faulty {
        let setup = sound();
        setup.write();
        // The good line, an empty one, and the faulty one: line 3.
        let text = [good.as_bytes(), b"\r\n\n", &line, b"\n"].concat();
        std::fs::write(setup.path("keys.jsonl"), &text).expect("written");
        let (code, log) = {
            let mut process = Process::spawn(serve_in(setup.path("").as_path()));
            let status = process.exits_within(DEADLINE);
            (status.code(), process.log().join("\n"))
        };
        let place = if name == "invalid UTF-8" {
            "keys.jsonl:4"
        } else {
            "keys.jsonl:3"
        };
        let right = code == Some(1) && log.contains(place) && log.contains(says);
        let shown = String::from_utf8_lossy(&line).into_owned();
        cases.check(
            &format!("{name} {shown:.200}"),
            right.then_some(()).ok_or(format!("{code:?} {log}")),
        );
        let leaked = log.contains(&good[good.find("blake3:").expect("a hash")..][..30]);
        cases.check(
            name,
            (!leaked)
                .then_some(())
                .ok_or(format!("the log shows a hash: {log}")),
        );
    }
    for (name, text) in [
        ("a byte-order mark", format!("\u{feff}{good}\n")),
        ("two faults", format!("nonsense\n{good}\n{{}}\n")),
    ] {
        let setup = sound();
        setup.write();
        std::fs::write(setup.path("keys.jsonl"), text).expect("written");
        let mut process = Process::spawn(serve_in(setup.path("").as_path()));
        let code = process.exits_within(DEADLINE).code();
        let log = process.log().join("\n");
        let both =
            name != "two faults" || (log.contains("keys.jsonl:1") && log.contains("keys.jsonl:3"));
        cases.check(
            name,
            (code == Some(1) && both)
                .then_some(())
                .ok_or(format!("{code:?} {log}")),
        );
    }
    cases.done();
}

#[test]
fn a_key_file_may_be_empty_have_crlf_empty_lines_and_no_last_line_end() {
    let (one, two) = (Key::all("key_one"), Key::all("key_two"));
    let up = Recorder::answering();
    let gateway = Setup::before(&up).start();
    for (text, keys) in [
        (String::new(), 0),
        ("\n\r\n\n".to_owned(), 0),
        (format!("{}\r\n\r\n{}\r\n", one.line(), two.line()), 2),
        (format!("\n{}\n\n{}", one.line(), two.line()), 2),
    ] {
        gateway.write_key_file(&text);
        assert_eq!(
            gateway.admin_json(
                "POST",
                "/api/reload",
                Some(&serde_json::json!({"force": true}))
            )["keys"],
            keys,
            "{text:?}"
        );
    }
    assert_eq!(gateway.ask(&Call::chat(&two.token, "good")).status, 200);
}

#[test]
fn what_is_no_file_at_all_is_no_key_file() {
    let folder = sound().without_key_file();
    std::fs::create_dir(folder.path("keys.jsonl")).expect("made");
    assert_refused(&folder, "keys.jsonl");
    let looped = sound().without_key_file();
    symlink("keys.jsonl", looped.path("keys.jsonl")).expect("linked");
    assert_refused(&looped, "keys.jsonl");
    // A pipe that nobody writes to must not hang the start for ever, either.
    let piped = sound().without_key_file();
    let made = std::process::Command::new("mkfifo")
        .arg(piped.path("keys.jsonl"))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    assert_refused(&piped, "keys.jsonl");
}
