mod audit;
pub(crate) mod fixture;
mod gateways;
mod leases;
mod people;
mod postgres_server;
#[path = "../../../tests/postgres/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the black-box tests use it too")]
mod server;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use tempfile::TempDir;

use super::driver::{AuditCut, Retention};
use super::record::{Batch, SumsMap, add_to_sums};
use super::sqlite::Sqlite;
use super::*;
use crate::policy::account::AccountRules;
use crate::policy::price::{ModelPrice, Price};
use crate::policy::usage::{Certainty, RequestCounts};
use crate::store::account_json::parse_account;
use fixture::{Fixture, on_both};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than since 1970, so that nothing is deleted unless a test asks for it.
const KEEP: KeepFor = KeepFor {
    records: 100_000 * DAY,
    sums: 100_000 * DAY,
    audit: 400 * DAY,
};
/// The start of a day.
const START: i64 = 1_764_288_000;

pub(crate) fn record(number: usize, at: i64) -> UsageRecord {
    let counts = match number % 4 {
        0 => RequestCounts::UNKNOWN,
        1 => RequestCounts {
            output: Some(3),
            certainty: Certainty::AtLeast,
            ..RequestCounts::UNKNOWN
        },
        _ => RequestCounts {
            input: Some(100 + number as u64),
            input_cached: Some(10),
            output: Some(7),
            output_reasoning: None,
            audio_microseconds: None,
            images: None,
            certainty: Certainty::Exact,
        },
    };
    let price = Price::parse("1.5").unwrap();
    let prices = ModelPrice {
        model: String::new(),
        input: price,
        input_cached: None,
        output: price,
        audio_minute: price,
        image: price,
        default_output_tokens: None,
    };
    UsageRecord {
        request_id: format!("req-{number}").into(),
        started_at: at * 1000 - 5,
        ended_at: at * 1000,
        key_id: format!("key_{}", number % 3).into(),
        account: (!number.is_multiple_of(3)).then(|| format!("account-{}", number % 2).into()),
        model: format!("model-{}", number % 5).into(),
        upstream: format!("upstream-{}", number % 2).into(),
        route: "/v1/chat/completions".into(),
        status: if number.is_multiple_of(7) { 500 } else { 200 },
        end: match number % 11 {
            0 => RecordEnd::ClientLeft,
            _ => RecordEnd::Complete,
        },
        client_address: Some([192, 0, 2, 7].into()),
        first_byte_ms: (!number.is_multiple_of(7)).then_some(3),
        duration_ms: 5,
        bytes_in: 10,
        bytes_out: 20,
        cost: prices.cost(&counts),
        counts,
    }
}

pub(crate) fn batch(number: i64, records: Vec<UsageRecord>) -> Batch {
    let mut sums = SumsMap::new();
    for record in &records {
        add_to_sums(&mut sums, record);
    }
    Batch {
        writer: "w1".into(),
        gateway: "g1".into(),
        number,
        now: START,
        records,
        sums,
        key_uses: vec![KeyUse {
            key_id: "key_0".into(),
            last_used_at: START + number,
            requests: 2,
        }],
    }
}

fn url(folder: &TempDir) -> DatabaseUrl {
    DatabaseUrl::Sqlite(folder.path().join("keygate.db"))
}

fn open(url: &DatabaseUrl, instance: &str) -> Database {
    opened(url, instance, Box::new(|_| {})).unwrap()
}

fn opened(
    url: &DatabaseUrl,
    instance: &str,
    observer: DatabaseObserver,
) -> Result<Database, DatabaseError> {
    let DatabaseUrl::Sqlite(path) = url else {
        panic!("a test of SQLite");
    };
    Database::open(url, &audit_key_beside(path), "g1", instance, KEEP, observer)
}

on_both! {
    every_question_for_sums_is_answered_as_the_records_say,
    a_count_that_no_record_knows_is_null_and_not_zero,
    records_come_newest_first_in_pages_and_by_filters,
    a_batch_that_is_written_twice_counts_once,
    uses_of_keys_and_sums_outlive_a_restart,
    writes_that_fail_before_or_after_they_are_done_count_once,
    old_rows_are_deleted_in_small_steps_and_no_others,
    without_records_the_sums_are_kept,
    records_before_1970_and_far_ahead_are_kept_too,
    counts_beyond_all_reason_stop_no_batch,
    accounts_are_read_back_and_one_that_cannot_be_read_is_an_error,
}

