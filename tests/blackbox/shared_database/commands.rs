//! Commands that work on the database that gateways share: keys go in and out as a key file, and the schema is brought
//! forward by hand.

use super::gateways::{server, shared};
use super::keys::setup;
use crate::support::client::Call;
use crate::support::gateway::{Ran, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, eventually};

fn run(setup: &Setup, arguments: &[&str]) -> Ran {
    crate::support::gateway::run(&setup.path(""), arguments, "")
}

#[test]
fn a_command_that_only_looks_does_not_bring_the_schema_forward() {
    let server = server();
    let own = setup(&server, &Recorder::answering());
    own.write();
    std::fs::write(own.path("all.jsonl"), key_file(&[Key::all("key_1")])).unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    for command in [
        &["keys", "import", "all.jsonl", "--dry-run"][..],
        &["keys", "export"],
    ] {
        let ran = run(&own, command);
        assert_eq!(ran.code, Some(1), "{command:?}: {}", ran.out);
        assert!(ran.err.contains("keygate database migrate"), "{}", ran.err);
        assert_eq!(server.query("usage", tables), "0", "{command:?}");
    }
}

#[test]
fn keys_of_a_file_are_imported_as_a_reload_would_load_them_and_exported_as_they_were() {
    let server = server();
    let up = Recorder::answering();
    let keys: Vec<Key> = (0..4).map(|n| Key::all(&format!("key_{n}"))).collect();
    let gateway = setup(&server, &up).start();
    let own = setup(&server, &up);
    own.write();
    let write = |keys: &[Key]| std::fs::write(own.path("all.jsonl"), key_file(keys)).unwrap();
    write(&keys);
    let ran = run(&own, &["keys", "import", "all.jsonl", "--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.contains("4 keys would be added, 0 removed"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("+ key_3"), "{}", ran.out);
    assert_eq!(server.query("usage", "SELECT count(*) FROM keys"), "0");
    let ran = run(&own, &["keys", "import", "all.jsonl"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for key in &keys {
        eventually("the key is in force at the gateway", DEADLINE, || {
            (gateway.ask(&Call::chat(&key.token, "good")).status == 200).then_some(())
        });
    }
    // Too many would go.
    write(&keys[..1]);
    let ran = run(&own, &["keys", "import", "all.jsonl"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("lacks 3 of the 4 keys") && ran.err.contains("--force"),
        "{}",
        ran.err
    );
    let ran = run(&own, &["keys", "import", "all.jsonl", "--force"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    eventually("they are gone at the gateway", DEADLINE, || {
        (gateway.ask(&Call::chat(&keys[3].token, "good")).status == 401).then_some(())
    });
    // Keys that were deleted since do not come again unsaid.
    write(&keys[..2]);
    let ran = run(&own, &["keys", "import", "all.jsonl", "--dry-run"]);
    assert!(
        ran.out.contains("! key_1 was deleted in the database"),
        "{}{}",
        ran.out,
        ran.err
    );
    let ran = run(&own, &["keys", "import", "all.jsonl"]);
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(
        ran.err.contains("key_1") && ran.err.contains("--force"),
        "{}",
        ran.err
    );
    let ran = run(&own, &["keys", "export"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.out.trim_end(), gateway.key_file().trim_end());
    assert!(ran.out.contains("key_0") && !ran.out.contains("key_1"));
    // A fault names its line and changes nothing.
    std::fs::write(own.path("all.jsonl"), "{\"id\":\"key_0\"}\n").unwrap();
    let ran = run(&own, &["keys", "import", "all.jsonl"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("all.jsonl:1"), "{}", ran.err);
    assert_eq!(gateway.ask(&Call::chat(&keys[0].token, "good")).status, 200);
    let rows = gateway.admin_json("GET", "/api/audit", None);
    let actions: Vec<&str> = rows["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["action"].as_str())
        .collect();
    assert_eq!(actions, ["forced_drop", "reload"], "{rows}");
}

#[test]
fn the_schema_is_brought_forward_by_hand_and_a_newer_one_is_taken_as_long_as_it_says_so() {
    let server = server();
    let up = Recorder::answering();
    let own = setup(&server, &up);
    own.write();
    let ran = run(&own, &["database", "status"]);
    assert!(
        ran.out.contains("no schema yet") && ran.out.contains("to migrate: 1, 2"),
        "{}{}",
        ran.out,
        ran.err
    );
    assert_eq!(
        server.query(
            "usage",
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ),
        "0"
    );
    let ran = run(&own, &["database", "migrate"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = run(&own, &["database", "status"]);
    assert!(ran.out.contains("nothing to migrate"), "{}", ran.out);
    // The next version has brought it forward, and this one still works with it.
    server.query("usage", "INSERT INTO schema_migrations VALUES (9000, 0)");
    let gateway = own.start();
    gateway.admin_json(
        "POST",
        "/api/accounts",
        Some(&serde_json::json!({"id": "acme"})),
    );
    server.query("usage", "UPDATE schema_compatibility SET oldest = 9000");
    let (status, said) = setup(&server, &up).refused();
    assert!(!status.success());
    assert!(said.contains("has schema 9000"), "{said}");
}

#[test]
fn without_a_database_to_share_the_commands_say_what_is_missing() {
    let up = Recorder::answering();
    let own = Setup::before(&up);
    own.write();
    for arguments in [
        &["keys", "export"][..],
        &["keys", "import", "x"],
        &["database", "status"],
    ] {
        let ran = run(&own, arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains("postgres://"), "{}", ran.err);
    }
    let server = server();
    let own = Setup::before(&up).set("keys", "source = \"database\"");
    own.write();
    let ran = run(&own, &["check", "--config", "keygate.toml"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        format!("{}{}", ran.out, ran.err).contains("keys.source"),
        "{}{}",
        ran.out,
        ran.err
    );
    let own = shared(&server, &up)
        .without_key_file()
        .set("keys", "source = \"database\"");
    own.write();
    let ran = run(&own, &["check", "--config", "keygate.toml"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
}
