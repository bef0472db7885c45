//! What only a server does: it is away, it refuses, it is shared.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::fixture::{Fixture, connections, of_server};
use super::server::{OWNER, TestServer};
use super::{KEEP, TIMEOUT, alert, batch, record, requests};
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::store::database::driver::Driver;
use crate::store::database::postgres::Postgres;
use crate::store::database::{
    AlertSummary, AttemptEnd, AuditWrite, Database, DatabaseError, DatabaseEvent, DatabaseObserver,
    DatabaseUrl, GatewayStart, IfNotWritten, SpoolConfig,
};

const START: i64 = super::START;

fn entry(target: &str) -> AuditEntry {
    AuditEntry {
        at: START * 1000,
        origin: ChangeOrigin::gateway(),
        action: AuditAction::Change,
        target: Some(target.to_owned()),
        account: None,
        before: None,
        after: None,
    }
}

fn write(database: &Database, target: &str) -> Result<AuditWrite, String> {
    let reply = database.audit(vec![entry(target)], IfNotWritten::Refuse);
    reply.wait().map_err(|error| error.unwrap().to_string())
}

/// A server with an empty database, and a folder for the audit key.
struct Own {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Own {
    fn new() -> Self {
        let server = TestServer::start();
        server.create_database("usage");
        Self {
            server,
            folder: tempfile::TempDir::new().unwrap(),
        }
    }

    fn url(&self) -> DatabaseUrl {
        of_server(&self.server.url("usage"))
    }

    fn open(&self, gateway: &str, observer: DatabaseObserver) -> Result<Database, DatabaseError> {
        let key = self.folder.path().join("audit.key");
        Database::open(&self.url(), &key, gateway, gateway, KEEP, observer)
    }

    /// With a spool in this folder. Each start is another instance.
    fn open_spooled(&self, folder: &Path, observer: DatabaseObserver) -> Database {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let instance = format!("w{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let key = self.folder.path().join("audit.key");
        let spool = SpoolConfig {
            folder: folder.to_owned(),
            max_bytes: 256 << 20,
        };
        let url = self.url();
        let start = GatewayStart {
            spool: Some(&spool),
            has_key_copy: false,
        };
        let opened = Database::open_for_gateway(&url, &key, start, "g1", &instance, KEEP, observer);
        opened.unwrap()
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// How many requests, records and audit rows the server has.
    fn counts(&self) -> [i64; 3] {
        [
            "SELECT coalesce(sum(requests), 0) FROM usage_sums WHERE scope = 0 AND width = 86400",
            "SELECT count(*) FROM usage_records",
            "SELECT count(*) FROM audit",
        ]
        .map(|sql| self.server.query("usage", sql).parse().unwrap())
    }
}

/// Tells `up` and `down`.
fn observer() -> (DatabaseObserver, mpsc::Receiver<String>) {
    let (told, events) = mpsc::channel();
    let observer: DatabaseObserver = Box::new(move |event| {
        let _ = match event {
            DatabaseEvent::Down(error) => told.send(error.to_string()),
            DatabaseEvent::Up => told.send("up".to_owned()),
            _ => Ok(()),
        };
    });
    (observer, events)
}

/// Ends the other threads of a test, also where the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn gateways_that_start_at_once_make_one_schema() {
    let fixture = Fixture::postgres();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let fixture = &fixture;
            scope.spawn(move || {
                let batch = batch(1, vec![record(number, START)]);
                let batch = super::Batch {
                    writer: format!("w{number}").into(),
                    ..batch
                };
                fixture.driver().write(&batch).unwrap();
            });
        }
    });
    assert_eq!(requests(&fixture.open("reader")), 6);
}

#[test]
fn a_newer_schema_is_refused_where_it_says_so_and_a_missing_migration_is_applied() {
    let fixture = Fixture::postgres();
    fixture.driver().last_audit_row().unwrap();
    fixture.edit("DROP TABLE alerts; DELETE FROM schema_migrations WHERE version = 3");
    assert!(fixture.open("one").add_alert(&alert("a", START)).unwrap());
    fixture.edit("INSERT INTO schema_migrations VALUES (1000, 0)");
    // It is one that this version works with.
    fixture.driver().last_audit_row().unwrap();
    fixture.edit("UPDATE schema_compatibility SET oldest = 1000");
    let error = fixture.driver().last_audit_row().unwrap_err().to_string();
    assert!(
        error.contains("has schema 1000") && error.contains("knows 8"),
        "{error}"
    );
}