fn all_sums(group_by: GroupBy) -> SumsQuery {
    SumsQuery {
        from: START,
        to: START + 3 * DAY,
        bucket: Bucket::WholeHours,
        group_by,
        keys: Vec::new(),
        account: None,
        model: None,
        upstream: None,
    }
}

fn requests(database: &Database) -> i64 {
    let rows = database.sums(&all_sums(GroupBy::default())).unwrap();
    rows.iter().map(|row| row.sums.requests).sum()
}

fn records_query() -> RecordsQuery {
    RecordsQuery {
        limit: 1000,
        ..RecordsQuery::default()
    }
}

/// What the sums must be, from the records alone.
fn expected(records: &[UsageRecord], query: &SumsQuery) -> Vec<SumsRow> {
    let mut rows: BTreeMap<_, UsageSums> = BTreeMap::new();
    let width = query.bucket.width();
    for record in records {
        let account = record.account.as_deref().unwrap_or("");
        let start = record.ended_at / 1000 / width * width;
        if let Some(row) = query.row_of(
            start,
            &record.key_id,
            account,
            &record.model,
            &record.upstream,
        ) {
            let key = (row.start, row.key_id, row.account, row.model, row.upstream);
            rows.entry(key).or_default().add(&UsageSums::of(record));
        }
    }
    rows.into_iter()
        .map(
            |((start, key_id, account, model, upstream), sums)| SumsRow {
                start,
                key_id,
                account,
                model,
                upstream,
                sums,
            },
        )
        .collect()
}

fn every_question_for_sums_is_answered_as_the_records_say(fixture: &Fixture) {
    let database = fixture.open("w1");
    let sender = database.sender();
    let records: Vec<UsageRecord> = (0..600)
        .map(|number| record(number, START + number as i64 * 397))
        .collect();
    for record in &records {
        sender.add(record.clone());
    }
    // Keys, account, model, upstream.
    type Filter = (
        Vec<String>,
        Option<&'static str>,
        Option<&'static str>,
        Option<&'static str>,
    );
    let filters: [Filter; 6] = [
        (vec![], None, None, None),
        (vec!["key_1".into()], None, None, None),
        (
            vec!["key_1".into(), "key_2".into()],
            None,
            Some("model-1"),
            None,
        ),
        (vec![], Some("account-1"), None, None),
        (vec![], None, Some("model-2"), Some("upstream-0")),
        (
            vec!["key_2".into()],
            Some("account-0"),
            None,
            Some("upstream-1"),
        ),
    ];
    let mut asked = 0;
    for bucket in [
        Bucket::Hour,
        Bucket::Day,
        Bucket::WholeDays,
        Bucket::WholeHours,
    ] {
        for (keys, account, model, upstream) in &filters {
            for groups in 0..16 {
                let query = SumsQuery {
                    from: START + 7000,
                    to: START + DAY + 90,
                    bucket,
                    group_by: GroupBy {
                        key: groups & 1 > 0,
                        account: groups & 2 > 0,
                        model: groups & 4 > 0,
                        upstream: groups & 8 > 0,
                    },
                    keys: keys.clone(),
                    account: account.map(str::to_owned),
                    model: model.map(str::to_owned),
                    upstream: upstream.map(str::to_owned),
                };
                assert_eq!(
                    database.sums(&query).unwrap(),
                    expected(&records, &query),
                    "{query:?}"
                );
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 384);
}

fn a_count_that_no_record_knows_is_null_and_not_zero(fixture: &Fixture) {
    let database = fixture.open("w1");
    database.sender().add(record(0, START));
    let rows = database.sums(&all_sums(GroupBy::default())).unwrap();
    let sums = rows[0].sums;
    assert_eq!((sums.requests, sums.unknown), (1, 1));
    assert_eq!(
        (sums.input_tokens, sums.output_tokens, sums.cost),
        (None, None, None)
    );
    database.sender().add(record(2, START));
    let rows = database.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(rows[0].sums.input_tokens, Some(102));
    assert_eq!(rows[0].sums.images, None);
}

fn records_come_newest_first_in_pages_and_by_filters(fixture: &Fixture) {
    let database = fixture.open("w1");
    let sender = database.sender();
    for number in 0..50 {
        sender.add(record(number, START + number as i64));
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let query = RecordsQuery {
            after,
            limit: 7,
            ..RecordsQuery::default()
        };
        let page = database.records(&query).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|record| record.request_id));
    }
    let newest_first: Vec<String> = (0..50)
        .rev()
        .map(|number| format!("req-{number}"))
        .collect();
    assert_eq!(seen, newest_first);
    let of = |query: RecordsQuery| database.records(&query).unwrap().len();
    let query = records_query;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        of(RecordsQuery {
            key_id: text("key_1"),
            ..query()
        }),
        17
    );
    assert_eq!(
        of(RecordsQuery {
            model: text("model-3"),
            ..query()
        }),
        10
    );
    assert_eq!(
        of(RecordsQuery {
            end: Some(RecordEnd::ClientLeft),
            ..query()
        }),
        5
    );
    assert_eq!(
        of(RecordsQuery {
            from: Some(START + 10),
            to: Some(START + 12),
            ..query()
        }),
        2
    );
    assert_eq!(
        of(RecordsQuery {
            account: text("' OR 1=1 --"),
            ..query()
        }),
        0
    );
    let one = &database
        .records(&RecordsQuery {
            limit: 1,
            ..query()
        })
        .unwrap()[0];
    let kept = record(49, START + 49);
    assert_eq!(one.counts, kept.counts);
    assert_eq!(one.client_address.as_deref(), Some("192.0.2.7"));
    assert_eq!((one.status, one.first_byte_ms), (500, None));
}

