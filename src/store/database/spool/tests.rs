use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin, ChangeVia};
use crate::store::database::record::{KeyUse, SumsMap, UsageRecord, UsageSums};
use crate::store::database::tests::{batch, record};

const START: i64 = 1_764_288_000;
const ENOUGH: u64 = 256 << 20;

fn config(folder: &TempDir, max_bytes: u64) -> SpoolConfig {
    SpoolConfig {
        folder: folder.path().join("spool"),
        max_bytes,
    }
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(&config(folder, ENOUGH)).unwrap()
}

/// Some batches of one writer, of two records each.
fn batches(count: i64) -> Vec<Batch> {
    let of = |number: i64| {
        let first = usize::try_from(number).unwrap() * 2;
        let records = (first..first + 2).map(|number| record(number, START));
        batch(number, records.collect())
    };
    (1..=count).map(of).collect()
}

fn put(spool: &mut Spool, batches: &[Batch]) {
    for batch in batches {
        spool.append(batch).unwrap();
    }
    spool.sync().unwrap();
}

/// All that is sent, until the spool is empty.
fn sent(spool: &mut Spool) -> Vec<Arc<Batch>> {
    let mut sent = Vec::new();
    while let Some(batch) = spool.front(START).unwrap() {
        sent.push(batch);
        spool.remove_front().unwrap();
    }
    sent
}

fn add(all: &mut SumsMap, sums: &SumsMap) {
    for (key, sums) in sums {
        all.entry(key.clone()).or_default().add(sums);
    }
}

fn sums<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> SumsMap {
    let mut all = SumsMap::new();
    batches
        .into_iter()
        .for_each(|batch| add(&mut all, &batch.sums));
    all
}

fn waiting_sums(spool: &Spool) -> SumsMap {
    let mut all = SumsMap::new();
    let contents = spool.contents().unwrap();
    contents
        .each_batch(&mut |batch| add(&mut all, &batch.sums))
        .unwrap();
    all
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let all = fs::read_dir(folder.path().join("spool")).unwrap();
    let mut files: Vec<PathBuf> = all.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind != "lock"));
    files.sort();
    files
}

#[test]
fn what_waits_comes_back_as_it_was_and_its_file_goes() {
    let folder = TempDir::new().unwrap();
    let put_in = batches(6);
    let mut spool = open(&folder);
    put(&mut spool, &put_in);
    assert_eq!((spool.requests(), spool.records()), (12, 12));
    assert_eq!(waiting_sums(&spool), sums(&put_in));
    let file = &files(&folder)[0];
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700));
    drop(spool);
    let mut spool = open(&folder);
    assert_eq!((spool.requests(), spool.records()), (12, 12));
    let came = sent(&mut spool);
    // No server has seen them, so they are sent as one.
    assert_eq!((came.len(), came[0].number), (1, 6));
    assert_eq!((&*came[0].writer, &*came[0].gateway), ("w1", "g1"));
    let records: Vec<UsageRecord> = put_in.iter().flat_map(|b| b.records.clone()).collect();
    assert_eq!(came[0].records, records);
    assert_eq!(came[0].sums, sums(&put_in));
    let key_use = KeyUse {
        key_id: "key_0".into(),
        last_used_at: START + 6,
        requests: 12,
    };
    assert_eq!(came[0].key_uses, [key_use]);
    assert_eq!((spool.bytes(), spool.requests()), (0, 0));
    assert_eq!(files(&folder), Vec::<PathBuf>::new());
    assert_eq!(waiting_sums(&spool), SumsMap::new());
}

#[test]
fn what_may_have_been_sent_is_sent_again_as_the_same_batch() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    put(&mut spool, &batches(3));
    let first = spool.front(START).unwrap().unwrap();
    // Later ones do not join it.
    put(&mut spool, &batches(5)[3..]);
    drop(spool);
    let mut spool = open(&folder);
    let came = sent(&mut spool);
    let numbers: Vec<i64> = came.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, [3, 5]);
    assert_eq!(came[0].records, first.records);
    // One that was on its way before the spool had it comes first.
    let two = batches(2);
    let [one, two] = [0, 1].map(|at| Arc::new(without_records(&two[at])));
    spool.append_sent(&one).unwrap();
    spool.append(&two).unwrap();
    let numbers: Vec<i64> = sent(&mut spool).iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn a_line_that_was_torn_is_left_out_and_said() {
    let folder = TempDir::new().unwrap();
    let put_in = batches(3);
    put(&mut open(&folder), &put_in);
    let file = files(&folder).remove(0);
    let text = fs::read(&file).unwrap();
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &text).map(|at| at + 1).collect();
    assert_eq!(ends.len(), 3);
    for length in 0..text.len() {
        fs::write(&file, &text[..length]).unwrap();
        let mut spool = open(&folder);
        let whole = ends.iter().filter(|end| **end <= length).count();
        let is_torn = length > 0 && !ends.contains(&length);
        let damaged: Vec<usize> = spool.take_damaged().iter().map(|d| d.count).collect();
        assert_eq!(damaged, [1].repeat(usize::from(is_torn)), "{length}");
        assert_eq!(spool.requests(), 2 * whole as i64, "{length}");
        assert_eq!(waiting_sums(&spool), sums(&put_in[..whole]), "{length}");
    }
    // What comes after it is not lost by it.
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    let mut spool = open(&folder);
    let last = batches(4).pop().unwrap();
    put(&mut spool, std::slice::from_ref(&last));
    let came = sent(&mut spool);
    let came = sums(came.iter().map(|batch| &**batch));
    assert_eq!(came, sums(put_in[..2].iter().chain([&last])));
    // It was said at the start, and is not said again.
    assert_eq!(spool.take_damaged().len(), 1);
}