#[test]
fn gateways_add_to_the_same_sums_and_no_batch_counts_twice() {
    let fixture = Fixture::postgres();
    std::thread::scope(|scope| {
        for gateway in 0..4_usize {
            let fixture = &fixture;
            scope.spawn(move || {
                let mut driver = fixture.driver();
                for number in 1..=20 {
                    let records = (0..50).map(|at| record(at + gateway, START)).collect();
                    let mut batch = batch(number, records);
                    batch.writer = format!("w{gateway}").into();
                    // Several workers have used the same key.
                    batch.key_uses = vec![batch.key_uses[0].clone(); 3];
                    driver.write(&batch).unwrap();
                    driver.write(&batch).unwrap();
                }
            });
        }
    });
    let database = fixture.open("reader");
    assert_eq!(requests(&database), 4 * 20 * 50);
    assert_eq!(database.key_uses().unwrap()[0].requests, 4 * 20 * 3 * 2);
}

#[test]
fn gateways_append_to_one_chain() {
    let fixture = Fixture::postgres();
    let gateways = [fixture.open("w1"), fixture.open("w2")];
    std::thread::scope(|scope| {
        for database in &gateways {
            scope.spawn(move || {
                for number in 0..50 {
                    write(database, &format!("key_{number}")).unwrap();
                }
            });
        }
    });
    for database in &gateways {
        let report = database.verify_audit().unwrap();
        assert_eq!((report.broken, report.rows), (None, 100));
    }
}

#[test]
fn rows_whose_answer_was_lost_are_found_between_those_of_other_gateways() {
    let fixture = Fixture::postgres();
    let key = crate::store::database::audit::chain_key(&fixture.audit_key()).unwrap();
    let mut chain = crate::store::database::driver::AuditChain {
        key,
        last: crate::policy::audit::AuditMark::origin(),
    };
    let mut driver = fixture.driver();
    let other = fixture.open("other");
    write(&other, "other 1").unwrap();
    let before = chain.clone();
    let first = driver
        .append_audit(&[entry("a"), entry("b")], &mut chain)
        .unwrap();
    write(&other, "other 2").unwrap();
    let mut chain = before;
    let again = driver
        .append_audit(&[entry("a"), entry("b"), entry("c")], &mut chain)
        .unwrap();
    assert_eq!((&again[..2], again[2].n), (&first[..], 5));
    assert_eq!(chain.last, again[2]);
    // What is written on purpose is written twice.
    driver.append_audit(&[entry("c")], &mut chain).unwrap();
    let report = other.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 6));
}

#[test]
fn a_gateway_with_another_audit_key_is_refused() {
    let fixture = Fixture::postgres();
    let database = fixture.open("w1");
    write(&database, "key_1").unwrap();
    let (observer, events) = observer();
    let other_key = tempfile::TempDir::new().unwrap();
    let key = other_key.path().join("audit.key");
    let other = Database::open(fixture.url(), &key, "g2", "w2", KEEP, observer).unwrap();
    // What it has seen at its start it cannot go on behind; nor what came later.
    for target in ["key_2", "key_3"] {
        let error = write(&other, "of another key").unwrap_err();
        assert!(
            error.contains("audit row") && error.contains("key_file"),
            "{error}"
        );
        write(&database, target).unwrap();
    }
    assert!(events.try_recv().is_ok());
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 3));
}

