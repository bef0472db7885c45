//! What the database takes and how fast it answers. `write` adds 20 000 records a second for ten seconds, as two
//! workers would; `ask` fills a database with 400 days of 10 000 keys and 5 models, and asks for them by day.
//!
//! `audit` writes 2000 audit rows, each on disk before the next, alone and beside 5000 records a second; then it fills a
//! table of 100 000 rows, asks for a key's, and verifies all.
//!
//! `cargo bench --bench database -- write|ask|audit`; without a word all.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on says where"
)]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use keygate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin, ChangeVia};
use keygate::store::database::{
    AuditQuery, Bucket, DAY, Database, DatabaseEvent, DatabaseUrl, GroupBy, HOUR, IfNotWritten,
    KeepFor, RecordsQuery, SumsQuery,
};

#[path = "support/records.rs"]
mod records;

use records::{Parts, START};

/// Nothing is deleted meanwhile.
const KEEP: KeepFor = KeepFor {
    records: 100_000 * DAY,
    sums: 100_000 * DAY,
    audit: 400 * DAY,
};
const KEYS: usize = 10_000;

fn write() {
    const A_SECOND: usize = 20_000;
    const SECONDS: usize = 10;
    let folder = tempfile::TempDir::new().unwrap();
    let key = folder.path().join("audit.key");
    let url = DatabaseUrl::Sqlite(folder.path().join("keygate.db"));
    let (told, writes) = channel();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        if let DatabaseEvent::Written { records, took } = event {
            let _ = told.send((records, took));
        }
    });
    let database = Database::open(&url, &key, "g1", "w1", KEEP, observer).unwrap();
    let parts = Parts::new(KEYS);
    let senders = [database.sender(), database.sender()];
    let began = Instant::now();
    let mut adding = Duration::ZERO;
    for tick in 0..SECONDS * 100 {
        let first = tick * A_SECOND / 100;
        let from = Instant::now();
        for number in first..first + A_SECOND / 100 {
            senders[number % 2].add(parts.record(number));
        }
        adding += from.elapsed();
        let next = began + Duration::from_millis(10) * (tick as u32 + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let waiting = database.status().waiting_bytes;
    let flushed = Instant::now();
    assert!(database.flush(Duration::from_secs(60)));
    let flushed = flushed.elapsed();
    let status = database.status();
    let writes: Vec<(usize, Duration)> = writes.try_iter().collect();
    let records: usize = writes.iter().map(|(records, _)| records).sum();
    let busy: Duration = writes.iter().map(|(_, took)| *took).sum();
    let longest = writes.iter().map(|(_, took)| *took).max().unwrap();
    println!(
        "write: {records} records in {:.1} s, {} dropped, {} transactions, {:.0} % of a core, longest {longest:.0?}, \
         {waiting} bytes waited at the end and took {flushed:.0?}; {:.0} ns a record for the worker",
        began.elapsed().as_secs_f64(),
        status.dropped_records,
        writes.len(),
        busy.as_secs_f64() / SECONDS as f64 * 100.0,
        adding.as_nanos() as f64 / records as f64,
    );
    let size = std::fs::metadata(folder.path().join("keygate.db"))
        .unwrap()
        .len();
    println!("write: {} bytes a record on disk", size / records as u64);
    assert_eq!((records, status.dropped_records), (A_SECOND * SECONDS, 0));
}

/// Fills the sums as the writer would have, in SQL.
fn fill(path: &std::path::Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = OFF; PRAGMA cache_size = -400000; PRAGMA journal_mode = OFF;",
        )
        .unwrap();
    let numbers = "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 9999),
        m(m) AS (SELECT 0 UNION ALL SELECT m + 1 FROM m WHERE m < 4),
        d(d) AS (SELECT 0 UNION ALL SELECT d + 1 FROM d WHERE d < 399)";
    for (scope, width, subjects, every) in [
        (2, DAY, "n", 1),
        (0, DAY, "(SELECT 0 AS n)", 1),
        (0, HOUR, "(SELECT n FROM n WHERE n < 24)", 1),
    ] {
        let subject = if scope == 2 {
            "printf('key_%022d', n)"
        } else {
            "''"
        };
        let hour = if width == HOUR { "n * 3600" } else { "0" };
        connection
            .execute_batch(&format!(
                "{numbers} INSERT INTO usage_sums
                SELECT {scope}, {width}, {START} + d * {DAY} + {hour}, {subject}, '', 'llama-' || m || '-70b', 'llama',
                    10, 1, 0, {every}, 5000, 1000, 2000, NULL, NULL, NULL, 1300
                FROM d CROSS JOIN {subjects} CROSS JOIN m"
            ))
            .unwrap();
    }
}

