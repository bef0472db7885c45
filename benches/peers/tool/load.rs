//! The load: keeps connections busy, or asks at a fixed rate, checks every answer, and prints what it saw as one line
//! of JSON.
//!
//! - `--url URL`, http or https (then `--ca FILE`); `--connections N`; `--seconds S`
//! - `--rate R`: so many requests a second, evenly spread, whatever the answers do; their latency counts from when they
//!   were meant to start, so that a proxy that stalls is charged for everybody who waited
//! - `--count N`: so many requests in place of a time
//! - `--spread S`: the connections' first requests are spread over so many seconds, so that streams do not tick together
//! - `--open-end yes`: the time is over when standard input ends, if it is not before
//! - `--fresh yes`: a connection for each request
//! - `--hold yes`: one request on each connection, then all are kept open until standard input ends
//! - `--status N`, `--length N`: what a right answer has; `--latencies FILE`: one line a request, microseconds
//!   since the epoch at which it was meant to start, and its latency
//! - `--body BYTES`, `--stream "CHUNKS MICROSECONDS"`, `--token T` or `--tokens FILE`, `--headers few`,
//!   `--more "NAME: VALUE|…"`: what is asked

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::Fault;
use crate::framing::{Message, Side};
use crate::options::Options;
use crate::request::Requests;
use crate::socket::Socket;

/// How long running requests may take once the time is over.
const PATIENCE: Duration = Duration::from_secs(20);
/// With `--hold`, so many connections ask at once.
const HOLD_WINDOW: usize = 64;
const INPUT: u64 = u64::MAX;

struct Plan {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    connections: usize,
    duration: Duration,
    most: u64,
    interval: Option<Duration>,
    spread: Duration,
    has_open_end: bool,
    is_fresh: bool,
    is_held: bool,
    status: u16,
    length: Option<u64>,
}

struct Connection {
    socket: Option<Socket>,
    message: Message,
    /// When its running request was meant to start.
    asked: Option<Instant>,
    /// Whether an answer has come over this socket before.
    is_used: bool,
    is_waiting_to_write: bool,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    other_status: u64,
    other_length: u64,
    /// Broken connections and answers.
    errors: u64,
    /// Connections that the other side had closed between two requests.
    closed_idle: u64,
    connects: u64,
    an_error: Option<String>,
    bytes: u64,
    latencies: Vec<(Instant, Duration)>,
}

struct Load {
    plan: Plan,
    requests: Requests,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    started: u64,
    seen: Seen,
    buffer: Vec<u8>,
}

