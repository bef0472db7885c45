//! A gateway whose role has the rights of `deploy/fleet/grants.sql` and no others can do everything, save change the
//! schema.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::audit::trail::assert_intact;
use crate::people::panel::{OTHER_PASSWORD, PASSWORD, Person, by_password, invite, run};
use crate::postgres::{OWNER, TestServer};
use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

const DATABASE: &str = "keygate";
const ROLE: &str = "keygate_gateway";

fn grants() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/fleet/grants.sql");
    std::fs::read_to_string(file).expect("the grants")
}

/// A server with the role, which may connect and nothing else yet.
fn server() -> TestServer {
    let server = TestServer::start();
    server.create_database(DATABASE);
    let role = format!(
        "CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE; REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC; \
         GRANT CONNECT ON DATABASE {DATABASE} TO {ROLE}"
    );
    server.query(DATABASE, &role);
    server
}

fn setup(
    server: &TestServer,
    up: &Recorder,
    receiver: &Recorder,
    role: &str,
    keys: &[&Key],
) -> Setup {
    let url = format!("postgres://{role}@127.0.0.1:{}/{DATABASE}", server.port());
    let setup = Setup::before(up)
        .keys(keys)
        .set("database", &format!("url = \"{url}\""))
        .set("admin", "listen = \"127.0.0.1:0\"")
        .set("alerts", &format!("webhook = \"{}/\"", receiver.url()))
        .secret(PASSWORD)
        .secret(OTHER_PASSWORD);
    let file = setup.path("audit.key");
    std::fs::write(&file, "7".repeat(64)).expect("the audit key");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).expect("it is private");
    setup
}

/// The owner brings the schema forward, and gives the rights.
fn migrated(server: &TestServer, up: &Recorder, receiver: &Recorder, key: &Key) {
    let owner = setup(server, up, receiver, OWNER, &[key]).start();
    assert_eq!(owner.ask(&Call::chat(&key.token, "good")).status, 200);
    eventually("the request is recorded", DEADLINE, || {
        let rows = server.query(DATABASE, "SELECT count(*) FROM usage_records");
        (rows == "1").then_some(())
    });
    owner.admin_json("POST", "/api/accounts", Some(&json!({"id": "before"})));
    drop(owner);
    server.query(DATABASE, &grants());
}

fn tell_a_person(gateway: &Gateway) {
    run(gateway, &["accounts", "create", "acme"]);
    run(gateway, &["accounts", "update", "acme", "--max-keys", "5"]);
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let bob = Person::invited(gateway, "acme", "bob@example.com", "member");
    bob.create_key(gateway);
    run(
        gateway,
        &["members", "role", "acme", "bob@example.com", "viewer"],
    );
    assert_eq!(bob.lives(gateway), 401);
    let code = run(
        gateway,
        &["members", "reset-password", "acme", "bob@example.com"],
    );
    let code = crate::people::panel::code_of(&code);
    let reset = crate::people::panel::accept(gateway, &code, OTHER_PASSWORD);
    assert_eq!(reset.status, 200, "{}", reset.text());
    assert_eq!(
        by_password(gateway, "bob@example.com", PASSWORD).status,
        401
    );
    let bob = Person::of(&by_password(gateway, "bob@example.com", OTHER_PASSWORD));
    assert_eq!(bob.lives(gateway), 200);
    let sessions = bob.ask(gateway, "GET", "/api/sessions", &Value::Null);
    assert_eq!(sessions.status, 200, "{}", sessions.text());
    let out = bob.ask(gateway, "DELETE", "/api/session", &Value::Null);
    assert!((200..300).contains(&out.status), "{}", out.text());
    invite(gateway, "acme", "carol@example.com", "viewer");
    let open = gateway.admin_json("GET", "/api/accounts/acme/invitations", None);
    let open = open["invitations"][0]["id"]
        .as_str()
        .expect("an invitation");
    run(gateway, &["invite", "revoke", "acme", open]);
    run(gateway, &["members", "remove", "acme", "bob@example.com"]);
    assert_eq!(alice.lives(gateway), 200);
    run(gateway, &["accounts", "disable", "acme"]);
    run(
        gateway,
        &["accounts", "delete", "acme", "--keys", "1", "--yes"],
    );
}