fn a_batch_that_is_written_twice_counts_once(fixture: &Fixture) {
    let mut driver = fixture.driver();
    let first = batch(1, (0..10).map(|number| record(number, START)).collect());
    let second = batch(2, (10..15).map(|number| record(number, START)).collect());
    for batch in [&first, &first, &second, &first, &second] {
        driver.write(batch).unwrap();
    }
    let rows = driver.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(rows[0].sums.requests, 15);
    assert_eq!(driver.records(&records_query()).unwrap().len(), 15);
    assert_eq!(driver.key_uses().unwrap()[0].requests, 4);
    // Another writer has numbers of its own.
    let other = Batch {
        writer: "w2".into(),
        ..batch(1, vec![record(0, START)])
    };
    driver.write(&other).unwrap();
    let rows = driver.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(rows[0].sums.requests, 16);
}

fn uses_of_keys_and_sums_outlive_a_restart(fixture: &Fixture) {
    for start in 1..=3 {
        let database = fixture.open(&format!("w{start}"));
        let sender = database.sender();
        sender.add(record(2, START));
        // The clock was set back at the third start.
        let last_used_at = [0, 100, 200, 150][start];
        for before in (0..5).rev() {
            sender.add_key_use("key_9", last_used_at - before);
        }
        assert!(database.stop(TIMEOUT));
        assert_eq!(
            fixture.reader().key_uses().unwrap(),
            [StoredKeyUse {
                key_id: "key_9".into(),
                last_used_at: [0, 100, 200, 200][start],
                requests: 5 * start as u64,
            }]
        );
    }
    assert_eq!(requests(&fixture.open("w4")), 3);
}

#[test]
fn only_the_owner_may_read_the_files() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    database.sender().add(record(0, START));
    assert!(database.flush(TIMEOUT));
    let mut files = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        files += 1;
    }
    let what = "the database, its log, the log's index, and the key of the audit rows";
    assert_eq!(files, 4, "{what}");
}

#[test]
fn once_it_was_stopped_no_log_is_left_beside_the_file() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    database.sender().add(record(0, START));
    // Each asks on a connection of its own, which stays open as long as the database does.
    assert_eq!(requests(&database), 1);
    assert!(database.accounts().unwrap().is_empty());
    assert!(database.stop(TIMEOUT));
    let mut files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["keygate.db", "keygate.db-audit-key"]);
}

#[track_caller]
fn refused(path: &Path) -> String {
    let url = DatabaseUrl::Sqlite(path.to_owned());
    let error = opened(&url, "w1", Box::new(|_| {})).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains("; "), "no remedy: {text}");
    text
}

