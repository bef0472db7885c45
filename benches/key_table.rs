//! The key table on the request path (hash a token, find its key, decide) and a reload of the key file.
#![allow(
    clippy::unwrap_used,
    reason = "a bench may stop where its set-up fails"
)]

#[path = "support/keys.rs"]
mod keys;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use keygate::policy::account::{AccountRules, JudgedKey, KeyDays};
use keygate::policy::decide;
use keygate::policy::key::KeyId;
use keygate::policy::network::ClientAddress;
use keygate::policy::time::UnixTime;
use keygate::policy::token::{Presented, TokenHash};
use keygate::store::{account_json, key_file};
use keygate::table::{NO_YIELD, Table};

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    on_the_request_path(&mut criterion);
    reloads(&mut criterion);
    reloads_with_accounts(&mut criterion);
    criterion.final_summary();
}

fn on_the_request_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for count in [10, 1_000_000] {
        let table = loaded(count);
        let hot = keys::token(count / 2);
        let hot_hash = TokenHash::of(hot.as_bytes());
        let tokens: Vec<String> = (0..count.min(100_000))
            .map(|at| keys::token(at * (count / count.min(100_000))))
            .collect();
        let mut next = 0;
        let id = |what| BenchmarkId::new(what, count);
        group.bench_function(id("find, one hot key"), |bench| {
            bench.iter(|| black_box(table.find(black_box(&hot_hash)).is_some()));
        });
        group.bench_function(id("hash + find + decide, one hot key"), |bench| {
            bench.iter(|| black_box(admitted(&table, black_box(&hot))));
        });
        group.bench_function(id("hash + find + decide, many keys"), |bench| {
            bench.iter(|| {
                next = (next + 7919) % tokens.len();
                black_box(admitted(&table, &tokens[next]))
            });
        });
        group.bench_function(id("hash + find, unknown token"), |bench| {
            bench.iter(|| black_box(admitted(&table, black_box("no-such-token"))));
        });
    }
    group.finish();
}

fn reloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reload");
    group.sample_size(10);
    for count in [100_000, 1_000_000] {
        group.throughput(Throughput::Elements(count as u64));
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = folder.path().join("keys.jsonl");
        keys::write(&file, count, keys::Shape::Plain);
        group.bench_function(BenchmarkId::new("into an empty table", count), |bench| {
            bench.iter_with_large_drop(|| {
                let table = Table::default();
                load(&table, &file);
                table
            });
        });
        let table = Table::default();
        load(&table, &file);
        group.bench_function(BenchmarkId::new("unchanged", count), |bench| {
            bench.iter(|| load(&table, &file));
        });
    }
    group.finish();
}

/// A hundred keys of each of ten thousand accounts, beside as many keys without one.
fn reloads_with_accounts(criterion: &mut Criterion) {
    const COUNT: usize = 1_000_000;
    const ACCOUNTS: usize = 10_000;
    let mut group = criterion.benchmark_group("accounts");
    group.sample_size(10);
    group.throughput(Throughput::Elements(COUNT as u64));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for accounts in [0, ACCOUNTS] {
        let file = folder.path().join(format!("keys-{accounts}.jsonl"));
        keys::write_of_accounts(&file, COUNT, accounts);
        group.bench_function(BenchmarkId::new("into an empty table", accounts), |bench| {
            bench.iter_with_large_drop(|| {
                let table = Table::default();
                for number in 0..accounts {
                    table.put_account(account(number));
                }
                load(&table, &file);
                table
            });
        });
    }
    group.finish();
}

fn account(number: usize) -> AccountRules {
    let id = KeyId::parse(&keys::account(number)).unwrap();
    let mut rules = account_json::unlimited(id, UnixTime::from_seconds(0));
    rules.max_key_days = KeyDays::of(90);
    rules
}

/// As the key-store worker does it.
fn load(table: &Table, file: &Path) {
    let loaded = key_file::read(file, table, NO_YIELD).unwrap();
    if table.compare(&loaded.entries, NO_YIELD).changes_table() {
        table.swap(loaded.entries, NO_YIELD);
    }
}

fn loaded(count: usize) -> Arc<Table> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("keys.jsonl");
    keys::write(&file, count, keys::Shape::Full);
    let table = Table::default();
    load(&table, &file);
    Arc::new(table)
}

fn admitted(table: &Table, token: &str) -> bool {
    let Some(presented) = Presented::parse(token.as_bytes()) else {
        return false;
    };
    let hash = presented.hash();
    let entry = table.find(&hash);
    let address = ClientAddress::of([192, 0, 2, 7].into());
    let caller = decide::caller(
        entry
            .as_deref()
            .map(|entry| JudgedKey::new(entry.key(), None)),
        &hash,
        address,
        UnixTime::from_seconds(0),
    );
    caller.is_ok_and(|caller| caller.for_model("bge-m3", None, |_| Some(())).is_ok())
}
