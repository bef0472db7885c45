//! A gateway that is killed at any moment: the sums in the database count no request twice, and lose none that ended
//! over a second before.
//!
//! The database under test runs in a process of its own: this test binary starts itself again with [`FOLDER`] set, and
//! the new process runs the one test [`the_process_under_test`]. `KEYGATE_CRASHES` says how often it is killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests; they may stop where a test would"
)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keygate::policy::usage::{Certainty, RequestCounts};
use keygate::store::database::{
    Bucket, DAY, Database, DatabaseUrl, GroupBy, KeepFor, RecordEnd, RecordsQuery, SumsQuery,
    UsageRecord,
};

const FOLDER: &str = "KEYGATE_DATABASE_CRASH_FOLDER";
const INSTANCE: &str = "KEYGATE_DATABASE_CRASH_INSTANCE";
const CRASHES: &str = "KEYGATE_CRASHES";
/// What may be lost.
const A_SECOND: Duration = Duration::from_secs(1);
const KEEP: KeepFor = KeepFor {
    records: 30 * DAY,
    sums: 400 * DAY,
    audit: 400 * DAY,
};

fn open(folder: PathBuf, instance: &str) -> Database {
    let key = folder.join("audit.key");
    let url = DatabaseUrl::Sqlite(folder.join("keygate.db"));
    Database::open(&url, &key, "g1", instance, KEEP, Box::new(|_| {})).unwrap()
}

/// Each process has a key of its own.
fn record(request_id: String, key_id: &Arc<str>) -> UsageRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    UsageRecord {
        request_id: request_id.into(),
        started_at: now,
        ended_at: now,
        key_id: Arc::clone(key_id),
        account: None,
        model: "m".into(),
        upstream: "u".into(),
        route: "/v1/chat/completions".into(),
        status: 200,
        end: RecordEnd::Complete,
        client_address: None,
        first_byte_ms: None,
        duration_ms: 0,
        bytes_in: 0,
        bytes_out: 0,
        counts: RequestCounts {
            output: Some(1),
            certainty: Certainty::Exact,
            ..RequestCounts::UNKNOWN
        },
        cost: None,
    }
}

/// Adds records until it is killed, and says each one on standard output.
#[test]
fn the_process_under_test() {
    let (Some(folder), Ok(instance)) = (std::env::var_os(FOLDER), std::env::var(INSTANCE)) else {
        return;
    };
    let database = open(folder.into(), &instance);
    let sender = database.sender();
    let key_id = instance.as_str().into();
    let mut output = std::io::stdout().lock();
    for number in 0.. {
        let id = format!("{instance}-{number}");
        sender.add(record(id.clone(), &key_id));
        // The parent may be gone.
        if writeln!(output, "{id}")
            .and_then(|()| output.flush())
            .is_err()
        {
            return;
        }
        // About two thousand a second, so that even a slow build writes them with ease.
        if number % 2 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn no_kill_makes_a_request_count_twice_or_loses_one_that_ended_over_a_second_before() {
    let folder = tempfile::TempDir::new().unwrap();
    let crashes: u64 = std::env::var(CRASHES).map_or(6, |text| text.parse().unwrap());
    let mut added = 0;
    let mut kept_in_all = 0;
    for crash in 0..crashes {
        let instance = format!("w{crash}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_under_test", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(INSTANCE, &instance)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<Vec<(String, Instant)>>>::default();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn({
            let said = Arc::clone(&said);
            let prefix = format!("{instance}-");
            move || {
                for line in lines.map_while(Result::ok) {
                    if line.starts_with(&prefix) {
                        said.lock().unwrap().push((line, Instant::now()));
                    }
                }
            }
        });
        // Any moment of its writes, which are 200 ms apart; and sometimes before the first one.
        let mut moment = [0; 2];
        getrandom::fill(&mut moment).unwrap();
        let longest = 1_700 - 100 * (crash % 17);
        let moment = u64::from(u16::from_le_bytes(moment)) % longest;
        std::thread::sleep(Duration::from_millis(moment));
        let killed_at = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        let said = Arc::try_unwrap(said).unwrap().into_inner().unwrap();
        added += said.len();

        let database = open(folder.path().to_owned(), &format!("check{crash}"));
        let kept = kept_ids(&database, &instance);
        let ids: HashSet<&str> = kept.iter().map(String::as_str).collect();
        assert_eq!(
            ids.len(),
            kept.len(),
            "crash {crash}: a record is there twice"
        );
        assert_eq!(
            summed(&database, vec![instance]),
            kept.len(),
            "crash {crash}: sums and records differ"
        );
        // The child may have been killed between adding a record and saying it.
        assert!(kept.len() <= said.len() + 1, "crash {crash}: too many");
        for (id, at) in said {
            let lost = killed_at.duration_since(at) > A_SECOND && !ids.contains(id.as_str());
            assert!(
                !lost,
                "crash {crash}: {id} ended over a second before and is lost"
            );
        }
        kept_in_all += kept.len();
        assert_eq!(
            summed(&database, Vec::new()),
            kept_in_all,
            "crash {crash}: the sums of earlier processes changed"
        );
    }
    eprintln!("{crashes} crashes: {added} requests, {kept_in_all} kept");
    assert!(kept_in_all > 100, "hardly anything was written");
}

/// The ids of the records of a key.
fn kept_ids(database: &Database, key_id: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let query = RecordsQuery {
            key_id: Some(key_id.to_owned()),
            after,
            limit: 10_000,
            ..RecordsQuery::default()
        };
        let page = database.records(&query).unwrap();
        let Some(last) = page.last() else {
            return ids;
        };
        after = Some(last.id);
        ids.extend(page.into_iter().map(|record| record.request_id));
    }
}

/// How many requests the sums of some keys count; of all where none is named.
fn summed(database: &Database, keys: Vec<String>) -> usize {
    let query = SumsQuery {
        from: 0,
        to: 400 * 365 * DAY,
        bucket: Bucket::WholeDays,
        group_by: GroupBy::default(),
        keys,
        account: None,
        model: None,
        upstream: None,
    };
    let rows = database.sums(&query).unwrap();
    let requests: i64 = rows.iter().map(|row| row.sums.requests).sum();
    usize::try_from(requests).unwrap()
}