#[test]
fn a_flipped_bit_costs_its_line_alone() {
    let folder = TempDir::new().unwrap();
    let put_in = batches(3);
    put(&mut open(&folder), &put_in);
    let file = files(&folder).remove(0);
    let text = fs::read(&file).unwrap();
    let lines: Vec<usize> = memchr::memchr_iter(b'\n', &text).collect();
    // Every seventh byte, and the newlines.
    let places = (0..text.len()).filter(|at| at % 7 == 0 || text[*at] == b'\n');
    for at in places {
        let mut flipped = text.clone();
        // A hexadecimal digit is the same in upper case, so not the sixth bit.
        flipped[at] ^= 1 << (at % 5);
        fs::write(&file, flipped).unwrap();
        let mut spool = open(&folder);
        // Without its newline, a line is one with the next.
        let line = lines.iter().filter(|end| **end < at).count();
        let is_left_out =
            |other: usize| other == line || (lines.contains(&at) && other == line + 1);
        let left = put_in
            .iter()
            .enumerate()
            .filter(|(other, _)| !is_left_out(*other));
        assert_eq!(waiting_sums(&spool), sums(left.map(|(_, batch)| batch)));
        assert!(!spool.take_damaged().is_empty(), "{at}");
    }
}

#[test]
fn at_the_bound_the_oldest_records_are_dropped_and_every_sum_is_exact() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 100_000;
    let mut spool = Spool::open(&config(&folder, max_bytes)).unwrap();
    let put_in = batches(800);
    let mut dropped = 0;
    for (at, batch) in put_in.iter().enumerate() {
        spool.append(batch).unwrap();
        assert!(spool.bytes() <= max_bytes, "{at}");
        dropped += spool.take_dropped();
        assert_eq!(spool.records() + dropped, 2 * (at as u64 + 1));
        if at % 100 == 0 {
            assert_eq!(waiting_sums(&spool), sums(&put_in[..=at]));
        }
    }
    assert!(dropped > 1000 && spool.records() > 40, "{dropped}");
    drop(spool);
    let mut spool = Spool::open(&config(&folder, max_bytes)).unwrap();
    let came = sent(&mut spool);
    assert_eq!(sums(came.iter().map(|batch| &**batch)), sums(&put_in));
    let uses: u64 = came
        .iter()
        .flat_map(|b| &b.key_uses)
        .map(|u| u.requests)
        .sum();
    assert_eq!(uses, 1600);
    let newest = came.last().unwrap().records.last().unwrap();
    assert_eq!(*newest, put_in[799].records[1]);
}

#[test]
fn sums_that_need_more_than_the_bound_are_kept_and_grow_no_faster_than_they_must() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 20_000;
    let mut spool = Spool::open(&config(&folder, max_bytes)).unwrap();
    let mut all = Vec::new();
    for number in 0..600 {
        // Each has a key of its own for the first half, and then all have been there.
        let key = number % 300;
        let mut one = record(number, START);
        one.key_id = format!("key_{key}").into();
        let one = batch(number as i64 + 1, vec![one]);
        spool.append(&one).unwrap();
        all.push(one);
    }
    assert_eq!(waiting_sums(&spool), sums(&all));
    let merged: usize = sums(&all).len() * 300;
    assert!(spool.bytes() < 3 * merged as u64, "{}", spool.bytes());
}

#[test]
fn a_merge_that_was_cut_short_counts_nothing_twice() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 64 * 1500;
    let mut spool = Spool::open(&config(&folder, max_bytes)).unwrap();
    let put_in = batches(30);
    put(&mut spool, &put_in);
    let before: Vec<(PathBuf, Vec<u8>)> = files(&folder)
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect();
    assert!(before.len() > 4);
    let put_back = |spool: Spool| {
        drop(spool);
        for (file, text) in before.iter().skip(1).filter(|(file, _)| !file.exists()) {
            fs::write(file, text).unwrap();
        }
        Spool::open(&config(&folder, max_bytes)).unwrap()
    };
    // Records were dropped, and the files that were put together are still there.
    spool.compact().unwrap();
    assert!(files(&folder).len() < before.len());
    let mut spool = put_back(spool);
    assert_eq!(waiting_sums(&spool), sums(&put_in));
    // The same where batches were put together to be sent.
    spool.front(START).unwrap();
    drop(spool);
    fs::write(&before[0].0, &before[0].1).unwrap();
    let mut spool = Spool::open(&config(&folder, max_bytes)).unwrap();
    assert!(!before[0].0.exists());
    assert_eq!(waiting_sums(&spool), sums(&put_in));
    assert_eq!(
        sums(sent(&mut spool).iter().map(|batch| &**batch)),
        sums(&put_in)
    );
}

