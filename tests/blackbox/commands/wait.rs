//! `--wait` on the commands that change keys, with a gateway whose answers the test writes.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::gateway::{Ran, run};

const KEY: &str =
    r#"{"id":"key_1","name":"n","model_access":{"mode":"all"},"allow_from":[],"state":"active"}"#;

/// Runs a command against a gateway that answers every call with this body and header; the calls, as METHOD TARGET.
fn ran(folder: &Path, words: &[&str], body: &str, waited: Option<&str>) -> (Ran, Vec<String>) {
    let socket = folder.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let header = waited.map_or_else(String::new, |waited| format!("keygate-wait: {waited}\r\n"));
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{header}connection: close\r\n\r\n{body}",
        body.len()
    );
    let done = std::thread::scope(|scope| {
        let serving = scope.spawn(move || {
            let mut calls = Vec::new();
            for stream in listener.incoming() {
                let (mut stream, mut head) = (stream.unwrap(), Vec::new());
                let mut piece = [0; 4096];
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    let count = stream.read(&mut piece).unwrap();
                    if count == 0 {
                        // The test has ended.
                        return calls;
                    }
                    head.extend_from_slice(&piece[..count]);
                }
                let head = String::from_utf8(head).unwrap();
                let words: Vec<&str> = head.split(' ').take(2).collect();
                calls.push(words.join(" "));
                stream.write_all(answer.as_bytes()).unwrap();
            }
            calls
        });
        let words = [words, &["--socket", "s"]].concat();
        let ran = run(folder, &words, "");
        drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
        (ran, serving.join().unwrap())
    });
    std::fs::remove_file(&socket).unwrap();
    done
}

#[test]
fn a_change_says_where_it_is_not_in_force_yet_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let created =
        format!(r#"{{"key":{KEY},"token":"kg_t","url":"http://localhost/v1","warnings":[]}}"#);
    let create = ["keys", "create", "--name", "n", "--wait"];
    for (waited, code, said) in [
        (Some("in-force"), 0, ""),
        (
            Some("behind; gateways=\"eu-1,a%2C%20b\""),
            1,
            "keygate: the change is made, but not in force yet on eu-1, a, b; 'keygate fleet' shows when it is\n",
        ),
        (Some("unknown"), 1, "nobody knows whether it is in force"),
        // A gateway of a version that does not know how to wait.
        (None, 1, "nobody knows whether it is in force"),
    ] {
        let (ran, calls) = ran(folder.path(), &create, &created, waited);
        assert_eq!(ran.code, Some(code), "{waited:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{waited:?}: {}", ran.err);
        assert!(
            ran.out.contains("Bearer Token: kg_t\n"),
            "{waited:?}: {}",
            ran.out
        );
        // Where all have it, there may be others that were not waited for.
        let asked = ["POST /api/keys?wait=5s", "GET /api/fleet"];
        let asked = if code == 0 { &asked[..] } else { &asked[..1] };
        assert_eq!(calls, asked);
    }
    let (ran, calls) = ran(folder.path(), &create[..4], &created, None);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(calls, ["POST /api/keys"]);
}

#[test]
fn every_command_that_changes_keys_can_wait() {
    let folder = tempfile::tempdir().unwrap();
    let rotated =
        format!(r#"{{"key":{KEY},"token":"kg_t","url":"http://localhost/v1","warnings":[]}}"#);
    let path = "/api/keys/key_1";
    for (words, call, body) in [
        (
            &["update", "key_1", "--name", "m"][..],
            format!("PATCH {path}"),
            KEY,
        ),
        (&["disable", "key_1"], format!("PATCH {path}"), KEY),
        (&["enable", "key_1"], format!("PATCH {path}"), KEY),
        (
            &["rotate", "key_1", "--now"],
            format!("POST {path}/rotate"),
            rotated.as_str(),
        ),
        (
            &["expire-previous", "key_1"],
            format!("POST {path}/expire-previous"),
            KEY,
        ),
        (&["delete", "key_1", "--yes"], format!("DELETE {path}"), ""),
    ] {
        let words = [&["keys"], words, &["--wait=20s"]].concat();
        let (ran, calls) = ran(
            folder.path(),
            &words,
            body,
            Some("behind; gateways=\"eu-1\""),
        );
        assert_eq!(ran.code, Some(1), "{words:?}: {}", ran.err);
        assert!(
            ran.err.contains("on eu-1;") && !ran.out.is_empty(),
            "{words:?}: {}{}",
            ran.out,
            ran.err
        );
        assert_eq!(calls, [format!("{call}?wait=20s")], "{words:?}");
    }
}

#[test]
fn a_wait_that_cannot_be_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for (words, part) in [
        (&["--wait=0s"][..], "from 1s to 60s"),
        (&["--wait=2m"], "from 1s to 60s"),
        (&["--wait=soon"], "not a duration"),
        (&["--wait", "--keys", "keys.jsonl"], "cannot be used with"),
    ] {
        let words = [&["keys", "create", "--name", "n"], words].concat();
        let ran = run(folder.path(), &words, "");
        assert_eq!(ran.code, Some(2), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
    }
}
