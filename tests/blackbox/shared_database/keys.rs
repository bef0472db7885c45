//! Keys in a database that several gateways share: a change made at one is in force at all, and no dead, slow or restored
//! database revives a deleted key or refuses a request.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::gateways::{server, shared, shared_at};
use crate::postgres::TestServer;
use crate::support::client::Call;
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::Recorder;
use crate::support::{DEADLINE, eventually, sweep};

/// Until then a gateway that has lost the database waits for what others may have been lent.
const LENT_ENDS: Duration = Duration::from_secs(100);

/// A gateway whose keys are in the database.
pub fn setup(server: &TestServer, up: &Recorder) -> Setup {
    shared(server, up)
        .without_key_file()
        .set("keys", "source = \"database\"")
}

/// A key that was made at a gateway.
pub struct Made {
    pub id: String,
    pub token: String,
}

#[track_caller]
pub fn make(gateway: &Gateway, name: &str) -> Made {
    let body = json!({"name": name, "model_access": {"mode": "all"}});
    let made = gateway.admin_json("POST", "/api/keys", Some(&body));
    let text = |value: &Value| {
        value
            .as_str()
            .unwrap_or_else(|| panic!("{made}"))
            .to_owned()
    };
    let (id, token) = (text(&made["key"]["id"]), text(&made["token"]));
    sweep::secret(&token);
    Made { id, token }
}

pub fn status(gateway: &Gateway, key: &Made) -> u16 {
    gateway.ask(&Call::chat(&key.token, "good")).status
}

#[track_caller]
pub fn becomes(gateway: &Gateway, key: &Made, wanted: u16) {
    eventually("the key is in force there", DEADLINE, || {
        (status(gateway, key) == wanted).then_some(())
    });
}

/// The reason of a failed call, and its status.
#[track_caller]
fn refused(gateway: &Gateway, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let answer = gateway.admin(method, path, body);
    (answer.status, answer.text())
}

fn state(gateway: &Gateway) -> String {
    let status = gateway.admin_json("GET", "/api/status", None);
    status["key_database"]["state"]
        .as_str()
        .unwrap_or_else(|| panic!("{status}"))
        .to_owned()
}

#[track_caller]
pub fn is_in(gateway: &Gateway, wanted: &str) {
    eventually(wanted, DEADLINE, || {
        (state(gateway) == wanted).then_some(())
    });
}

fn psql(server: &TestServer, sql: &str) -> String {
    server.query("usage", sql)
}

