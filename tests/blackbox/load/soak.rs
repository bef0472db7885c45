//! Many clients at once, over HTTP/1.1 and HTTP/2, leave at any moment: nobody gets another's answer, and nothing of them
//! stays behind. An upstream that closes its idle connections at the worst moment costs no request.
//!
//! `KEYGATE_SOAK_REQUESTS` and `KEYGATE_SOAK_SECONDS` make it longer; it goes on until both are reached. Ten minutes:
//! `KEYGATE_SOAK_REQUESTS=100000 KEYGATE_SOAK_SECONDS=600 cargo test --release --locked --test blackbox soak::`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::dice::{Dice, number, seed};
use crate::support::echo::{Echo, answer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

const CLIENTS: usize = 200;
/// Streams on one HTTP/2 connection.
const STREAMS: usize = 10;

/// Numbers nobody uses twice, until there were enough.
struct Nonces {
    next: AtomicUsize,
    most: usize,
    until: Instant,
}

impl Nonces {
    /// So many from `first` on, for at least so long.
    fn new(first: usize, count: usize, within: Duration) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicUsize::new(first),
            most: first + count,
            until: Instant::now() + within,
        })
    }

    fn draw(&self) -> Option<usize> {
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        (nonce < self.most || Instant::now() < self.until).then_some(nonce)
    }

    fn drawn(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }
}

/// How many requests, and for how long at least.
fn length(requests: u64) -> (usize, Duration) {
    let requests = number("KEYGATE_SOAK_REQUESTS", requests);
    let seconds = number("KEYGATE_SOAK_SECONDS", 0);
    (
        usize::try_from(requests).expect("a count"),
        Duration::from_secs(seconds),
    )
}

/// What a client does about its answer.
#[derive(Clone, Copy)]
enum Fate {
    /// Reads all of it.
    Stays,
    /// Leaves after this long, before or within the head.
    LeavesEarly(Duration),
    /// Leaves behind the first piece.
    LeavesWithin,
}

impl Fate {
    fn of(dice: &mut Dice) -> Self {
        match dice.roll(10) {
            0 | 1 => Self::LeavesEarly(Duration::from_micros(dice.roll(4000) as u64)),
            2 => Self::LeavesWithin,
            _ => Self::Stays,
        }
    }
}

/// A connection of either kind, made anew when its client has left it.
enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn one(gateway: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(gateway).await.expect("connected");
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("an HTTP/1.1 connection");
        tokio::spawn(connection);
        Self::One(sender)
    }

    async fn two(gateway: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(gateway).await.expect("connected");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("an HTTP/2 connection");
        tokio::spawn(connection);
        Self::Two(sender)
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// What the clients need to know.
#[derive(Clone)]
struct Scene {
    gateway: std::net::SocketAddr,
    token: String,
    nonces: Arc<Nonces>,
}

impl Scene {
    fn request(&self, nonce: usize, stream: bool, pause: usize, two: bool) -> Request<Full<Bytes>> {
        let body =
            format!(r#"{{"model":"good","nonce":{nonce},"stream":{stream},"pause":{pause}}}"#);
        let path = "/v1/chat/completions";
        let uri = if two {
            format!("http://localhost{path}")
        } else {
            path.to_owned()
        };
        let request = Request::post(uri)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        let request = if two {
            request
        } else {
            request.header("host", "localhost")
        };
        request.body(Full::from(body)).expect("a request")
    }

    /// Asks until there are enough; how many answers it read whole.
    async fn client(self, mut connection: Connection, mut dice: Dice) -> usize {
        let mut whole = 0;
        while let Some(nonce) = self.nonces.draw() {
            let fate = Fate::of(&mut dice);
            let (stream, pause) = (dice.roll(2) == 0, dice.roll(3));
            let two = matches!(connection, Connection::Two(_));
            let request = self.request(nonce, stream, pause, two);
            let asking = ask(&mut connection, request, nonce, fate);
            let stayed = timeout(DEADLINE, asking).await.expect("an answer in time");
            whole += usize::from(stayed);
            // To leave over HTTP/1.1 is to close the connection; over HTTP/2 the stream was reset.
            if !stayed && !two {
                connection = Connection::one(self.gateway).await;
            }
        }
        whole
    }
}

/// One request and what becomes of it; whether the whole answer was read.
async fn ask(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    nonce: usize,
    fate: Fate,
) -> bool {
    let expected = answer(nonce);
    let head = connection.send(request);
    let response = match fate {
        Fate::LeavesEarly(after) => match timeout(after, head).await {
            Ok(response) => response,
            Err(_) => return false,
        },
        Fate::Stays | Fate::LeavesWithin => head.await,
    };
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200, "nonce {nonce}");
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.expect("a whole body").into_data().unwrap_or_default();
        read.extend_from_slice(&data);
        assert!(
            expected.as_bytes().starts_with(&read),
            "the answer to nonce {nonce} is another's: {:?}",
            String::from_utf8_lossy(&read)
        );
        if matches!(fate, Fate::LeavesWithin) {
            return false;
        }
    }
    assert_eq!(String::from_utf8_lossy(&read), expected, "nonce {nonce}");
    true
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    resident_kib: usize,
}

