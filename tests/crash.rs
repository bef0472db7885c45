//! What the key store has acknowledged survives kills at random moments and a disk that fails at each step.
//!
//! The store under test runs in a process of its own: this test binary starts itself again with [`ROLE`] and [`FOLDER`]
//! set, and the new process runs the one test [`the_process_under_test`], which plays the role.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests; they may stop where a test would"
)]

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keygate::policy::time::UnixTime;
use keygate::store::config;
use keygate::store::key_file;
use keygate::store::key_store::{KeyStore, StoreError, WriteError};
use keygate::store::patch::{NewKey, parse_new, parse_patch};
use keygate::table::{NO_YIELD, Table};

#[path = "blackbox/support/small_disk.rs"]
#[allow(
    clippy::expect_used,
    unreachable_pub,
    reason = "the black-box tests use it too"
)]
mod small_disk;

use small_disk::SmallDisk;

const ROLE: &str = "KEYGATE_CRASH_ROLE";
const FOLDER: &str = "KEYGATE_CRASH_FOLDER";
/// Set if the disk fails only once.
const ONCE: &str = "KEYGATE_CRASH_ONCE";
const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
/// Keys in the file that a failing disk must not change: enough that the file is larger than `FILE_LIMIT`.
const KEYS: usize = 40;
/// Bytes that a process may write to one file. The limit simulates a full disk.
const FILE_LIMIT: usize = 4096;

#[test]
fn the_process_under_test() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return;
    };
    let file = PathBuf::from(folder).join("keys.jsonl");
    match role.as_str() {
        "writes until killed" => write_until_killed(&file),
        "finds that nothing can be written" => assert_nothing_can_be_written(&file),
        "creates one key" => create_one_key(&file),
        other => panic!("no role is called {other}"),
    }
}

