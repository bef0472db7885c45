//! What a fleet costs: many gateways that follow the keys of one database of PostgreSQL, and many keys in it, through the same
//! code that the gateway runs. The server is one of Debian's, on this machine. Prints tables; the figures in doc/measured.md come
//! from here.
//!
//! - `gateways 1 10 100`: so many that follow the keys;
//! - `keys 100000 1000000`: so many keys;
//! - `limits 1 10 100 1000`: so many limits in use that one gateway renews each second;
//! - `records 500 2000 10000`: so many usage records a second from one gateway.
//!
//! `cargo bench --bench fleet [-- WHAT NUMBER…]`
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the person at the terminal"
)]

#[path = "support/keys.rs"]
mod keys;
#[path = "../tests/postgres/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use more of it")]
mod postgres;
#[path = "support/records.rs"]
mod records;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keygate::policy::audit::ChangeOrigin;
use keygate::policy::shared_limit::{LeaseClaim, RenewalTime, SharedKind, SharedLimit, UseReport};
use keygate::policy::time::UnixTime;
use keygate::store::audit::AuditTrail;
use keygate::store::config::{KeysConfig, KeysSource};
use keygate::store::database::{
    ChangedLimit, Database, DatabaseUrl, KeepFor, PostgresUrl, SharedLimitId,
};
use keygate::store::key_source::transfer::{self, ImportSettings};
use keygate::store::key_store::KeyStore;
use keygate::store::patch;
use keygate::table::Table;

use postgres::TestServer;

/// The gateway's own, or its memory would not be what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Changes that are timed.
const CHANGES: usize = 200;
/// For so long the server's work is counted while nothing changes.
const AT_REST: Duration = Duration::from_secs(10);

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let what = arguments.next();
    let numbers: Vec<usize> = arguments.filter_map(|number| number.parse().ok()).collect();
    let or = |default: &[usize]| match numbers.is_empty() {
        true => default.to_vec(),
        false => numbers.clone(),
    };
    if what.as_deref().is_none_or(|what| what == "gateways") {
        or(&[1, 10, 100]).into_iter().for_each(gateways);
    }
    if what.as_deref().is_none_or(|what| what == "keys") {
        or(&[100_000, 1_000_000]).into_iter().for_each(many_keys);
    }
    if what.as_deref().is_none_or(|what| what == "limits") {
        or(&[1, 10, 100, 1000]).into_iter().for_each(renewals);
    }
    if what.as_deref().is_none_or(|what| what == "records") {
        or(&[500, 2_000, 10_000]).into_iter().for_each(usage);
    }
}

/// What a gateway has of its own.
struct Follower {
    store: KeyStore,
    table: Arc<Table>,
    database: Arc<Database>,
    folder: tempfile::TempDir,
}

fn server() -> TestServer {
    let server = TestServer::start_with(|_| vec!["max_connections=900".to_owned()]);
    server.create_database("fleet");
    server
}

fn follower(server: &TestServer, number: usize) -> Follower {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let audit_key = folder.path().join("audit.key");
    std::fs::write(&audit_key, "7".repeat(64)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&audit_key, private).unwrap();
    let url = server.url("fleet");
    let url = PostgresUrl::parse(url.strip_prefix("postgres://").unwrap(), Path::new("")).unwrap();
    let keep_for = KeepFor {
        records: 86_400,
        sums: 86_400,
        audit: 86_400,
    };
    let name = format!("g{number}");
    let database = Database::open(
        &DatabaseUrl::Postgres(url),
        &audit_key,
        &name,
        &name,
        keep_for,
        Box::new(|_| ()),
    );
    let database = Arc::new(database.unwrap());
    let table = Arc::new(Table::default());
    let settings = KeysConfig {
        source: KeysSource::Database,
        file: folder.path().join("copy.jsonl"),
        max_stale: None,
        named: true,
        watch: false,
        max_drop_percent: 50,
        default_limits: keygate::policy::key_limits::KeyLimits::default(),
        limits_unavailable: keygate::policy::fleet_link::LimitsUnavailable::LocalShare,
    };
    let audit = AuditTrail::of(Some(Arc::clone(&database)));
    let store = KeyStore::start_following(&settings, Arc::clone(&table), &database, audit, |_| ());
    Follower {
        store: store.unwrap(),
        table,
        database,
        folder,
    }
}