#[test]
fn a_file_that_is_not_our_database_is_refused_by_name_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    std::fs::write(
        &path,
        "something else, and long enough to be read as a page".repeat(100),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(refused(&path).contains("is no database"));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = folder.path().join("y");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    assert!(refused(&path).contains("another program"));

    let path = folder.path().join("missing/z");
    assert!(refused(&path).contains("cannot be opened"));
    assert!(refused(folder.path()).contains("; "));
}

#[test]
fn a_newer_schema_is_refused_by_its_number() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keygate.db");
    drop(Sqlite::open_to_write(&path, START).unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer
        .execute_batch("INSERT INTO schema_migrations VALUES (7, 0)")
        .unwrap();
    drop(newer);
    let text = refused(&path);
    assert!(
        text.contains("has schema 7") && text.contains("knows 6"),
        "{text}"
    );
}

#[test]
fn a_database_locked_by_another_program_is_written_when_it_is_free() {
    let folder = TempDir::new().unwrap();
    let (told, events) = mpsc::channel();
    let observer: DatabaseObserver = Box::new(move |event| {
        let _ = match event {
            DatabaseEvent::Down(error) => told.send(format!("down: {error}")),
            DatabaseEvent::Up => told.send("up".to_owned()),
            DatabaseEvent::Written { .. }
            | DatabaseEvent::AuditWritten { .. }
            | DatabaseEvent::AuditBroken { .. }
            | DatabaseEvent::NotDeleted(_)
            | DatabaseEvent::SpoolDown(_)
            | DatabaseEvent::SpoolUp
            | DatabaseEvent::SpoolDamaged { .. } => Ok(()),
        };
    });
    let database = opened(&url(&folder), "w1", observer).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("keygate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sender = database.sender();
    for number in 0..10 {
        sender.add(record(number, START));
    }
    let down = events.recv_timeout(TIMEOUT).unwrap();
    assert!(down.contains("is locked by another program"), "{down}");
    let status = database.status();
    assert!(!status.up && status.waiting_bytes > 0, "{status:?}");
    // What waits is added from memory, and not waited for.
    sender.add(record(10, START));
    assert_eq!(requests(&database), 11);
    let by_key = database
        .sums(&all_sums(GroupBy {
            key: true,
            ..GroupBy::default()
        }))
        .unwrap();
    let counts: Vec<i64> = by_key.iter().map(|row| row.sums.requests).collect();
    assert_eq!(counts, [4, 4, 3]);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "up");
    assert_eq!(requests(&database), 11);
    assert_eq!(database.status().waiting_bytes, 0);
    assert!(database.status().up);
}

/// A database that fails as it is told, before it writes or after.
struct Failing {
    inner: Box<dyn Driver>,
    fails: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
}

impl Driver for Failing {
    fn write(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        assert!(
            batch
                .records
                .iter()
                .all(|record| &*record.request_id != "panic")
        );
        let failed = || DatabaseError::Full {
            path: "test".into(),
        };
        match (self.fails.load(Ordering::Relaxed), write % 3) {
            (true, _) => Err(failed()),
            (false, 0) => Err(failed()),
            // It is written, and only the answer is lost.
            (false, 1) => self.inner.write(batch).and(Err(failed())),
            (false, _) => self.inner.write(batch),
        }
    }

    fn delete_old(&mut self, retention: &Retention, most: u32) -> Result<u64, DatabaseError> {
        self.inner.delete_old(retention, most)
    }

    fn sums(&mut self, query: &SumsQuery) -> Result<Vec<SumsRow>, DatabaseError> {
        self.inner.sums(query)
    }

    fn records(&mut self, query: &RecordsQuery) -> Result<Vec<StoredRecord>, DatabaseError> {
        self.inner.records(query)
    }

    fn key_uses(&mut self) -> Result<Vec<StoredKeyUse>, DatabaseError> {
        self.inner.key_uses()
    }

