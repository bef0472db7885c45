//! Second opinions on HTTP/1: generated requests, many of them with something wrong, are read by keygate and by
//! hyper's server, nginx and HAProxy. Whatever keygate takes, each of the others has to read alike: as many requests,
//! the same method, target and body. Where keygate refuses what another takes, the difference is counted and named.
//! Every other difference fails the run, unless `judge::EXPLANATIONS` says why it does no harm.
//!
//! nginx and HAProxy have to be installed (`bash tests/tools` does it). A million cases, in about four minutes:
//!
//! ```text
//! KEYGATE_DIFFERENTIAL_CASES=1000000 cargo test --locked --test differential -- --nocapture
//! ```
//!
//! A case is a function of the seed and its number. The environment steers a run:
//!
//! - `KEYGATE_FUZZ_SEED`: the seed; a random one where it isn't set. It is printed.
//! - `KEYGATE_DIFFERENTIAL_CASES`: how many cases the gateway's reader gets in process. The running gateway, which is
//!   slower, gets as many of them as it says below, and never more than this.
//! - `KEYGATE_DIFFERENTIAL_EVERY`: the proxies get every case of this distance; hyper gets all.
//! - `KEYGATE_DIFFERENTIAL_CASE`: this case alone, and all that is read in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that can't go on has failed, and says where"
)]

mod codec;
#[path = "../fuzz/dice.rs"]
#[allow(dead_code, reason = "the fuzz targets use more of it")]
mod dice;
mod grammar;
mod hyper_server;
mod judge;
mod keygate_binary;
mod outcome;
mod proxies;
mod wire;

use std::collections::BTreeMap;
use std::time::Instant;

use codec::Codec;
use dice::{number, seed};
use grammar::{Case, Credentials, MUTATIONS, case};
use hyper_server::HyperServer;
use judge::{difference, explanation};
use keygate_binary::Gateway;
use outcome::{Outcome, Parser, Request, shown};
use proxies::{Lane, Proxy};

/// Threads, each with a lane of every proxy. Most of the time they wait for a proxy.
const WORKERS: usize = 8;
/// Cases that the running gateway gets at most.
const MOST_OF_THE_GATEWAY: u64 = 4_000;
/// Finds that are printed whole.
const SHOWN: usize = 40;

/// One thread's parsers.
struct Worker {
    keygate: Box<dyn Parser + Send>,
    credentials: Credentials,
    nginx: Lane,
    haproxy: Lane,
    report: Report,
}