#[test]
fn a_change_at_one_gateway_is_in_force_at_the_other_and_outlives_both() {
    let server = server();
    let up = Recorder::answering();
    let [mut one, two] = [(); 2].map(|()| setup(&server, &up).start());
    let key = make(&one, "first");
    assert_eq!(status(&one, &key), 200);
    becomes(&two, &key, 200);
    let path = format!("/api/keys/{}", key.id);
    two.admin_json("PATCH", &path, Some(&json!({"disabled": true})));
    assert_eq!(status(&two, &key), 401);
    becomes(&one, &key, 401);
    one.admin_json("PATCH", &path, Some(&json!({"disabled": false})));
    becomes(&two, &key, 200);
    let rotated = two.admin_json(
        "POST",
        &format!("{path}/rotate"),
        Some(&json!({"grace_seconds": 0})),
    );
    let new = Made {
        id: key.id.clone(),
        token: rotated["token"].as_str().unwrap().to_owned(),
    };
    sweep::secret(&new.token);
    becomes(&one, &new, 200);
    assert_eq!(status(&one, &key), 401);
    let other = make(&two, "second");
    becomes(&one, &other, 200);
    // Lists are in the same order at both.
    let names = |gateway: &Gateway| {
        let list = gateway.admin_json("GET", "/api/keys", None);
        let keys = list["keys"].as_array().unwrap_or_else(|| panic!("{list}"));
        keys.iter()
            .map(|key| key["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&one), names(&two));
    assert_eq!(one.admin("DELETE", &path, None).status, 204);
    assert_eq!(status(&one, &new), 401);
    becomes(&two, &new, 401);
    one.start_again();
    assert_eq!((status(&one, &new), status(&one, &other)), (401, 200));
    // The last good copy has what is in force, as a key file, and no more.
    for gateway in [&one, &two] {
        let copy = gateway.key_file();
        assert_eq!(copy.lines().count(), 1, "{copy}");
        assert!(copy.contains(&other.id), "{copy}");
    }
    assert_eq!(
        psql(
            &server,
            "SELECT count(*), max(n), max(n) - min(n) + 1 FROM key_revisions"
        ),
        "6|6|6"
    );
}

#[test]
fn two_changes_of_one_key_at_two_gateways_are_both_made_or_one_is_told() {
    let server = server();
    let up = Recorder::answering();
    let gateways = [(); 2].map(|()| setup(&server, &up).start());
    let key = make(&gateways[0], "contended");
    becomes(&gateways[1], &key, 200);
    let path = format!("/api/keys/{}", key.id);
    std::thread::scope(|scope| {
        for (gateway, field) in gateways.iter().zip(["name", "expires_at"]) {
            let path = &path;
            scope.spawn(move || {
                for round in 0..20 {
                    let value = match field {
                        "name" => format!("name {round}"),
                        _ => format!("2100-01-{:02}T00:00:00Z", round + 1),
                    };
                    gateway.admin_json("PATCH", path, Some(&json!({ field: value })));
                }
            });
        }
    });
    for gateway in &gateways {
        eventually("both changes are there", DEADLINE, || {
            let key = gateway.admin_json("GET", &path, None);
            (key["name"] == "name 19" && key["expires_at"] == "2100-01-20T00:00:00Z").then_some(())
        });
    }
    // A change that is meant for another revision than the newest is refused, also where the newest is of another gateway.
    let etag = |gateway: &Gateway| {
        gateway
            .admin("GET", &path, None)
            .header("etag")
            .unwrap()
            .to_owned()
    };
    let seen = etag(&gateways[0]);
    gateways[1].admin_json("PATCH", &path, Some(&json!({"name": "newer"})));
    let mut call = Call::new("DELETE", &path);
    call = call.header("if-match", &seen);
    let answer = crate::support::client::Client::connect_unix(&gateways[0].socket())
        .unwrap()
        .ask(&call);
    assert_eq!(answer.status, 412, "{}", answer.text());
    assert_eq!(status(&gateways[0], &key), 200);
    assert_eq!(
        psql(&server, "SELECT count(*) = max(n) FROM key_revisions"),
        "t"
    );
}

#[test]
fn without_the_database_requests_go_on_deletes_are_in_force_and_carried_out_once_it_is_back() {
    let mut server = server();
    let up = Recorder::answering();
    let [mut one, two] = [(); 2].map(|()| setup(&server, &up).start());
    let [kept, deleted, disabled, of_account, closed] =
        ["kept", "deleted", "disabled", "of account", "closed"].map(|name| make(&one, name));
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    for (key, account) in [(&of_account, "acme"), (&closed, "closed")] {
        one.admin_json("POST", "/api/accounts", Some(&json!({"id": account})));
        one.admin_json("PATCH", &path(key), Some(&json!({"account": account})));
    }
    one.admin_json(
        "PATCH",
        "/api/accounts/closed",
        Some(&json!({"disabled": true})),
    );
    for (key, wanted) in [
        (&kept, 200),
        (&deleted, 200),
        (&disabled, 200),
        (&of_account, 200),
        (&closed, 401),
    ] {
        becomes(&two, key, wanted);
    }
    eventually("the accounts are in the copy", DEADLINE, || {
        let state = std::fs::read_to_string(one.path("keys.jsonl.revision")).unwrap();
        (state.contains("acme") && state.contains("\"disabled\":true")).then_some(())
    });
    server.kill();
    is_in(&one, "database_away");
    let (code, said) = refused(&one, "DELETE", &path(&deleted), None);
    assert_eq!(code, 507, "{said}");
    assert!(said.contains("\"in_force\":true"), "{said}");
    let (code, said) = refused(
        &one,
        "PATCH",
        &path(&disabled),
        Some(&json!({"disabled": true})),
    );
    assert_eq!(code, 507, "{said}");
    let (code, said) = refused(&one, "PATCH", &path(&kept), Some(&json!({"name": "x"})));
    assert_eq!(code, 503, "{said}");
    assert!(said.contains("cannot be reached"), "{said}");
    let body = json!({"name": "n", "model_access": {"mode": "all"}});
    assert_eq!(refused(&one, "POST", "/api/keys", Some(&body)).0, 503);
    let statuses = |gateway: &Gateway| [&kept, &deleted, &disabled].map(|key| status(gateway, key));
    assert_eq!(statuses(&one), [200, 401, 401]);
    assert_eq!(statuses(&two), [200; 3], "it is cut off, and cannot know");
    // Killed without a word, it starts from the last good copy, with what was taken away.
    one.start_again();
    assert_eq!(statuses(&one), [200, 401, 401]);
    assert_eq!(
        [&of_account, &closed].map(|key| status(&one, key)),
        [200, 401]
    );
    one.process
        .line("the copy", |line| line.contains("last good copy"));
    server.run();
    for gateway in [&one, &two] {
        is_in(gateway, "in_sync");
    }
    becomes(&two, &deleted, 401);
    becomes(&two, &disabled, 401);
    assert_eq!(status(&two, &kept), 200);
    eventually("nothing is pending", DEADLINE, || {
        let status = one.admin_json("GET", "/api/status", None);
        (status["unwritten_changes"] == 0).then_some(())
    });
}

#[test]
fn gateways_at_work_leave_no_error_in_the_log_of_the_database() {
    let server = server();
    let up = Recorder::answering();
    // The first makes the schema.
    let mut gateways = [(); 2].map(|()| setup(&server, &up).start());
    let [one, two] = &gateways;
    one.admin_json("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    let [key, deleted] = ["key", "deleted"].map(|name| make(one, name));
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    let limits = json!({"account": "acme", "limits": {"requests_per_minute": 100}});
    one.admin_json("PATCH", &path(&key), Some(&limits));
    becomes(two, &key, 200);
    becomes(one, &key, 200);
    assert_eq!(two.admin("DELETE", &path(&deleted), None).status, 204);
    becomes(one, &deleted, 401);
    let rotate = format!("{}/rotate", path(&key));
    one.admin_json("POST", &rotate, Some(&json!({"grace_seconds": 60})));
    assert_eq!(two.admin("GET", "/api/audit", None).status, 200);
    assert_eq!(two.admin("GET", "/api/fleet", None).status, 200);
    for gateway in &mut gateways {
        gateway.start_again();
        becomes(gateway, &key, 200);
    }
    let log = std::fs::read_to_string(server.folder().join("log")).unwrap();
    let is_trouble = |line: &&str| {
        ["ERROR:", "FATAL:", "PANIC:"]
            .iter()
            .any(|word| line.contains(word))
    };
    // Before that the test itself asked whether it runs.
    let (_, log) = log.split_once("ready to accept connections").unwrap();
    let trouble: Vec<&str> = log.lines().filter(is_trouble).collect();
    assert!(trouble.is_empty(), "{trouble:#?}");
}

#[test]
fn a_database_that_stands_still_holds_up_no_request_and_no_revocation() {
    let server = server();
    let up = Recorder::answering();
    let gateway = setup(&server, &up).start();
    let [kept, first, second, third] =
        ["kept", "first", "second", "third"].map(|name| make(&gateway, name));
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    server.freeze();
    let disable = json!({"disabled": true});
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| refused(&gateway, "DELETE", &path(&first), None));
        // In force long before it is answered.
        becomes(&gateway, &first, 401);
        // And so is what comes behind it, while it waits for the database.
        let behind = scope.spawn(|| refused(&gateway, "DELETE", &path(&second), None));
        let disabling = || refused(&gateway, "PATCH", &path(&third), Some(&disable));
        let disabling = scope.spawn(disabling);
        becomes(&gateway, &second, 401);
        becomes(&gateway, &third, 401);
        assert!(!deleting.is_finished(), "nothing waited");
        assert_eq!(status(&gateway, &kept), 200);
        for revoking in [deleting, behind, disabling] {
            let (code, said) = revoking.join().unwrap();
            assert_eq!(code, 507, "{said}");
        }
    });
    server.thaw();
    is_in(&gateway, "in_sync");
    eventually("they are revoked in the database", DEADLINE, || {
        let left = psql(
            &server,
            "SELECT count(*) FROM keys WHERE deleted_at IS NULL",
        );
        let status = gateway.admin_json("GET", "/api/status", None);
        (left == "2" && status["unwritten_changes"] == 0).then_some(())
    });
    assert_eq!(
        [&kept, &first, &second, &third].map(|key| status(&gateway, key)),
        [200, 401, 401, 401]
    );
}

#[test]
fn a_disable_that_is_refused_with_the_rest_of_its_change_changes_nothing() {
    let server = server();
    let up = Recorder::answering();
    let gateway = setup(&server, &up).start();
    let [key, other] = ["key", "other"].map(|name| make(&gateway, name));
    let path = |key: &Made| format!("/api/keys/{}", key.id);
    let is_refused = (0..20).any(|round| {
        let account = format!("a{round}");
        let body = json!({"id": account, "max_keys": 1});
        gateway.admin_json("POST", "/api/accounts", Some(&body));
        let send = |method: &'static str, path: String, body: Value| {
            let gateway = &gateway;
            move || gateway.admin(method, &path, Some(&body))
        };
        server.freeze();
        let pause = || std::thread::sleep(Duration::from_millis(100));
        let (created, moved) = std::thread::scope(|scope| {
            // It waits for the database, so that the next two are committed together.
            let name = json!({"name": format!("n{round}")});
            scope.spawn(send("PATCH", path(&other), name));
            pause();
            let new = json!({"name": "n", "model_access": {"mode": "all"}, "account": account});
            let creating = scope.spawn(send("POST", "/api/keys".to_owned(), new));
            pause();
            let moved = json!({"disabled": true, "account": account});
            let moving = scope.spawn(send("PATCH", path(&key), moved));
            pause();
            server.thaw();
            (creating.join().unwrap(), moving.join().unwrap())
        });
        // One of them has the only place.
        let statuses = (created.status, moved.status);
        assert!(matches!(statuses, (201, 422) | (422, 200)), "{statuses:?}");
        let is_refused = moved.status == 422;
        let wanted = if is_refused { 200 } else { 401 };
        assert_eq!(status(&gateway, &key), wanted);
        let back = json!({"disabled": false, "account": null});
        gateway.admin_json("PATCH", &path(&key), Some(&back));
        is_refused
    });
    assert!(is_refused, "the create was never the first");
}

