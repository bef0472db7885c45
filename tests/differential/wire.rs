//! One client connection to a proxy and the upstream behind the proxy, both served by one thread: so all that reaches
//! the upstream belongs to the bytes that were just sent.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::outcome::Request;

/// Stands for the body of a request whose framing can't be read.
const UNCLEAN: &[u8] = b"(a body without a clean framing)";

/// How long nothing may happen after the client's end before the upstream ends its connections too.
const IDLE: Duration = Duration::from_millis(300);

/// What the upstream answers, and what tells its answers from the proxy's own.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-title: recorded\r\ncontent-length: 0\r\n\r\n";
const RECORDED: &[u8] = b"x-title: recorded";

/// Whoever takes longer to end a connection whose client has ended it is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Where a proxy listens.
#[derive(Clone)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    pub fn connect(&self) -> std::io::Result<OwnedFd> {
        Ok(match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
        })
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> Option<OwnedFd> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).expect("a socket");
                Some(stream.into())
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nodelay(true).expect("a socket");
                stream.set_nonblocking(true).expect("a socket");
                Some(stream.into())
            }
        }
    }
}

/// The upstream: writes down every whole request and answers it at once.
pub struct Upstream {
    listener: Listener,
    connections: Vec<Connection>,
    /// Whether every byte of a head has to be valid HTTP, not only its framing.
    is_strict: bool,
}

struct Connection {
    stream: OwnedFd,
    unread: Vec<u8>,
}