    fn append_audit(
        &mut self,
        entries: &[AuditEntry],
        chain: &mut AuditChain,
    ) -> Result<Vec<AuditMark>, DatabaseError> {
        // It is written, and only the answer is lost.
        let before = chain.clone();
        let written = self.inner.append_audit(entries, chain);
        match self.fails.load(Ordering::Relaxed) {
            true => {
                *chain = before;
                Err(DatabaseError::Full {
                    path: "test".into(),
                })
            }
            false => written,
        }
    }

    fn cut_audit(&mut self, cut: &AuditCut, chain: &mut AuditChain) -> Result<u64, DatabaseError> {
        self.inner.cut_audit(cut, chain)
    }

    fn audit_rows(&mut self, query: &AuditQuery) -> Result<Vec<AuditRow>, DatabaseError> {
        self.inner.audit_rows(query)
    }

    fn last_audit_row(&mut self) -> Result<Option<AuditRow>, DatabaseError> {
        self.inner.last_audit_row()
    }

    fn walk_audit(&mut self, visit: &mut dyn FnMut(AuditRow)) -> Result<(), DatabaseError> {
        self.inner.walk_audit(visit)
    }
}

fn failing(fixture: &Fixture, fails: &Arc<AtomicBool>) -> (WriterHandle, Arc<Queues>) {
    let driver = Failing {
        inner: fixture.driver(),
        fails: Arc::clone(fails),
        writes: Arc::default(),
    };
    let queues = Arc::<Queues>::default();
    let chain = AuditChain {
        key: ChainKey::new([7; 32]),
        last: AuditMark::origin(),
    };
    let writer = WriterHandle::start(
        Box::new(driver),
        chain,
        Arc::clone(&queues),
        WriterSettings {
            gateway: "g1",
            instance: "w1",
            keep_for: KEEP,
            failed: None,
            spool: None,
        },
        Box::new(|_| {}),
    );
    (writer.unwrap(), queues)
}

fn writes_that_fail_before_or_after_they_are_done_count_once(fixture: &Fixture) {
    let (writer, queues) = failing(fixture, &Arc::default());
    let sender = queues.sender();
    for number in 0..40 {
        sender.add(record(number, START));
        if number % 10 == 9 {
            // Two of three writes fail, one of them after it was done.
            while !writer.flush(TIMEOUT) {}
        }
    }
    let mut reader = fixture.reader();
    let rows = reader.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(rows[0].sums.requests, 40);
    assert_eq!(reader.records(&records_query()).unwrap().len(), 40);
    assert!(writer.stop(TIMEOUT));
}

#[test]
fn a_writer_that_ended_by_a_panic_is_down() {
    let fixture = Fixture::sqlite();
    let (writer, queues) = failing(&fixture, &Arc::default());
    assert!(writer.status().up);
    queues.sender().add(UsageRecord {
        request_id: "panic".into(),
        ..record(2, START)
    });
    assert!(!writer.flush(TIMEOUT));
    while writer.status().up {
        std::thread::yield_now();
    }
    assert!(
        writer
            .status()
            .error
            .unwrap()
            .contains("restart the gateway")
    );
    assert!(!writer.stop(TIMEOUT));
}

#[test]
fn when_too_much_waits_the_oldest_records_are_dropped_and_never_their_sums() {
    let fixture = Fixture::sqlite();
    let fails = Arc::new(AtomicBool::new(true));
    let (writer, queues) = failing(&fixture, &fails);
    let senders = [queues.sender(), queues.sender()];
    let template = record(2, START);
    let added = MAX_WAITING / template.weight() + 10_000;
    let summed = |writer: &WriterHandle| -> i64 {
        let waiting = writer.waiting().unwrap();
        let sums = writer.sums_without(waiting, &Default::default()).unwrap();
        sums.values().map(|sums| sums.requests).sum()
    };
    for number in 0..added {
        // Before, while and after records are dropped.
        if number % 45_000 == 0 || number + 5_000 == added {
            assert_eq!(usize::try_from(summed(&writer)).unwrap(), number);
        }
        senders[number % 2].add(UsageRecord {
            request_id: format!("{number:06}").into(),
            ..template.clone()
        });
    }
    let status = writer.status();
    assert!(status.waiting_bytes <= MAX_WAITING, "{status:?}");
    let dropped = usize::try_from(status.dropped_records).unwrap();
    assert!((9_000..12_000).contains(&dropped), "{dropped}");
    assert_eq!(usize::try_from(summed(&writer)).unwrap(), added);
    let unwritten = |writer: &WriterHandle| usize::try_from(writer.unwritten_requests().0).unwrap();
    assert_eq!(unwritten(&writer), added);
    fails.store(false, Ordering::Relaxed);
    while !writer.flush(TIMEOUT) {}
    assert!(writer.status().up);
    assert_eq!(writer.status().waiting_bytes, 0);
    assert_eq!(unwritten(&writer), 0);
    let mut reader = fixture.reader();
    let rows = reader.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(usize::try_from(rows[0].sums.requests).unwrap(), added);
    let newest = &reader
        .records(&RecordsQuery {
            limit: 1,
            ..RecordsQuery::default()
        })
        .unwrap()[0];
    assert!(newest.request_id.parse::<usize>().unwrap() > added - 3);
}