/// What was found, by class.
#[derive(Default)]
struct Report {
    /// For each other parser: cases in which keygate took something and the other read it alike.
    alike: BTreeMap<&'static str, u64>,
    /// For each other parser: cases in which neither took anything.
    neither: BTreeMap<&'static str, u64>,
    /// Differences that do no harm: other, class; how many, and the number of the first.
    counted: BTreeMap<(&'static str, String), (u64, u64)>,
    /// Differences that fail the run, likewise, with the first one whole.
    finds: BTreeMap<(&'static str, String), (u64, u64, String)>,
    seen: BTreeMap<&'static str, u64>,
}

impl Report {
    fn merge(&mut self, other: Self) {
        for (name, count) in other.alike {
            *self.alike.entry(name).or_default() += count;
        }
        for (name, count) in other.neither {
            *self.neither.entry(name).or_default() += count;
        }
        for (name, count) in other.seen {
            *self.seen.entry(name).or_default() += count;
        }
        for (class, (count, first)) in other.counted {
            let entry = self.counted.entry(class).or_insert((0, first));
            entry.0 += count;
            entry.1 = entry.1.min(first);
        }
        for (class, (count, first, text)) in other.finds {
            let entry = self.finds.entry(class).or_insert((0, first, text));
            entry.0 += count;
        }
    }
}

impl Worker {
    fn run(&mut self, seed: u64, numbers: impl Iterator<Item = u64>, every: u64) {
        for number in numbers {
            let case = case(seed, number, &self.credentials);
            for mutation in &case.mutations {
                *self.report.seen.entry(mutation).or_default() += 1;
            }
            let keygate = self.keygate.parse(&case.bytes);
            let hyper = HyperServer.parse(&case.bytes);
            self.judge("hyper", number, &case, &keygate, &hyper);
            if number.is_multiple_of(every) {
                for name in ["nginx", "haproxy"] {
                    let lane = if name == "nginx" {
                        &self.nginx
                    } else {
                        &self.haproxy
                    };
                    let other = read(lane, &keygate, &case.bytes);
                    self.judge(name, number, &case, &keygate, &other);
                }
            }
        }
    }

    fn judge(
        &mut self,
        name: &'static str,
        number: u64,
        case: &Case,
        keygate: &[Outcome],
        other: &[Outcome],
    ) {
        let Some((kind, at)) = difference(keygate, other) else {
            let took = matches!(
                keygate.first(),
                Some(Outcome::Request(_) | Outcome::Answered(_))
            );
            let count = if took {
                &mut self.report.alike
            } else {
                &mut self.report.neither
            };
            *count.entry(name).or_default() += 1;
            return;
        };
        let what = match case.mutations.as_slice() {
            [] => "nothing wrong",
            [one] => one,
            _ => "several things wrong",
        };
        let why = MUTATIONS
            .iter()
            .find(|mutation| mutation.name == what)
            .map_or("each is a class of its own", |mutation| mutation.why);
        let class = if kind.is_harmless() {
            format!("{}: {what} ({why})", kind.text())
        } else if let Some(known) = explanation(name, (kind, at), keygate, other, &case.bytes) {
            format!("{}: {} ({})", kind.text(), known.name, known.reason)
        } else {
            let class = format!("{}: {what}", kind.text());
            let entry = self.report.finds.entry((name, class)).or_insert_with(|| {
                let place = match keygate.get(at) {
                    Some(Outcome::Request(Request {
                        place: Some(place), ..
                    })) => place.clone(),
                    _ => 0..case.bytes.len(),
                };
                let text = format!(
                    "case {number}, {:?}; see it whole with KEYGATE_FUZZ_SEED and KEYGATE_DIFFERENTIAL_CASE\n    b\"{}\"\n    keygate: {}\n    {name}: {}",
                    case.mutations,
                    case.bytes[place].escape_ascii(),
                    shown(keygate),
                    shown(other)
                );
                (0, number, text)
            });
            entry.0 += 1;
            return;
        };
        self.report
            .counted
            .entry((name, class))
            .or_insert((0, number))
            .0 += 1;
    }
}

/// A proxy's reading. Waiting is left out where it can't tell anything: where keygate took nothing at the end, unless a
/// first reading differs, and behind as many requests as keygate took.
fn read(lane: &Lane, keygate: &[Outcome], bytes: &[u8]) -> Vec<Outcome> {
    if matches!(
        keygate.last(),
        Some(Outcome::Refused(_) | Outcome::Incomplete)
    ) {
        let other = lane.parse_in_haste(bytes);
        if difference(keygate, &other).is_none_or(|(kind, _)| kind.is_harmless()) {
            return other;
        }
    }
    let is_all = |outcome: &Outcome| matches!(outcome, Outcome::Request(_));
    if keygate.iter().all(is_all) {
        lane.parse_requests(bytes, keygate.len())
    } else {
        lane.parse(bytes)
    }
}

/// Starts everything and divides the cases.
fn run(
    seed: u64,
    cases: u64,
    every: u64,
    keygate: Vec<(Box<dyn Parser + Send>, Credentials)>,
) -> Report {
    let (_nginx, nginx) = Proxy::nginx(WORKERS);
    let (_haproxy, haproxy) = Proxy::haproxy(WORKERS);
    let workers: Vec<Worker> = keygate
        .into_iter()
        .zip(nginx)
        .zip(haproxy)
        .map(|(((keygate, credentials), nginx), haproxy)| Worker {
            keygate,
            credentials,
            nginx,
            haproxy,
            report: Report::default(),
        })
        .collect();
    let mut report = Report::default();
    let one = std::env::var("KEYGATE_DIFFERENTIAL_CASE").ok();
    if let Some(one) = one {
        let number = one.parse().expect("the number of a case");
        show(&workers[0], seed, number);
        return report;
    }
    let threads: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(first, mut worker)| {
            std::thread::spawn(move || {
                worker.run(seed, (first as u64..cases).step_by(WORKERS), every);
                worker.report
            })
        })
        .collect();
    // All of them, before one that panicked ends the proxies of the others.
    let reports: Vec<_> = threads
        .into_iter()
        .map(std::thread::JoinHandle::join)
        .collect();
    for joined in reports {
        report.merge(joined.expect("the thread's panic is above"));
    }
    report
}

/// Prints all readings of one case.
fn show(worker: &Worker, seed: u64, number: u64) {
    let case = case(seed, number, &worker.credentials);
    eprintln!(
        "case {number} of seed {seed}, {:?}: b\"{}\"",
        case.mutations,
        case.bytes.escape_ascii()
    );
    let parsers: [(&str, &dyn Parser); 4] = [
        ("keygate", &*worker.keygate),
        ("hyper", &HyperServer),
        ("nginx", &worker.nginx),
        ("haproxy", &worker.haproxy),
    ];
    for (name, parser) in parsers {
        eprintln!("{name}: {}", shown(&parser.parse(&case.bytes)));
    }
}

/// Prints a report, and fails where it holds finds or proves too little.
fn conclude(what: &str, seed: u64, cases: u64, every: u64, report: &Report, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{what}: {cases} cases of seed {seed} in {seconds:.1} s; hyper got all, nginx and HAProxy one in {every}"
    );
    eprintln!("     hyper    nginx  HAProxy");
    row(&report.alike, "taken, and read alike");
    row(&report.neither, "taken by neither");
    let mut classes: BTreeMap<&str, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for ((name, class), (count, _)) in &report.counted {
        *classes.entry(class).or_default().entry(name).or_default() += count;
    }
    for (class, counts) in &classes {
        row(counts, class);
    }
    for ((name, class), (count, _, text)) in report.finds.iter().take(SHOWN) {
        eprintln!("  FIND: {name} {class}, {count} times\n    {text}");
    }
    let finds: u64 = report.finds.values().map(|(count, _, _)| count).sum();
    assert!(
        finds == 0,
        "{what}: {finds} differences without an explanation, KEYGATE_FUZZ_SEED={seed}"
    );
    for name in ["hyper", "nginx", "haproxy"] {
        let given = if name == "hyper" {
            cases
        } else {
            cases / every
        };
        let alike = report.alike.get(name).unwrap_or(&0);
        assert!(
            *alike >= given / 5,
            "{what}: {name} and keygate read only {alike} of {given} cases alike: that proves nothing"
        );
    }
    if cases >= 10_000 {
        for mutation in &MUTATIONS {
            assert!(
                report.seen.contains_key(mutation.name),
                "no case has: {}",
                mutation.name
            );
        }
    }
}