#[test]
fn a_thousand_writes_killed_at_random_moments_lose_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.jsonl");
    key_file::create(&file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut random = Random(std::process::id().into());
    let (mut there, mut gone) = (HashSet::new(), HashSet::new());
    let (mut acknowledged, mut kills) = (0, 0);
    while acknowledged < 1000 || kills < 30 {
        assert!(
            Instant::now() < deadline,
            "{acknowledged} writes, {kills} kills"
        );
        let mut child = started_again("writes until killed", folder.path(), &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acks = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = random.below(60);
        let delay = Duration::from_micros(random.below(5000));
        let mut unsure = HashSet::new();
        let mut seen = 0;
        for ack in acks.map_while(Result::ok) {
            match ack.split_once(' ') {
                Some(("created", id)) => {
                    there.insert(id.to_owned());
                    acknowledged += 1;
                }
                Some(("deleting", id)) => {
                    unsure.insert(id.to_owned());
                }
                Some(("deleted", id)) => {
                    unsure.remove(id);
                    there.remove(id);
                    gone.insert(id.to_owned());
                    acknowledged += 1;
                }
                _ => continue,
            }
            seen += 1;
            if seen == last + 1 {
                let moment = Instant::now() + delay;
                while Instant::now() < moment {
                    std::hint::spin_loop();
                }
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        kills += 1;
        let on_disk: HashSet<String> = ids_in(&file).into_iter().collect();
        for id in &there {
            assert!(
                unsure.contains(id) || on_disk.contains(id),
                "{id} was created and is lost"
            );
        }
        for id in &gone {
            assert!(!on_disk.contains(id), "{id} was deleted and is back");
        }
        // A write that was running at the kill may have happened or not. From here on the file decides.
        there = on_disk;
    }
    // The next write removes everything that killed processes left beside the file.
    let (_, store) = open(&file);
    store.create(new(), NOW).wait().unwrap();
    assert_eq!(names_in(folder.path()), ["keys.jsonl"]);
}

#[test]
fn a_write_past_the_limit_of_a_files_size_changes_nothing() {
    let folder = a_folder_with_keys();
    // The signal SIGXFSZ is ignored, since a full disk sends no signal.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", FILE_LIMIT / 512);
    survives(
        "finds that nothing can be written",
        folder.path(),
        &["sh", "-c", &script, "sh"],
    );
}

#[test]
fn failing_system_calls_change_nothing_whichever_step_they_hit() {
    if !may_trace() {
        return;
    }
    for fault in [
        "fsync:error=EIO",
        // The fsync of the file succeeds and that of the folder fails. By then the new file is in place.
        "fsync:error=EIO:when=2",
        "rename:error=EIO",
        "rename,renameat,renameat2:error=ENOSPC",
        "fchmod:error=EPERM",
        "fchmod:error=EPERM:when=2",
        "unlink,unlinkat:error=EROFS",
    ] {
        let folder = a_folder_with_keys();
        if fault.starts_with("unlink") {
            fs::write(folder.path().join(".keys.jsonl.new"), "left behind").unwrap();
            // The lock file cannot be removed and stays, and the next holder reuses it.
            fs::write(folder.path().join(".keys.jsonl.lock"), "").unwrap();
        }
        let inject = format!("inject={fault}");
        let calls = fault.split(':').next().unwrap_or_default();
        let trace = format!("trace={calls}");
        let strace = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        survives("finds that nothing can be written", folder.path(), &strace);
    }
}

/// The system calls that read, write and replace a key file, under all their names.
const FILE_CALLS: [&str; 9] = [
    "openat",
    "unlink,unlinkat",
    "write",
    "fstat,newfstatat,statx",
    "fchmod",
    "fsync",
    "rename,renameat,renameat2",
    "flock",
    "close",
];

#[test]
fn a_kill_at_each_step_of_a_write_leaves_the_old_file_or_the_new_one() {
    if !may_trace() {
        return;
    }
    let (mut old, mut new) = (0, 0);
    at_every_step(&FILE_CALLS, "signal=KILL", |folder, told| {
        let file = folder.join("keys.jsonl");
        let ids = ids_in(&file);
        assert!((KEYS..=KEYS + 1).contains(&ids.len()), "{} keys", ids.len());
        assert!((0..KEYS).all(|at| ids.contains(&format!("key_{at}"))));
        match acknowledged(told) {
            Some(id) => assert!(ids.contains(&id), "{id} was created and is lost"),
            None if ids.len() == KEYS => old += 1,
            None => new += 1,
        }
        // The next process finds a valid file and removes what was left behind.
        let (_, store) = open(&file);
        store.create(self::new(), NOW).wait().unwrap();
        assert_eq!(ids_in(&file).len(), ids.len() + 1);
        assert_eq!(names_in(folder), ["keys.jsonl"]);
    });
    // Kills before and after the rename.
    assert!(
        old > 5 && new > 0,
        "killed {old} times before and {new} times after"
    );
}

#[test]
fn an_error_at_each_step_of_a_write_is_told_and_changes_nothing() {
    if !may_trace() {
        return;
    }
    let faults: [(&str, &[&str], usize); 4] = [
        ("EIO", &FILE_CALLS, 10),
        ("ENOSPC", &["openat", "write", "fsync"], 4),
        ("EDQUOT", &["openat", "write", "fsync"], 4),
        ("EROFS", &["openat", "unlink,unlinkat"], 3),
    ];
    for (error, calls, least) in faults {
        let mut refused = 0;
        at_every_step(calls, &format!("error={error}"), |folder, told| {
            let ids = ids_in(&folder.join("keys.jsonl"));
            match acknowledged(told) {
                Some(id) => assert!(ids.contains(&id), "{id} was created and is lost"),
                None => {
                    assert_eq!(ids.len(), KEYS, "what was not acknowledged is there");
                    refused += 1;
                }
            }
        });
        assert!(refused >= least, "{error} was met {refused} times");
    }
}

/// Whether strace works here. Prints a line if it does not.
fn may_trace() -> bool {
    let strace = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .status();
    let may = strace.is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: strace is not installed, or may not trace here");
    }
    may
}

/// The id of the key that the process says it has created.
fn acknowledged(told: &str) -> Option<String> {
    let id = told.split_once("created ")?.1;
    Some(id.split_whitespace().next()?.to_owned())
}

/// Creates a key once for each of these system calls on the key file, its folder, its lock file and its temporary file,
/// and injects the fault into that call. `check` gets the folder and the output of the process.
fn at_every_step(calls: &[&str], fault: &str, mut check: impl FnMut(&Path, &str)) {
    for calls in calls {
        let mut step = 1;
        while let Some((folder, told)) = create_with_a_fault(calls, fault, step) {
            check(folder.path(), &told);
            step += 1;
            assert!(step < 100, "there is no end of {calls}");
        }
        assert!(step > 1, "{calls} is never called");
    }
}

/// None if there are fewer such calls: then no fault was injected, and the key was created.
fn create_with_a_fault(
    calls: &str,
    fault: &str,
    step: usize,
) -> Option<(tempfile::TempDir, String)> {
    let folder = a_folder_with_keys();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let output = started_again(
        "creates one key",
        folder.path(),
        &[
            "strace",
            "-f",
            "-qq",
            "-o",
            &elsewhere.path().to_string_lossy(),
            "-P",
            &folder.path().to_string_lossy(),
            "-P",
            &path("keys.jsonl"),
            "-P",
            &path(".keys.jsonl.new"),
            "-P",
            &path(".keys.jsonl.lock"),
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={calls}:{fault}:when={step}"),
        ],
    )
    .output()
    .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let trace = fs::read_to_string(elsewhere.path()).unwrap();
    if trace.contains("INJECTED") || trace.contains("killed by SIGKILL") {
        return Some((folder, told));
    }
    assert!(acknowledged(&told).is_some(), "{trace}\n{told}");
    None
}

#[test]
fn a_full_and_a_read_only_disk_change_nothing_and_are_caught_up_with() {
    let Some(disk) = SmallDisk::mounted("256k") else {
        return;
    };
    let file = disk.path("keys.jsonl");
    fs::write(&file, lines(KEYS)).unwrap();
    let filler = disk.fill();
    let (table, store) = open(&file);
    let before = fs::read(&file).unwrap();
    let full = not_written(store.create(new(), NOW).wait(), false);
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    not_written(store.delete("key_1").wait(), true);
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(names_in(disk.folder()), ["filler", "keys.jsonl"]);
    fs::remove_file(&filler).unwrap();

    assert!(is_remounted(&disk, "ro"));
    let read_only = not_written(store.create(new(), NOW).wait(), false);
    assert_eq!(read_only.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    not_written(store.delete("key_2").wait(), true);
    assert!(store.status().pending == 2 && table.len() == KEYS - 2);
    assert!(is_remounted(&disk, "rw"));

    store.create(new(), NOW).wait().unwrap();
    let on_disk = ids_in(&file);
    assert!(on_disk.len() == KEYS - 1 && !on_disk.iter().any(|id| id == "key_1" || id == "key_2"));
    assert_eq!(store.status().pending, 0);
}

#[test]
fn no_file_the_key_store_makes_is_ever_wider_than_the_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let script = "umask 000; exec \"$@\"";
    let file = folder.path().join("keys.jsonl");
    key_file::create(&file).unwrap();
    let mut child = started_again(
        "writes until killed",
        folder.path(),
        &["sh", "-c", script, "sh"],
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let acks = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in acks.map_while(Result::ok).take(100) {
        for found in fs::read_dir(folder.path()).unwrap().flatten() {
            // The file may be removed already.
            if let Ok(metadata) = found.metadata() {
                assert_eq!(metadata.permissions().mode() & 0o077, 0, "{found:?}");
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Four threads create keys and delete two of three. They print each acknowledgement at once.
fn write_until_killed(file: &Path) {
    let (_, store) = open(file);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let ids: Vec<String> = (0..3)
                        .map(|_| {
                            let created = store.create(new(), NOW).wait().unwrap();
                            let id = created.entry.key().id().to_owned();
                            println!("created {id}");
                            id
                        })
                        .collect();
                    for id in &ids[..2] {
                        println!("deleting {id}");
                        store.delete(id).wait().unwrap();
                        println!("deleted {id}");
                    }
                }
            });
        }
    });
}

fn create_one_key(file: &Path) {
    let (_, store) = open(file);
    if let Ok(created) = store.create(new(), NOW).wait() {
        println!("created {}", created.entry.key().id());
    }
}

fn assert_nothing_can_be_written(file: &Path) {
    let before = fs::read(file).unwrap();
    let names = names_in(file.parent().unwrap());
    let untouched = || {
        assert_eq!(fs::read(file).unwrap(), before);
        assert_eq!(names_in(file.parent().unwrap()), names);
    };
    let (table, store) = open(file);
    let generation = table.generation();
    not_written(store.create(new(), NOW).wait(), false);
    untouched();
    assert_eq!(table.generation(), generation);
    if std::env::var_os(ONCE).is_some() {
        // The fault is over: the step that failed is done again, not taken as done.
        store.create(new(), NOW).wait().unwrap();
        assert_eq!(ids_in(file).len(), KEYS + 1);
        fs::write(file, before).unwrap();
        return;
    }
    let rename = parse_patch(br#"{"name":"other"}"#).unwrap();
    not_written(store.update("key_3", rename, NOW).wait(), false);
    assert_eq!(table.generation(), generation);
    not_written(store.delete("key_4").wait(), true);
    let disable = parse_patch(br#"{"disabled":true}"#).unwrap();
    not_written(store.update("key_5", disable, NOW).wait(), true);
    assert!(table.by_id("key_4").is_none() && table.by_id("key_5").unwrap().key().disabled());
    assert_eq!(store.status().pending, 2);
    untouched();
}

/// Runs a role under a command that makes its disk fail, and asserts that the role's own assertions hold.
fn survives(role: &str, folder: &Path, under: &[&str]) {
    let file = folder.join("keys.jsonl");
    let before = fs::read(&file).unwrap();
    let output = started_again(role, folder, under).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{under:?}: {told}"
    );
    assert_eq!(fs::read(&file).unwrap(), before, "{under:?}");
}

fn started_again(role: &str, folder: &Path, under: &[&str]) -> Command {
    let binary = std::env::current_exe().unwrap();
    let mut command = match under {
        [] => Command::new(binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    command
        .args([
            "--exact",
            "the_process_under_test",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(FOLDER, folder);
    if under.iter().any(|argument| argument.contains(":when=")) {
        command.env(ONCE, "");
    }
    command
}

fn open(file: &Path) -> (Arc<Table>, KeyStore) {
    let settings = config::KeysConfig {
        source: config::KeysSource::File,
        max_stale: None,
        file: file.to_owned(),
        named: true,
        watch: false,
        max_drop_percent: 50,
        default_limits: keygate::policy::key_limits::KeyLimits::default(),
        limits_unavailable: keygate::policy::fleet_link::LimitsUnavailable::LocalShare,
    };
    let table = Arc::new(Table::default());
    let loaded = key_file::read(file, &table, NO_YIELD).unwrap();
    let store = KeyStore::start(&settings, Arc::clone(&table), loaded, |_| ()).unwrap();
    (table, store)
}

fn new() -> NewKey {
    parse_new(br#"{"name":"new","model_access":{"mode":"all"}}"#).unwrap()
}

fn a_folder_with_keys() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(KEYS);
    assert!(text.len() > FILE_LIMIT);
    fs::write(folder.path().join("keys.jsonl"), text).unwrap();
    folder
}

fn lines(count: usize) -> String {
    let line = |number| {
        let start =
            format!("{{\"id\":\"key_{number}\",\"name\":\"n\",\"hash\":\"blake3:{number:064x}\"");
        start + ",\"model_access\":{\"mode\":\"all\"}}\n"
    };
    (0..count).map(line).collect()
}

fn ids_in(file: &Path) -> Vec<String> {
    let loaded = key_file::read(file, &Table::default(), NO_YIELD).unwrap();
    let ids = loaded
        .entries
        .iter()
        .map(|entry| entry.key().id().to_owned());
    ids.collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = names
        .map(|found| found.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn not_written<T: std::fmt::Debug>(
    answer: Result<T, WriteError>,
    still_in_force: bool,
) -> Arc<std::io::Error> {
    match answer {
        Err(WriteError::NotWritten {
            in_force,
            error: StoreError::Io(error),
        }) if in_force == still_in_force => error,
        other => panic!("{other:?}"),
    }
}

fn is_remounted(disk: &SmallDisk, mode: &str) -> bool {
    let remounted = Command::new("mount")
        .args(["-o", &format!("remount,{mode}")])
        .arg(disk.folder())
        .status();
    remounted.is_ok_and(|status| status.success())
}

/// A linear congruential generator: good enough to choose moments.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
