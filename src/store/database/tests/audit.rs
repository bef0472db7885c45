//! Audit rows: their order, their chain, what waits, and what is deleted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tempfile::TempDir;

use super::fixture::{Fixture, on_both};
use super::{KEEP, failing, open, opened, record, url};
use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin, ChangeVia};
use crate::policy::audit_chain::ChainBreak;
use crate::store::database::driver::{AuditChain, AuditCut, Driver};
use crate::store::database::{
    AuditQuery, AuditWrite, DAY, Database, DatabaseEvent, IfNotWritten, audit,
};

const START: i64 = 1_800_000_000_000;

fn entry(at: i64, target: &str) -> AuditEntry {
    AuditEntry {
        at,
        origin: ChangeOrigin {
            actor: "uid 1000".to_owned(),
            via: ChangeVia::Socket,
            address: None,
            request_id: None,
        },
        action: AuditAction::Change,
        target: Some(target.to_owned()),
        account: None,
        before: None,
        after: None,
    }
}

fn write(database: &Database, target: &str) -> AuditWrite {
    let reply = database.audit(vec![entry(START, target)], IfNotWritten::Refuse);
    reply.wait().unwrap()
}

fn targets(database: &Database, query: AuditQuery) -> Vec<(i64, String)> {
    let query = AuditQuery {
        limit: 10_000,
        ..query
    };
    let rows = database.audit_rows(&query).unwrap();
    rows.into_iter()
        .map(|row| (row.n, row.target.unwrap_or(row.action)))
        .collect()
}

on_both! {
    rows_of_many_threads_make_one_chain_that_goes_on_after_a_restart,
    what_somebody_changes_in_the_database_is_found,
    rows_that_were_written_though_the_answer_was_lost_are_not_written_again,
    a_row_does_not_wait_until_all_records_are_written,
    questions_are_filtered_and_paged,
    old_rows_are_deleted_behind_a_row_that_says_so,
    the_writer_deletes_rows_that_are_older_than_they_are_kept,
}

