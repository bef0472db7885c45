//! A database on a full disk: nobody waits, nothing is lost, and all is written once there is room.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests; they may stop where a test would"
)]

use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keygate::policy::usage::{Certainty, RequestCounts};
use keygate::store::database::{
    Bucket, DAY, Database, DatabaseEvent, DatabaseUrl, GroupBy, KeepFor, RecordEnd, SumsQuery,
    UsageRecord,
};

#[path = "blackbox/support/small_disk.rs"]
#[allow(
    clippy::expect_used,
    unreachable_pub,
    reason = "the black-box tests use it too"
)]
mod small_disk;

use small_disk::SmallDisk;

const KEEP: KeepFor = KeepFor {
    records: 30 * DAY,
    sums: 400 * DAY,
    audit: 400 * DAY,
};
const TIMEOUT: Duration = Duration::from_secs(30);

fn record(number: usize) -> UsageRecord {
    // Old rows would be deleted.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    UsageRecord {
        request_id: format!("{number:0200}").into(),
        started_at: now,
        ended_at: now,
        key_id: "key_1".into(),
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

fn summed(database: &Database) -> i64 {
    let query = SumsQuery {
        from: 0,
        to: 400 * 365 * DAY,
        bucket: Bucket::Day,
        group_by: GroupBy::default(),
        keys: Vec::new(),
        account: None,
        model: None,
        upstream: None,
    };
    let rows = database.sums(&query).unwrap();
    rows.iter().map(|row| row.sums.requests).sum()
}

#[test]
fn what_a_full_disk_does_not_take_is_written_when_there_is_room() {
    let Some(disk) = SmallDisk::mounted("4m") else {
        return;
    };
    let (told, events) = channel();
    let observer = Box::new(move |event: DatabaseEvent<'_>| {
        let _ = match event {
            DatabaseEvent::Down(error) => told.send(error.to_string()),
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
    let url = DatabaseUrl::Sqlite(disk.path("keygate.db"));
    let key = disk.path("audit.key");
    let database = Database::open(&url, &key, "g1", "w1", KEEP, observer).unwrap();
    let sender = database.sender();
    sender.add(record(0));
    assert!(database.flush(TIMEOUT));
    let filler = disk.fill();
    for number in 1..2000 {
        sender.add(record(number));
    }
    let down = events.recv_timeout(TIMEOUT).unwrap();
    assert!(down.contains("the disk is full; make room"), "{down}");
    assert!(!database.status().up);
    assert_eq!(summed(&database), 2000, "what waits is added from memory");
    std::fs::remove_file(filler).unwrap();
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "up");
    assert_eq!(summed(&database), 2000);
    assert_eq!(database.status().dropped_records, 0);
    assert!(database.stop(TIMEOUT));
    let again = Database::open(&url, &key, "g1", "w2", KEEP, Box::new(|_| {})).unwrap();
    assert_eq!(summed(&again), 2000);
}