fn old_rows_are_deleted_in_small_steps_and_no_others(fixture: &Fixture) {
    let mut driver = fixture.driver();
    let old = (0..100).map(|number| record(number, START));
    let new = (100..120).map(|number| record(number, START + 2 * DAY));
    driver.write(&batch(1, old.chain(new).collect())).unwrap();
    let retention = Retention {
        now: START,
        records_before: START + DAY,
        sums_before: START + DAY,
    };
    let mut steps = 0;
    loop {
        let before = driver.records(&records_query()).unwrap().len();
        if driver.delete_old(&retention, 30).unwrap() == 0 {
            break;
        }
        let after = driver.records(&records_query()).unwrap().len();
        assert!(before - after <= 30);
        steps += 1;
    }
    assert!(steps >= 4, "{steps}");
    assert_eq!(driver.records(&records_query()).unwrap().len(), 20);
    let by_day = SumsQuery {
        bucket: Bucket::Day,
        ..all_sums(GroupBy::default())
    };
    let rows = driver.sums(&by_day).unwrap();
    assert_eq!((rows.len(), rows[0].sums.requests), (1, 20));
}

fn without_records_the_sums_are_kept(fixture: &Fixture) {
    let keep = KeepFor { records: 0, ..KEEP };
    let database = fixture.open_with("w1", keep, Box::new(|_| {}));
    database.sender().add(record(1, START));
    assert_eq!(requests(&database), 1);
    assert!(database.records(&records_query()).unwrap().is_empty());
    assert_eq!(database.status().waiting_bytes, 0);
}

fn records_before_1970_and_far_ahead_are_kept_too(fixture: &Fixture) {
    let database = fixture.open("w1");
    for at in [-1, 0, 253_402_300_799] {
        database.sender().add(record(2, at));
    }
    let query = SumsQuery {
        from: -DAY,
        to: 253_402_300_800,
        bucket: Bucket::Hour,
        ..all_sums(GroupBy::default())
    };
    let starts: Vec<i64> = database
        .sums(&query)
        .unwrap()
        .iter()
        .map(|row| row.start)
        .collect();
    assert_eq!(starts, [-3600, 0, 253_402_297_200]);
}

#[test]
fn a_question_about_one_subject_or_about_all_reads_no_rows_of_other_subjects() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keygate.db");
    drop(Sqlite::open_to_write(&path, START).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let plan = |query: &SumsQuery| -> String {
        let statement = statements::sums(query);
        let sql = format!("EXPLAIN QUERY PLAN {}", statement.sql.replace('$', "?"));
        let mut prepared = connection.prepare(&sql).unwrap();
        let values = rusqlite::params_from_iter(&statement.values);
        let steps = prepared.query_map(values, |row| row.get::<_, String>(3));
        steps.unwrap().map(Result::unwrap).collect()
    };
    let by_model = GroupBy {
        model: true,
        ..GroupBy::default()
    };
    let all = all_sums(by_model);
    let found = plan(&all);
    assert!(
        found.contains("PRIMARY KEY (scope=? AND width=? AND start>? AND start<?)"),
        "{found}"
    );
    for query in [
        SumsQuery {
            keys: vec!["key_1".into()],
            ..all.clone()
        },
        SumsQuery {
            keys: vec!["key_1".into(), "key_2".into()],
            ..all.clone()
        },
        SumsQuery {
            account: Some("account-1".into()),
            ..all.clone()
        },
    ] {
        let found = plan(&query);
        assert!(
            found.contains("usage_sums_by_subject (subject=? AND width=? AND start>? AND start<?)"),
            "{found}"
        );
    }
}