#[test]
fn an_alert_is_delivered_by_one_gateway_and_by_another_if_that_one_ends() {
    let fixture = Fixture::postgres();
    let gateways = [fixture.open("w1"), fixture.open("w2")];
    for subject in ["a", "b"] {
        assert!(gateways[0].add_alert(&alert(subject, START)).unwrap());
    }
    assert!(!gateways[1].add_alert(&alert("a", START)).unwrap());
    let due = |gateway: usize, now| gateways[gateway].due_alerts(now, 20).unwrap().len();
    assert_eq!((due(0, START), due(1, START)), (2, 0));
    assert_eq!(due(1, START + 59), 0);
    let taken = gateways[1].due_alerts(START + 60, 20).unwrap();
    assert_eq!((taken.len(), due(0, START + 60)), (2, 0));
    let failed = AttemptEnd::Failed {
        error: "503".to_owned(),
        next_at: Some(START + 70),
    };
    for (alert, end) in taken.iter().zip([AttemptEnd::Delivered, failed]) {
        gateways[1].end_attempt(alert, &end, START + 60).unwrap();
    }
    let summary = gateways[0].alert_summary().unwrap();
    assert_eq!(
        summary,
        AlertSummary {
            pending: 1,
            last_delivered_at: Some(START + 60),
            error: Some("503".to_owned()),
        }
    );
    assert_eq!((due(0, START + 69), due(0, START + 70)), (0, 1));
    assert_eq!(gateways[0].told_upstreams().unwrap().len(), 2);
}

#[test]
fn each_change_of_an_account_is_another_revision_and_only_of_a_shared_database() {
    let fixture = Fixture::postgres();
    let gateways = [fixture.open("w1"), fixture.open("w2")];
    let text = r#"{"id":"acme","created_at":"2027-01-01T00:00:00Z"}"#;
    let account = crate::store::account_json::parse_account(text).unwrap();
    let mut seen = Vec::new();
    let mut look = || seen.push(gateways[1].accounts_revision().unwrap().unwrap());
    look();
    gateways[0].put_account(&account).unwrap();
    look();
    gateways[0].delete_account("acme").unwrap();
    look();
    assert_eq!(seen, [0, 1, 2]);
    let fixture = Fixture::sqlite();
    let alone = fixture.open("w1");
    assert_eq!(alone.accounts_revision().unwrap(), None);
}

#[test]
fn text_that_postgresql_cannot_keep_stops_no_batch() {
    let fixture = Fixture::postgres();
    let mut driver = fixture.driver();
    let mut odd = record(1, START);
    odd.model = "a\0b".into();
    driver.write(&batch(1, vec![odd])).unwrap();
    let records = driver.records(&super::records_query()).unwrap();
    assert_eq!(records[0].model, "a\u{fffd}b");
}

