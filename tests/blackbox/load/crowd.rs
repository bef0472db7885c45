//! Thousands of event streams run at once and end in every way there is; nothing of them stays behind.
//!
//! `KEYGATE_CROWD_STREAMS` says how many at once, and `KEYGATE_CROWD_SECONDS` for how long all of them run in each round,
//! where it should be more than in every run of the tests: `KEYGATE_CROWD_STREAMS=10000
//! KEYGATE_CROWD_SECONDS=150 cargo test --locked --test blackbox crowd -- --nocapture` takes eleven minutes, and
//! 23 000 descriptors for each process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::support::client::{Call, find};
use crate::support::gateway::Setup;
use crate::support::h2::runtime;
use crate::support::process::{descriptors, resident, take_descriptors};
use crate::support::token::Key;
use crate::support::{DEADLINE, eventually};

/// How long the streams of a round last once all of them run, in seconds.
const SECONDS: usize = 1;
const STREAMS: usize = 2000;
const ROUNDS: usize = 4;
/// Events of all streams together, a second: more of them would only make everything slower.
const EVENTS: usize = 4000;
/// Streams that a descriptor allows: two of them are one's in this process, its client's and its upstream's, and two in the
/// gateway, and a tenth of all is for other things.
const STREAMS_OF_DESCRIPTORS: (usize, usize) = (9, 20);

fn asked_for(name: &str, otherwise: usize) -> usize {
    let asked = std::env::var(name).ok();
    asked.map_or(otherwise, |asked| asked.parse().expect("a number"))
}

/// An upstream that streams until it is told to finish, or its client leaves.
struct Upstream {
    address: SocketAddr,
    finish: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    /// `pace`: between two events of a stream.
    fn start(pace: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket2::SockRef::from(&listener)
            .listen(4096)
            .expect("a long queue");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (finish, finished) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let (finished, open) = (finished.clone(), Arc::clone(&counted));
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    // Whichever way the other side leaves is fine here.
                    let _ = serve(stream, pace, finished).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            finish,
            open,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    pace: Duration,
    mut finished: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut bytes = [0_u8; 4096];
    loop {
        // A request here is small, and comes in one piece.
        if stream.read(&mut bytes).await? == 0 {
            return Ok(());
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let (mut reading, mut writing) = stream.split();
        while !*finished.borrow_and_update() {
            writing.write_all(b"9\r\ndata: 1\n\n\r\n").await?;
            tokio::select! {
                _ = tokio::time::sleep(pace) => {}
                _ = finished.changed() => {}
                left = reading.read(&mut bytes) => {
                    left?;
                    return Ok(());
                }
            }
        }
        stream.write_all(b"0\r\n\r\n").await?;
    }
}

/// How a client ends its stream.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Whole,
    Close,
    Reset,
}

/// One stream, from its first event until everybody ends theirs. Whether it went as it should.
async fn stream(
    number: usize,
    gateway: SocketAddr,
    request: Arc<Vec<u8>>,
    running: Arc<AtomicUsize>,
    mut leave: watch::Receiver<bool>,
) -> std::io::Result<bool> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(number % 8).unwrap_or(0) + 1;
    socket.bind(SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(127, 0, 2, last)),
        0,
    ))?;
    let mut stream = socket.connect(gateway).await?;
    stream.write_all(&request).await?;
    let ending = [Ending::Whole, Ending::Close, Ending::Reset][number % 3];
    let mut seen = Vec::new();
    let mut is_running = false;
    loop {
        tokio::select! {
            read = stream.read_buf(&mut seen) => {
                if read? == 0 {
                    return Ok(false);
                }
            }
            _ = leave.changed() => match ending {
                Ending::Whole => {}
                Ending::Close => return Ok(is_running),
                Ending::Reset => {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                    return Ok(is_running);
                }
            }
        }
        if !is_running && find(&seen, b"data: 1").is_some() {
            is_running = true;
            running.fetch_add(1, Ordering::SeqCst);
        }
        if seen.ends_with(b"0\r\n\r\n") {
            return Ok(is_running && seen.starts_with(b"HTTP/1.1 200"));
        }
        // What came is not kept, but for where the end may begin.
        if is_running && seen.len() > 4096 {
            seen.clear();
            seen.extend_from_slice(b"HTTP/1.1 200");
        }
    }
}