fn ask() {
    let folder = tempfile::TempDir::new_in(
        std::env::var_os("KEYGATE_BENCH_FOLDER").unwrap_or_else(|| "/tmp".into()),
    )
    .unwrap();
    let path = folder.path().join("keygate.db");
    let key = folder.path().join("audit.key");
    let url = DatabaseUrl::Sqlite(path.clone());
    let empty = Database::open(&url, &key, "g1", "w1", KEEP, Box::new(|_| {})).unwrap();
    assert!(empty.stop(Duration::from_secs(5)));
    drop(empty);
    let began = Instant::now();
    fill(&path);
    let size = std::fs::metadata(&path).unwrap().len();
    println!(
        "ask: filled with {} MiB in {:.0?}",
        size >> 20,
        began.elapsed()
    );
    let database = Database::open(&url, &key, "g1", "w2", KEEP, Box::new(|_| {})).unwrap();
    let by_model = GroupBy {
        model: true,
        ..GroupBy::default()
    };
    let all = SumsQuery {
        from: START,
        to: START + 400 * DAY,
        bucket: Bucket::Day,
        group_by: by_model,
        keys: Vec::new(),
        account: None,
        model: None,
        upstream: None,
    };
    let month = START + 370 * DAY;
    let key = vec![format!("key_{:022}", 4711)];
    for (name, query) in [
        (
            "400 days by day",
            SumsQuery {
                group_by: GroupBy::default(),
                ..all.clone()
            },
        ),
        ("400 days by day and model", all.clone()),
        (
            "30 days by day and model",
            SumsQuery {
                from: month,
                ..all.clone()
            },
        ),
        (
            "30 days by hour and model",
            SumsQuery {
                from: month,
                bucket: Bucket::Hour,
                ..all.clone()
            },
        ),
        (
            "400 days of one key by day and model",
            SumsQuery {
                keys: key,
                ..all.clone()
            },
        ),
        (
            "30 days by key, whole",
            SumsQuery {
                from: month,
                bucket: Bucket::WholeDays,
                group_by: GroupBy {
                    key: true,
                    ..GroupBy::default()
                },
                ..all.clone()
            },
        ),
    ] {
        for round in ["cold", "warm"] {
            let began = Instant::now();
            let rows = database.sums(&query).unwrap().len();
            println!(
                "ask: {name}: {rows} rows in {:.1?} ({round})",
                began.elapsed()
            );
        }
    }
    let began = Instant::now();
    let query = RecordsQuery {
        limit: 50,
        ..RecordsQuery::default()
    };
    let rows = database.records(&query).unwrap().len();
    println!("ask: records: {rows} rows in {:.1?}", began.elapsed());
}

fn audit_entry(number: usize) -> AuditEntry {
    AuditEntry {
        at: START * 1000,
        origin: ChangeOrigin {
            actor: "uid 1000".to_owned(),
            via: ChangeVia::Socket,
            address: None,
            request_id: Some(format!("req_{number:032x}")),
        },
        action: AuditAction::Change,
        target: Some(format!("key_{:022}", number % KEYS)),
        account: None,
        before: Some("{\"expires_at\":null,\"name\":\"web site\"}".to_owned()),
        after: Some("{\"expires_at\":\"2027-02-01T00:00:00Z\",\"name\":\"web\"}".to_owned()),
    }
}

fn audit() {
    const ROWS: usize = 500;
    // Beside the sources: the folder for temporary files may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = folder.path().join("audit.key");
    let url = DatabaseUrl::Sqlite(folder.path().join("keygate.db"));
    let database =
        Arc::new(Database::open(&url, &key, "bench", "bench", KEEP, Box::new(|_| {})).unwrap());
    let one_by_one = |name: &str| {
        let mut times: Vec<Duration> = (0..ROWS)
            .map(|number| {
                let began = Instant::now();
                let reply = database.audit(vec![audit_entry(number)], IfNotWritten::Refuse);
                reply.wait().unwrap();
                began.elapsed()
            })
            .collect();
        times.sort();
        println!(
            "audit: a row, {name}: p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
            times[ROWS / 2],
            times[ROWS * 99 / 100],
            times[ROWS - 1]
        );
    };
    one_by_one("alone");
    let (stop, stopped) = channel::<()>();
    let sender = database.sender();
    let records = std::thread::spawn(move || {
        let parts = Parts::new(KEYS);
        let mut number = 0;
        while stopped
            .recv_timeout(Duration::from_millis(10))
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            for _ in 0..50 {
                sender.add(parts.record(number));
                number += 1;
            }
        }
    });
    one_by_one("beside 5000 records a second");
    drop(stop);
    records.join().unwrap();
    for first in (0..100_000).step_by(4000) {
        let entries = (first..first + 4000).map(audit_entry).collect();
        database
            .audit(entries, IfNotWritten::Refuse)
            .wait()
            .unwrap();
    }
    let query = AuditQuery {
        key_id: Some(format!("key_{:022}", 7)),
        limit: 50,
        ..AuditQuery::default()
    };
    let began = Instant::now();
    let rows = database.audit_rows(&query).unwrap().len();
    println!(
        "audit: the rows of a key: {rows} in {:.1?}",
        began.elapsed()
    );
    let began = Instant::now();
    let report = database.verify_audit().unwrap();
    println!(
        "audit: {} rows verified in {:.1?}, {} bytes a row",
        report.rows,
        began.elapsed(),
        std::fs::metadata(folder.path().join("keygate.db"))
            .unwrap()
            .len()
            / report.rows
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_asked = |word: &str| {
        words.iter().all(|other| other.starts_with("--")) || words.iter().any(|other| other == word)
    };
    if is_asked("write") {
        write();
    }
    if is_asked("ask") {
        ask();
    }
    if is_asked("audit") {
        audit();
    }
}
