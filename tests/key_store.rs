//! The key store as its callers see it: what a reply means for the file and for the table, whatever other processes do
//! to the file meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests; they may stop where a test would"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keygate::policy::key::KeyToken;
use keygate::policy::time::UnixTime;
use keygate::policy::token::TokenHash;
use keygate::store::config;
use keygate::store::key_file;
use keygate::store::key_revision::ExpectedRevision;
use keygate::store::key_store::{
    DropLimit, KeyStore, KeyStoreEvent, RETRY_INTERVAL, ReloadResult, StoreError, WriteError,
};
use keygate::store::patch::{KeyPatch, NewKey, parse_new, parse_patch};
use keygate::table::{NO_YIELD, Table};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const DEADLINE: Duration = Duration::from_secs(20);

/// A key store with a file of its own.
struct TestStore {
    folder: tempfile::TempDir,
    table: Arc<Table>,
    keys: KeyStore,
    events: mpsc::Receiver<String>,
}

impl TestStore {
    fn with(ids: &[&str]) -> Self {
        Self::start(ids, false)
    }

    fn start(ids: &[&str], watch: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.jsonl");
        fs::write(&file, text_of(ids)).unwrap();
        let (table, keys, events) = open(&file, watch);
        Self {
            folder,
            table,
            keys,
            events,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.jsonl")
    }

    fn overwrite(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// Replaces the file by renaming, as an editor does.
    fn replace(&self, text: &str) {
        let other = self.folder.path().join("other");
        fs::write(&other, text).unwrap();
        fs::rename(other, self.file()).unwrap();
    }

    fn on_disk(&self) -> Vec<String> {
        ids_in(&self.file())
    }

    fn in_table(&self) -> Vec<String> {
        let entries = self.table.in_file_order(NO_YIELD);
        entries
            .iter()
            .map(|entry| entry.key().id().to_owned())
            .collect()
    }

    /// Waits for an event whose text begins with `start`.
    fn event(&self, start: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect(start);
            if event.starts_with(start) {
                return event;
            }
        }
    }
}

fn open(file: &Path, watch: bool) -> (Arc<Table>, KeyStore, mpsc::Receiver<String>) {
    let settings = config::KeysConfig {
        source: config::KeysSource::File,
        max_stale: None,
        file: file.to_owned(),
        named: true,
        watch,
        max_drop_percent: 50,
        default_limits: keygate::policy::key_limits::KeyLimits::default(),
        limits_unavailable: keygate::policy::fleet_link::LimitsUnavailable::LocalShare,
    };
    let table = Arc::new(Table::default());
    let loaded = key_file::read(file, &table, NO_YIELD).unwrap();
    let (tell, events) = mpsc::channel();
    let tell = move |event: KeyStoreEvent<'_>| drop(tell.send(format!("{event:?}")));
    let keys = KeyStore::start(&settings, Arc::clone(&table), loaded, tell).unwrap();
    (table, keys, events)
}

fn line(id: &str) -> String {
    let hash = hash(id);
    format!(
        "{{\"id\":\"{id}\",\"name\":\"n\",\"hash\":\"{hash}\",\"model_access\":{{\"mode\":\"all\"}}}}\n"
    )
}

fn text_of(ids: &[&str]) -> String {
    ids.iter().map(|id| line(id)).collect()
}

fn hash(id: &str) -> TokenHash {
    TokenHash::of(format!("token of {id}").as_bytes())
}

fn ids_in(file: &Path) -> Vec<String> {
    let loaded = key_file::read(file, &Table::default(), NO_YIELD).unwrap();
    let ids = loaded
        .entries
        .iter()
        .map(|entry| entry.key().id().to_owned());
    ids.collect()
}

fn new() -> NewKey {
    parse_new(br#"{"name":"new","model_access":{"mode":"all"}}"#).unwrap()
}

fn patch(body: &str) -> KeyPatch {
    parse_patch(body.as_bytes()).unwrap()
}

/// The content of the error of a write that did not reach the disk.
fn not_written<T: std::fmt::Debug>(answer: Result<T, WriteError>) -> (bool, StoreError) {
    match answer {
        Err(WriteError::NotWritten { in_force, error }) => (in_force, error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_created_key_is_last_in_the_file_and_in_force_when_it_is_answered() {
    let store = TestStore::with(&["a"]);
    let created = store.keys.create(new(), NOW).wait().unwrap();
    let key = created.entry.key();
    assert_eq!(store.on_disk(), ["a", key.id()]);
    assert_eq!(store.in_table(), ["a", key.id()]);
    let found = store.table.find(&created.token.hash()).unwrap();
    assert!(Arc::ptr_eq(&found, &created.entry));
    assert!(key.id().starts_with("key_") && key.id().len() == 26);
    assert_eq!(key.hint(), Some(created.token.hint()));
    assert_eq!(key.created_at(), Some(NOW));
    let text = fs::read_to_string(store.file()).unwrap();
    assert!(!text.contains(created.token.reveal()));
}

#[test]
fn a_change_and_a_deletion_are_on_disk_and_in_force_when_they_are_answered() {
    let store = TestStore::with(&["a", "b"]);
    let changed = patch(r#"{"name":"other","disabled":true}"#);
    let entry = store.keys.update("a", changed, NOW).wait().unwrap();
    assert!(entry.key().name() == "other" && entry.key().disabled());
    assert!(Arc::ptr_eq(&entry, &store.table.by_id("a").unwrap()));
    let gone = store.keys.delete("b").wait().unwrap();
    assert_eq!(gone.key().id(), "b");
    assert!(store.table.find(&hash("b")).is_none());
    let (again, _, _) = open(&store.file(), false);
    let a = again.by_id("a").unwrap();
    assert!(again.len() == 1 && a.key().name() == "other" && a.key().disabled());
}

#[test]
fn what_does_not_exist_is_not_found_and_what_changes_nothing_is_not_written() {
    let store = TestStore::with(&["a"]);
    let before = fs::read(store.file()).unwrap();
    let same = store.keys.update("a", patch(r#"{"name":"n"}"#), NOW).wait();
    assert!(same.is_ok());
    assert_eq!(fs::read(store.file()).unwrap(), before);
    let unknown = store.keys.update("b", patch("{}"), NOW).wait();
    assert!(matches!(unknown, Err(WriteError::NotFound)));
    for id in ["b", "", "../a", "ä"] {
        assert!(matches!(
            store.keys.delete(id).wait(),
            Err(WriteError::NotFound)
        ));
    }
    assert_eq!(fs::read(store.file()).unwrap(), before);
}

#[test]
fn an_expiry_that_has_passed_is_refused_on_create_and_change_alone() {
    let store = TestStore::with(&["a"]);
    let mut late = new();
    for seconds in [0, -1, -1_000_000] {
        late.expires_at = Some(NOW.plus(seconds));
        match store.keys.create(late.clone(), NOW).wait() {
            Err(WriteError::Invalid(error)) => assert_eq!(error.field, "expires_at"),
            other => panic!("{other:?}"),
        }
    }
    late.expires_at = Some(NOW.plus(1));
    let id = store
        .keys
        .create(late, NOW)
        .wait()
        .unwrap()
        .entry
        .key()
        .key_id();
    let later = NOW.plus(60);
    let renamed = patch(r#"{"name":"still can be renamed"}"#);
    assert!(
        store
            .keys
            .update(id.as_str(), renamed, later)
            .wait()
            .is_ok()
    );
    let end = patch(r#"{"expires_at":"2020-01-01"}"#);
    let refused = store.keys.update(id.as_str(), end, later).wait();
    assert!(matches!(refused, Err(WriteError::Invalid(_))));
}

#[test]
fn requests_that_wait_together_are_judged_in_their_order_each_on_its_own() {
    let store = TestStore::with(&["a", "b", "c"]);
    // While this lock is held all writes wait, so that the commands below run as one batch.
    let others = key_file::lock(&store.file(), key_file::LOCK_WAIT).unwrap();
    let first = store.keys.create(new(), NOW);
    let off = store.keys.update("a", patch(r#"{"disabled":true}"#), NOW);
    let on = store.keys.update("a", patch(r#"{"disabled":false}"#), NOW);
    let renamed = store.keys.update("b", patch(r#"{"name":"x"}"#), NOW);
    let also_off = store.keys.update("b", patch(r#"{"disabled":true}"#), NOW);
    let changed = store.keys.update("c", patch(r#"{"name":"x"}"#), NOW);
    let deleted = store.keys.delete("c");
    let twice = store.keys.delete("c");
    let too_late = store.keys.update("c", patch("{}"), NOW);
    let creates: Vec<_> = (0..50).map(|_| store.keys.create(new(), NOW)).collect();
    drop(others);
    for answer in [off, on, renamed, also_off, deleted] {
        answer.wait().unwrap();
    }
    first.wait().unwrap();
    assert!(matches!(too_late.wait(), Err(WriteError::NotFound)));
    // While another process holds the lock, the deletions of a batch run before its other changes.
    assert!(matches!(changed.wait(), Ok(_) | Err(WriteError::NotFound)));
    // The second deletion ran in the same batch and succeeds, or in a later one and finds no key.
    assert!(matches!(twice.wait(), Ok(_) | Err(WriteError::NotFound)));
    assert!(creates.into_iter().all(|create| create.wait().is_ok()));
    let (again, _, _) = open(&store.file(), false);
    assert_eq!(again.len(), 53);
    assert!(again.by_id("c").is_none() && !again.by_id("a").unwrap().key().disabled());
    let b = again.by_id("b").unwrap();
    assert!(b.key().disabled() && b.key().name() == "x");
    assert_eq!(store.in_table(), store.on_disk());
}

#[test]
fn what_others_wrote_is_merged_before_a_write_and_not_lost() {
    let store = TestStore::with(&["a", "b", "c"]);
    store.overwrite(&text_of(&["c", "b", "d"]));
    let created = store.keys.create(new(), NOW).wait().unwrap();
    let expected = ["c", "b", "d", created.entry.key().id()];
    assert_eq!(store.on_disk(), expected);
    assert_eq!(store.in_table(), expected);
    store.event("Merged");
    store.replace(&text_of(&["c", "b", "d", "e"]));
    store.keys.delete("e").wait().unwrap();
    assert_eq!(store.on_disk(), ["c", "b", "d"]);
}

#[test]
fn two_processes_that_write_one_file_lose_nothing() {
    let store = TestStore::with(&["a"]);
    let (_, other, _) = open(&store.file(), false);
    let created: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = [&store.keys, &other, &store.keys, &other]
            .into_iter()
            .map(|keys| {
                scope.spawn(|| {
                    let create = |_| keys.create(new(), NOW).wait().unwrap();
                    let created = (0..25).map(create);
                    created
                        .map(|made| made.entry.key().id().to_owned())
                        .collect()
                })
            })
            .collect();
        let created = writers.into_iter().map(|writer| writer.join().unwrap());
        created.flat_map(|ids: Vec<String>| ids).collect()
    });
    let on_disk = store.on_disk();
    assert_eq!(on_disk.len(), 101);
    assert!(created.iter().all(|id| on_disk.contains(id)));
    store.keys.reload(DropLimit::Enforce).wait().unwrap();
    assert_eq!(store.in_table(), on_disk);
}

#[test]
fn a_reload_without_a_change_keeps_the_generation_and_one_of_another_order_does_not() {
    let store = TestStore::with(&["a", "b", "c"]);
    let reload = |ids: &[&str]| {
        store.replace(&text_of(ids));
        let reloaded = store.keys.reload(DropLimit::Enforce).wait().unwrap();
        assert!(reloaded.difference.is_empty());
        assert_eq!(store.in_table(), ids);
        reloaded.generation
    };
    let first = store.table.generation();
    assert_eq!(reload(&["a", "b", "c"]), first);
    let reordered = reload(&["b", "c", "a"]);
    assert!(reordered > first);
    assert_eq!(reload(&["b", "c", "a"]), reordered);
}

#[test]
fn a_faulty_file_changes_nothing_and_is_not_overwritten() {
    let store = TestStore::with(&["a", "b"]);
    let generation = store.table.generation();
    let broken = format!("{}{{\"id\":\"x\"", line("a"));
    store.overwrite(&broken);
    let error = store.keys.reload(DropLimit::Ignore).wait().unwrap_err();
    assert_eq!(error.faults()[0].line, 2);
    assert!(error.to_string().contains("keys.jsonl:2: "), "{error}");
    let status = store.keys.status();
    assert_eq!(status.last_reload.result, ReloadResult::Faulty);
    assert_eq!(status.last_reload.message, error.to_string());
    let (in_force, error) = not_written(store.keys.create(new(), NOW).wait());
    assert!(!in_force && error.faults().len() == 1);
    let rename = patch(r#"{"name":"x"}"#);
    let (in_force, _) = not_written(store.keys.update("a", rename, NOW).wait());
    assert!(!in_force);
    assert_eq!(store.table.generation(), generation);
    assert_eq!(fs::read_to_string(store.file()).unwrap(), broken);
}

#[test]
fn a_missing_file_is_a_failed_reload_and_no_write_brings_it_back() {
    let store = TestStore::with(&["a"]);
    fs::remove_file(store.file()).unwrap();
    let error = store.keys.reload(DropLimit::Enforce).wait().unwrap_err();
    assert_eq!(
        (error.faults().len(), error.result()),
        (1, ReloadResult::Failed)
    );
    let (in_force, error) = not_written(store.keys.create(new(), NOW).wait());
    assert!(!in_force && !error.faults().is_empty());
    assert!(not_written(store.keys.delete("a").wait()).0);
    assert!(store.table.is_empty() && !store.file().exists());
}

#[test]
fn a_delete_and_a_disable_are_in_force_though_the_file_is_faulty_and_stay_so() {
    let store = TestStore::with(&["a", "b", "c", "d"]);
    let good = fs::read_to_string(store.file()).unwrap();
    store.overwrite(&(good.clone() + "torn"));
    let (in_force, error) = not_written(store.keys.delete("a").wait());
    assert!(in_force && !error.faults().is_empty());
    let both = patch(r#"{"disabled":true,"name":"other"}"#);
    assert!(not_written(store.keys.update("b", both, NOW).wait()).0);
    let b = store.table.by_id("b").unwrap();
    assert!(b.key().disabled() && b.key().name() == "n");
    assert!(store.table.find(&hash("a")).is_none());
    assert_eq!(store.keys.status().pending, 2);
    assert!(store.keys.status().pending_error.is_some());
    // A second delete tries to write again.
    assert!(not_written(store.keys.delete("a").wait()).0);
    // Enabling the key again cannot be written, so the key stays disabled.
    let enable = patch(r#"{"disabled":false}"#);
    assert!(!not_written(store.keys.update("b", enable, NOW).wait()).0);
    assert!(store.table.by_id("b").unwrap().key().disabled());

    // Another program repairs the file without these changes.
    store.replace(&good);
    for drop_limit in [DropLimit::Enforce, DropLimit::Ignore] {
        store.keys.reload(drop_limit).wait().unwrap();
        assert!(store.table.by_id("a").is_none());
        assert!(store.table.by_id("b").unwrap().key().disabled());
        assert_eq!(store.keys.status().pending, 2);
    }
    store.keys.create(new(), NOW).wait().unwrap();
    let status = store.keys.status();
    assert!(status.pending == 0 && status.pending_error.is_none());
    let (again, _, _) = open(&store.file(), false);
    assert!(again.by_id("a").is_none() && again.by_id("b").unwrap().key().disabled());
    assert_eq!(again.len(), 4);
}

#[test]
fn a_rotated_key_is_on_disk_and_in_force_with_both_tokens_when_it_is_answered() {
    let store = TestStore::with(&["a", "b"]);
    let rotate = |grace| {
        let rotated = store.keys.rotate("a", ExpectedRevision::Any, grace, NOW);
        rotated.wait().unwrap()
    };
    let first = rotate(60);
    assert!(first.ended.is_none());
    let found = |table: &Table, hash: &TokenHash| {
        let entry = table.find(hash)?;
        assert_eq!(entry.key().id(), "a");
        entry.key().token_of(hash)
    };
    let (new, old) = (first.token.hash(), hash("a"));
    for table in [&*store.table, &*open(&store.file(), false).0] {
        assert_eq!(found(table, &new), Some(KeyToken::Current));
        assert_eq!(found(table, &old), Some(KeyToken::Previous));
        let key = table.by_id("a").unwrap();
        assert_eq!(key.key().hint(), Some(first.token.hint()));
        assert_eq!(key.key().previous().unwrap().not_after(), NOW.plus(60));
    }
    // Again within the grace: the oldest token ends at once, and the answer says so.
    let second = rotate(60);
    assert_eq!(second.ended.unwrap().hash(), &old);
    assert_eq!(found(&store.table, &old), None);
    assert_eq!(found(&store.table, &new), Some(KeyToken::Previous));
    // Without grace nothing but the newest is left.
    let third = rotate(0);
    assert!(third.ended.is_some());
    assert_eq!(found(&store.table, &second.token.hash()), None);
    assert!(third.entry.key().previous().is_none());
    assert_eq!(store.on_disk(), ["a", "b"]);
    let unknown = store.keys.rotate("x", ExpectedRevision::Any, 0, NOW);
    assert!(matches!(unknown.wait(), Err(WriteError::NotFound)));
}

#[test]
fn a_previous_token_that_has_ended_by_itself_is_not_told_as_ended_by_the_next_rotation() {
    let store = TestStore::with(&["a"]);
    let rotate = |now| {
        let rotated = store.keys.rotate("a", ExpectedRevision::Any, 60, now);
        rotated.wait().unwrap().ended.is_some()
    };
    assert!(!rotate(NOW));
    assert!(rotate(NOW.plus(59)));
    assert!(!rotate(NOW.plus(59 + 60)));
}

#[test]
fn the_end_of_a_previous_token_is_in_force_though_the_file_is_faulty_and_stays_so() {
    let store = TestStore::with(&["a", "b", "c"]);
    let rotate = || {
        store
            .keys
            .rotate("a", ExpectedRevision::Any, 60, NOW)
            .wait()
    };
    rotate().unwrap();
    let good = fs::read_to_string(store.file()).unwrap();
    store.overwrite(&(good.clone() + "torn"));
    // A rotation gives a token, so it is not in force before it is written.
    assert!(!not_written(rotate()).0);
    assert!(store.table.find(&hash("a")).is_some());
    let ends = || KeyPatch {
        ends_previous: true,
        ..KeyPatch::default()
    };
    assert!(not_written(store.keys.update("a", ends(), NOW).wait()).0);
    let disable = patch(r#"{"disabled":true}"#);
    assert!(not_written(store.keys.update("a", disable, NOW).wait()).0);
    let is_restricted = |table: &Table| {
        let disabled = table.by_id("a").unwrap().key().disabled();
        disabled && table.find(&hash("a")).is_none()
    };
    assert!(is_restricted(&store.table));
    assert_eq!(store.keys.status().pending, 1);
    // Another program repairs the file without these changes.
    store.replace(&good);
    store.keys.reload(DropLimit::Enforce).wait().unwrap();
    assert!(is_restricted(&store.table));
    assert_eq!(store.keys.status().pending, 1);
    store.keys.update("a", ends(), NOW).wait().unwrap();
    assert_eq!(store.keys.status().pending, 0);
    assert!(is_restricted(&open(&store.file(), false).0));
    // After that the file alone decides.
    store.replace(&good);
    store.keys.reload(DropLimit::Enforce).wait().unwrap();
    assert!(!is_restricted(&store.table) && store.table.find(&hash("a")).is_some());
}

#[test]
fn a_pending_change_is_written_without_being_asked_again() {
    let store = TestStore::with(&["a", "b", "c"]);
    let good = fs::read_to_string(store.file()).unwrap();
    store.overwrite("torn");
    assert!(not_written(store.keys.delete("a").wait()).0);
    store.replace(&good);
    let begin = Instant::now();
    store.event("PendingWritten");
    assert!(begin.elapsed() < RETRY_INTERVAL + Duration::from_secs(5));
    assert_eq!(store.on_disk(), ["b", "c"]);
    assert_eq!(store.keys.status().pending, 0);
}

#[test]
fn a_pending_change_is_tried_once_more_when_the_last_handle_goes() {
    let store = TestStore::with(&["a", "b", "c"]);
    let good = fs::read_to_string(store.file()).unwrap();
    store.overwrite("torn");
    assert!(not_written(store.keys.delete("a").wait()).0);
    store.replace(&good);
    let TestStore {
        folder,
        keys,
        events,
        ..
    } = store;
    drop(keys);
    let last = events.iter().last().unwrap();
    assert!(last.starts_with("PendingWritten"), "{last}");
    assert_eq!(ids_in(&folder.path().join("keys.jsonl")), ["b", "c"]);
}

#[test]
fn a_pending_change_that_others_wrote_is_forgotten() {
    let store = TestStore::with(&["a", "b", "c"]);
    store.overwrite("torn");
    assert!(not_written(store.keys.delete("a").wait()).0);
    let disable = patch(r#"{"disabled":true}"#);
    assert!(not_written(store.keys.update("b", disable, NOW).wait()).0);
    let disabled = line("b").replace("}}", "},\"disabled\":true}");
    store.replace(&(disabled + &line("c")));
    store.keys.reload(DropLimit::Enforce).wait().unwrap();
    assert_eq!(store.keys.status().pending, 0);
    // After that the file alone decides about these keys.
    store.replace(&text_of(&["a", "b", "c"]));
    store.keys.reload(DropLimit::Enforce).wait().unwrap();
    assert!(!store.table.by_id("b").unwrap().key().disabled());
    assert!(store.table.by_id("a").is_some());
}

#[test]
fn a_file_that_drops_too_many_keys_is_refused_unless_forced() {
    let store = TestStore::with(&["a", "b", "c", "d"]);
    store.replace(&text_of(&["a"]));
    for answer in [
        store.keys.dry_run(DropLimit::Enforce),
        store.keys.reload(DropLimit::Enforce),
    ] {
        match answer.wait() {
            Err(StoreError::DropLimit(drops)) => {
                assert_eq!(
                    (drops.dropped, drops.total, drops.max_drop_percent),
                    (3, 4, 50)
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.keys.status().last_reload.result.label(), "dropped");
    let (in_force, error) = not_written(store.keys.create(new(), NOW).wait());
    assert!(!in_force && matches!(error, StoreError::DropLimit(_)));
    assert!(not_written(store.keys.delete("b").wait()).0);
    assert_eq!(store.in_table(), ["a", "c", "d"]);
    assert_eq!(
        store.on_disk(),
        ["a"],
        "what was refused is not overwritten"
    );
    let forced = store.keys.reload(DropLimit::Ignore).wait().unwrap();
    assert_eq!((forced.keys, forced.difference.removed.len()), (1, 2));
    assert_eq!(store.keys.status().pending, 0);
    store.keys.create(new(), NOW).wait().unwrap();
    // Dropping exactly the allowed percentage is accepted.
    store.replace(&text_of(&["a"]));
    assert!(store.keys.reload(DropLimit::Enforce).wait().is_ok());
}

#[test]
fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let store = TestStore::with(&["a", "b"]);
    let generation = store.table.generation();
    let changed = line("b").replace("\"n\"", "\"other\"");
    store.replace(&(line("a") + &changed + &line("c")));
    let told = store.keys.dry_run(DropLimit::Enforce).wait().unwrap();
    assert_eq!((told.keys, told.generation), (3, generation));
    assert_eq!(store.in_table(), ["a", "b"]);
    let done = store.keys.reload(DropLimit::Enforce).wait().unwrap();
    let counts = |of: &keygate::store::key_store::Reloaded| {
        let difference = &of.difference;
        (
            difference.added.len(),
            difference.removed.len(),
            difference.changed.len(),
        )
    };
    assert_eq!((counts(&told), counts(&done)), ((1, 0, 1), (1, 0, 1)));
    assert!(done.generation > generation);
    assert_eq!(store.table.by_id("b").unwrap().key().name(), "other");
}

#[test]
fn a_thousand_reloads_at_once_are_few_reads_and_the_last_content_wins() {
    let store = TestStore::with(&["a"]);
    let mut answers = Vec::new();
    for round in 0..100 {
        store.replace(&text_of(&["a", &format!("key_{round}")]));
        answers.extend((0..10).map(|_| store.keys.reload(DropLimit::Enforce)));
    }
    let mut last = None;
    for answer in answers {
        last = Some(answer.wait().unwrap());
    }
    assert_eq!(store.in_table(), ["a", "key_99"]);
    assert_eq!(last.unwrap().keys, 2);
    let reads = store.events.try_iter().count();
    assert!((1..=110).contains(&reads), "{reads}");
}

#[test]
fn a_create_beside_reloads_is_never_lost() {
    let store = TestStore::with(&["a"]);
    let created: Vec<_> = (0..50)
        .map(|_| {
            let reload = store.keys.reload(DropLimit::Enforce);
            let created = store.keys.create(new(), NOW);
            let again = store.keys.reload(DropLimit::Enforce);
            reload.wait().unwrap();
            again.wait().unwrap();
            created.wait().unwrap().entry.key().id().to_owned()
        })
        .collect();
    assert_eq!(store.in_table()[1..], created);
    assert_eq!(store.on_disk()[1..], created);
}

#[test]
fn a_watched_file_is_reloaded_when_it_changes_even_by_a_swapped_link() {
    let store = TestStore::start(&["a"], true);
    store.replace(&text_of(&["a", "b"]));
    while store.in_table() != ["a", "b"] {
        store.event("Reloaded");
    }
    store.replace("torn");
    store.event("ReloadFailed");
    assert_eq!(store.in_table(), ["a", "b"]);
    // Kubernetes swaps a mounted secret like this: the file is a link into a folder that is replaced.
    let here = |name: &str| store.folder.path().join(name);
    fs::create_dir(here("one")).unwrap();
    fs::write(here("one/keys.jsonl"), text_of(&["a", "b", "c"])).unwrap();
    std::os::unix::fs::symlink("one/keys.jsonl", here("link")).unwrap();
    fs::rename(here("link"), store.file()).unwrap();
    while store.in_table() != ["a", "b", "c"] {
        store.event("Reloaded");
    }
}

#[test]
fn answers_can_be_awaited() {
    let store = TestStore::with(&["a"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let created = store.keys.create(new(), NOW).await.unwrap();
        let id = created.entry.key().id();
        store.keys.delete(id).await.unwrap();
        store.keys.reload(DropLimit::Enforce).await.unwrap();
    });
    assert_eq!(store.on_disk(), ["a"]);
}