fn rows_of_many_threads_make_one_chain_that_goes_on_after_a_restart(fixture: &Fixture) {
    let database = Arc::new(fixture.open("w1"));
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (database, barrier) = (Arc::clone(&database), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                for number in 0..20 {
                    write(&database, &format!("{thread}-{number}"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.rows), (None, 160));
    assert!(database.stop(Duration::from_secs(5)));
    let again = fixture.open("w2");
    let AuditWrite::Written(marks) = write(&again, "later") else {
        panic!("it waits");
    };
    assert_eq!(marks[0].n, 161);
    let report = again.verify_audit().unwrap();
    assert_eq!((report.broken, report.intact_to), (None, marks[0].clone()));
    // Each thread's rows are in its own order.
    let rows = targets(&again, AuditQuery::default());
    let of_one: Vec<&str> = rows
        .iter()
        .rev()
        .filter_map(|(_, target)| target.strip_prefix("3-"))
        .collect();
    assert_eq!(of_one, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

fn what_somebody_changes_in_the_database_is_found(fixture: &Fixture) {
    for (sql, broken) in [
        (
            "UPDATE audit SET actor = 'uid 0' WHERE n = 3",
            ChainBreak::Changed { n: 3 },
        ),
        (
            "DELETE FROM audit WHERE n = 3",
            ChainBreak::Missing { n: 3, to: 3 },
        ),
        (
            "UPDATE audit SET n = -2 WHERE n = 2; UPDATE audit SET n = 2 WHERE n = 4; \
             UPDATE audit SET n = 4 WHERE n = -2",
            ChainBreak::Swapped { n: 2, with: 4 },
        ),
        (
            "DELETE FROM audit WHERE n <= 2",
            ChainBreak::CutWithoutMark { n: 2 },
        ),
        (
            "DELETE FROM audit WHERE n >= 4",
            ChainBreak::MissingAtEnd { n: 4 },
        ),
        ("DELETE FROM audit", ChainBreak::MissingAtEnd { n: 1 }),
    ] {
        let fixture = fixture.another();
        let database = fixture.open("w1");
        for number in 1..=5 {
            write(&database, &format!("key_{number}"));
        }
        fixture.edit(sql);
        let report = database.verify_audit().unwrap();
        assert_eq!(report.broken, Some(broken.clone()), "{sql}");
        // It does not heal by what comes later.
        write(&database, "later");
        let later = database.verify_audit().unwrap().broken;
        let expected = match broken {
            // Row 6 is the first one now.
            ChainBreak::MissingAtEnd { n: 1 } => ChainBreak::CutWithoutMark { n: 5 },
            ChainBreak::MissingAtEnd { n } => ChainBreak::Missing { n, to: 5 },
            other => other,
        };
        assert_eq!(later, Some(expected), "{sql}");
    }
}

#[test]
fn a_start_with_another_key_or_a_changed_newest_row_is_told() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    write(&database, "key_1");
    assert!(database.stop(Duration::from_secs(5)));
    std::fs::remove_file(folder.path().join("keygate.db-audit-key")).unwrap();
    let (told, events) = std::sync::mpsc::channel();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        if let DatabaseEvent::AuditBroken { n } = event {
            let _ = told.send(n);
        }
    });
    let database = opened(&url(&folder), "w2", observer).unwrap();
    assert_eq!(events.try_recv(), Ok(1));
    let broken = database.verify_audit().unwrap().broken;
    assert_eq!(broken, Some(ChainBreak::Changed { n: 1 }));
}

#[test]
fn while_the_database_is_locked_some_rows_are_refused_and_others_wait_in_their_order() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    write(&database, "before");
    let other = rusqlite::Connection::open(folder.path().join("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = database.audit(vec![entry(START, "refused")], IfNotWritten::Refuse);
    assert!(
        refused
            .wait()
            .unwrap_err()
            .unwrap()
            .to_string()
            .contains("locked")
    );
    assert!(!database.status().up);
    for number in 1..=3 {
        let reply = database.audit(
            vec![entry(START, &format!("waits {number}"))],
            IfNotWritten::Wait,
        );
        assert_eq!(reply.wait().unwrap(), AuditWrite::Waiting);
    }
    assert_eq!(database.audit_status().waiting, 3);
    other.execute_batch("ROLLBACK").unwrap();
    // A row that is asked for now comes behind those that waited.
    write(&database, "after");
    assert_eq!(database.audit_status().waiting, 0);
    assert!(database.status().up);
    let rows = targets(&database, AuditQuery::default());
    let rows: Vec<&str> = rows.iter().rev().map(|(_, target)| &**target).collect();
    assert_eq!(rows, ["before", "waits 1", "waits 2", "waits 3", "after"]);
    assert_eq!(database.verify_audit().unwrap().broken, None);
}

#[test]
fn a_database_that_only_refused_a_row_is_up_again_by_itself() {
    let folder = TempDir::new().unwrap();
    let (told, events) = std::sync::mpsc::channel();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        if let DatabaseEvent::Up = event {
            let _ = told.send(());
        }
    });
    let database = opened(&url(&folder), "w1", observer).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = database.audit(vec![entry(START, "refused")], IfNotWritten::Refuse);
    refused.wait().unwrap_err();
    other.execute_batch("ROLLBACK").unwrap();
    events.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(database.status().up);
}

fn rows_that_were_written_though_the_answer_was_lost_are_not_written_again(fixture: &Fixture) {
    let fails = Arc::new(AtomicBool::new(true));
    let (writer, _queues) = failing(fixture, &fails);
    for target in ["one", "two", "three"] {
        let reply = writer.audit(vec![entry(START, target)], IfNotWritten::Wait);
        assert_eq!(reply.wait().unwrap(), AuditWrite::Waiting);
    }
    fails.store(false, Ordering::Relaxed);
    let reply = writer.audit(vec![entry(START, "four")], IfNotWritten::Refuse);
    let AuditWrite::Written(marks) = reply.wait().unwrap() else {
        panic!("it waits");
    };
    assert_eq!(marks[0].n, 4);
    assert!(writer.stop(Duration::from_secs(30)));
    let database = fixture.open("w2");
    let rows = targets(&database, AuditQuery::default());
    let rows: Vec<&str> = rows.iter().rev().map(|(_, target)| &**target).collect();
    assert_eq!(rows, ["one", "two", "three", "four"]);
}