#[test]
fn what_the_server_refuses_is_said_with_its_remedy_and_never_with_the_password() {
    let server = TestServer::start();
    server.create_database("usage");
    server.query(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    server.query("usage", "CREATE ROLE stranger LOGIN");
    let error = |user: &str, name: &str, password: Option<&str>| {
        let DatabaseUrl::Postgres(mut url) = of_server(&server.url(name)) else {
            unreachable!();
        };
        url.user = user.to_owned();
        url.password = password.map(|password| password.to_owned().into());
        let mut driver = Postgres::to_write(&connections(&url));
        let error = driver.last_audit_row().unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{text}");
        (error.passes(), error.to_string())
    };
    let has = |(passes, error): (bool, String), part: &str| {
        assert!(
            !passes && error.contains(part) && error.contains("; "),
            "{error}"
        );
    };
    has(
        error(OWNER, "nowhere", None),
        "createdb --owner=keygate nowhere",
    );
    has(error(OWNER, "latin", None), "ENCODING 'UTF8'");
    has(
        error("stranger", "usage", None),
        "GRANT CREATE, USAGE ON SCHEMA public TO \"stranger\"",
    );
    // Another program's tables.
    server.create_database("theirs");
    server.query("theirs", "CREATE TABLE sessions (x text)");
    has(error(OWNER, "theirs", None), "another program");
    // The tables are there, and are of somebody else.
    let mut owner = Postgres::to_write(&connections(&match of_server(&server.url("usage")) {
        DatabaseUrl::Postgres(url) => url,
        DatabaseUrl::Sqlite(_) => unreachable!(),
    }));
    owner.last_audit_row().unwrap();
    has(
        error("stranger", "usage", None),
        "give \"stranger\" the rights that a gateway needs: deploy/fleet/grants.sql",
    );
    // From now on it asks for passwords.
    let hba = server.folder().join("data/pg_hba.conf");
    std::fs::write(
        &hba,
        "host all keygate 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
    )
    .unwrap();
    server.query("usage", "ALTER ROLE stranger PASSWORD 'right'");
    server.query(
        "usage",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger",
    );
    server.query("usage", "SELECT pg_reload_conf()");
    wait_for("the server reads its file", || {
        error("stranger", "usage", None).1.contains("password")
    });
    has(error("stranger", "usage", None), "password_file");
    has(error("stranger", "usage", Some("secret")), "password_file");
    let DatabaseUrl::Postgres(mut url) = of_server(&server.url("usage")) else {
        unreachable!();
    };
    (url.user, url.password) = ("stranger".to_owned(), Some("right".to_owned().into()));
    Postgres::to_write(&connections(&url))
        .last_audit_row()
        .unwrap();
}

#[test]
fn a_connection_by_tls_is_made_only_to_the_server_that_the_ca_has_signed() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = TestServer::start_with(|folder| {
        std::fs::write(folder.join("server.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("server.key"), made.signing_key.serialize_pem()).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
        ]
    });
    server.create_database("usage");
    let folder = tempfile::TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let ask = |host: &str, ca: Option<&std::path::Path>| {
        let ca = ca.map_or_else(String::new, |ca| format!("&sslrootcert={}", ca.display()));
        let url = format!(
            "postgres://keygate@{host}:{}/usage?sslmode=require{ca}",
            server.port()
        );
        let DatabaseUrl::Postgres(url) = of_server(&url) else {
            unreachable!();
        };
        let mut driver = Postgres::to_write(&connections(&url));
        let asked = driver.last_audit_row();
        asked.map(|_| driver).map_err(|error| error.to_string())
    };
    let _connected = ask("localhost", Some(&ca)).unwrap_or_else(|error| panic!("{error}"));
    let encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'keygate/g1'";
    assert_eq!(server.query("usage", encrypted), "t");
    // Another name, and no CA that has signed it.
    for (host, ca) in [("127.0.0.1", Some(&*ca)), ("localhost", None)] {
        let error = ask(host, ca).err().unwrap_or_default();
        assert!(error.contains("ertificate"), "{error}");
    }
}

#[test]
fn without_its_server_a_gateway_starts_and_writes_what_waits_later() {
    let mut own = Own::new();
    own.server.kill();
    let (observer, events) = observer();
    let database = own.open("g1", observer).unwrap();
    let down = events.recv_timeout(TIMEOUT).unwrap();
    assert!(down.contains("cannot be reached"), "{down}");
    assert!(!database.status().up);
    database.sender().add(record(1, START));
    assert!(
        write(&database, "key_1")
            .unwrap_err()
            .contains("cannot be reached")
    );
    let reply = database.audit(vec![entry("key_2")], IfNotWritten::Wait);
    assert_eq!(reply.wait().unwrap(), AuditWrite::Waiting);
    assert!(database.accounts().is_err());
    own.server.run();
    // Meanwhile it may say that it starts.
    while events.recv_timeout(TIMEOUT).unwrap() != "up" {}
    wait_for("what waits is written", || database.flush(TIMEOUT));
    assert_eq!(requests(&database), 1);
    assert_eq!(database.verify_audit().unwrap().rows, 1);
    assert_eq!(database.accounts().unwrap(), []);
}

#[test]
fn a_server_that_is_killed_or_stands_still_loses_nothing_and_counts_nothing_twice() {
    let mut own = Own::new();
    let (observer, events) = observer();
    let database = own.open("g1", observer).unwrap();
    let added = AtomicUsize::new(0);
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&ends);
        scope.spawn(|| {
            let sender = database.sender();
            while !ends.load(Ordering::Relaxed) {
                sender.add(record(added.fetch_add(1, Ordering::Relaxed), START));
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        for round in 0..3 {
            std::thread::sleep(Duration::from_millis(700));
            match round {
                1 => own.server.freeze(),
                _ => own.server.kill(),
            }
            let began = Instant::now();
            let down = events.recv_timeout(TIMEOUT).unwrap();
            assert!(down.contains("cannot be reached"), "{down}");
            // Noticed in time, and said at once from then on.
            assert!(
                began.elapsed() < Duration::from_secs(9),
                "{:?}",
                began.elapsed()
            );
            let reply = database.audit(vec![entry("waits")], IfNotWritten::Wait);
            let began = Instant::now();
            assert_eq!(reply.wait().unwrap(), AuditWrite::Waiting);
            assert!(began.elapsed() < Duration::from_secs(7));
            match round {
                1 => own.server.thaw(),
                _ => own.server.run(),
            }
            let began = Instant::now();
            // Meanwhile it may say other reasons, such as that the server starts.
            while events.recv_timeout(TIMEOUT).unwrap() != "up" {}
            assert!(
                began.elapsed() < Duration::from_secs(12),
                "{:?}",
                began.elapsed()
            );
        }
    });
    wait_for("what waits is written", || database.flush(TIMEOUT));
    let added = added.load(Ordering::Relaxed);
    assert_eq!(usize::try_from(requests(&database)).unwrap(), added);
    let count = own
        .server
        .query("usage", "SELECT count(*) FROM usage_records");
    assert_eq!(count, added.to_string());
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 3));
    assert_eq!(database.status().dropped_records, 0);
}