/// One line of the table: a class, and how often each other parser had it.
fn row(counts: &BTreeMap<&'static str, u64>, class: &str) {
    let [hyper, nginx, haproxy] =
        ["hyper", "nginx", "haproxy"].map(|name| counts.get(name).copied().unwrap_or(0));
    eprintln!("  {hyper:8} {nginx:8} {haproxy:8}  {class}");
}

#[test]
fn what_the_gateways_reader_takes_others_read_alike() {
    let started = Instant::now();
    let (seed, every) = (seed(), number("KEYGATE_DIFFERENTIAL_EVERY", 1));
    let cases = number("KEYGATE_DIFFERENTIAL_CASES", 20_000);
    let keygate = (0..WORKERS)
        .map(|_| {
            let codec: Box<dyn Parser + Send> = Box::new(Codec);
            (codec, Credentials::default())
        })
        .collect();
    let report = run(seed, cases, every, keygate);
    if std::env::var_os("KEYGATE_DIFFERENTIAL_CASE").is_none() {
        conclude("the gateway's reader", seed, cases, every, &report, started);
    }
}

#[test]
fn what_the_running_gateway_forwards_others_read_alike() {
    let started = Instant::now();
    let (seed, every) = (seed(), number("KEYGATE_DIFFERENTIAL_EVERY", 1));
    let cases = number("KEYGATE_DIFFERENTIAL_CASES", 20_000).min(MOST_OF_THE_GATEWAY);
    let (_gateway, lanes) = Gateway::start(WORKERS);
    let keygate = lanes
        .into_iter()
        .map(|lane| {
            let credentials = lane.credentials.clone();
            (Box::new(lane) as Box<dyn Parser + Send>, credentials)
        })
        .collect();
    let report = run(seed, cases, every, keygate);
    if std::env::var_os("KEYGATE_DIFFERENTIAL_CASE").is_none() {
        conclude("the running gateway", seed, cases, every, &report, started);
    }
}

/// Reads a body by its Content-Length where it is chunked too: the oldest fault of all.
struct Sloppy;

impl Parser for Sloppy {
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome> {
        let text = String::from_utf8_lossy(bytes);
        let both =
            text.contains("Content-Length: ") && text.contains("Transfer-Encoding: chunked\r\n");
        if both {
            Codec.parse(
                text.replacen("Transfer-Encoding: chunked\r\n", "", 1)
                    .as_bytes(),
            )
        } else {
            Codec.parse(bytes)
        }
    }
}

#[test]
fn a_reader_that_prefers_the_length_to_the_chunks_is_found_by_all_others() {
    if std::env::var_os("KEYGATE_DIFFERENTIAL_CASE").is_some() {
        return;
    }
    let keygate = (0..WORKERS)
        .map(|_| {
            let sloppy: Box<dyn Parser + Send> = Box::new(Sloppy);
            (sloppy, Credentials::default())
        })
        .collect();
    let report = run(1, 2_000, 1, keygate);
    for name in ["hyper", "nginx", "haproxy"] {
        let body = judge::Kind::Body.text();
        assert!(
            report
                .finds
                .keys()
                .any(|(other, class)| *other == name && class.starts_with(body)),
            "{name}: {:?}",
            report.finds.keys().collect::<Vec<_>>()
        );
    }
}
