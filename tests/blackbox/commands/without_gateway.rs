//! Commands that need no gateway: the key file, the check of a config, and the help.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::commands::ran::{bearer, done};
use crate::support::gateway::{Setup, run};
use crate::support::token::{self, Key, key_file};

#[test]
fn a_key_file_is_worked_on_without_a_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let on = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--keys", "mine.jsonl"]);
        run(folder.path(), &all, "")
    };
    std::fs::write(folder.path().join("mine.jsonl"), "").expect("written");
    let token = bearer(&done(on(&["keys", "create", "--name", "offline"])));
    let list: Value = serde_json::from_str(&done(on(&["keys", "list", "--json"]))).expect("JSON");
    let id = list["keys"][0]["id"].as_str().expect("an id").to_owned();
    done(on(&["keys", "update", &id, "--name", "renamed"]));
    done(on(&["keys", "disable", &id]));
    let file = std::fs::read_to_string(folder.path().join("mine.jsonl")).expect("the file");
    assert!(
        file.contains("renamed") && file.contains(&token::hash(&token)) && !file.contains(&token)
    );
    done(on(&["keys", "delete", &id, "--yes"]));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine.jsonl"))
            .expect("the file")
            .trim(),
        ""
    );
    std::fs::write(folder.path().join("mine.jsonl"), "nonsense\n").expect("written");
    let faulty = on(&["keys", "create", "--name", "x"]);
    assert_eq!(faulty.code, Some(1));
    assert!(faulty.err.contains("mine.jsonl:1"), "{faulty:?}");
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine.jsonl")).expect("the file"),
        "nonsense\n"
    );
}

#[test]
fn a_token_made_elsewhere_is_hashed_for_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    for (input, token) in [
        ("sk-elsewhere\n", "sk-elsewhere"),
        ("sk-elsewhere", "sk-elsewhere"),
        ("sk-elsewhere\r\n", "sk-elsewhere"),
    ] {
        let hashed = done(run(folder.path(), &["keys", "hash"], input));
        assert_eq!(hashed.trim(), token::hash(token), "{input:?}");
    }
    for input in ["", "\n", "two words\n", "kg_tooshort\n"] {
        let ran = run(folder.path(), &["keys", "hash"], input);
        assert_eq!(ran.code, Some(1), "{input:?}: {ran:?}");
    }
}

#[test]
fn check_prints_every_fault_of_config_and_key_file_and_starts_nothing() {
    let setup = Setup::new()
        .upstream("up", &["http://127.0.0.1:9"], &["good"])
        .keys(&[&Key::all("key_one")]);
    setup.write();
    let private = |setup: &Setup| {
        std::fs::set_permissions(
            setup.path("keys.jsonl"),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("private");
    };
    private(&setup);
    let folder = setup.path("");
    let sound = run(&folder, &["check"], "");
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(!setup.path("keygate.sock").exists());
    // Warnings alone are no fault.
    std::fs::set_permissions(
        setup.path("keys.jsonl"),
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("a mode");
    let excluding = Key::all_but("key_two", &["no-such-model"]);
    std::fs::write(setup.path("keys.jsonl"), key_file(&[excluding])).expect("written");
    let warned = run(&folder, &["check"], "");
    assert_eq!(warned.code, Some(0), "{warned:?}");
    let said = format!("{}{}", warned.out, warned.err);
    assert!(
        said.contains("no-such-model") && said.contains("keys.jsonl"),
        "{said}"
    );
    // Every fault of both files at once, each with its place.
    std::fs::write(
        setup.path("keygate.toml"),
        "listen = \"nowhere\"\nworkerz = 1\n[limits]\nrequest_body = \"x\"\n[keys]\nfile = \"keys.jsonl\"\n[[upstreams]]\nname = \"up\"\nurl = \"http://127.0.0.1:9/v1\"\n",
    )
    .expect("written");
    std::fs::write(setup.path("keys.jsonl"), "nonsense\n{\"id\":\"x\"}\n").expect("written");
    private(&setup);
    let faulty = run(&folder, &["check", "--config", "keygate.toml"], "");
    assert_eq!(faulty.code, Some(1), "{faulty:?}");
    let said = format!("{}{}", faulty.out, faulty.err);
    for place in [
        "keygate.toml:1: listen: ",
        "keygate.toml:2: workerz: ",
        "keygate.toml:4: limits.request_body: ",
        "keygate.toml:9: upstreams",
        "keys.jsonl:1: ",
        "keys.jsonl:2: ",
    ] {
        assert!(said.contains(place), "{place} is not in:\n{said}");
    }
    let missing = run(&folder, &["check", "--config", "none.toml"], "");
    assert_eq!(missing.code, Some(1), "{missing:?}");
}

#[test]
fn version_help_completions_and_manual_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(done(run(folder.path(), &["--version"], "")).contains(env!("CARGO_PKG_VERSION")));
    assert!(done(run(folder.path(), &["--help"], "")).contains("serve"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(run(folder.path(), &["completions", shell], "")).contains("keygate"));
    }
    assert!(done(run(folder.path(), &["man"], "")).contains(".TH"));
    assert_eq!(
        run(folder.path(), &["completions", "nonsense"], "").code,
        Some(2)
    );
}