fn gateways(count: usize) {
    let server = server();
    let empty = resident();
    let all: Vec<Follower> = (0..count).map(|number| follower(&server, number)).collect();
    println!("{count} gateways in one process");
    let (mut everywhere, mut answered) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let by = &all[number % count];
        let new = patch::parse_new(br#"{"name":"new","model_access":{"mode":"all"}}"#).unwrap();
        let begin = Instant::now();
        by.store
            .create(new, UnixTime::from_seconds(0))
            .wait()
            .unwrap();
        answered.push(begin.elapsed());
        let wanted = *by.store.revision().borrow();
        for follower in &all {
            until(|| *follower.store.revision().borrow() >= wanted);
        }
        everywhere.push(begin.elapsed());
    }
    println!("  a change, answered        {}", shares(&mut answered));
    println!("  in force on all           {}", shares(&mut everywhere));
    println!(
        "  resident                  {} KB a gateway",
        resident().saturating_sub(empty) / count / 1000
    );
    let transactions = || -> u64 {
        let sql =
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'fleet'";
        server.query("postgres", sql).parse().unwrap()
    };
    // The server counts what a connection did up to 10 s later.
    std::thread::sleep(AT_REST + Duration::from_secs(2));
    let (before, cpu, own) = (transactions(), server.cpu(), own_cpu());
    std::thread::sleep(AT_REST);
    let seconds = AT_REST.as_secs_f64();
    println!(
        "  at rest, a second         {:.1} transactions, {:.2} ms of CPU of the server, {:.2} ms of the gateways",
        (transactions() - before) as f64 / seconds,
        (server.cpu() - cpu).as_secs_f64() * 1e3 / seconds,
        (own_cpu() - own).as_secs_f64() * 1e3 / seconds,
    );
    stop(all);
}

fn many_keys(count: usize) {
    // In a process of its own: what another number has freed must not help.
    if std::env::var_os("FLEET_KEYS").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["keys", &count.to_string()])
            .env("FLEET_KEYS", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let server = server();
    let one = follower(&server, 0);
    let file = one.folder.path().join("keys.jsonl");
    keys::write(&file, count, keys::Shape::Plain);
    println!("{count} keys in the database");
    let begin = Instant::now();
    let import = ImportSettings {
        file: &file,
        max_drop_percent: None,
        dry_run: false,
        origin: ChangeOrigin::key_file(),
    };
    transfer::import(&one.database, import).unwrap();
    println!("  import                    {:?}", begin.elapsed());
    until(|| one.table.len() == count);
    println!("  followed after            {:?}", begin.elapsed());
    stop(vec![one]);
    let empty = resident();
    let begin = Instant::now();
    let two = follower(&server, 1);
    println!("  load at start             {:?}", begin.elapsed());
    assert_eq!(two.table.len(), count);
    println!(
        "  resident                  {} bytes a key",
        resident().saturating_sub(empty) / count
    );
    let three = follower(&server, 2);
    let (mut answered, mut everywhere) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        // At rest: the last good copies of both are written.
        std::thread::sleep(Duration::from_secs(6));
        let new = patch::parse_new(br#"{"name":"new","model_access":{"mode":"all"}}"#).unwrap();
        let begin = Instant::now();
        let made = two.store.create(new, UnixTime::from_seconds(0));
        let before = three.table.len();
        until(|| three.table.len() > before);
        everywhere.push(begin.elapsed());
        made.wait().unwrap();
        answered.push(begin.elapsed());
    }
    println!("  in force on the other     {}", shares(&mut everywhere));
    println!("  answered, with the copy   {}", shares(&mut answered));
    stop(vec![two, three]);
}