fn held(gateway: &Gateway) -> Held {
    let process = format!("/proc/{}", gateway.process.pid());
    let descriptors = std::fs::read_dir(format!("{process}/fd"))
        .expect("its descriptors")
        .count();
    let status = std::fs::read_to_string(format!("{process}/status")).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
    Held {
        descriptors,
        resident_kib: resident.expect("its memory"),
    }
}

/// Waits until no connection is open: those to the upstream end at their age.
fn nothing_is_open(gateway: &Gateway, up: &Echo) {
    for gauge in ["keygate_in_flight", "keygate_connections"] {
        eventually(gauge, DEADLINE, || {
            (gateway.metric(gauge) == 0.0).then_some(())
        });
    }
    eventually("its upstream's connections end", DEADLINE, || {
        (up.open() == 0).then_some(())
    });
}

/// Runs so many clients, two in five of them over HTTP/2, to the end; how many answers were read whole.
fn run(scene: &Scene, seed: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        let mut shared: Option<http2::SendRequest<Full<Bytes>>> = None;
        for client in 0..CLIENTS {
            let dice = Dice(seed.wrapping_add(client as u64));
            let connection = if client % 5 < 2 {
                if client % STREAMS == 0 {
                    shared = None;
                }
                let connection = match shared.take() {
                    Some(sender) => Connection::Two(sender),
                    None => Connection::two(scene.gateway).await,
                };
                if let Connection::Two(sender) = &connection {
                    shared = Some(sender.clone());
                }
                connection
            } else {
                Connection::one(scene.gateway).await
            };
            clients.spawn(scene.clone().client(connection, dice));
        }
        clients.join_all().await.into_iter().sum()
    })
}

#[test]
fn nobody_sees_anothers_answer_and_nothing_is_left_of_those_who_left() {
    let up = Echo::start(None);
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &["good"])
        .keys(&[&key])
        .start();
    let seed = seed();
    eprintln!("KEYGATE_FUZZ_SEED={seed}");
    // What a process keeps for later it has after a fifth of it: the rest must not add to that.
    let (requests, within) = length(5000);
    let warm = Scene {
        gateway: gateway.address,
        token: key.token.clone(),
        nonces: Nonces::new(0, requests / 5, within / 5),
    };
    run(&warm, seed);
    let warmed = held(&gateway);
    // Not from the start: workers may still open what they need then.
    nothing_is_open(&gateway, &up);
    let before = held(&gateway);
    let first = warm.nonces.drawn();
    let long = Scene {
        nonces: Nonces::new(first, requests - requests / 5, within * 4 / 5),
        ..warm
    };
    let whole = run(&long, !seed);
    assert!(
        whole > requests / 4,
        "only {whole} answers were read to their end"
    );
    let after = held(&gateway);
    eprintln!(
        "{} requests, {whole} of the last four fifths whole; {before:?}, {warmed:?}, {after:?}",
        long.nonces.drawn()
    );

    let (_, twice) = up.answered();
    assert!(twice.is_empty(), "answered more than once: {twice:?}");
    nothing_is_open(&gateway, &up);
    eventually("its descriptors are given back", DEADLINE, || {
        (held(&gateway).descriptors <= before.descriptors).then_some(())
    });
    let most = warmed.resident_kib + warmed.resident_kib / 4 + (8 << 10);
    assert!(
        after.resident_kib <= most,
        "memory grew: {warmed:?}, then {after:?}"
    );
}

#[test]
fn an_upstream_that_closes_idle_connections_at_the_worst_moment_costs_no_request() {
    let up = Echo::start(Some(Duration::from_millis(25)));
    let key = Key::all("key_all");
    // Kept for as long as the upstream keeps them: each end comes while a request may be on its way.
    let gateway = Setup::new()
        .upstream("up", &[&up.url()], &["good"])
        .set("timeouts", "upstream_keep_alive = \"27ms\"")
        .keys(&[&key])
        .start();
    let seed = seed();
    eprintln!("KEYGATE_FUZZ_SEED={seed}");
    let (requests, within) = length(10_000);
    let scene = Scene {
        gateway: gateway.address,
        token: key.token.clone(),
        nonces: Nonces::new(0, requests, within),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let asked: usize = runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let scene = scene.clone();
            clients.spawn(async move {
                let mut dice = Dice(seed.wrapping_add(client as u64));
                let mut connection = Connection::one(scene.gateway).await;
                let mut asked = 0;
                while let Some(nonce) = scene.nonces.draw() {
                    let request = scene.request(nonce, dice.roll(2) == 0, 0, false);
                    let asking = ask(&mut connection, request, nonce, Fate::Stays);
                    timeout(DEADLINE, asking).await.expect("an answer in time");
                    asked += 1;
                    sleep(Duration::from_micros(20_000 + dice.roll(10_000) as u64)).await;
                }
                asked
            });
        }
        clients.join_all().await.into_iter().sum()
    });
    let (answered, twice) = up.answered();
    eprintln!(
        "{asked} asked, {} came too late and were sent again",
        up.too_late()
    );
    assert!(twice.is_empty(), "answered more than once: {twice:?}");
    assert_eq!(answered, asked);
    assert!(up.too_late() > 0, "no request met a closing connection");
}
