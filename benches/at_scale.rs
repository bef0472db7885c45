//! What a large key table costs: memory, load, reload, and one create, through the same code the gateway runs. Prints a
//! table; the figures in the README come from here. `cargo bench --bench at_scale [-- KEYS…]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the person at the terminal"
)]

#[path = "support/keys.rs"]
mod keys;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use keygate::policy::key::KeyToken;
use keygate::policy::time::UnixTime;
use keygate::store::config;
use keygate::store::key_file;
use keygate::store::key_store::{DropLimit, KeyStore};
use keygate::store::patch;
use keygate::table::{NO_YIELD, Table};

/// The gateway's own, or its memory would not be what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let asked: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let counts = if asked.is_empty() {
        vec![100_000, 1_000_000]
    } else {
        asked
    };
    for count in counts {
        for shape in keys::Shape::ALL {
            measure(count, shape);
        }
    }
}

fn measure(count: usize, shape: keys::Shape) {
    // Each measurement in a process of its own: what an earlier one freed must not help.
    if std::env::var_os("AT_SCALE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .arg(count.to_string())
            .env("AT_SCALE", format!("{shape:?}"))
            .status();
        assert!(status.unwrap().success());
        return;
    }
    if std::env::var("AT_SCALE").unwrap() != format!("{shape:?}") {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("keys.jsonl");
    keys::write(&file, count, shape);
    let bytes = std::fs::metadata(&file).unwrap().len();
    println!(
        "{count} keys ({shape:?}), {} bytes a line",
        bytes / count as u64
    );

    let empty = resident();
    let table = Arc::new(Table::default());
    let begin = Instant::now();
    let loaded = key_file::read(&file, &table, NO_YIELD).unwrap();
    let parsed = begin.elapsed();
    let settings = config::KeysConfig {
        source: config::KeysSource::File,
        max_stale: None,
        file: file.clone(),
        named: true,
        watch: false,
        max_drop_percent: 50,
        default_limits: keygate::policy::key_limits::KeyLimits::default(),
        limits_unavailable: keygate::policy::fleet_link::LimitsUnavailable::LocalShare,
    };
    let store = KeyStore::start(&settings, Arc::clone(&table), loaded, |_| ()).unwrap();
    println!(
        "  load at start         {:?}, of it parsing {parsed:?}",
        begin.elapsed()
    );
    let a_key = |resident: usize| resident.saturating_sub(empty) / count;
    println!("  resident              {} bytes a key", a_key(resident()));

    let reload = |what: &str| {
        let begin = Instant::now();
        store.reload(DropLimit::Enforce).wait().unwrap();
        let took = begin.elapsed();
        println!(
            "  reload, {what:<13} {took:?}, then {} bytes a key",
            a_key(resident())
        );
    };
    reload("unchanged");
    reload("unchanged");
    for _ in 0..3 {
        let new = patch::parse_new(br#"{"name":"new","model_access":{"mode":"all"}}"#).unwrap();
        let begin = Instant::now();
        store.create(new, UnixTime::from_seconds(0)).wait().unwrap();
        println!("  create, answered in   {:?}", begin.elapsed());
    }
    println!("  resident              {} bytes a key", a_key(resident()));
    append(&file, count);
    reload("one key more");
    append(&file, count + 1);
    reload("one key more");
    keys::write(&file, count, shape.other());
    reload("all changed");
    keys::write(&file, count, shape);
    reload("all changed");
    for entry in table.in_file_order(NO_YIELD) {
        table.count(&entry, KeyToken::Current, UnixTime::from_seconds(1));
    }
    println!("  every key once used   {} bytes a key", a_key(resident()));
}

fn append(file: &Path, number: usize) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(keys::line(number + 10, keys::Shape::Plain).as_bytes())
        .unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}