/// The spool as kill -9 leaves it.
fn copy_of(folder: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        // A file that goes meanwhile is not copied.
        let _ = std::fs::copy(file.path(), copy.path().join(file.file_name()));
    }
    copy
}

fn files_of(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
    names.sort();
    names
}

#[test]
fn what_waits_for_a_dead_server_outlives_kill_9_and_a_stop_and_counts_once() {
    let mut own = Own::new();
    let (observer, events) = observer();
    let database = own.open_spooled(&own.spool(), observer);
    let sender = database.sender();
    sender.add(record(0, START));
    assert!(database.flush(TIMEOUT));
    assert_eq!(files_of(&own.spool()), Vec::<String>::new());
    own.server.kill();
    for number in 1..=100 {
        sender.add(record(number, START));
        sender.add_key_use("key_1", START);
    }
    events.recv_timeout(TIMEOUT).unwrap();
    let delete = database.audit(vec![entry("key_1"), entry("key_2")], IfNotWritten::Wait);
    assert_eq!(delete.wait().unwrap(), AuditWrite::Waiting);
    wait_for("all is in the spool", || database.spooled_requests() == 100);
    assert!(database.status().waiting_bytes > 100);
    assert_eq!(database.unwritten_requests(), 100);
    let killed = copy_of(&own.spool());
    // The stop loses nothing either, and what came last is on disk by it.
    sender.add(record(101, START));
    assert!(!database.stop(Duration::from_secs(5)));
    let left = database.unwritten_requests();
    assert_eq!((left, database.spooled_requests()), (101, 101));
    drop((database, sender));

    // After the kill. It starts while the server is away, and goes on in the same folder.
    let (observer, events) = self::observer();
    let database = own.open_spooled(killed.path(), observer);
    assert_eq!(database.unwritten_requests(), 100);
    assert_eq!(database.audit_status().waiting, 2);
    database.sender().add(record(102, START));
    let third = database.audit(vec![entry("key_3")], IfNotWritten::Wait);
    assert_eq!(third.wait().unwrap(), AuditWrite::Waiting);
    own.server.run();
    while events.recv_timeout(TIMEOUT).unwrap() != "up" {}
    wait_for("what waits is written", || database.flush(TIMEOUT));
    assert_eq!(own.counts(), [102, 102, 3]);
    assert_eq!(database.key_uses().unwrap()[0].requests, 100);
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 3));
    assert_eq!(files_of(killed.path()), Vec::<String>::new());
    assert!(database.stop(TIMEOUT));
    drop(database);

    // After the stop: the hundred are known to the server by their number, and so are the rows.
    let database = own.open_spooled(&own.spool(), Box::new(|_| {}));
    wait_for("what waits is written", || database.flush(TIMEOUT));
    assert_eq!(own.counts(), [103, 103, 3]);
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 3));
    assert_eq!(files_of(&own.spool()), Vec::<String>::new());
}

