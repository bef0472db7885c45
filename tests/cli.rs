//! The command line, run as a user runs it: on a key file, against a running gateway, and without any gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and says where"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder in which keygate runs.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs keygate in this folder. `words` are the arguments, separated by `|`; `input` is standard input.
    fn run_with(&self, words: &str, input: &[u8]) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
            .args(words.split('|'))
            .current_dir(self.0.path())
            .env_remove("KEYGATE_CONFIG")
            .env_remove("KEYGATE_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Writing fails if the command ended without reading.
        let _ = child.stdin.take().unwrap().write_all(input);
        Done::from(child.wait_with_output().unwrap())
    }

    fn run(&self, words: &str) -> Done {
        self.run_with(words, b"")
    }

    /// Runs a command that must succeed; returns its standard output.
    #[track_caller]
    fn done(&self, words: &str) -> String {
        let done = self.run(words);
        assert_eq!(done.status, 0, "{words}: {}{}", done.output, done.errors);
        done.output
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.done(words)).unwrap()
    }

    /// Creates a key in `k.jsonl`; returns the output of `create --json`.
    #[track_caller]
    fn key(&self, options: &str) -> Value {
        self.json(&format!(
            "keys|create|--keys|k.jsonl|--json|--name|{options}"
        ))
    }
}

struct Done {
    status: i32,
    output: String,
    errors: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn create_prints_url_and_token_once_and_keeps_only_the_hash() {
    let folder = Folder::new();
    let output = folder.done("keys|create|--keys|k.jsonl|--name|web site|--expires|30d");
    assert!(
        output.contains("OpenAI Compatible URL: http://localhost:8080/v1\n"),
        "{output}"
    );
    let token = output
        .lines()
        .find_map(|line| line.strip_prefix("Bearer Token: "))
        .unwrap();
    assert!(token.starts_with("kg_") && token.len() == 52, "{token}");
    let file = fs::read_to_string(folder.path("k.jsonl")).unwrap();
    assert!(!file.contains(token));
    let mode = fs::metadata(folder.path("k.jsonl"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let hash = folder
        .run_with("keys|hash", format!("{token}\n").as_bytes())
        .output;
    assert!(file.contains(hash.trim()), "{hash}");
    for words in [
        "keys|list|--keys|k.jsonl",
        "keys|list|--json|--keys|k.jsonl",
    ] {
        assert!(!folder.done(words).contains(token), "{words}");
    }
}

#[test]
fn the_url_is_the_configs() {
    let folder = Folder::new();
    folder.write(
        "keygate.toml",
        "public_url = \"https://ai.example.com\"\n[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\n",
    );
    assert_eq!(folder.key("a")["url"], "https://ai.example.com/v1");
}

#[test]
fn a_key_is_shown_changed_switched_and_deleted() {
    let folder = Folder::new();
    let id = folder.key("a|--model-access|inclusive|--model|x|--account|acme")["key"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let at = |words: &str| words.replace("ID", &id) + "|--keys|k.jsonl";
    assert!(
        folder
            .done(&at("keys|show|ID"))
            .contains("Model access: inclusive x\n")
    );
    let changed = folder.json(&at(
        "keys|update|ID|--model|y|--model|z|--account||--allow-from|192.0.2.7|--json",
    ));
    assert_eq!(
        changed["model_access"]["models"],
        serde_json::json!(["y", "z"])
    );
    assert_eq!(
        changed["model_access"]["mode"], "inclusive",
        "stays as it was"
    );
    assert_eq!(
        (&changed["account"], &changed["name"]),
        (&Value::Null, &"a".into())
    );
    assert_eq!(changed["allow_from"][0], "192.0.2.7/32");
    let cleared = folder.json(&at(
        "keys|update|ID|--allow-from|any|--expires|never|--model-access|all|--json",
    ));
    assert_eq!(cleared["allow_from"], serde_json::json!([]));
    assert!(
        folder
            .done(&at("keys|disable|ID"))
            .contains("State: disabled\n")
    );
    assert!(
        folder
            .done(&at("keys|enable|ID"))
            .contains("State: active\n")
    );
    let refused = folder.run(&at("keys|delete|ID"));
    assert_eq!(refused.status, 1);
    assert!(refused.errors.contains("--yes"), "{}", refused.errors);
    assert_eq!(
        folder.done(&at("keys|delete|ID|--yes")),
        format!("deleted {id}\n")
    );
    let gone = folder.run(&at("keys|show|ID"));
    assert_eq!((gone.status, gone.output.as_str()), (1, ""));
}

#[test]
fn list_shows_every_key_newest_first_and_cuts_nothing() {
    let folder = Folder::new();
    let long = "long name ".repeat(9);
    let mut lines = String::new();
    for number in 0..2_500 {
        lines.push_str(&format!(
            "{{\"id\":\"key_{number}\",\"name\":\"{long}\",\"hash\":\"blake3:{number:064x}\",\"model_access\":{{\"mode\":\"all\"}}}}\n"
        ));
    }
    folder.write("k.jsonl", &lines);
    let output = folder.done("keys|list|--keys|k.jsonl");
    assert_eq!(output.lines().count(), 2_501);
    assert!(output.lines().nth(1).unwrap().starts_with("key_2499 "));
    assert!(output.contains(long.trim_end()) && !output.contains('…'));
    let all = folder.json("keys|list|--keys|k.jsonl|--json");
    assert_eq!(all["next"], Value::Null);
    let ids: Vec<&str> = all["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|key| key["id"].as_str())
        .collect();
    assert_eq!(
        (ids.len(), ids[0], ids[2_499]),
        (2_500, "key_2499", "key_0")
    );
    folder.write("k.jsonl", "");
    assert_eq!(
        folder.json("keys|list|--keys|k.jsonl|--json"),
        serde_json::json!({"keys": [], "next": null})
    );
}

#[test]
fn what_could_drive_a_terminal_is_escaped() {
    let folder = Folder::new();
    let name = "a\u{2029}b\u{2028}c";
    folder.key(name);
    let output = folder.done("keys|list|--keys|k.jsonl");
    assert!(output.contains("a\\u{2029}b\\u{2028}c"), "{output}");
    // The JSON has the same name, with the dangerous characters escaped.
    let output = folder.done("keys|list|--json|--keys|k.jsonl");
    assert!(output.contains(r#""a\u2029b\u2028c""#), "{output}");
    let list: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(list["keys"][0]["name"], name);
}

#[test]
fn arguments_that_make_no_sense_are_wrong_usage() {
    let folder = Folder::new();
    for words in [
        "nonsense",
        "keys|create|--keys|k.jsonl",
        "keys|create|--keys|k.jsonl|--name|a|--model|m",
        "keys|create|--keys|k.jsonl|--name|a|--model-access|all|--model|m",
        "keys|create|--keys|k.jsonl|--name|a|--model-access|inclusive",
        "keys|create|--keys|k.jsonl|--name|a|--model-access|none",
        "keys|create|--keys|k.jsonl|--name|a|--allow-from|::1",
        "keys|create|--keys|k.jsonl|--name|a|--allow-from|any|--allow-from|192.0.2.0/24",
        "keys|create|--keys|k.jsonl|--name|a|--expires|soon",
        "keys|update|key_1|--keys|k.jsonl",
        "keys|show|no/id|--keys|k.jsonl",
        "keys|list|--keys|k.jsonl|--socket|s",
        "explain|--model|m",
        "explain|--model|m|--from|nowhere|--key|key_1",
    ] {
        let done = folder.run(words);
        assert_eq!(
            (done.status, done.output.as_str()),
            (2, ""),
            "{words}: {}",
            done.errors
        );
    }
    assert!(!folder.path("k.jsonl").exists(), "nothing was made");
}

#[test]
fn what_the_rules_refuse_fails_and_changes_nothing() {
    let folder = Folder::new();
    folder.key("a");
    let before = fs::read(folder.path("k.jsonl")).unwrap();
    for words in [
        "keys|create|--keys|k.jsonl|--name|a|--expires|2001-01-01",
        "keys|create|--keys|k.jsonl|--name|",
        "keys|delete|key_none|--yes|--keys|k.jsonl",
        "keys|disable|key_none|--keys|k.jsonl",
        "keys|list|--keys|missing.jsonl",
    ] {
        let done = folder.run(words);
        assert_eq!(done.status, 1, "{words}");
        assert!(
            done.errors.starts_with("keygate: "),
            "{words}: {}",
            done.errors
        );
    }
    assert_eq!(fs::read(folder.path("k.jsonl")).unwrap(), before);
}

#[test]
fn a_faulty_key_file_is_named_line_by_line_and_not_touched() {
    let folder = Folder::new();
    folder.write("k.jsonl", "{\"id\":\"key_1\"}\nnonsense\n");
    let done = folder.run("keys|create|--name|a|--keys|k.jsonl");
    assert_eq!((done.status, done.output.as_str()), (1, ""));
    for part in ["k.jsonl:1: name: is missing", "k.jsonl:2: "] {
        assert!(done.errors.contains(part), "{}", done.errors);
    }
    assert_eq!(
        fs::read_to_string(folder.path("k.jsonl")).unwrap(),
        "{\"id\":\"key_1\"}\nnonsense\n"
    );
}

#[test]
fn where_no_gateway_answers_the_commands_say_what_to_do() {
    let folder = Folder::new();
    for words in [
        "keys|list",
        "status",
        "reload",
        "panel-link",
        "explain|--model|m|--from|192.0.2.7|--key|key_1",
        "status|--socket|elsewhere.sock",
    ] {
        let done = folder.run(words);
        assert_eq!(done.status, 1, "{words}");
        assert!(
            done.errors.contains("no gateway answers") && done.errors.contains("keygate serve"),
            "{}",
            done.errors
        );
    }
    assert!(
        folder
            .run("status|--socket|elsewhere.sock")
            .errors
            .contains("elsewhere.sock")
    );
    folder.write(
        "keygate.toml",
        "[admin]\nsocket = \"configured.sock\"\n[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\n",
    );
    assert!(folder.run("status").errors.contains("configured.sock"));
}

#[test]
fn hash_takes_one_token_and_no_broken_one() {
    let folder = Folder::new();
    let hash = |input: &[u8]| folder.run_with("keys|hash", input);
    let expected = format!("blake3:{}\n", blake3::hash(b"sk-made-elsewhere").to_hex());
    for input in [
        &b"sk-made-elsewhere"[..],
        b"sk-made-elsewhere\n",
        b"sk-made-elsewhere\r\n",
    ] {
        assert_eq!(hash(input).output, expected);
    }
    for bad in [
        &b""[..],
        b"\n",
        b"two words",
        b"kg_torn",
        b"\xff",
        &[b'x'; 513],
    ] {
        let done = hash(bad);
        assert_eq!((done.status, done.output.as_str()), (1, ""), "{bad:?}");
    }
}

#[test]
fn check_names_every_fault_of_both_files_and_starts_nothing() {
    let folder = Folder::new();
    folder.write(
        "keygate.toml",
        "nonsense = 1\n[timeouts]\ndrain = \"soon\"\n",
    );
    folder.write("keys.jsonl", "{\"id\":\"key_1\"}\n");
    let done = folder.run("check");
    assert_eq!(done.status, 1);
    for part in [
        "keygate.toml:1: nonsense: ",
        "keygate.toml:3: timeouts.drain: ",
        "keys.jsonl:1: name: is missing",
    ] {
        assert!(done.output.contains(part), "{part} in\n{}", done.output);
    }
    assert_eq!(
        fs::read_dir(folder.0.path()).unwrap().count(),
        2,
        "nothing was made"
    );
}

#[test]
fn check_takes_the_settings_that_serve_takes() {
    let folder = Folder::new();
    let done = folder.run("check");
    assert_eq!(done.status, 1);
    assert!(
        done.output.contains("add --upstream URL"),
        "{}",
        done.output
    );
    let output = folder.done("check|--upstream|http://127.0.0.1:1");
    assert_eq!(output.trim_end(), "ok: command line: 1 upstream");
    let missing = folder.run("check|--upstream|http://127.0.0.1:1|--keys|none.jsonl");
    assert_eq!(missing.status, 1, "{}", missing.output);
    assert!(missing.output.contains("none.jsonl"), "{}", missing.output);
}

#[test]
fn files_in_a_folder_that_others_can_write_to_are_not_taken_unnamed() {
    let folder = Folder::new();
    folder.write(
        "keygate.toml",
        "[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\n",
    );
    let set_mode = |mode| fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(mode));
    for mode in [0o777, 0o1777, 0o702] {
        set_mode(mode).unwrap();
        for command in ["check", "status", "serve", "keys|list"] {
            let done = folder.run(command);
            assert_eq!(done.status, 1, "{command}");
            let told = format!("{}{}", done.output, done.errors);
            assert!(
                told.contains("./keygate.toml: is in a folder that every user may write to"),
                "{told}"
            );
            assert!(told.contains("--config"), "{told}");
        }
        folder.done("check|--config|keygate.toml");
    }
    fs::remove_file(folder.path("keygate.toml")).unwrap();
    for command in ["status", "serve|--upstream|http://127.0.0.1:1"] {
        let done = folder.run(command);
        assert_eq!(done.status, 1, "{command}");
        assert!(
            done.errors.contains("./keygate.sock: is in a folder"),
            "{}",
            done.errors
        );
        assert!(done.errors.contains("--socket"), "{}", done.errors);
    }
    set_mode(0o755).unwrap();
    let done = folder.run("status");
    assert!(
        done.errors.contains("no gateway answers on keygate.sock"),
        "{}",
        done.errors
    );
}

#[test]
fn check_warns_and_is_content() {
    let folder = Folder::new();
    folder.write(
        "keygate.toml",
        "[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\nmodels = [\"good\"]\n",
    );
    assert!(folder.done("check").starts_with("ok: "));
    folder.write(
        "keys.jsonl",
        "{\"id\":\"key_1\",\"name\":\"a\",\"hash\":\"blake3:0000000000000000000000000000000000000000000000000000000000000000\",\
         \"model_access\":{\"mode\":\"exclusive\",\"models\":[\"good\",\"misspelt\"]}}\n",
    );
    fs::set_permissions(folder.path("keys.jsonl"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = folder.done("check");
    assert!(
        output.contains("warning: ") && output.contains("readable by everybody"),
        "{output}"
    );
    assert!(
        output.contains("\"misspelt\" (key key_1)") && !output.contains("\"good\""),
        "{output}"
    );
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let folder = Folder::new();
    folder.key("a");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_keygate"))
        .args(["keys", "list", "--keys", "k.jsonl"])
        .current_dir(folder.0.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(1), &b""[..])
    );
}

/// A gateway that runs in a folder and ends with the test.
struct Gateway(std::process::Child);

impl Gateway {
    fn start(folder: &Folder) -> Self {
        folder.write(
            "keygate.toml",
            "listen = \"127.0.0.1:0\"\n[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\nmodels = [\"good\"]\n",
        );
        let child = Command::new(env!("CARGO_BIN_EXE_keygate"))
            .arg("serve")
            .current_dir(folder.0.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self(child);
        let end = Instant::now() + Duration::from_secs(20);
        while folder.run("status").status != 0 {
            assert!(Instant::now() < end, "the gateway does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_same_commands_speak_to_a_running_gateway() {
    let folder = Folder::new();
    let _gateway = Gateway::start(&folder);
    let warned = folder.run("keys|create|--name|b|--model-access|exclusive|--model|misspelt");
    assert!(
        warned.errors.contains("warning: ") && warned.errors.contains("misspelt"),
        "{}",
        warned.errors
    );
    let made = folder.json("keys|create|--name|a|--allow-from|192.0.2.0/24|--json");
    let (id, token) = (
        made["key"]["id"].as_str().unwrap(),
        made["token"].as_str().unwrap(),
    );
    assert!(folder.done("keys|list").contains(id));
    assert!(folder.done("status").contains("Keys: 2\n"));
    assert_eq!(
        folder.json("status|--json")["upstreams"][0]["models"],
        serde_json::json!(["good"])
    );

    let allowed = folder.run_with("explain|--model|good|--from|192.0.2.7", token.as_bytes());
    assert_eq!(allowed.status, 0);
    assert!(
        allowed.output.starts_with("allowed: ") && allowed.output.contains("192.0.2.0/24"),
        "{}",
        allowed.output
    );
    let denied = folder.json(&format!(
        "explain|--model|good|--from|192.0.3.7|--key|{id}|--json"
    ));
    assert_eq!(denied["denial"], "ip_not_authorized");

    let lines = fs::read_to_string(folder.path("keys.jsonl")).unwrap();
    let kept = lines.lines().find(|line| line.contains(id)).unwrap();
    folder.write("keys.jsonl", &format!("{kept}\n"));
    assert!(folder.done("reload|--dry-run").contains("1 removed"));
    assert!(folder.done("status").contains("Keys: 2\n"));
    assert!(folder.done("reload").contains("1 removed"));
    assert!(folder.done("status").contains("Keys: 1\n"));

    folder.write("keys.jsonl", "first fault\nsecond fault\n");
    let faulty = folder.run("reload");
    assert_eq!(faulty.status, 1);
    assert!(
        faulty.errors.contains("keys.jsonl:1: ") && faulty.errors.contains("keys.jsonl:2: "),
        "{}",
        faulty.errors
    );
    let deleted = folder.run(&format!("keys|delete|{id}|--yes"));
    assert_eq!(deleted.status, 1);
    assert!(deleted.errors.contains("in force"), "{}", deleted.errors);
    assert!(folder.done("status").contains("Not on disk yet: 1 changes"));
}

#[test]
fn completions_manual_and_version_are_printed() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.done(&format!("completions|{shell}"));
        assert!(script.contains("keygate") && script.contains("panel-link"));
    }
    let manual = folder.done("man");
    for command in ["KEYS CREATE", "PANEL-LINK"] {
        assert!(
            manual.contains(&format!(".SH \"KEYGATE {command}\"")),
            "{manual}"
        );
    }
    assert!(folder.done("help").contains("panel-link"));
    let version = format!("keygate {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(folder.done("-V"), format!("{version}\n"));
    // The binary under test is built with the libraries in Cargo.lock.
    let lock = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let lock = blake3::hash(&lock);
    let expected = format!("{version} (Cargo.lock blake3:{lock})\n");
    assert_eq!(folder.done("--version"), expected);
}