#[test]
fn what_was_written_leaves_the_log_while_more_is_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keygate.db");
    let size = |name: &str| folder.path().join(name).metadata().unwrap().len();
    let mut driver = Sqlite::open_to_write(&path, START).unwrap();
    let long = UsageRecord {
        request_id: "x".repeat(20_000).into(),
        ..record(2, START)
    };
    let mut written: i64 = 0;
    let until = std::time::Instant::now() + TIMEOUT;
    // The log begins anew once all of it was moved, however fast it grows.
    while written < 3 || size("keygate.db") < 40 << 20 || size("keygate.db-wal") >= 16 << 20 {
        assert!(std::time::Instant::now() < until, "the log only grows");
        written += 1;
        driver
            .write(&batch(written, vec![long.clone(); 100]))
            .unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn counts_beyond_all_reason_stop_no_batch(fixture: &Fixture) {
    let mut sqlite = fixture.driver();
    let huge = Some(u64::MAX);
    let absurd = UsageRecord {
        counts: RequestCounts {
            input: huge,
            input_cached: huge,
            output: huge,
            output_reasoning: huge,
            audio_microseconds: huge,
            images: huge,
            certainty: Certainty::Exact,
        },
        ..record(2, START)
    };
    for number in 1..4 {
        sqlite.write(&batch(number, vec![absurd.clone()])).unwrap();
    }
    sqlite.write(&batch(4, vec![record(2, START)])).unwrap();
    let rows = sqlite.sums(&all_sums(GroupBy::default())).unwrap();
    assert_eq!(rows[0].sums.requests, 4);
    assert_eq!(rows[0].sums.audio_microseconds, Some(1 << 53));
    assert_eq!(rows[0].sums.output_tokens, Some(1 << 53));
}

#[test]
fn a_file_that_was_removed_or_replaced_is_said() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    let sender = database.sender();
    sender.add(record(1, START));
    assert!(database.flush(TIMEOUT));
    let (path, aside) = (
        folder.path().join("keygate.db"),
        folder.path().join("aside"),
    );
    std::fs::rename(&path, &aside).unwrap();
    sender.add(record(2, START));
    assert!(!database.flush(TIMEOUT));
    std::fs::write(&path, "").unwrap();
    assert!(!database.flush(TIMEOUT));
    let error = database.status().error.unwrap();
    assert!(error.contains("was removed or replaced"), "{error}");
    // Put back, nothing is lost.
    std::fs::rename(&aside, &path).unwrap();
    assert!(database.flush(TIMEOUT));
    assert_eq!(requests(&database), 2);
}

#[test]
fn records_of_several_workers_are_kept_in_the_order_of_their_ends() {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "w1");
    let senders = [database.sender(), database.sender()];
    // All in one transaction, which the writer begins only when it is told.
    let turn = rusqlite::Connection::open(folder.path().join("keygate.db")).unwrap();
    turn.execute_batch("BEGIN IMMEDIATE").unwrap();
    senders[0].add(record(0, START));
    std::thread::sleep(Duration::from_millis(500));
    for number in 1..9 {
        senders[number % 2].add(record(number, START + number as i64));
    }
    turn.execute_batch("COMMIT").unwrap();
    assert!(database.flush(TIMEOUT));
    let records = database.records(&records_query()).unwrap();
    let ends: Vec<i64> = records
        .iter()
        .map(|record| record.ended_at / 1000 - START)
        .collect();
    assert_eq!(ends, [8, 7, 6, 5, 4, 3, 2, 1, 0]);
}

fn alert(subject: &str, created_at: i64) -> NewAlert {
    NewAlert {
        id: format!("msg_{subject}"),
        kind: "upstream.down",
        about: "gpu".to_owned(),
        subject: subject.to_owned(),
        body: "{}".to_owned(),
        created_at,
    }
}