#[test]
fn a_batch_whose_answer_was_lost_before_a_kill_counts_once() {
    let own = Own::new();
    let database = own.open_spooled(&own.spool(), Box::new(|_| {}));
    let sender = database.sender();
    sender.add(record(0, START));
    assert!(database.flush(TIMEOUT));
    // The batch is on its way, and the server reads it when it goes on: nobody may be there for the answer any more.
    own.server.freeze();
    for number in 1..=10 {
        sender.add(record(number, START));
    }
    wait_for("the batch is on disk", || {
        let files = files_of(&own.spool());
        files.iter().any(|name| name.ends_with(".sent"))
    });
    let killed = copy_of(&own.spool());
    // New ones come behind it, while the writer still waits.
    sender.add(record(11, START));
    wait_for("all is in the spool", || database.spooled_requests() == 11);
    own.server.thaw();
    wait_for("what waits is written", || database.flush(TIMEOUT));
    assert_eq!(own.counts(), [12, 12, 0]);
    assert_eq!(files_of(&own.spool()), Vec::<String>::new());
    assert!(database.stop(TIMEOUT));
    let query = |sql: &str| own.server.query("usage", sql);
    query("CREATE TABLE released ()");
    std::thread::scope(|scope| {
        // Another one holds the writer up.
        scope.spawn(|| {
            query(
                "DO $$ BEGIN LOCK TABLE writers IN EXCLUSIVE MODE; \
                 WHILE NOT EXISTS (SELECT FROM released) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$",
            )
        });
        wait_for("the table is locked", || {
            query(
                "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND relation = 'writers'::regclass",
            ) == "1"
        });
        let database = own.open_spooled(killed.path(), Box::new(|_| {}));
        assert_eq!(database.unwritten_requests(), 10);
        database.sender().add(record(12, START));
        // What waits and is in the database already counts once in the answers too.
        let counted = requests(&database);
        query("INSERT INTO released DEFAULT VALUES");
        assert_eq!(counted, 13);
        wait_for("what waits is written", || database.flush(TIMEOUT));
        assert!(database.stop(TIMEOUT));
    });
    assert_eq!(own.counts(), [13, 13, 0]);
    assert_eq!(files_of(killed.path()), Vec::<String>::new());
}

#[test]
fn where_the_spool_fails_later_usage_waits_in_memory_and_goes_there_when_it_can() {
    let mut own = Own::new();
    let (told, events) = mpsc::channel();
    let observer: DatabaseObserver = Box::new(move |event| {
        let _ = match event {
            DatabaseEvent::SpoolDown(error) => told.send(error.to_string()),
            DatabaseEvent::SpoolUp => told.send("spool up".to_owned()),
            _ => Ok(()),
        };
    });
    let database = own.open_spooled(&own.spool(), observer);
    own.server.kill();
    let away = own.folder.path().join("away");
    std::fs::rename(own.spool(), &away).unwrap();
    let sender = database.sender();
    for number in 0..50 {
        sender.add(record(number, START));
    }
    let delete = database.audit(vec![entry("key_1")], IfNotWritten::Wait);
    assert_eq!(delete.wait().unwrap(), AuditWrite::Waiting);
    let down = events.recv_timeout(TIMEOUT).unwrap();
    assert!(down.contains("spool"), "{down}");
    sender.add(record(50, START));
    assert_eq!(
        (database.unwritten_requests(), database.spooled_requests()),
        (51, 0)
    );
    std::fs::rename(&away, own.spool()).unwrap();
    // It was said once.
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "spool up");
    wait_for("all is in the spool", || database.spooled_requests() == 51);
    // The next row brings the first one with it.
    let delete = database.audit(vec![entry("key_2")], IfNotWritten::Wait);
    assert_eq!(delete.wait().unwrap(), AuditWrite::Waiting);
    let killed = copy_of(&own.spool());
    drop((database, sender));
    own.server.run();
    let database = own.open_spooled(killed.path(), Box::new(|_| {}));
    wait_for("what waits is written", || database.flush(TIMEOUT));
    assert_eq!(own.counts(), [51, 51, 2]);
    assert_eq!(database.status().dropped_records, 0);
}

#[test]
fn the_server_shows_whose_connections_it_has() {
    let own = Own::new();
    let database = Arc::new(own.open("gateway-7", Box::new(|_| {})).unwrap());
    assert_eq!(database.accounts().unwrap(), []);
    let names = own.server.query(
        "usage",
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'keygate%'",
    );
    assert_eq!(names, "keygate/gateway-7");
}