#[test]
fn thousands_of_streams_that_end_in_every_way_leave_nothing_behind() {
    let wanted = asked_for("KEYGATE_CROWD_STREAMS", STREAMS);
    let duration = Duration::from_secs(asked_for("KEYGATE_CROWD_SECONDS", SECONDS) as u64);
    let (of, descriptors_of) = STREAMS_OF_DESCRIPTORS;
    let count = wanted.min(take_descriptors() / descriptors_of * of);
    if count < wanted {
        eprintln!("the limit of open files allows {count} streams instead of {wanted}");
    }
    let up = Upstream::start(
        Duration::from_secs(1) * u32::try_from(count).expect("a few") / EVENTS as u32,
    );
    let key = Key::all("key_all");
    let gateway = Setup::new()
        .upstream("up", &[&format!("http://{}", up.address)], &["good"])
        .keys(&[&key])
        .start();
    let pid = gateway.process.pid();
    let request = Arc::new(Call::chat(&key.token, "good").bytes());
    let in_flight = || gateway.metric("keygate_in_flight");
    let mut after = Vec::new();
    for round in 0..ROUNDS {
        up.finish.send_replace(false);
        let (leave, told) = watch::channel(false);
        let running = Arc::new(AtomicUsize::new(0));
        let streams: Vec<_> = (0..count)
            .map(|number| {
                let (request, running) = (Arc::clone(&request), Arc::clone(&running));
                let stream = stream(number, gateway.address, request, running, told.clone());
                runtime().spawn(stream)
            })
            .collect();
        eventually("all streams run", DEADLINE * 4, || {
            (running.load(Ordering::SeqCst) == count).then_some(())
        });
        let gauge = in_flight();
        assert!((gauge - count as f64).abs() < 0.5, "{gauge} of {count}");
        std::thread::sleep(duration);
        let gauge = in_flight();
        assert!((gauge - count as f64).abs() < 0.5, "{gauge} of {count}");
        let held = (descriptors(pid), resident(pid));
        eprintln!("{count} streams: descriptors and memory {held:?}");
        leave.send_replace(true);
        up.finish.send_replace(true);
        for (number, stream) in streams.into_iter().enumerate() {
            let ended = runtime().block_on(stream).expect("no panic");
            assert!(
                matches!(ended, Ok(true)),
                "round {round}, stream {number}: {ended:?}"
            );
        }
        let lowest = std::cell::Cell::new(f64::MAX);
        eventually("nothing is in flight", DEADLINE, || {
            lowest.set(in_flight().min(lowest.get()));
            (lowest.get() == 0.0).then_some(())
        });
        eventually("every connection is closed", DEADLINE * 2, || {
            let left = up.open.load(Ordering::SeqCst);
            (gateway.metric("keygate_connections") == 0.0 && left == 0).then_some(())
        });
        assert!(in_flight() >= 0.0, "a gauge is negative");
        after.push((descriptors(pid), resident(pid)));
        eprintln!("and after them: {:?}", after.last());
    }
    // The first rounds fill what the allocator keeps for the next; after that nothing grows any more.
    let (first, before, last) = (after[0], after[ROUNDS - 2], after[ROUNDS - 1]);
    assert!(last.0 <= first.0 + 4, "descriptors and memory: {after:?}");
    eprintln!("descriptors and memory: {after:?}");
    // The allocator gives memory back over seconds, and not the same share of it after each round.
    eventually("memory is as before the last round", DEADLINE * 2, || {
        (last.1.min(resident(pid)) < before.1 + (6 << 10) * count).then_some(())
    });
}
