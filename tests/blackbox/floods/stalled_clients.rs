//! Clients of running streams that read slowly or not at all: they may cost memory within its bounds, but no time of
//! the processor.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::support::client::Call;
use crate::support::process::processor_time;
use crate::support::raw_h2::{self, RawH2};
use crate::support::recorder::Recorder;
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

/// How many stall at once.
const CLIENTS: usize = 100;

/// How long their cost is measured.
const WINDOW: Duration = Duration::from_secs(3);

/// What they may take of one core, in percent. On a quiet machine it is 0.3; a busy one and its ticks may say ten. One
/// that spins takes a whole core.
const MOST: f64 = 25.0;

/// A gateway before an upstream that streams for as long as it is read.
struct Endless {
    stand: Stand,
    /// How many chunks the upstream has sent, over all streams.
    chunks: Arc<AtomicUsize>,
}

fn before_endless_streams(is_tls: bool) -> Endless {
    let chunks = Arc::new(AtomicUsize::new(0));
    let sent = Arc::clone(&chunks);
    let up = Recorder::start(move |mut exchange| {
        exchange.begin_stream();
        let piece = "x".repeat(64 << 10);
        while !exchange.gone_within(Duration::ZERO) {
            exchange.chunk(&piece);
            sent.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stand = Stand::before(up, |setup| {
        let setup = setup
            .set("timeouts", "client_write = \"600s\"")
            .set("timeouts", "drain = \"1s\"");
        if is_tls { setup.tls() } else { setup }
    });
    Endless { stand, chunks }
}

/// The share of one core that a process takes over the window, in percent, while something goes on beside it.
fn share_of_a_core(stand: &Stand, mut meanwhile: impl FnMut(Duration)) -> f64 {
    let pid = stand.gateway.process.pid();
    let (before, start) = (processor_time(pid), Instant::now());
    meanwhile(WINDOW);
    let ticks = processor_time(pid) - before;
    // A tick is a hundredth of a second.
    let ticks = f64::from(u32::try_from(ticks).expect("a few ticks"));
    ticks / start.elapsed().as_secs_f64()
}

/// Waits until all streams run and no more bytes flow: the cost of their beginning is not that of their stalling.
fn wait_until_all_stall(endless: &Endless) {
    let wanted = CLIENTS as f64;
    eventually("all streams run", 4 * DEADLINE, || {
        (endless.stand.gateway.metric("keygate_in_flight") >= wanted).then_some(())
    });
    let sent = || endless.chunks.load(Ordering::Relaxed);
    let (mut last, mut since) = (sent(), Instant::now());
    eventually("nothing flows any more", 4 * DEADLINE, || {
        if sent() != last {
            (last, since) = (sent(), Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(())
    });
}

/// The cost of what stalls, beyond that of a gateway at rest.
#[track_caller]
fn costs_little(name: &str, stand: &Stand, at_rest: f64, mut meanwhile: impl FnMut(Duration)) {
    // Whoever spins does so all the time. On a busy machine what has begun may still go on in the first window.
    let shares = (0..3).map(|_| share_of_a_core(stand, &mut meanwhile) - at_rest);
    let share = shares
        .inspect(|share| {
            eprintln!("{CLIENTS} clients, {name}: {share:.1} % of a core, {at_rest:.1} % at rest")
        })
        .find(|share| *share < MOST);
    assert!(
        share.is_some(),
        "{name}: {MOST} % of a core or more, all the time"
    );
}

/// A client that reads as little as it wants to, plain or over TLS.
trait SlowClient: Read + Write {}

impl<T: Read + Write> SlowClient for T {}

fn connect(stand: &Stand, is_tls: bool) -> Box<dyn SlowClient> {
    let stream = TcpStream::connect(stand.gateway.address).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    if !is_tls {
        return Box::new(stream);
    }
    let config = stand.gateway.authority().client(&["http/1.1"]);
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(config, name).expect("a session");
    Box::new(StreamOwned::new(session, stream))
}

/// Streams over HTTP/1 that have begun, as many as the constant says.
fn begin_streams(endless: &Endless, is_tls: bool) -> Vec<Box<dyn SlowClient>> {
    let call = Call::chat(&endless.stand.all.token, "good");
    let mut clients: Vec<Box<dyn SlowClient>> = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(&endless.stand, is_tls);
            client.write_all(&call.bytes()).expect("a request is sent");
            client
        })
        .collect();
    for client in &mut clients {
        let mut status = [0; 12];
        client.read_exact(&mut status).expect("a status line");
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    wait_until_all_stall(endless);
    clients
}

/// The name of this way to read, for what is printed.
fn named(is_tls: bool, reads: &str) -> String {
    let over = if is_tls { " over TLS" } else { "" };
    format!("HTTP/1{over}, {reads}")
}

fn never_reading_costs_nothing(is_tls: bool) {
    let endless = before_endless_streams(is_tls);
    let at_rest = share_of_a_core(&endless.stand, thread::sleep);
    let clients = begin_streams(&endless, is_tls);
    let name = named(is_tls, "never read");
    costs_little(&name, &endless.stand, at_rest, thread::sleep);
    drop(clients);
}

#[test]
fn clients_that_never_read_their_streams_cost_no_processor_time() {
    never_reading_costs_nothing(false);
}

#[test]
fn clients_that_never_read_their_streams_over_tls_cost_no_processor_time() {
    never_reading_costs_nothing(true);
}

fn reading_slowly_costs_little(is_tls: bool) {
    let endless = before_endless_streams(is_tls);
    let at_rest = share_of_a_core(&endless.stand, thread::sleep);
    let mut clients = begin_streams(&endless, is_tls);
    let read_slowly = |window: Duration| {
        let start = Instant::now();
        while start.elapsed() < window {
            let round = Instant::now();
            // 2 kB each 100 ms are 20 kB/s.
            for client in &mut clients {
                let mut piece = [0; 2000];
                client.read_exact(&mut piece).expect("the stream goes on");
            }
            thread::sleep(Duration::from_millis(100).saturating_sub(round.elapsed()));
        }
    };
    let name = named(is_tls, "read at 20 kB/s");
    costs_little(&name, &endless.stand, at_rest, read_slowly);
}

#[test]
fn clients_that_read_their_streams_slowly_cost_hardly_any_processor_time() {
    reading_slowly_costs_little(false);
}

#[test]
fn clients_that_read_their_streams_slowly_over_tls_cost_hardly_any_processor_time() {
    reading_slowly_costs_little(true);
}

/// One stream on each of as many HTTP/2 connections as the constant says; none is ever read.
fn begin_http_2_streams(endless: &Endless, connect: fn(SocketAddr) -> RawH2) -> Vec<RawH2> {
    let clients = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(endless.stand.gateway.address);
            client.chat(1, &endless.stand.all.token);
            client
        })
        .collect();
    wait_until_all_stall(endless);
    clients
}

#[test]
fn http_2_clients_that_never_read_cost_no_processor_time() {
    let endless = before_endless_streams(false);
    let at_rest = share_of_a_core(&endless.stand, thread::sleep);
    let clients = begin_http_2_streams(&endless, RawH2::connect_greedily);
    costs_little("HTTP/2, never read", &endless.stand, at_rest, thread::sleep);
    drop(clients);
}

#[test]
fn http_2_clients_whose_windows_stay_shut_cost_no_processor_time() {
    let endless = before_endless_streams(false);
    let at_rest = share_of_a_core(&endless.stand, thread::sleep);
    let clients = begin_http_2_streams(&endless, RawH2::connect);
    let name = "HTTP/2, windows shut";
    costs_little(name, &endless.stand, at_rest, thread::sleep);
    drop(clients);
}

#[test]
fn http_2_clients_that_ping_and_never_read_cost_hardly_any_processor_time() {
    let endless = before_endless_streams(false);
    let at_rest = share_of_a_core(&endless.stand, thread::sleep);
    let mut clients = begin_http_2_streams(&endless, RawH2::connect_greedily);
    let ping = raw_h2::frame(raw_h2::PING, 0, 0, &[7; 8]);
    let keep_pinging = |window: Duration| {
        let start = Instant::now();
        while start.elapsed() < window {
            let round = Instant::now();
            for client in &mut clients {
                client.send_within(&ping, Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(500).saturating_sub(round.elapsed()));
        }
    };
    let name = "HTTP/2, two PINGs a second";
    costs_little(name, &endless.stand, at_rest, keep_pinging);
}