#[test]
fn a_database_restored_from_a_backup_is_not_followed_until_an_operator_accepts_it() {
    let server = server();
    let up = Recorder::answering();
    let mut gateways = [(); 2].map(|()| setup(&server, &up).start());
    let [old, deleted] = ["old", "deleted"].map(|name| make(&gateways[0], name));
    let closed = make(&gateways[0], "closed");
    gateways[0].admin_json("POST", "/api/accounts", Some(&json!({"id": "acme"})));
    gateways[0].admin_json(
        "PATCH",
        &format!("/api/keys/{}", closed.id),
        Some(&json!({"account": "acme"})),
    );
    let tables = ["keys", "key_revisions", "revisions", "accounts"];
    let backup = server.folder().join("backup.sql");
    dump(&server, &backup, &tables);
    let new = make(&gateways[0], "new");
    let disable = json!({"disabled": true});
    gateways[0].admin_json("PATCH", "/api/accounts/acme", Some(&disable));
    let path = format!("/api/keys/{}", deleted.id);
    assert_eq!(gateways[0].admin("DELETE", &path, None).status, 204);
    for gateway in &gateways {
        becomes(gateway, &new, 200);
        becomes(gateway, &deleted, 401);
        becomes(gateway, &closed, 401);
        eventually("the account is in the copy", DEADLINE, || {
            let state = std::fs::read_to_string(gateway.path("keys.jsonl.revision")).unwrap();
            state.contains("\"disabled\":true").then_some(())
        });
    }
    let said = gateways[0].run(&["status"], "").out;
    assert!(said.contains("revision 6, in sync"), "{said}");
    psql(
        &server,
        "DROP TABLE keys, key_revisions, revisions, accounts",
    );
    restore(&server, &backup);
    let statuses = |gateway: &Gateway| [&old, &new, &deleted].map(|key| status(gateway, key));
    for gateway in &mut gateways {
        is_in(gateway, "database_behind");
        let said = gateway.run(&["status"], "").out;
        assert!(said.contains("the database is behind since"), "{said}");
        assert_eq!(statuses(gateway), [200, 200, 401]);
        let (code, said) = refused(gateway, "DELETE", &format!("/api/keys/{}", old.id), None);
        assert_eq!(code, 507, "{said}");
        assert!(said.contains("accept-rollback"), "{said}");
        // A reload does not follow it either.
        assert_eq!(gateway.reload().status, 503);
        assert_eq!(statuses(gateway), [401, 200, 401]);
        // Also after a restart.
        gateway.launch_again();
        is_in(gateway, "database_behind");
        assert_eq!(status(gateway, &closed), 401, "its account is disabled");
        assert_eq!(statuses(gateway), [401, 200, 401]);
    }
    // Whatever the numbers are: no gateway counts as one in which a change is in force.
    eventually("the list says so", DEADLINE, || {
        let fleet = gateways[0].admin_json("GET", "/api/fleet", None);
        let all = fleet["data"].as_array()?.iter();
        let seen = all.filter(|gateway| gateway["state"] != "not_seen");
        let states: Vec<_> = seen.map(|gateway| gateway["state"].clone()).collect();
        (states == ["behind", "behind"]).then_some(())
    });
    // A gateway that comes now has seen nothing itself, and goes by the others.
    let fresh = setup(&server, &up).launch();
    is_in(&fresh, "database_behind");
    let answer = fresh.ask(&Call::chat(&deleted.token, "good"));
    assert_eq!(answer.json()["error"]["code"], "not_ready");
    let seen = gateways[0].admin_json(
        "POST",
        "/api/fleet/accept-rollback",
        Some(&json!({"dry_run": true})),
    );
    assert_eq!(
        (&seen["added"], &seen["removed"]),
        (&json!(1), &json!(1)),
        "it would bring one back and lose one: {seen}"
    );
    let ran = gateways[0].run(&["fleet", "accept-rollback"], "");
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(ran.err.contains("--dry-run"), "{}", ran.err);
    let ran = gateways[0].run(&["fleet", "accept-rollback", "--yes"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("1 added, 1 removed"), "{}", ran.out);
    for gateway in gateways.iter().chain([&fresh]) {
        is_in(gateway, "in_sync");
        // What was taken away meanwhile stays taken away.
        eventually("the keys are those of the backup", DEADLINE, || {
            (statuses(gateway) == [401, 401, 200]).then_some(())
        });
    }
    assert!(gateways[0].path("keys.jsonl.before-rollback").exists());
    becomes(&gateways[0], &closed, 200);
    assert_eq!(gateways[1].admin("DELETE", &path, None).status, 204);
    becomes(&gateways[0], &deleted, 401);
    let rows = gateways[0].admin_json("GET", "/api/audit?action=reload", None);
    assert_eq!(rows["rows"].as_array().map(Vec::len), Some(1), "{rows}");
}

#[test]
fn a_start_without_the_database_and_without_a_copy_waits_and_refuses_nobody_for_good() {
    let mut server = server();
    let up = Recorder::answering();
    let first = setup(&server, &up).start();
    let key = make(&first, "first");
    server.kill();
    let second = setup(&server, &up).launch();
    let ready = second.admin("GET", "/readyz", None);
    assert_eq!(ready.status, 503, "{}", ready.text());
    let answer = second.ask(&Call::chat(&key.token, "good"));
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"]["code"], "not_ready");
    server.run();
    second.wait_ready();
    assert_eq!(status(&second, &key), 200);
}

#[test]
fn keys_that_are_too_old_refuse_every_request_where_the_config_says_so() {
    let mut server = server();
    let up = Recorder::answering();
    let gateway = setup(&server, &up)
        .set("keys", "max_stale = \"4s\"")
        .start();
    let key = make(&gateway, "first");
    assert_eq!(status(&gateway, &key), 200);
    server.kill();
    let answer = eventually("the keys are stale", DEADLINE, || {
        let answer = gateway.ask(&Call::chat(&key.token, "good"));
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(answer.json()["error"]["code"], "stale_table");
    server.run();
    becomes(&gateway, &key, 200);
}

#[test]
fn a_key_file_of_its_own_is_not_replaced_by_the_copy() {
    let server = server();
    let up = Recorder::answering();
    let key = crate::support::token::Key::all("key_own");
    let own = shared(&server, &up)
        .keys(&[&key])
        .set("keys", "source = \"database\"");
    let (ended, said) = own.refused();
    assert!(!ended.success());
    assert!(said.contains("keygate keys import"), "{said}");
    let text = std::fs::read_to_string(own.path("keys.jsonl")).unwrap();
    assert!(text.contains("key_own"));
}

#[test]
fn a_copy_is_of_one_gateway_alone_until_that_one_ends() {
    let server = server();
    let up = Recorder::answering();
    let mut first = setup(&server, &up).start();
    let key = make(&first, "first");
    let file = first.path("keys.jsonl");
    let second = setup(&server, &up)
        .set("keys", &format!("file = \"{}\"", file.display()))
        .set("usage", "spool = \"spool\"");
    let (ended, said) = second.refused();
    assert!(!ended.success());
    assert!(
        said.contains(&file.display().to_string()) && said.contains("keys.file"),
        "{said}"
    );
    first.start_again();
    assert_eq!(status(&first, &key), 200, "it was killed before");
    first.process.terminate();
    assert!(first.process.exits_within(DEADLINE).success());
    let next = second.start();
    assert_eq!(status(&next, &key), 200);
}

#[test]
fn a_copy_that_is_older_than_it_says_is_in_force_only_until_the_database_is_back() {
    let mut server = server();
    let up = Recorder::answering();
    let mut gateway = setup(&server, &up).start();
    let [kept, deleted] = ["kept", "deleted"].map(|name| make(&gateway, name));
    let copy = gateway.path("keys.jsonl");
    let older = std::fs::read(&copy).unwrap();
    let path = format!("/api/keys/{}", deleted.id);
    assert_eq!(gateway.admin("DELETE", &path, None).status, 204);
    gateway.process.signal(rustix::process::Signal::KILL);
    gateway.process.exits_within(DEADLINE);
    server.kill();
    std::fs::write(&copy, older).unwrap();
    gateway.start_again();
    assert_eq!(
        [&kept, &deleted].map(|key| status(&gateway, key)),
        [200; 2],
        "nobody can know better"
    );
    server.run();
    becomes(&gateway, &deleted, 401);
    assert_eq!(status(&gateway, &kept), 200);
}

#[test]
fn a_copy_that_has_lost_one_of_its_files_does_not_follow_a_backup() {
    let server = server();
    let up = Recorder::answering();
    let mut gateway = setup(&server, &up).start();
    let [kept, deleted] = ["kept", "deleted"].map(|name| make(&gateway, name));
    let tables = ["keys", "key_revisions", "revisions"];
    let backup = server.folder().join("backup.sql");
    dump(&server, &backup, &tables);
    let path = format!("/api/keys/{}", deleted.id);
    assert_eq!(gateway.admin("DELETE", &path, None).status, 204);
    gateway.process.terminate();
    assert!(gateway.process.exits_within(DEADLINE).success());
    let newest = server.folder().join("newest.sql");
    dump(&server, &newest, &tables);
    let [copy, beside] = ["keys.jsonl", "keys.jsonl.revision"].map(|name| gateway.path(name));
    let aside = gateway.path("aside");
    psql(&server, "DROP TABLE keys, key_revisions, revisions");
    restore(&server, &backup);
    // Without the keys the gateway knows which revision it has seen.
    std::fs::rename(&copy, &aside).unwrap();
    gateway.launch_again();
    is_in(&gateway, "database_behind");
    let answer = gateway.ask(&Call::chat(&deleted.token, "good"));
    assert_eq!(answer.json()["error"]["code"], "not_ready");
    gateway.process.line("what is missing", |line| {
        line.contains("is missing") && line.contains("keys.jsonl\"")
    });
    gateway.process.terminate();
    assert!(gateway.process.exits_within(DEADLINE).success());
    // Without the revision it cannot tell which keys are newer.
    std::fs::rename(&aside, &copy).unwrap();
    std::fs::rename(&beside, &aside).unwrap();
    psql(&server, "DELETE FROM gateways");
    let (ended, said) = gateway.refused_again();
    assert!(!ended.success());
    assert!(said.contains("keys.jsonl.revision is missing"), "{said}");
    // Where the database has the same keys, there is nothing to tell.
    psql(&server, "DROP TABLE keys, key_revisions, revisions");
    restore(&server, &newest);
    gateway.start_again();
    gateway.process.line("what is missing", |line| {
        line.contains("is missing") && line.contains("keys.jsonl.revision\"")
    });
    assert_eq!(
        [&kept, &deleted].map(|key| status(&gateway, key)),
        [200, 401]
    );
    eventually("it is written again", DEADLINE, || {
        beside.exists().then_some(())
    });
}

#[test]
fn a_key_that_cannot_be_read_is_refused_alone_however_the_keys_are_read() {
    let server = server();
    let up = Recorder::answering();
    let running = setup(&server, &up).start();
    let [kept, newer, copied] = ["kept", "newer", "copied"].map(|name| make(&running, name));
    let statuses = |gateway: &Gateway| [&kept, &newer, &copied].map(|key| status(gateway, key));
    assert_eq!(statuses(&running), [200; 3]);
    // A field of a version to come, and a token that another key has.
    psql(
        &server,
        &format!(
            "UPDATE keys SET line = replace(line, '{{\"id\"', '{{\"to_come\":1,\"id\"') WHERE id = '{}'; \
             UPDATE keys SET line = replace((SELECT line FROM keys WHERE id = '{kept}'), '{kept}', id) WHERE id = '{}'",
            newer.id,
            copied.id,
            kept = kept.id,
        ),
    );
    let started = setup(&server, &up).start();
    assert_eq!(statuses(&started), [200, 401, 401]);
    assert_eq!(
        running
            .admin("POST", "/api/reload", Some(&json!({"force": true})))
            .status,
        200
    );
    assert_eq!(statuses(&running), [200, 401, 401]);
    for gateway in [&started, &running] {
        for (key, reason) in [(&newer, "to_come"), (&copied, "tokens")] {
            gateway.process.line("it is said", |line| {
                line.contains("key_unreadable") && line.contains(&key.id) && line.contains(reason)
            });
        }
    }
    let ran = running.run(&["keys", "export"], "");
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(ran.err.contains(&newer.id), "{}", ran.err);
}

#[test]
fn a_start_without_the_database_knows_how_many_gateways_have_a_share() {
    let mut server = server();
    let up = Recorder::answering();
    let limits = "limits_unavailable = \"local_share\"";
    let [mut one, _two] = [(); 2].map(|()| setup(&server, &up).set("keys", limits).start());
    let known = |gateway: &Gateway| {
        let state = std::fs::read(gateway.path("keys.jsonl.revision")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        state["gateways"].clone()
    };
    let limited = json!({"name": "limited", "model_access": {"mode": "all"}, "limits": {"requests_per_minute": 4}});
    let made = one.admin_json("POST", "/api/keys", Some(&limited));
    let token = made["token"].as_str().unwrap();
    sweep::secret(token);
    eventually("both are known", DEADLINE, || {
        (known(&one) == 2).then_some(())
    });
    server.kill();
    one.start_again();
    assert_eq!(known(&one), 2);
    // Nobody knows what others were lent, until all that was lent has ended.
    let first = one.ask(&Call::chat(token, "good"));
    assert_eq!(first.status, 429, "{}", first.text());
    let statuses = eventually("it has its share", LENT_ENDS, || {
        let first = one.ask(&Call::chat(token, "good")).status;
        (first == 200).then(|| [(); 3].map(|()| one.ask(&Call::chat(token, "good")).status))
    });
    assert_eq!(statuses, [200, 429, 429], "two of four");
}

#[test]
fn a_gateway_with_a_copy_starts_where_the_server_refuses_it_and_one_without_does_not() {
    let server = server();
    psql(
        &server,
        "CREATE ROLE gateway LOGIN; ALTER DATABASE usage OWNER TO gateway",
    );
    let up = Recorder::answering();
    let url = format!("postgres://gateway@127.0.0.1:{}/usage", server.port());
    let of_role = || {
        shared_at(&url, &up)
            .without_key_file()
            .set("keys", "source = \"database\"")
    };
    let mut gateway = of_role().start();
    let key = make(&gateway, "first");
    let as_superuser = |sql: &str| server.query("postgres", sql);
    let cases = [
        (
            "ALTER DATABASE usage RENAME TO aside",
            "ALTER DATABASE aside RENAME TO usage",
            "has no database usage",
        ),
        (
            "ALTER ROLE gateway NOLOGIN",
            "ALTER ROLE gateway LOGIN",
            "does not let gateway in",
        ),
    ];
    for (refuse, admit, reason) in cases {
        gateway.process.terminate();
        assert!(gateway.process.exits_within(DEADLINE).success());
        eventually("the server has let go of the gateway", DEADLINE, || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'usage'";
            (as_superuser(open) == "0").then_some(())
        });
        as_superuser(refuse);
        gateway.start_again();
        assert_eq!(status(&gateway, &key), 200);
        is_in(&gateway, "database_away");
        gateway.process.line("why", |line| {
            line.contains("last good copy") && line.contains(reason)
        });
        let (ended, said) = of_role().refused();
        assert!(!ended.success() && said.contains(reason), "{said}");
        as_superuser(admit);
        is_in(&gateway, "in_sync");
        assert_eq!(status(&gateway, &key), 200);
    }
}

/// Writes the tables' content to a file, as `pg_dump` does it.
fn dump(server: &TestServer, file: &std::path::Path, tables: &[&str]) {
    let mut command = server.program("pg_dump");
    for table in tables {
        command.args(["--table", table]);
    }
    let out = command
        .arg("usage")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    std::fs::write(file, out.stdout).unwrap();
}

fn restore(server: &TestServer, file: &std::path::Path) {
    let mut command: Command = server.program("psql");
    let out = command
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "usage", "-f"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_change_waits_until_it_is_in_force_on_all_gateways_or_names_those_behind() {
    let server = server();
    let up = Recorder::answering();
    let [one, two] = ["one", "two"].map(|name| {
        setup(&server, &up)
            .set("database", &format!("gateway_name = \"{name}\""))
            .start()
    });
    let keys = ["first", "second", "third"].map(|name| make(&one, name));
    eventually("both gateways are known", DEADLINE, || {
        let fleet = one.admin_json("GET", "/api/fleet", None);
        let states = fleet["data"].as_array()?.iter();
        let in_sync = states
            .filter(|gateway| gateway["state"] == "in_sync")
            .count();
        (in_sync == 2).then_some(())
    });
    let path = |key: &Made| format!("/api/keys/{}?wait=10s", key.id);
    let deleted = one.admin("DELETE", &path(&keys[0]), None);
    assert_eq!(deleted.status, 204);
    assert_eq!(deleted.header("keygate-wait"), Some("in-force"));
    // Not eventually.
    assert_eq!(status(&two, &keys[0]), 401);
    // A gateway that stands still is named, and the change stands.
    two.process.signal(rustix::process::Signal::STOP);
    let path = format!("/api/keys/{}?wait=2s", keys[1].id);
    let deleted = one.admin("DELETE", &path, None);
    assert_eq!(deleted.status, 204);
    assert_eq!(
        deleted.header("keygate-wait"),
        Some("behind; gateways=\"two\"")
    );
    let ran = one.run(&["keys", "delete", &keys[2].id, "--yes", "--wait=2s"], "");
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(
        ran.out.contains("deleted") && ran.err.contains("two"),
        "{}{}",
        ran.out,
        ran.err
    );
    // After 10 s nobody waits for it any more, and that is said.
    eventually("it is not seen", DEADLINE, || {
        let fleet = one.admin_json("GET", "/api/fleet", None);
        let mut states = fleet["data"].as_array()?.iter();
        states
            .any(|gateway| gateway["state"] == "not_seen")
            .then_some(())
    });
    let ran = one.run(&["keys", "create", "--name", "new", "--wait=2s"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("not waited for: two"), "{}", ran.err);
    two.process.signal(rustix::process::Signal::CONT);
    for key in &keys {
        becomes(&two, key, 401);
    }
}