#[test]
fn a_second_process_and_a_folder_that_cannot_be_written_are_refused() {
    let folder = TempDir::new().unwrap();
    let spool = open(&folder);
    let error = Spool::open(&config(&folder, ENOUGH)).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::ResourceBusy, "{error}");
    drop(spool);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let below = SpoolConfig {
        folder: file.join("spool"),
        max_bytes: ENOUGH,
    };
    let error = Spool::open(&below).unwrap_err().to_string();
    assert!(error.contains("file/spool"), "{error}");
}

#[test]
fn audit_rows_that_wait_come_back_in_their_order() {
    let folder = TempDir::new().unwrap();
    let entry = |number: i64| AuditEntry {
        at: START + number,
        origin: ChangeOrigin {
            actor: "uid 0".to_owned(),
            via: ChangeVia::Socket,
            address: Some("192.0.2.7".to_owned()),
            request_id: None,
        },
        action: AuditAction::Delete,
        target: Some(format!("key_{number}")),
        account: None,
        before: Some("{\"name\":\"a\\nb\"}".to_owned()),
        after: None,
    };
    let behind = AuditMark {
        n: 7,
        hash: "0f".to_owned(),
    };
    let (mut spool, waiting, damaged) = AuditSpool::open(folder.path()).unwrap();
    assert!(damaged.is_none() && waiting.entries.is_empty() && waiting.behind.is_none());
    let mut entries = VecDeque::new();
    for number in 0..3 {
        entries.push_back(entry(number));
        spool.keep(&behind, &entries, 1).unwrap();
    }
    spool.keep_lost(START, 2).unwrap();
    let read = || AuditSpool::open(folder.path()).unwrap();
    let (mut again, waiting, damaged) = read();
    assert!(damaged.is_none());
    assert_eq!(waiting.entries, entries);
    assert_eq!(waiting.behind.as_ref(), Some(&behind));
    assert_eq!(waiting.lost, Some((START, 2)));
    // After a restart the file goes on with all of them.
    entries.push_back(entry(3));
    again.keep(&behind, &entries, 1).unwrap();
    assert_eq!(read().1.entries, entries);
    let file = folder.path().join("audit.jsonl");
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    let (mut spool, waiting, damaged) = read();
    assert_eq!((waiting.entries.len(), damaged.unwrap().count), (3, 1));
    spool.remove().unwrap();
    assert!(!file.exists());
}

/// A database that knows batches by writer and number.
#[derive(Default)]
struct Server {
    last: HashMap<Arc<str>, i64>,
    sums: SumsMap,
}

impl Server {
    fn write(&mut self, batch: &Batch) {
        let last = self.last.entry(Arc::clone(&batch.writer)).or_insert(0);
        if batch.number > *last {
            *last = batch.number;
            add(&mut self.sums, &batch.sums);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Send,
    SendWithoutAnswer,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..6).prop_map(Step::Append),
        2 => Just(Step::Send),
        2 => Just(Step::SendWithoutAnswer),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_each_request_counts_once(
        steps in prop::collection::vec(step(), 1..80),
        max_bytes in 4_000_u64..60_000,
    ) {
        let folder = TempDir::new().unwrap();
        let config = config(&folder, max_bytes);
        let mut spool = Spool::open(&config).unwrap();
        let mut server = Server::default();
        let mut added = SumsMap::new();
        let (mut writer, mut number, mut next) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Append(records) => {
                    number += 1;
                    let records = (next..next + records).map(|n| record(n, START)).collect();
                    next += 7;
                    let mut batch = batch(number, records);
                    batch.writer = format!("w{writer}").into();
                    add(&mut added, &batch.sums);
                    spool.append(&batch).unwrap();
                }
                Step::Send => {
                    if let Some(batch) = spool.front(START).unwrap() {
                        server.write(&batch);
                        spool.remove_front().unwrap();
                    }
                }
                Step::SendWithoutAnswer => {
                    if let Some(batch) = spool.front(START).unwrap() {
                        server.write(&batch);
                    }
                }
                Step::Restart => {
                    drop(spool);
                    (writer, number) = (writer + 1, 0);
                    spool = Spool::open(&config).unwrap();
                    let waits = waiting_sums(&spool);
                    let requests: i64 = waits.values().map(|sums: &UsageSums| sums.requests).sum();
                    prop_assert_eq!(requests, spool.requests());
                }
            }
        }
        for batch in sent(&mut spool) {
            server.write(&batch);
        }
        prop_assert!(spool.take_damaged().is_empty());
        prop_assert_eq!(server.sums, added);
        prop_assert!(files(&folder).is_empty());
    }
}