#[test]
fn an_alert_waits_until_it_is_delivered_or_given_up_and_is_told_once() {
    let fixture = Fixture::sqlite();
    let database = fixture.open("one");
    let ids = |database: &Database, now| -> Vec<String> {
        let due = database.due_alerts(now, 10).unwrap();
        due.into_iter().map(|alert| alert.id).collect()
    };
    assert!(database.add_alert(&alert("a", START)).unwrap());
    assert!(!database.add_alert(&alert("a", START + 1)).unwrap());
    assert!(database.add_alert(&alert("b", START + 1)).unwrap());
    assert_eq!(ids(&database, START), ["msg_a"]);
    assert_eq!(ids(&database, START + 1), ["msg_a", "msg_b"]);
    let a = database.due_alerts(START, 1).unwrap().remove(0);
    let failed = |next_at| AttemptEnd::Failed {
        error: "503".to_owned(),
        next_at,
    };
    let end = failed(Some(START + 60));
    database.end_attempt(&a, &end, START).unwrap();
    // All of it outlives a restart.
    assert!(database.stop(TIMEOUT));
    let database = fixture.open("two");
    assert_eq!(ids(&database, START + 1), ["msg_b"]);
    let a = database.due_alerts(START + 60, 10).unwrap().remove(1);
    assert_eq!((a.id.as_str(), a.attempts), ("msg_a", 1));
    // The clock was set back by a week.
    assert_eq!(ids(&database, START - 7 * DAY).len(), 2);
    let summary = |pending, last_delivered_at, error: Option<&str>| AlertSummary {
        pending,
        last_delivered_at,
        error: error.map(str::to_owned),
    };
    assert_eq!(
        database.alert_summary().unwrap(),
        summary(2, None, Some("503"))
    );
    database
        .end_attempt(&a, &AttemptEnd::Delivered, START + 60)
        .unwrap();
    let b = database.due_alerts(START + 60, 10).unwrap().remove(0);
    database.end_attempt(&b, &failed(None), START + 70).unwrap();
    assert_eq!(ids(&database, START + DAY), Vec::<String>::new());
    assert_eq!(
        database.alert_summary().unwrap(),
        summary(0, Some(START + 60), None)
    );
    assert!(!database.add_alert(&alert("a", START + DAY)).unwrap());
    assert_eq!(database.told_upstreams().unwrap().len(), 2);
    // In the end it is forgotten.
    assert!(database.add_alert(&alert("a", START + 401 * DAY)).unwrap());
}

#[test]
fn a_migration_that_was_left_out_is_applied_later() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keygate.db");
    drop(Sqlite::open_to_write(&path, START).unwrap());
    let older = rusqlite::Connection::open(&path).unwrap();
    older
        .execute_batch("DROP TABLE alerts; DELETE FROM schema_migrations WHERE version = 3")
        .unwrap();
    drop(older);
    drop(Sqlite::open_to_write(&path, START).unwrap());
    let database = open(&DatabaseUrl::Sqlite(path), "one");
    assert!(database.verify_audit().unwrap().broken.is_none());
    assert!(database.add_alert(&alert("a", START)).unwrap());
}

fn accounts_are_read_back_and_one_that_cannot_be_read_is_an_error(fixture: &Fixture) {
    let database = fixture.open("w1");
    let parsed = |text: &str| parse_account(text).unwrap();
    let acme = parsed(r#"{"id":"acme","max_keys":3,"created_at":"2027-01-01T00:00:00Z"}"#);
    let other = parsed(r#"{"id":"b","disabled":true,"created_at":"2027-01-01T00:00:00Z"}"#);
    for account in [&other, &acme] {
        database.put_account(account).unwrap();
    }
    assert_eq!(database.accounts().unwrap(), [acme.clone(), other.clone()]);
    let changed = AccountRules {
        max_keys: None,
        ..acme
    };
    database.put_account(&changed).unwrap();
    database.delete_account("b").unwrap();
    drop(database);
    let database = fixture.open("w2");
    assert_eq!(database.accounts().unwrap(), [changed]);
    // A ceiling of a later version must not be overlooked.
    fixture.edit(
        r#"UPDATE accounts SET rules = '{"id":"acme","created_at":"2027-01-01T00:00:00Z","max_age":1}'"#,
    );
    let error = database.accounts().unwrap_err().to_string();
    assert!(
        error.contains("acme") && error.contains("max_age"),
        "{error}"
    );
}