pub(crate) fn run(options: &Options) -> Result<(), Fault> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let url = options.required("url")?;
    let (scheme, authority) = url.split_once("://").ok_or("not a URL")?;
    let plan = Plan {
        address: authority.parse()?,
        tls: match scheme {
            "https" => Some(trusting(options.required("ca")?)?),
            _ => None,
        },
        connections: options.number("connections", 64)?,
        duration: Duration::from_secs_f64(options.number("seconds", 3.0)?),
        most: options.number("count", u64::MAX)?,
        interval: match options.number("rate", 0.0)? {
            0.0 => None,
            rate => Some(Duration::from_secs_f64(1.0 / rate)),
        },
        spread: Duration::from_secs_f64(options.number("spread", 0.0)?),
        has_open_end: options.text("open-end").is_some(),
        is_fresh: options.text("fresh").is_some(),
        is_held: options.text("hold").is_some(),
        status: options.number("status", 200)?,
        length: match options.number("length", 0)? {
            0 => None,
            length => Some(length),
        },
    };
    let requests = Requests::new(options, authority)?;
    let mut load = Load::new(plan, requests)?;
    let cpu = own_cpu()?;
    let begin = Instant::now();
    let took = load.go(begin)?;
    let cpu = own_cpu()? - cpu;
    if let Some(file) = options.text("latencies") {
        load.seen.write_latencies(file)?;
    }
    println!("{}", load.seen.report(took, cpu));
    if load.plan.is_held {
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// A client of TLS without sessions to take up again: each connection is a whole handshake.
fn trusting(ca: &str) -> Result<Arc<ClientConfig>, Fault> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Load {
    fn new(plan: Plan, requests: Requests) -> Result<Self, Fault> {
        let connections = (0..plan.connections).map(|_| Connection {
            socket: None,
            message: Message::default(),
            asked: None,
            is_used: false,
            is_waiting_to_write: false,
        });
        Ok(Self {
            connections: connections.collect(),
            idle: (0..plan.connections).collect(),
            plan,
            requests,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            started: 0,
            seen: Seen::default(),
            buffer: vec![0; 64 << 10],
        })
    }

    /// Asks until the time or the count is over, then waits for what is still running. How long asking took.
    fn go(&mut self, begin: Instant) -> Result<Duration, Fault> {
        let mut end = begin + self.plan.duration;
        if self.plan.most < u64::MAX {
            end = begin + PATIENCE * 3;
        }
        if self.plan.has_open_end {
            epoll::add(
                &self.epoll,
                io::stdin(),
                EventData::new_u64(INPUT),
                EventFlags::IN,
            )?;
        }
        let mut events = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            let is_over = now >= end || self.started >= self.plan.most;
            if is_over && self.is_quiet() {
                return Ok(begin.elapsed());
            }
            if now > end + PATIENCE {
                self.seen.errors += self.running();
                self.seen.an_error = Some("no answer".to_owned());
                return Ok(begin.elapsed());
            }
            let mut wait = end
                .saturating_duration_since(now)
                .max(Duration::from_millis(1));
            if !is_over && let Some(due) = self.start_what_is_due(begin, now) {
                wait = wait.min(due.saturating_duration_since(Instant::now()));
            }
            let timeout = Timespec::try_from(wait)?;
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    INPUT => {
                        epoll::delete(&self.epoll, io::stdin())?;
                        end = Instant::now();
                    }
                    at => self.ready(usize::try_from(at)?, event.flags),
                }
            }
            if self.seen.errors > 1000 {
                return Ok(begin.elapsed());
            }
        }
    }

    fn running(&self) -> u64 {
        let running = self.connections.iter().filter(|one| one.asked.is_some());
        running.count() as u64
    }

    fn is_quiet(&self) -> bool {
        self.idle.len() == self.connections.len()
            || (self.plan.is_held && self.seen.requests + self.seen.errors >= self.started)
    }

    /// When the next is due, where that is known.
    fn start_what_is_due(&mut self, begin: Instant, now: Instant) -> Option<Instant> {
        if self.plan.is_held {
            let running = self.started - self.seen.requests - self.seen.errors;
            for _ in running..HOLD_WINDOW as u64 {
                self.start(now);
            }
            return None;
        }
        let Some(interval) = self.plan.interval else {
            while !self.idle.is_empty() && self.started < self.plan.most {
                let connections = u32::try_from(self.connections.len()).ok()?;
                let nth = u32::try_from(self.started).unwrap_or(connections);
                let due = begin + self.plan.spread / connections * nth.min(connections);
                if due > now {
                    return Some(due);
                }
                self.start(now);
            }
            return None;
        };
        loop {
            let nanoseconds = interval.as_nanos() * u128::from(self.started);
            let due = begin + Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
            if due > now {
                return Some(due);
            }
            // Nobody is free: an answer wakes this up, and what is late by then is late.
            if self.idle.is_empty() {
                return None;
            }
            self.start(due);
        }
    }

    fn start(&mut self, meant: Instant) {
        if let Some(at) = self.idle.pop_front() {
            self.started += 1;
            self.connections[at].asked = Some(meant);
            self.ask(at);
        }
    }

    fn ask(&mut self, at: usize) {
        if let Err(error) = self.try_to_ask(at) {
            self.broken(at, &error);
        }
    }

    fn try_to_ask(&mut self, at: usize) -> io::Result<()> {
        let connection = &mut self.connections[at];
        connection.message.start_anew();
        if connection.socket.is_none() {
            let socket = Socket::connect(self.plan.address, self.plan.tls.as_ref())?;
            self.seen.connects += 1;
            epoll::add(
                &self.epoll,
                &socket,
                EventData::new_u64(at as u64),
                EventFlags::IN,
            )?;
            connection.is_used = false;
            connection.is_waiting_to_write = false;
            connection.socket = Some(socket);
        }
        if let Some(socket) = &mut connection.socket
            && !socket.send(self.requests.next())?
        {
            self.wait_to_write(at, true)?;
        }
        Ok(())
    }

    fn wait_to_write(&mut self, at: usize, wait: bool) -> io::Result<()> {
        let connection = &mut self.connections[at];
        if let Some(socket) = &connection.socket
            && connection.is_waiting_to_write != wait
        {
            connection.is_waiting_to_write = wait;
            let flags = match wait {
                true => EventFlags::IN | EventFlags::OUT,
                false => EventFlags::IN,
            };
            epoll::modify(&self.epoll, socket, EventData::new_u64(at as u64), flags)?;
        }
        Ok(())
    }

    fn ready(&mut self, at: usize, flags: EventFlags) {
        if let Err(error) = self.try_ready(at, flags) {
            self.broken(at, &error);
        }
    }

    fn try_ready(&mut self, at: usize, flags: EventFlags) -> io::Result<()> {
        if flags.contains(EventFlags::OUT)
            && let Some(socket) = &mut self.connections[at].socket
            && socket.flush()?
        {
            self.wait_to_write(at, false)?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read(at, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read(&mut self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[at];
            let Some(socket) = &mut connection.socket else {
                return Ok(());
            };
            let Some(count) = socket.receive(buffer)? else {
                return Ok(());
            };
            if count == 0 {
                if connection.asked.is_none() {
                    // It was kept, and the other side has had enough of it.
                    self.seen.closed_idle += 1;
                    connection.socket = None;
                    return Ok(());
                }
                if !connection.message.ends_by_close() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                connection.message.head.close = true;
            } else {
                if connection.asked.is_none() {
                    return Err(io::Error::other("bytes that nobody asked for"));
                }
                let taken = connection.message.feed(Side::Answer, &buffer[..count])?;
                if taken < count {
                    return Err(io::Error::other("bytes behind the answer"));
                }
            }
            let may_have_more = socket.is_tls() || count == buffer.len();
            if connection.message.is_whole() {
                self.answered(at);
            }
            if !may_have_more {
                return Ok(());
            }
        }
    }

    fn answered(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let Some(asked) = connection.asked.take() else {
            return;
        };
        let seen = &mut self.seen;
        seen.requests += 1;
        seen.bytes += connection.message.length;
        seen.latencies.push((asked, asked.elapsed()));
        if connection.message.head.status != self.plan.status {
            seen.other_status += 1;
        } else if self
            .plan
            .length
            .is_some_and(|length| length != connection.message.length)
        {
            seen.other_length += 1;
        }
        connection.is_used = true;
        if (self.plan.is_fresh || connection.message.head.close)
            && let Some(socket) = connection.socket.take()
        {
            socket.close();
        }
        if !self.plan.is_held {
            self.idle.push_back(at);
        }
    }

    fn broken(&mut self, at: usize, error: &io::Error) {
        let connection = &mut self.connections[at];
        connection.socket = None;
        if connection.asked.is_none() {
            self.seen.closed_idle += 1;
            return;
        }
        // A kept connection that was closed just as it was used again: a client asks again, and so does this.
        if connection.is_used && connection.message.is_untouched() {
            self.seen.closed_idle += 1;
            self.ask(at);
            return;
        }
        connection.asked = None;
        self.seen.errors += 1;
        self.seen.an_error = Some(error.to_string());
        if !self.plan.is_held {
            self.idle.push_back(at);
        }
    }
}

impl Seen {
    fn report(&mut self, took: Duration, cpu: Duration) -> String {
        let mut latencies: Vec<Duration> = self.latencies.iter().map(|(_, took)| *took).collect();
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a place in a list of some million"
            )]
            let place = (last as f64 * share).round() as usize;
            let latency = latencies.get(place).copied().unwrap_or_default();
            latency.as_secs_f64() * 1e6
        };
        format!(
            r#"{{"requests":{},"other_status":{},"other_length":{},"errors":{},"an_error":{:?},"closed_idle":{},"connects":{},"bytes":{},"seconds":{:.6},"p50_us":{:.1},"p99_us":{:.1},"max_us":{:.1},"cpu_us":{}}}"#,
            self.requests,
            self.other_status,
            self.other_length,
            self.errors,
            self.an_error.as_deref().unwrap_or_default(),
            self.closed_idle,
            self.connects,
            self.bytes,
            took.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(1.0),
            cpu.as_micros(),
        )
    }

    fn write_latencies(&self, file: &str) -> io::Result<()> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut out = BufWriter::new(fs::File::create(file)?);
        for (asked, took) in &self.latencies {
            let at = wall - now.duration_since(*asked);
            let at = at
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            writeln!(out, "{} {}", at.as_micros(), took.as_micros())?;
        }
        out.flush()
    }
}

/// What this process has used of the processor so far, from the scheduler's own account.
fn own_cpu() -> Result<Duration, Fault> {
    let account = fs::read_to_string("/proc/self/schedstat")?;
    let run = account.split_whitespace().next().ok_or("no schedstat")?;
    Ok(Duration::from_nanos(run.parse()?))
}
