//! What a flood of bad tokens does to everybody else: a good client's times at rest and beside floods of growing speed,
//! measured one after the other, with the gateway's memory and log. Then whether an answer's time tells a disabled key
//! from an unknown one. `cargo bench --bench flood [-- SECONDS]`: so long for each, 20 without it.
//!
//! The flood, the upstream and the good client run on the same machine as the gateway: where they need more cores than
//! there are, part of what is seen is that. So it is told apart: "own p99" is of the same times less what the good client,
//! its upstream and, where that is one, the gateway's worker waited for a core while they could have run (the kernel
//! counts it); and `-- apart` gives core 0 to the gateway, which makes one worker of it, and core 1 to all the others. At "full speed" the flood takes all it can get.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the person at the terminal"
)]

#[path = "support/keys.rs"]
mod keys;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keygate::policy::token::TokenHash;

/// Between two requests of the good client.
const PACE: Duration = Duration::from_millis(4);
/// Connections of a flood, and requests that each sends at once.
const FLOODERS: usize = 16;
const VOLLEY: usize = 16;
/// Requests a second; None is as many as go.
const FLOODS: [Option<u64>; 4] = [Some(1_000), Some(10_000), Some(50_000), None];
/// Tries for each of two times that should be the same.
const TRIES: usize = 100_000;

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let each = Duration::from_secs(seconds.unwrap_or(20));
    let folder = tempfile::tempdir().unwrap();
    let is_apart = std::env::args().any(|argument| argument == "apart");
    let gateway = Gateway::start(folder.path(), is_apart);
    println!(
        "the good client, {each:?} each   p50        p99        max        own p99    resident   log lines"
    );
    let rest = gateway.measure("at rest", each, None);
    for rate in FLOODS {
        let name = rate.map_or("full speed".into(), |rate| format!("{rate} a second"));
        let beside = gateway.measure(&name, each, Some(rate));
        println!(
            "{:>28} p99 {:.2}, own p99 {:.2} times that at rest",
            "",
            beside.0 / rest.0,
            beside.1 / rest.1
        );
    }
    gateway.measure("at rest again", each, None);
    gateway.compare_refusals();
}

struct Gateway {
    process: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
    /// What its upstream's threads, and its one worker, waited for a core.
    waits: Waits,
}

impl Gateway {
    fn start(folder: &Path, is_apart: bool) -> Self {
        let program = env!("CARGO_BIN_EXE_keygate");
        let mut command = Command::new(program);
        if is_apart {
            pin_to_core(1);
            command = Command::new("taskset");
            command.args(["-c", "0", program]);
        }
        let (upstream, waits) = upstream();
        let mut text = keys::line(1, keys::Shape::Plain);
        let hash = TokenHash::of(b"disabled");
        text.push_str(&format!(
            "{{\"id\":\"off\",\"name\":\"off\",\"hash\":\"{hash}\",\"model_access\":{{\"mode\":\"all\"}},\"disabled\":true}}\n"
        ));
        std::fs::write(folder.join("keys.jsonl"), text).unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = format!(
            "listen = \"{address}\"\n[keys]\nfile = \"keys.jsonl\"\n[admin]\nsocket = \"keygate.sock\"\n\
             [[upstreams]]\nname = \"up\"\nurl = \"http://{upstream}\"\nmodels = [\"m\"]\n"
        );
        std::fs::write(folder.join("keygate.toml"), config).unwrap();
        let log = folder.join("log");
        let process = command
            .args(["serve", "--config", "keygate.toml", "--log-format", "json"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "it never listens"
            );
            thread::sleep(Duration::from_millis(10));
        }
        waits.of_the_worker(process.id());
        Self {
            process,
            address,
            log,
            waits,
        }
    }