/// A gateway that renews the leases of as many limits each second, each of which was used in each second of the last minute.
fn renewals(count: usize) {
    /// After a minute as many uses end as begin.
    const FIRST_COUNTED: u64 = 62;
    let rounds = FIRST_COUNTED + (5_000 / count).clamp(10, 1_000) as u64;
    let server = server();
    let gateway = follower(&server, 0);
    let mut driver = gateway.database.lease_driver().unwrap();
    let id = |number: usize| SharedLimitId {
        holder: format!("key/key_{number:022}"),
        kind: SharedKind::Tokens.label(),
    };
    let ids: Vec<SharedLimitId> = (0..count).map(id).collect();
    let mut took = Vec::new();
    let mut cpu = server.cpu();
    for round in 1..=rounds {
        if round == FIRST_COUNTED {
            cpu = server.cpu();
        }
        let begin = Instant::now();
        let stored = driver.read_limits(&ids).unwrap();
        let changes = stored.limits.into_iter().map(|known| {
            let state = known.state.as_deref();
            let mut limit: SharedLimit = state.map_or_else(SharedLimit::default, |state| {
                serde_json::from_str(state).unwrap()
            });
            // The second is the round: the seconds of a minute need not pass.
            let now = RenewalTime {
                now: (1_800_000_000 + round as i64) * 1000,
                own: round * 1000,
                period_start: 0,
            };
            limit.renew("0123456789abcdef", &claim(round), now);
            ChangedLimit {
                id: known.id,
                version: known.version,
                state: serde_json::to_string(&limit).unwrap(),
                ends_at: limit.ends_at(),
            }
        });
        let changes: Vec<ChangedLimit> = changes.collect();
        assert_eq!(driver.change_limits(&changes).unwrap().len(), count);
        if round >= FIRST_COUNTED {
            took.push(begin.elapsed());
        }
    }
    let renewals = (rounds - FIRST_COUNTED + 1) as usize * count;
    println!(
        "{count} limits renewed at once: {}; {:.0} µs of CPU of the server a limit",
        shares(&mut took),
        (server.cpu() - cpu).as_secs_f64() * 1e6 / renewals as f64,
    );
    drop(driver);
    stop(vec![gateway]);
}

fn claim(round: u64) -> LeaseClaim {
    LeaseClaim {
        kind: SharedKind::Tokens,
        limit: 1_000_000,
        available: 1_000,
        least: 0,
        wanted: 2_000,
        reports: vec![UseReport {
            number: round,
            uses: vec![(round - 1, 1_000)],
        }],
        waits: false,
        ends: false,
    }
}

/// A gateway that serves so many requests a second.
fn usage(a_second: usize) {
    const SECONDS: usize = 20;
    let server = server();
    let gateway = follower(&server, 0);
    let parts = records::Parts::new(10_000);
    let sender = gateway.database.sender();
    let size = || -> u64 {
        let sql = "SELECT pg_database_size('fleet')";
        server.query("postgres", sql).parse().unwrap()
    };
    let (before, cpu, began) = (size(), server.cpu(), Instant::now());
    for tick in 0..SECONDS * 100 {
        for number in tick * a_second / 100..(tick + 1) * a_second / 100 {
            sender.add(parts.record(number));
        }
        let next = began + Duration::from_millis(10) * (tick as u32 + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(gateway.database.flush(Duration::from_secs(60)));
    let records = (a_second * SECONDS) as u64;
    let dropped = gateway.database.status().dropped_records;
    println!(
        "{a_second} records a second: {:.0} µs of CPU of the server a record, {} bytes on disk, {dropped} dropped",
        (server.cpu() - cpu).as_secs_f64() * 1e6 / records as f64,
        (size() - before) / records,
    );
    stop(vec![gateway]);
}

fn stop(all: Vec<Follower>) {
    for Follower {
        store, database, ..
    } in all
    {
        drop(store);
        database.stop(Duration::from_secs(5));
    }
}

fn until(done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "not within two minutes"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn shares(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let at =
        |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        at(50),
        at(99),
        at(100)
    )
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

fn own_cpu() -> Duration {
    postgres::cpu_of("self")
}
