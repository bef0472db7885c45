//! The keeper as its callers see it: what an answer means for the file and for the table, whatever others do to the file
//! meanwhile.
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

use keygate::policy::time::UnixTime;
use keygate::policy::token::TokenHash;
use keygate::store::config;
use keygate::store::key_file;
use keygate::store::key_store::{
    Drops, Event, Keeper, Obstacle, RETRY_EVERY, ReloadResult, WriteError,
};
use keygate::store::patch::{KeyPatch, NewKey, parse_new, parse_patch};
use keygate::table::{NO_YIELD, Table};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const DEADLINE: Duration = Duration::from_secs(20);

/// A keeper with a file of its own.
struct Kept {
    folder: tempfile::TempDir,
    table: Arc<Table>,
    keeper: Keeper,
    events: mpsc::Receiver<String>,
}

impl Kept {
    fn with(ids: &[&str]) -> Self {
        Self::start(ids, false)
    }

    fn start(ids: &[&str], watch: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.jsonl");
        fs::write(&file, text_of(ids)).unwrap();
        let (table, keeper, events) = keep(&file, watch);
        Self {
            folder,
            table,
            keeper,
            events,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.jsonl")
    }

    fn overwrite(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// As an editor does it.
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

    /// Waits for an event that begins so.
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

fn keep(file: &Path, watch: bool) -> (Arc<Table>, Keeper, mpsc::Receiver<String>) {
    let settings = config::Keys {
        file: file.to_owned(),
        named: true,
        watch,
        max_drop_percent: 50,
    };
    let table = Arc::new(Table::default());
    let loaded = key_file::read(file, &table, NO_YIELD).unwrap();
    let (tell, events) = mpsc::channel();
    let tell = move |event: Event<'_>| drop(tell.send(format!("{event:?}")));
    let keeper = Keeper::start(&settings, Arc::clone(&table), loaded, tell).unwrap();
    (table, keeper, events)
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

/// What a write that did not reach the disk says.
fn not_written<T: std::fmt::Debug>(answer: Result<T, WriteError>) -> (bool, Obstacle) {
    match answer {
        Err(WriteError::NotWritten { in_force, obstacle }) => (in_force, obstacle),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_created_key_is_last_in_the_file_and_in_force_when_it_is_answered() {
    let kept = Kept::with(&["a"]);
    let created = kept.keeper.create(new(), NOW).wait().unwrap();
    let key = created.entry.key();
    assert_eq!(kept.on_disk(), ["a", key.id()]);
    assert_eq!(kept.in_table(), ["a", key.id()]);
    let found = kept.table.find(&created.token.hash()).unwrap();
    assert!(Arc::ptr_eq(&found, &created.entry));
    assert!(key.id().starts_with("key_") && key.id().len() == 26);
    assert_eq!(key.hint(), Some(created.token.hint()));
    assert_eq!(key.created_at(), Some(NOW));
    let text = fs::read_to_string(kept.file()).unwrap();
    assert!(!text.contains(created.token.reveal()));
}

#[test]
fn a_change_and_a_deletion_are_on_disk_and_in_force_when_they_are_answered() {
    let kept = Kept::with(&["a", "b"]);
    let changed = patch(r#"{"name":"other","disabled":true}"#);
    let entry = kept.keeper.update("a", changed, NOW).wait().unwrap();
    assert!(entry.key().name() == "other" && entry.key().disabled());
    assert!(Arc::ptr_eq(&entry, &kept.table.by_id("a").unwrap()));
    let gone = kept.keeper.delete("b").wait().unwrap();
    assert_eq!(gone.key().id(), "b");
    assert!(kept.table.find(&hash("b")).is_none());
    let (again, _, _) = keep(&kept.file(), false);
    let a = again.by_id("a").unwrap();
    assert!(again.len() == 1 && a.key().name() == "other" && a.key().disabled());
}

#[test]
fn what_does_not_exist_is_not_found_and_what_changes_nothing_is_not_written() {
    let kept = Kept::with(&["a"]);
    let before = fs::read(kept.file()).unwrap();
    let same = kept
        .keeper
        .update("a", patch(r#"{"name":"n"}"#), NOW)
        .wait();
    assert!(same.is_ok());
    assert_eq!(fs::read(kept.file()).unwrap(), before);
    let unknown = kept.keeper.update("b", patch("{}"), NOW).wait();
    assert!(matches!(unknown, Err(WriteError::NotFound)));
    for id in ["b", "", "../a", "ä"] {
        assert!(matches!(
            kept.keeper.delete(id).wait(),
            Err(WriteError::NotFound)
        ));
    }
    assert_eq!(fs::read(kept.file()).unwrap(), before);
}

#[test]
fn an_expiry_that_has_passed_is_refused_on_create_and_change_alone() {
    let kept = Kept::with(&["a"]);
    let mut late = new();
    for seconds in [0, -1, -1_000_000] {
        late.expires_at = Some(NOW.plus(seconds));
        match kept.keeper.create(late.clone(), NOW).wait() {
            Err(WriteError::Refused(complaint)) => assert_eq!(complaint.field, "expires_at"),
            other => panic!("{other:?}"),
        }
    }
    late.expires_at = Some(NOW.plus(1));
    let id = kept
        .keeper
        .create(late, NOW)
        .wait()
        .unwrap()
        .entry
        .key()
        .key_id();
    let later = NOW.plus(60);
    let renamed = patch(r#"{"name":"still can be renamed"}"#);
    assert!(
        kept.keeper
            .update(id.as_str(), renamed, later)
            .wait()
            .is_ok()
    );
    let end = patch(r#"{"expires_at":"2020-01-01"}"#);
    let refused = kept.keeper.update(id.as_str(), end, later).wait();
    assert!(matches!(refused, Err(WriteError::Refused(_))));
}

#[test]
fn requests_that_wait_together_are_judged_in_their_order_each_on_its_own() {
    let kept = Kept::with(&["a", "b", "c"]);
    // While the folder is locked everything waits, so that one batch is made of what is asked for here.
    let others = key_file::lock(&kept.file(), key_file::LOCK_WAIT).unwrap();
    let first = kept.keeper.create(new(), NOW);
    let off = kept.keeper.update("a", patch(r#"{"disabled":true}"#), NOW);
    let on = kept.keeper.update("a", patch(r#"{"disabled":false}"#), NOW);
    let renamed = kept.keeper.update("b", patch(r#"{"name":"x"}"#), NOW);
    let also_off = kept.keeper.update("b", patch(r#"{"disabled":true}"#), NOW);
    let changed = kept.keeper.update("c", patch(r#"{"name":"x"}"#), NOW);
    let deleted = kept.keeper.delete("c");
    let twice = kept.keeper.delete("c");
    let too_late = kept.keeper.update("c", patch("{}"), NOW);
    let creates: Vec<_> = (0..50).map(|_| kept.keeper.create(new(), NOW)).collect();
    drop(others);
    for answer in [off, on, renamed, also_off, changed, deleted] {
        answer.wait().unwrap();
    }
    first.wait().unwrap();
    assert!(matches!(too_late.wait(), Err(WriteError::NotFound)));
    // Gone, and by then on disk too: a second deletion is as good as the first, or too late.
    assert!(matches!(twice.wait(), Ok(_) | Err(WriteError::NotFound)));
    assert!(creates.into_iter().all(|create| create.wait().is_ok()));
    let (again, _, _) = keep(&kept.file(), false);
    assert_eq!(again.len(), 53);
    assert!(again.by_id("c").is_none() && !again.by_id("a").unwrap().key().disabled());
    let b = again.by_id("b").unwrap();
    assert!(b.key().disabled() && b.key().name() == "x");
    assert_eq!(kept.in_table(), kept.on_disk());
}

#[test]
fn what_others_wrote_is_merged_before_a_write_and_not_lost() {
    let kept = Kept::with(&["a", "b", "c"]);
    kept.overwrite(&text_of(&["c", "b", "d"]));
    let created = kept.keeper.create(new(), NOW).wait().unwrap();
    let expected = ["c", "b", "d", created.entry.key().id()];
    assert_eq!(kept.on_disk(), expected);
    assert_eq!(kept.in_table(), expected);
    kept.event("Merged");
    kept.replace(&text_of(&["c", "b", "d", "e"]));
    kept.keeper.delete("e").wait().unwrap();
    assert_eq!(kept.on_disk(), ["c", "b", "d"]);
}

#[test]
fn two_processes_that_write_one_file_lose_nothing() {
    let kept = Kept::with(&["a"]);
    let (_, other, _) = keep(&kept.file(), false);
    let created: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = [&kept.keeper, &other, &kept.keeper, &other]
            .into_iter()
            .map(|keeper| {
                scope.spawn(|| {
                    let create = |_| keeper.create(new(), NOW).wait().unwrap();
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
    let on_disk = kept.on_disk();
    assert_eq!(on_disk.len(), 101);
    assert!(created.iter().all(|id| on_disk.contains(id)));
    kept.keeper.reload(Drops::Guarded).wait().unwrap();
    assert_eq!(kept.in_table(), on_disk);
}

#[test]
fn a_reload_without_a_change_keeps_the_generation_and_one_of_another_order_does_not() {
    let kept = Kept::with(&["a", "b", "c"]);
    let reload = |ids: &[&str]| {
        kept.replace(&text_of(ids));
        let reloaded = kept.keeper.reload(Drops::Guarded).wait().unwrap();
        assert!(reloaded.difference.is_empty());
        assert_eq!(kept.in_table(), ids);
        reloaded.generation
    };
    let first = kept.table.generation();
    assert_eq!(reload(&["a", "b", "c"]), first);
    let reordered = reload(&["b", "c", "a"]);
    assert!(reordered > first);
    assert_eq!(reload(&["b", "c", "a"]), reordered);
}

#[test]
fn a_faulty_file_changes_nothing_and_is_not_overwritten() {
    let kept = Kept::with(&["a", "b"]);
    let generation = kept.table.generation();
    let broken = format!("{}{{\"id\":\"x\"", line("a"));
    kept.overwrite(&broken);
    let error = kept.keeper.reload(Drops::Forced).wait().unwrap_err();
    assert_eq!(error.faults()[0].line, 2);
    assert!(error.to_string().contains("keys.jsonl:2: "), "{error}");
    let status = kept.keeper.status();
    assert_eq!(status.last_reload.result, ReloadResult::Faulty);
    assert_eq!(status.last_reload.message, error.to_string());
    let (in_force, obstacle) = not_written(kept.keeper.create(new(), NOW).wait());
    assert!(!in_force && obstacle.faults().len() == 1);
    let rename = patch(r#"{"name":"x"}"#);
    let (in_force, _) = not_written(kept.keeper.update("a", rename, NOW).wait());
    assert!(!in_force);
    assert_eq!(kept.table.generation(), generation);
    assert_eq!(fs::read_to_string(kept.file()).unwrap(), broken);
}

#[test]
fn a_missing_file_is_a_failed_reload_and_no_write_brings_it_back() {
    let kept = Kept::with(&["a"]);
    fs::remove_file(kept.file()).unwrap();
    let error = kept.keeper.reload(Drops::Guarded).wait().unwrap_err();
    assert_eq!(
        (error.faults().len(), error.result()),
        (1, ReloadResult::Failed)
    );
    let (in_force, obstacle) = not_written(kept.keeper.create(new(), NOW).wait());
    assert!(!in_force && !obstacle.faults().is_empty());
    assert!(not_written(kept.keeper.delete("a").wait()).0);
    assert!(kept.table.is_empty() && !kept.file().exists());
}

#[test]
fn a_delete_and_a_disable_are_in_force_though_the_file_is_faulty_and_stay_so() {
    let kept = Kept::with(&["a", "b", "c", "d"]);
    let good = fs::read_to_string(kept.file()).unwrap();
    kept.overwrite(&(good.clone() + "torn"));
    let (in_force, obstacle) = not_written(kept.keeper.delete("a").wait());
    assert!(in_force && !obstacle.faults().is_empty());
    let both = patch(r#"{"disabled":true,"name":"other"}"#);
    assert!(not_written(kept.keeper.update("b", both, NOW).wait()).0);
    let b = kept.table.by_id("b").unwrap();
    assert!(b.key().disabled() && b.key().name() == "n");
    assert!(kept.table.find(&hash("a")).is_none());
    assert_eq!(kept.keeper.status().unwritten, 2);
    assert!(kept.keeper.status().obstacle.is_some());
    // Asked again, it is tried again.
    assert!(not_written(kept.keeper.delete("a").wait()).0);
    // What can't be written can't be undone either, and is not.
    let enable = patch(r#"{"disabled":false}"#);
    assert!(!not_written(kept.keeper.update("b", enable, NOW).wait()).0);
    assert!(kept.table.by_id("b").unwrap().key().disabled());

    // The file is mended by someone who knows nothing of this.
    kept.replace(&good);
    for drops in [Drops::Guarded, Drops::Forced] {
        kept.keeper.reload(drops).wait().unwrap();
        assert!(kept.table.by_id("a").is_none());
        assert!(kept.table.by_id("b").unwrap().key().disabled());
        assert_eq!(kept.keeper.status().unwritten, 2);
    }
    kept.keeper.create(new(), NOW).wait().unwrap();
    let status = kept.keeper.status();
    assert!(status.unwritten == 0 && status.obstacle.is_none());
    let (again, _, _) = keep(&kept.file(), false);
    assert!(again.by_id("a").is_none() && again.by_id("b").unwrap().key().disabled());
    assert_eq!(again.len(), 4);
}

#[test]
fn an_unwritten_change_is_written_without_being_asked_again() {
    let kept = Kept::with(&["a", "b", "c"]);
    let good = fs::read_to_string(kept.file()).unwrap();
    kept.overwrite("torn");
    assert!(not_written(kept.keeper.delete("a").wait()).0);
    kept.replace(&good);
    let begin = Instant::now();
    kept.event("CaughtUp");
    assert!(begin.elapsed() < RETRY_EVERY + Duration::from_secs(5));
    assert_eq!(kept.on_disk(), ["b", "c"]);
    assert_eq!(kept.keeper.status().unwritten, 0);
}

#[test]
fn an_unwritten_change_is_tried_once_more_when_the_last_handle_goes() {
    let kept = Kept::with(&["a", "b", "c"]);
    let good = fs::read_to_string(kept.file()).unwrap();
    kept.overwrite("torn");
    assert!(not_written(kept.keeper.delete("a").wait()).0);
    kept.replace(&good);
    let Kept {
        folder,
        keeper,
        events,
        ..
    } = kept;
    drop(keeper);
    let last = events.iter().last().unwrap();
    assert!(last.starts_with("CaughtUp"), "{last}");
    assert_eq!(ids_in(&folder.path().join("keys.jsonl")), ["b", "c"]);
}

#[test]
fn an_unwritten_change_that_others_wrote_is_forgotten() {
    let kept = Kept::with(&["a", "b", "c"]);
    kept.overwrite("torn");
    assert!(not_written(kept.keeper.delete("a").wait()).0);
    let disable = patch(r#"{"disabled":true}"#);
    assert!(not_written(kept.keeper.update("b", disable, NOW).wait()).0);
    let disabled = line("b").replace("}}", "},\"disabled\":true}");
    kept.replace(&(disabled + &line("c")));
    kept.keeper.reload(Drops::Guarded).wait().unwrap();
    assert_eq!(kept.keeper.status().unwritten, 0);
    // From now on the key is the file's again.
    kept.replace(&text_of(&["a", "b", "c"]));
    kept.keeper.reload(Drops::Guarded).wait().unwrap();
    assert!(!kept.table.by_id("b").unwrap().key().disabled());
    assert!(kept.table.by_id("a").is_some());
}

#[test]
fn a_file_that_drops_too_many_keys_is_refused_unless_forced() {
    let kept = Kept::with(&["a", "b", "c", "d"]);
    kept.replace(&text_of(&["a"]));
    for answer in [
        kept.keeper.rehearse(Drops::Guarded),
        kept.keeper.reload(Drops::Guarded),
    ] {
        match answer.wait() {
            Err(Obstacle::DropsTooMany(drops)) => {
                assert_eq!(
                    (drops.dropped, drops.of, drops.max_drop_percent),
                    (3, 4, 50)
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kept.keeper.status().last_reload.result.label(), "dropped");
    let (in_force, obstacle) = not_written(kept.keeper.create(new(), NOW).wait());
    assert!(!in_force && matches!(obstacle, Obstacle::DropsTooMany(_)));
    assert!(not_written(kept.keeper.delete("b").wait()).0);
    assert_eq!(kept.in_table(), ["a", "c", "d"]);
    assert_eq!(kept.on_disk(), ["a"], "what was refused is not overwritten");
    let forced = kept.keeper.reload(Drops::Forced).wait().unwrap();
    assert_eq!((forced.keys, forced.difference.removed.len()), (1, 2));
    assert_eq!(kept.keeper.status().unwritten, 0);
    kept.keeper.create(new(), NOW).wait().unwrap();
    // Exactly the allowed part may go.
    kept.replace(&text_of(&["a"]));
    assert!(kept.keeper.reload(Drops::Guarded).wait().is_ok());
}

#[test]
fn a_rehearsal_tells_the_difference_and_changes_nothing() {
    let kept = Kept::with(&["a", "b"]);
    let generation = kept.table.generation();
    let changed = line("b").replace("\"n\"", "\"other\"");
    kept.replace(&(line("a") + &changed + &line("c")));
    let told = kept.keeper.rehearse(Drops::Guarded).wait().unwrap();
    assert_eq!((told.keys, told.generation), (3, generation));
    assert_eq!(kept.in_table(), ["a", "b"]);
    let done = kept.keeper.reload(Drops::Guarded).wait().unwrap();
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
    assert_eq!(kept.table.by_id("b").unwrap().key().name(), "other");
}

#[test]
fn a_thousand_reloads_at_once_are_few_reads_and_the_last_content_wins() {
    let kept = Kept::with(&["a"]);
    let mut answers = Vec::new();
    for round in 0..100 {
        kept.replace(&text_of(&["a", &format!("key_{round}")]));
        answers.extend((0..10).map(|_| kept.keeper.reload(Drops::Guarded)));
    }
    let mut last = None;
    for answer in answers {
        last = Some(answer.wait().unwrap());
    }
    assert_eq!(kept.in_table(), ["a", "key_99"]);
    assert_eq!(last.unwrap().keys, 2);
    let reads = kept.events.try_iter().count();
    assert!((1..=110).contains(&reads), "{reads}");
}

#[test]
fn a_create_beside_reloads_is_never_lost() {
    let kept = Kept::with(&["a"]);
    let created: Vec<_> = (0..50)
        .map(|_| {
            let reload = kept.keeper.reload(Drops::Guarded);
            let created = kept.keeper.create(new(), NOW);
            let again = kept.keeper.reload(Drops::Guarded);
            reload.wait().unwrap();
            again.wait().unwrap();
            created.wait().unwrap().entry.key().id().to_owned()
        })
        .collect();
    assert_eq!(kept.in_table()[1..], created);
    assert_eq!(kept.on_disk()[1..], created);
}

#[test]
fn a_watched_file_is_reloaded_when_it_changes_even_by_a_swapped_link() {
    let kept = Kept::start(&["a"], true);
    kept.replace(&text_of(&["a", "b"]));
    while kept.in_table() != ["a", "b"] {
        kept.event("Reloaded");
    }
    kept.replace("torn");
    kept.event("ReloadFailed");
    assert_eq!(kept.in_table(), ["a", "b"]);
    // As Kubernetes swaps a mounted secret: a link to a folder that is replaced as a whole.
    let here = |name: &str| kept.folder.path().join(name);
    fs::create_dir(here("one")).unwrap();
    fs::write(here("one/keys.jsonl"), text_of(&["a", "b", "c"])).unwrap();
    std::os::unix::fs::symlink("one/keys.jsonl", here("link")).unwrap();
    fs::rename(here("link"), kept.file()).unwrap();
    while kept.in_table() != ["a", "b", "c"] {
        kept.event("Reloaded");
    }
}

#[test]
fn answers_can_be_awaited() {
    let kept = Kept::with(&["a"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let created = kept.keeper.create(new(), NOW).await.unwrap();
        let id = created.entry.key().id();
        kept.keeper.delete(id).await.unwrap();
        kept.keeper.reload(Drops::Guarded).await.unwrap();
    });
    assert_eq!(kept.on_disk(), ["a"]);
}