fn a_row_does_not_wait_until_all_records_are_written(fixture: &Fixture) {
    let (told, events) = std::sync::mpsc::channel();
    let (permit, permits) = std::sync::mpsc::channel::<()>();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        if let DatabaseEvent::Written { records, .. } = event
            && records > 0
        {
            let _ = told.send(records);
            let _ = permits.recv_timeout(Duration::from_secs(30));
        }
    });
    let database = fixture.open_with("w1", KEEP, observer);
    let sender = database.sender();
    for number in 0..45_000 {
        sender.add(record(number, super::START));
    }
    events.recv_timeout(Duration::from_secs(30)).unwrap();
    let reply = database.audit(vec![entry(START, "key_1")], IfNotWritten::Refuse);
    permit.send(()).unwrap();
    assert!(matches!(reply.wait(), Ok(AuditWrite::Written(_))));
    drop(permit);
    // It was answered before the next batch, which had no permit.
    let waited = events.try_recv();
    assert!(waited.is_err(), "it waited behind {waited:?} records");
}

#[test]
fn rows_that_find_no_room_in_memory_are_counted_by_a_row() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    let other = rusqlite::Connection::open(folder.path().join("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let many = vec![entry(START, "waits"); 10_050];
    let reply = database.audit(many, IfNotWritten::Wait);
    assert_eq!(reply.wait().unwrap(), AuditWrite::Waiting);
    let status = database.audit_status();
    assert_eq!((status.waiting, status.lost), (10_000, 50));
    other.execute_batch("ROLLBACK").unwrap();
    write(&database, "after");
    let rows = targets(&database, AuditQuery::default());
    assert_eq!(
        rows[..2],
        [
            (10_002, "after".to_owned()),
            (10_001, "rows_lost".to_owned())
        ]
    );
    let query = AuditQuery {
        action: Some("rows_lost".to_owned()),
        limit: 1,
        ..AuditQuery::default()
    };
    let lost = database.audit_rows(&query).unwrap();
    assert_eq!(lost[0].after.as_deref(), Some("{\"rows\":50}"));
}

fn questions_are_filtered_and_paged(fixture: &Fixture) {
    let database = fixture.open("w1");
    let reload = AuditEntry {
        action: AuditAction::Reload,
        target: None,
        account: None,
        after: Some("{\"added\":{\"key_2\":{}},\"x\":\"key_3\"}".to_owned()),
        ..entry(START + 2000, "")
    };
    let other = AuditEntry {
        origin: ChangeOrigin::gateway(),
        action: AuditAction::Delete,
        ..entry(START + 3000, "key_1")
    };
    let entries = vec![
        entry(START, "key_1"),
        entry(START + 1000, "key_2"),
        reload,
        other,
    ];
    database
        .audit(entries, IfNotWritten::Refuse)
        .wait()
        .unwrap();
    let numbers = |query| -> Vec<i64> {
        targets(&database, query)
            .into_iter()
            .map(|(n, _)| n)
            .collect()
    };
    let all = AuditQuery::default;
    let of_key = |id: &str| {
        numbers(AuditQuery {
            key_id: Some(id.to_owned()),
            ..all()
        })
    };
    assert_eq!(numbers(all()), [4, 3, 2, 1]);
    assert_eq!(of_key("key_1"), [4, 1]);
    assert_eq!(of_key("key_2"), [3, 2], "the reload that added it too");
    assert_eq!(of_key("key_3"), [0; 0]);
    let seconds = START / 1000;
    for (query, expected) in [
        (
            AuditQuery {
                actor: Some("gateway".to_owned()),
                ..all()
            },
            &[4][..],
        ),
        (
            AuditQuery {
                action: Some("change".to_owned()),
                ..all()
            },
            &[2, 1],
        ),
        (
            AuditQuery {
                from: Some(seconds + 1),
                to: Some(seconds + 3),
                ..all()
            },
            &[3, 2],
        ),
        (
            AuditQuery {
                after: Some(3),
                ..all()
            },
            &[2, 1],
        ),
    ] {
        assert_eq!(numbers(query), expected);
    }
}

/// Writes a row of each of these times. The driver that has written them.
fn rows_at(fixture: &Fixture, times: &[i64]) -> (Box<dyn Driver>, AuditChain) {
    let mut driver = fixture.driver();
    let mut chain = AuditChain {
        key: audit::chain_key(&fixture.audit_key()).unwrap(),
        last: AuditMark::origin(),
    };
    let entries: Vec<AuditEntry> = times.iter().map(|at| entry(*at, "key_1")).collect();
    driver.append_audit(&entries, &mut chain).unwrap();
    (driver, chain)
}

fn verified(driver: &mut Box<dyn Driver>, chain: &AuditChain) -> (Vec<i64>, Option<ChainBreak>) {
    let mut check = crate::policy::audit_chain::ChainCheck::new(chain.key);
    let mut numbers = Vec::new();
    driver
        .walk_audit(&mut |row| {
            numbers.push(row.n);
            check.visit(row);
        })
        .unwrap();
    (numbers, check.finish(&chain.last).broken)
}

fn old_rows_are_deleted_behind_a_row_that_says_so(fixture: &Fixture) {
    let (mut driver, mut chain) = rows_at(fixture, &[10, 20, 30, 15, 40, 50]);
    let cut = |before, due, most| AuditCut {
        now: 1000,
        before,
        due,
        most,
    };
    // Nothing is old enough.
    assert_eq!(driver.cut_audit(&cut(25, 10, 100), &mut chain).unwrap(), 0);
    // Row 4 is old too, but stands behind one that is kept.
    assert_eq!(driver.cut_audit(&cut(25, 20, 100), &mut chain).unwrap(), 2);
    assert_eq!(verified(&mut driver, &chain), (vec![3, 4, 5, 6, 7], None));
    // At most two at a time, and each cut is a row.
    assert_eq!(driver.cut_audit(&cut(900, 900, 2), &mut chain).unwrap(), 2);
    assert_eq!(verified(&mut driver, &chain), (vec![5, 6, 7, 8], None));
    // A later cut deletes an older one; all rows but the newest cut may go.
    assert_eq!(
        driver.cut_audit(&cut(2000, 2000, 100), &mut chain).unwrap(),
        4
    );
    assert_eq!(verified(&mut driver, &chain), (vec![9], None));
    fixture.edit("UPDATE audit SET after = replace(after, '8', '7')");
    assert_eq!(
        verified(&mut driver, &chain).1,
        Some(ChainBreak::Changed { n: 9 })
    );
}

fn the_writer_deletes_rows_that_are_older_than_they_are_kept(fixture: &Fixture) {
    let database = fixture.open("w1");
    let now = crate::store::database::writer::now() * 1000;
    let old = now - 500 * DAY * 1000;
    let entries = vec![entry(old, "old"), entry(old, "old"), entry(now, "new")];
    database
        .audit(entries, IfNotWritten::Refuse)
        .wait()
        .unwrap();
    assert!(database.stop(Duration::from_secs(5)));
    let (told, events) = std::sync::mpsc::channel();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        if let DatabaseEvent::Written { .. } = event {
            let _ = told.send(());
        }
    });
    let database = fixture.open_with("w2", KEEP, observer);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let rows = loop {
        let rows = targets(&database, AuditQuery::default());
        if rows.len() == 2 {
            break rows;
        }
        assert!(std::time::Instant::now() < deadline, "{rows:?}");
        let _ = events.recv_timeout(Duration::from_millis(20));
    };
    assert_eq!(rows, [(4, "cut".to_owned()), (3, "new".to_owned())]);
    let report = database.verify_audit().unwrap();
    assert_eq!((report.broken, report.first), (None, Some(3)));
}