    /// The good client's times, with a flood beside it or without; prints them and returns the 99th percentiles, the
    /// whole one and its own.
    fn measure(&self, name: &str, each: Duration, flood: Option<Option<u64>>) -> (f64, f64) {
        let over = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU64::new(0));
        let flooders: Vec<_> = flood
            .into_iter()
            .flat_map(|rate| (0..FLOODERS).map(move |_| rate))
            .map(|rate| {
                let (address, over, refused) =
                    (self.address, Arc::clone(&over), Arc::clone(&refused));
                thread::spawn(move || flood_until(address, rate, &over, &refused))
            })
            .collect();
        let lines = self.lines();
        let mut client = Client::connect(self.address);
        let good = chat(&keys::token(1));
        // What is made at the first request is not measured.
        for _ in 0..100 {
            assert_eq!(client.ask(&good), 200);
        }
        let (mut times, mut own) = (Vec::new(), Vec::new());
        let waits = Waits::default();
        waits.of_this_thread();
        let start = Instant::now();
        while start.elapsed() < each {
            let waited = waits.all() + self.waits.all();
            let asked = Instant::now();
            assert_eq!(client.ask(&good), 200);
            times.push(asked.elapsed());
            let waited = waits.all() + self.waits.all() - waited;
            own.push(times[times.len() - 1].saturating_sub(waited));
            thread::sleep(PACE.saturating_sub(asked.elapsed()));
        }
        over.store(true, Ordering::Relaxed);
        for flooder in flooders {
            flooder.join().unwrap();
        }
        times.sort();
        own.sort();
        let of = |times: &[Duration], share: usize| {
            times[(times.len() - 1) * share / 1000].as_secs_f64() * 1e3
        };
        let at = |share| of(&times, share);
        println!(
            "{name:<28} {:>7.3} ms {:>7.3} ms {:>7.3} ms {:>7.3} ms {:>7.1} MB {:>8}   {} refused",
            at(500),
            at(990),
            at(1000),
            of(&own, 990),
            self.resident(),
            self.lines() - lines,
            refused.load(Ordering::Relaxed),
        );
        (at(990), of(&own, 990))
    }

    /// Whether the time of an answer tells anything of the key: the same denial, for a key that is disabled and for none.
    fn compare_refusals(&self) {
        let mut client = Client::connect(self.address);
        let requests = [models("disabled"), models("unknown!")];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..TRIES {
            for (request, times) in requests.iter().zip(&mut times) {
                let asked = Instant::now();
                assert_eq!(client.ask(request), 401);
                times.push(asked.elapsed());
            }
        }
        for times in &mut times {
            times.sort();
        }
        let quartile = |which: usize, quarter: usize| {
            times[which][(TRIES - 1) * quarter / 4].as_secs_f64() * 1e6
        };
        println!("\na refusal, {TRIES} tries each      quarter    median     three quarters");
        for (which, name) in ["of a disabled key", "of an unknown one"]
            .iter()
            .enumerate()
        {
            println!(
                "{name:<28} {:>7.2} µs {:>7.2} µs {:>7.2} µs",
                quartile(which, 1),
                quartile(which, 2),
                quartile(which, 3)
            );
        }
    }

    /// In megabytes.
    fn resident(&self) -> f64 {
        let file = format!("/proc/{}/statm", self.process.id());
        let text = std::fs::read_to_string(file).unwrap();
        let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096.0 / 1e6
    }

    fn lines(&self) -> usize {
        // The last lines are a moment behind.
        thread::sleep(Duration::from_millis(100));
        let text = std::fs::read(&self.log).unwrap();
        memchr::memchr_iter(b'\n', &text).count()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn chat(token: &str) -> Vec<u8> {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn models(token: &str) -> Vec<u8> {
    format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

/// Sends bad tokens over one connection, as its share of the rate says.
fn flood_until(address: SocketAddr, rate: Option<u64>, over: &AtomicBool, refused: &AtomicU64) {
    let mut client = Client::connect(address);
    let volley = models("kg_nobody").repeat(VOLLEY);
    let pause = rate.map(|rate| Duration::from_secs(1) * (FLOODERS * VOLLEY) as u32 / rate as u32);
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        client.stream.write_all(&volley).unwrap();
        for _ in 0..VOLLEY {
            assert_eq!(client.answer(), 401);
        }
        refused.fetch_add(VOLLEY as u64, Ordering::Relaxed);
        if let Some(pause) = pause {
            next += pause;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let read = Vec::new();
        Self { stream, read }
    }

    fn ask(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).unwrap();
        self.answer()
    }

    /// The status of the next answer, whose length its head names.
    fn answer(&mut self) -> u16 {
        loop {
            if let Some((status, length)) = whole_answer(&self.read) {
                self.read.drain(..length);
                return status;
            }
            let mut bytes = [0_u8; 16 << 10];
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the gateway hung up");
            self.read.extend_from_slice(&bytes[..count]);
        }
    }
}

fn whole_answer(read: &[u8]) -> Option<(u16, usize)> {
    let head = memchr::memmem::find(read, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&read[..head]).unwrap();
    let (_, length) = text.split_once("content-length: ").unwrap();
    let length: usize = length.lines().next().unwrap().parse().unwrap();
    let status = text[9..12].parse().unwrap();
    (read.len() >= head + length).then_some((status, head + length))
}

/// How long threads could have run and had no core, as the kernel counts it.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Vec<File>>>);

impl Waits {
    fn of_this_thread(&self) {
        let file = File::open("/proc/thread-self/schedstat").unwrap();
        self.0.lock().unwrap().push(file);
    }

    /// Of several it is not known whose wait is the good client's.
    fn of_the_worker(&self, process: u32) {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let workers: Vec<_> = threads
            .map(|thread| thread.unwrap().path())
            .filter(|thread| {
                let name = std::fs::read_to_string(thread.join("comm"));
                name.unwrap().starts_with("worker")
            })
            .collect();
        if let [worker] = &workers[..] {
            let file = File::open(worker.join("schedstat")).unwrap();
            self.0.lock().unwrap().push(file);
        }
    }

    fn all(&self) -> Duration {
        let files = self.0.lock().unwrap();
        let waits = files.iter().map(|file| {
            let mut bytes = [0_u8; 100];
            // Nothing is left of a thread that has ended.
            let count = file.read_at(&mut bytes, 0).unwrap_or(0);
            let text = std::str::from_utf8(&bytes[..count]).unwrap();
            let waited = text.split(' ').nth(1).unwrap_or("0");
            Duration::from_nanos(waited.parse().unwrap())
        });
        waits.sum()
    }
}

/// This thread, and those that it makes.
fn pin_to_core(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).unwrap();
}

/// Answers everything at once, with the same few bytes.
fn upstream() -> (SocketAddr, Waits) {
    let waits = Waits::default();
    let counted = waits.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, waits) = (stream.unwrap(), counted.clone());
            thread::spawn(move || {
                waits.of_this_thread();
                let mut bytes = [0_u8; 16 << 10];
                // The requests are small, and come in one piece.
                while let Ok(1..) = stream.read(&mut bytes) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, waits)
}