#[test]
fn a_role_with_the_granted_rights_does_everything_but_change_the_schema() {
    let server = server();
    let (up, receiver) = (Recorder::answering(), Recorder::answering());
    let budgets = json!([{"unit": "requests", "amount": 100, "per": "month"}]);
    let soon = jiff::Timestamp::now().as_second() + 2 * 86_400;
    let soon = jiff::Timestamp::from_second(soon)
        .expect("a time")
        .to_string();
    let key = Key::all("key_all").with("budgets", budgets);
    migrated(&server, &up, &receiver, &key);
    let key = key.expires(&soon);
    // All that the owner has written is so old that it is to be deleted.
    server.query(
        DATABASE,
        "UPDATE usage_records SET ended_at = 1; UPDATE writers SET applied_at = 1; \
         UPDATE usage_sums SET start = 0 WHERE scope = 0; \
         INSERT INTO alerts VALUES ('old', 'alert.test', '', 'old', '{}', 1, 1, NULL, 1, 0, NULL)",
    );
    let gateway = setup(&server, &up, &receiver, ROLE, &[&key]).start();

    for call in [
        Call::chat(&key.token, "good"),
        Call::get("/v1/key", &key.token),
    ] {
        assert_eq!(gateway.ask(&call).status, 200);
    }
    let created = gateway.admin_json(
        "POST",
        "/api/keys",
        Some(&json!({"name": "web", "model_access": {"mode": "all"}})),
    );
    let id = created["key"]["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/keys/{id}");
    gateway.admin_json("PATCH", &path, Some(&json!({"name": "site"})));
    gateway.admin_json(
        "POST",
        &format!("{path}/rotate"),
        Some(&json!({"grace_seconds": 60})),
    );
    run(&gateway, &["keys", "delete", &id, "--yes"]);
    run(&gateway, &["keys", "update", "key_all", "--reset-budget"]);
    tell_a_person(&gateway);
    run(&gateway, &["alerts", "test"]);
    assert_intact(&gateway);
    run(&gateway, &["audit", "verify"]);
    for usage in ["key", "account", "model", "upstream", "day"] {
        run(&gateway, &["usage", "--by", usage]);
    }
    run(&gateway, &["usage", "records"]);
    run(&gateway, &["keys", "list", "--unused-for", "1d"]);
    let old = "SELECT (SELECT count(*) FROM usage_records WHERE ended_at = 1) \
               + (SELECT count(*) FROM writers WHERE applied_at = 1) + (SELECT count(*) FROM usage_sums WHERE start = 0) \
               + (SELECT count(*) FROM alerts WHERE ended_at = 1)";
    eventually("old rows are deleted", DEADLINE, || {
        (server.query(DATABASE, old) == "0").then_some(())
    });
    eventually(
        "the alert of the key that ends soon is delivered",
        DEADLINE,
        || {
            let told = server.query(
                DATABASE,
                "SELECT count(*) FROM alerts WHERE is_delivered = 1",
            );
            (told == "1").then_some(())
        },
    );

    // Rows of the audit get old after a day at least, and their times are part of their hashes.
    let cut = format!("SET ROLE {ROLE}; BEGIN; DELETE FROM audit WHERE n <= 1; ROLLBACK");
    server.query(DATABASE, &cut);

    // The server writes down each statement that it refuses.
    let log = std::fs::read_to_string(server.folder().join("log")).expect("the server's log");
    let refused: Vec<_> = log
        .lines()
        .filter(|line| line.contains("permission denied"))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let may = format!(
        "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR has_schema_privilege('{ROLE}', 'public', 'CREATE') \
         FROM pg_roles WHERE rolname = '{ROLE}'"
    );
    assert_eq!(server.query(DATABASE, &may), "f");
    assert_eq!(
        server.query(
            DATABASE,
            &format!("SELECT has_table_privilege('{ROLE}', 'audit', 'UPDATE')")
        ),
        "f"
    );
}

#[test]
fn each_table_has_its_grants() {
    let server = server();
    let (up, receiver) = (Recorder::answering(), Recorder::answering());
    migrated(&server, &up, &receiver, &Key::all("key_all"));
    let tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'";
    let tables = server.query(DATABASE, tables);
    let tables: BTreeSet<&str> = tables.lines().collect();
    let grants = grants();
    let granted: Vec<&str> = grants
        .lines()
        .filter_map(|line| {
            line.strip_prefix("GRANT ")?
                .split_once(" ON ")?
                .1
                .split(' ')
                .next()
        })
        .filter(|name| *name != "SCHEMA")
        .collect();
    let distinct: BTreeSet<&str> = granted.iter().copied().collect();
    assert_eq!(distinct, tables);
    assert_eq!(granted.len(), tables.len(), "a table has two lines");
}

#[test]
fn a_role_that_may_not_change_the_schema_is_told_that_the_schema_is_older() {
    let server = server();
    let (up, receiver) = (Recorder::answering(), Recorder::answering());
    let key = Key::all("key_all");
    migrated(&server, &up, &receiver, &key);
    server.query(
        DATABASE,
        "DELETE FROM schema_migrations WHERE version = 7; DROP TABLE keys, key_revisions, gateways; \
         DELETE FROM revisions WHERE name = 'keys'",
    );
    let (status, said) = setup(&server, &up, &receiver, ROLE, &[&key]).refused();
    assert!(!status.success());
    assert!(said.contains("permission denied for schema"), "{said}");
}