impl Upstream {
    pub fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket in a folder of its own");
        listener.set_nonblocking(true).expect("a socket");
        Self {
            listener: Listener::Unix(listener),
            connections: Vec::new(),
            is_strict: false,
        }
    }

    /// On a free port of the loopback interface, with its address. Heads have to be valid to the last byte.
    pub fn on_a_port() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let upstream = Self {
            listener: Listener::Tcp(listener),
            connections: Vec::new(),
            is_strict: true,
        };
        (upstream, address)
    }

    /// Takes what has come on this connection; false where it has ended.
    fn read(&mut self, at: usize, requests: &mut Vec<Request>) -> bool {
        let connection = &mut self.connections[at];
        let mut piece = [0; 16 * 1024];
        loop {
            match rustix::io::read(&connection.stream, &mut piece) {
                Ok(0) => return false,
                Ok(count) => connection.unread.extend_from_slice(&piece[..count]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        while let Some((request, used)) = clean_request(&connection.unread) {
            if self.is_strict {
                assert_valid(&connection.unread, &request);
            }
            connection.unread.drain(..used);
            requests.push(request);
            // The proxy may have gone meanwhile.
            let _ = rustix::io::write(&connection.stream, ANSWER);
        }
        true
    }
}

/// What came of one case.
#[derive(Debug, Default)]
pub struct Exchange {
    /// The statuses of the final answers, in order, and for each whether it is the upstream's.
    pub answers: Vec<(u16, bool)>,
    /// All that was answered, byte for byte.
    pub answered: Vec<u8>,
    /// The requests that reached the upstream whole.
    pub requests: Vec<Request>,
    /// Whether the proxy ended the connection before the client did.
    pub ended_first: bool,
}

/// Sends bytes on a fresh connection, waits so long for the proxy to end it, then ends the sending side and waits
/// until the proxy has ended the connection too. Once so many requests have reached the upstream, nothing is waited for.
pub fn exchange(
    address: &Address,
    upstream: &mut Upstream,
    bytes: &[u8],
    patience: Duration,
    enough: usize,
) -> Exchange {
    let client = address.connect().expect("the proxy listens");
    let mut exchange = Exchange::default();
    let mut unsent = bytes;
    let started = Instant::now();
    let mut patient_until = started + patience;
    let mut half_closed = false;
    let mut piece = [0; 16 * 1024];
    'connection: loop {
        let is_over = exchange.requests.len() >= enough || Instant::now() >= patient_until;
        if !half_closed && unsent.is_empty() && is_over {
            half_closed = true;
            let _ = rustix::net::shutdown(&client, rustix::net::Shutdown::Write);
        }
        assert!(
            started.elapsed() < STUCK,
            "no end within {STUCK:?} of b\"{}\"",
            bytes.escape_ascii()
        );
        let timeout = if half_closed {
            IDLE
        } else {
            patient_until.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        };
        let mut wanted = PollFlags::IN;
        if !unsent.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let ready = wait(&client, wanted, upstream, timeout);
        if half_closed && ready.iter().all(|flags| flags.is_empty()) {
            // The proxy waits for the answer to a request that the upstream waits for the end of.
            upstream.connections.clear();
        }
        let progressed = serve(upstream, &ready[1..], &mut exchange.requests);
        if progressed {
            patient_until = patient_until.max(Instant::now() + patience);
        }
        if !unsent.is_empty() && ready[0].intersects(PollFlags::OUT | PollFlags::ERR) {
            match rustix::io::write(&client, unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The proxy has ended the connection without reading everything.
                Err(_) => unsent = b"",
            }
        }
        if !ready[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            continue;
        }
        loop {
            match rustix::io::read(&client, &mut piece) {
                Ok(0) => break 'connection,
                Ok(count) => exchange.answered.extend_from_slice(&piece[..count]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => break 'connection,
            }
        }
    }
    exchange.ended_first = !half_closed;
    drop(client);
    loop {
        let ready = wait_upstream(upstream);
        if !serve(upstream, &ready, &mut exchange.requests) {
            break;
        }
    }
    // What is left of a request that the proxy gave up.
    upstream
        .connections
        .retain(|connection| connection.unread.is_empty());
    exchange.answers = answers(&exchange.answered);
    exchange
}

/// What is ready: the client, the listener, each connection of the upstream.
fn wait(
    client: &OwnedFd,
    wanted: PollFlags,
    upstream: &Upstream,
    timeout: Duration,
) -> Vec<PollFlags> {
    let mut polled = vec![
        PollFd::new(client, wanted),
        PollFd::from_borrowed_fd(upstream.listener.as_fd(), PollFlags::IN),
    ];
    polled.extend(
        upstream
            .connections
            .iter()
            .map(|connection| PollFd::new(&connection.stream, PollFlags::IN)),
    );
    ready(&mut polled, timeout)
}

/// What is ready at the upstream now.
fn wait_upstream(upstream: &Upstream) -> Vec<PollFlags> {
    let mut polled = vec![PollFd::from_borrowed_fd(
        upstream.listener.as_fd(),
        PollFlags::IN,
    )];
    polled.extend(
        upstream
            .connections
            .iter()
            .map(|connection| PollFd::new(&connection.stream, PollFlags::IN)),
    );
    ready(&mut polled, Duration::ZERO)
}

fn ready(polled: &mut [PollFd<'_>], timeout: Duration) -> Vec<PollFlags> {
    let timeout = Timespec {
        tv_sec: timeout.as_secs().try_into().expect("seconds"),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(polled, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
    polled.iter().map(PollFd::revents).collect()
}

/// Takes what came to the upstream; whether anything did. `ready` is the listener's flags, then each connection's.
fn serve(upstream: &mut Upstream, ready: &[PollFlags], requests: &mut Vec<Request>) -> bool {
    let mut progressed = false;
    // From behind, so that places stay what they are when a connection is dropped.
    for at in (0..ready.len() - 1).rev() {
        if !ready[at + 1].is_empty() {
            progressed = true;
            if !upstream.read(at, requests) {
                upstream.connections.remove(at);
            }
        }
    }
    if !ready[0].is_empty() {
        while let Some(stream) = upstream.listener.accept() {
            progressed = true;
            upstream.connections.push(Connection {
                stream,
                unread: Vec::new(),
            });
        }
    }
    progressed
}

/// A request as a proxy writes it, and its length. Some pass odd bytes in targets and values on, so little is checked.
fn clean_request(bytes: &[u8]) -> Option<(Request, usize)> {
    let body_at = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut lines = Vec::new();
    let mut rest = &bytes[..body_at - 2];
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    let method_end = memchr::memchr(b' ', lines[0]).unwrap_or_else(|| unclean(bytes));
    let version_at = memchr::memrchr(b' ', lines[0]).unwrap_or_else(|| unclean(bytes));
    if method_end >= version_at
        || lines
            .iter()
            .any(|line| memchr::memchr2(b'\r', b'\n', line).is_some())
    {
        unclean(bytes);
    }
    let all = |name: &[u8]| -> Vec<&[u8]> {
        lines[1..]
            .iter()
            .filter_map(|line| {
                let colon = memchr::memchr(b':', line)?;
                let is_named = line[..colon].eq_ignore_ascii_case(name);
                is_named.then(|| line[colon + 1..].trim_ascii())
            })
            .collect()
    };
    let lengths = all(b"content-length");
    // HAProxy passes empty members of the list on.
    let encodings = all(b"transfer-encoding").join(&b","[..]);
    let encodings: Vec<&[u8]> = encodings
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty())
        .collect();
    let (body, used) = match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => (Vec::new(), 0),
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).unwrap_or_default().parse();
            // HAProxy passes lengths beyond 64 bits on, and nothing is as long.
            let length = length.unwrap_or(usize::MAX);
            (bytes[body_at..].get(..length)?.to_vec(), length)
        }
        ([], [.., last]) if last.eq_ignore_ascii_case(b"chunked") => chunked(&bytes[body_at..])?,
        _ => (UNCLEAN.to_vec(), bytes.len() - body_at),
    };
    let request = Request {
        method: lines[0][..method_end].to_vec(),
        target: lines[0][method_end + 1..version_at].to_vec(),
        version: None,
        headers: None,
        body,
        keep_alive: None,
        place: None,
    };
    Some((request, body_at + used))
}

fn assert_valid(bytes: &[u8], request: &Request) {
    let mut space = [httparse::EMPTY_HEADER; 256];
    let parsed = httparse::Request::new(&mut space).parse(bytes);
    assert!(
        matches!(parsed, Ok(httparse::Status::Complete(_))) && request.body != UNCLEAN,
        "the gateway sent {parsed:?}: b\"{}\"",
        bytes.escape_ascii()
    );
}

fn unclean(bytes: &[u8]) -> ! {
    panic!(
        "a proxy sent no clean framing: b\"{}\"",
        bytes.escape_ascii()
    )
}

/// A chunked body as a proxy writes it: no extensions, no trailers.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| unclean(bytes));
        at += line + 2;
        if size == 0 {
            let end = bytes.get(at..at + 2)?;
            if end != b"\r\n" {
                // Trailers: read up to the empty line.
                let end = bytes[at..].windows(4).position(|end| end == b"\r\n\r\n")?;
                return Some((body, at + end + 4));
            }
            return Some((body, at + 2));
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        if bytes.get(at + size..at + size + 2)? != b"\r\n" {
            unclean(bytes);
        }
        at += size + 2;
    }
}

/// The final answers in what a proxy sent: the status of each, and whether it is the upstream's. Only the proxy and
/// the upstream write here, and neither writes `HTTP/1.` within a body.
fn answers(bytes: &[u8]) -> Vec<(u16, bool)> {
    let starts: Vec<usize> = memchr::memmem::find_iter(bytes, b"HTTP/1.").collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let answer = &bytes[*start..end];
            let status = answer.get(9..12).and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                digits.parse().ok()
            });
            let recorded = memchr::memmem::find(answer, RECORDED).is_some();
            (status.unwrap_or(0), recorded)
        })
        .filter(|(status, _)| *status >= 200)
        .collect()
}
