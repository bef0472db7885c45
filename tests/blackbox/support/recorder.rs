//! A mock upstream: it records every byte it is sent, on which connection, and when that ended, and answers as its test
//! says, byte by byte where that matters.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{chunk, find};
use super::{DEADLINE, WITHIN_A_SECOND, lock};

/// What a test's upstream does with a request whose head has come.
type Script = dyn Fn(Exchange) + Send + Sync;

/// A request as it reached the upstream.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    /// Its head, byte for byte.
    pub head: Vec<u8>,
    /// Its body, without the framing; empty until the whole of it has come.
    pub body: Vec<u8>,
    /// Whether its whole body has come.
    pub complete: bool,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

#[derive(Default)]
struct Log {
    connections: Vec<Connection>,
    requests: Vec<Seen>,
}

struct Connection {
    bytes: Vec<u8>,
    /// When the gateway ended it, where it did.
    gone: Option<Instant>,
    /// Whether this side ended it.
    ended_here: bool,
    stream: Weak<TcpStream>,
}

struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    script: Mutex<Arc<Script>>,
    stopped: AtomicBool,
}

impl Shared {
    /// Waits until the log satisfies the question, at most so long.
    fn wait<T>(&self, within: Duration, mut ask: impl FnMut(&mut Log) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut log = lock(&self.log);
        loop {
            if let Some(answer) = ask(&mut log) {
                return Some(answer);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            log = self
                .changed
                .wait_timeout(log, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(log, _)| log);
        }
    }
}

/// The upstream.
pub struct Recorder {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    held: Mutex<Receiver<Exchange>>,
}

impl Recorder {
    /// An upstream that runs this for every request.
    pub fn start(script: impl Fn(Exchange) + Send + Sync + 'static) -> Self {
        Self::listen(Reserved::new(), Some(Arc::new(script)))
    }

    /// An upstream that answers every request with a small completion.
    pub fn answering() -> Self {
        Self::start(Exchange::complete)
    }

    /// An upstream that leaves every request to its test, which takes it with [`Self::next`].
    pub fn held() -> Self {
        Self::listen(Reserved::new(), None)
    }

    fn listen(reserved: Reserved, script: Option<Arc<Script>>) -> Self {
        let address = reserved.address;
        reserved.socket.listen(1024).expect("listens");
        let listener: TcpListener = reserved.socket.into();
        let (hold, held) = channel();
        let hold = Mutex::new(hold);
        let script = script.unwrap_or_else(|| {
            Arc::new(move |exchange| {
                let _ = lock(&hold).send(exchange);
            })
        });
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            changed: Condvar::new(),
            script: Mutex::new(script),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self {
            address,
            shared,
            held: Mutex::new(held),
        }
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, this for every request.
    pub fn script(&self, script: impl Fn(Exchange) + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// The next request, held for the test to answer.
    #[track_caller]
    pub fn next(&self) -> Exchange {
        match lock(&self.held).recv_timeout(DEADLINE) {
            Ok(exchange) => exchange,
            Err(RecvTimeoutError::Timeout) => panic!("no request reached the upstream"),
            Err(RecvTimeoutError::Disconnected) => panic!("the upstream does not hold requests"),
        }
    }

    /// Every request whose head has come.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.log).requests.clone()
    }

    /// Those for a target, for upstreams that are also asked for their models.
    pub fn requests_for(&self, target: &str) -> Vec<Seen> {
        let mut requests = self.requests();
        requests.retain(|seen| seen.target == target);
        requests
    }

    /// The last request, whole.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.shared
            .wait(DEADLINE, |log| {
                log.requests.last().filter(|seen| seen.complete).cloned()
            })
            .expect("a whole request reached the upstream")
    }

    /// How many connections to it carried a byte.
    pub fn connections(&self) -> usize {
        lock(&self.shared.log).connections.len()
    }

    #[track_caller]
    pub fn wait_gone(&self, connection: usize) {
        let gone = self
            .shared
            .wait(DEADLINE, |log| log.connections[connection].gone);
        assert!(
            gone.is_some(),
            "upstream connection {connection} stays open"
        );
    }

    /// Every byte that came, over all connections.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.shared.log)
            .connections
            .iter()
            .flat_map(|connection| connection.bytes.iter().copied())
            .collect()
    }

    /// No byte of any request came.
    pub fn untouched(&self) -> Result<(), String> {
        let bytes = self.bytes();
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "the upstream saw {} bytes: {:?}",
                bytes.len(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(300)])
            ))
        }
    }

    /// Forgets the requests and bytes seen so far.
    pub fn forget(&self) {
        let mut log = lock(&self.shared.log);
        log.requests.clear();
    }

    /// Closes all connections: what the gateway keeps is stale from now on.
    pub fn close_connections(&self) {
        for connection in 0..self.connections() {
            self.close_connection(connection);
        }
    }

    pub fn close_connection(&self, connection: usize) {
        let mut log = lock(&self.shared.log);
        let connection = &mut log.connections[connection];
        connection.ended_here = true;
        if let Some(stream) = connection.stream.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Stops listening, ends every connection, and keeps the port: connections are refused.
    pub fn down(self) -> Reserved {
        let address = self.address;
        drop(self);
        super::eventually("the port is free again", DEADLINE, || {
            Reserved::at(address).ok()
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then lets go of the port.
        drop(TcpStream::connect_timeout(
            &self.address,
            Duration::from_secs(1),
        ));
        self.close_connections();
    }
}

/// A port at which connections are refused, until it is opened.
pub struct Reserved {
    pub address: SocketAddr,
    socket: socket2::Socket,
}

impl Reserved {
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port")
    }

    fn at(address: SocketAddr) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let address = socket
            .local_addr()?
            .as_socket()
            .unwrap_or_else(|| unreachable!("an IPv4 socket"));
        Ok(Self { address, socket })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes connections from now on.
    pub fn open(self, script: impl Fn(Exchange) + Send + Sync + 'static) -> Recorder {
        Recorder::listen(self, Some(Arc::new(script)))
    }

    /// Listens without ever accepting, its queue full: connecting to it stays without an answer.
    pub fn unanswering(self) -> Unanswering {
        self.socket.listen(0).expect("listens");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&self.address, Duration::from_millis(300))
        {
            queued.push(stream);
            assert!(queued.len() < 16, "the queue never fills");
        }
        Unanswering {
            address: self.address,
            _socket: self.socket,
            _queued: queued,
        }
    }
}

/// See [`Reserved::unanswering`].
pub struct Unanswering {
    pub address: SocketAddr,
    _socket: socket2::Socket,
    _queued: Vec<TcpStream>,
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(shared);
        thread::spawn(move || admit(&shared, stream));
    }
}

/// Serves a connection from its first byte on. One without a byte is a probe, and is not counted.
fn admit(shared: &Arc<Shared>, stream: TcpStream) {
    if !stream.peek(&mut [0]).is_ok_and(|count| count > 0) {
        return;
    }
    let stream = Arc::new(stream);
    let connection = {
        let mut log = lock(&shared.log);
        log.connections.push(Connection {
            bytes: Vec::new(),
            gone: None,
            ended_here: false,
            stream: Arc::downgrade(&stream),
        });
        log.connections.len() - 1
    };
    let reading = (Arc::clone(shared), Arc::clone(&stream));
    thread::spawn(move || record(&reading.0, connection, &reading.1));
    serve(shared, connection, &stream);
}

/// Writes down what comes until the other side ends the connection.
fn record(shared: &Shared, connection: usize, mut stream: &TcpStream) {
    let mut buffer = [0_u8; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        let mut log = lock(&shared.log);
        let connection = &mut log.connections[connection];
        if count == 0 {
            if !connection.ended_here {
                connection.gone = Some(Instant::now());
            }
        } else {
            connection.bytes.extend_from_slice(&buffer[..count]);
        }
        drop(log);
        shared.changed.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// Runs the script for each request on a connection.
fn serve(shared: &Arc<Shared>, connection: usize, stream: &Arc<TcpStream>) {
    let mut offset = 0;
    loop {
        let head = shared.wait(Duration::from_secs(600), |log| {
            let connection = &log.connections[connection];
            let bytes = &connection.bytes[offset..];
            match find(bytes, b"\r\n\r\n") {
                Some(end) => Some(Some(bytes[..end + 4].to_vec())),
                None if connection.gone.is_some() || connection.ended_here => Some(None),
                None => None,
            }
        });
        let Some(Some(head)) = head else { return };
        let request = {
            let mut log = lock(&shared.log);
            log.requests.push(parse(connection, &head));
            log.requests.len() - 1
        };
        shared.changed.notify_all();
        let (done, when_done) = channel();
        let exchange = Exchange {
            seen: parse(connection, &head),
            shared: Arc::clone(shared),
            request,
            body_starts: offset + head.len(),
            body_ends: None,
            stream: Arc::clone(stream),
            done: Some(done),
        };
        let script = Arc::clone(&lock(&shared.script));
        script(exchange);
        match when_done.recv() {
            Ok(next) => offset = next,
            Err(_) => return,
        }
    }
}

fn parse(connection: usize, head: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let mut first = lines
        .next()
        .unwrap_or_default()
        .splitn(3, ' ')
        .map(str::to_owned);
    Seen {
        connection,
        method: first.next().unwrap_or_default(),
        target: first.next().unwrap_or_default(),
        version: first.next().unwrap_or_default(),
        headers: lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or((line, "<no colon>"));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect(),
        head: head.to_vec(),
        body: Vec::new(),
        complete: false,
    }
}

/// A request in the upstream's hands. Dropped, its connection is closed.
pub struct Exchange {
    pub seen: Seen,
    shared: Arc<Shared>,
    request: usize,
    body_starts: usize,
    body_ends: Option<usize>,
    stream: Arc<TcpStream>,
    done: Option<Sender<usize>>,
}

impl Exchange {
    /// Waits for the whole body; None where the gateway left before its end.
    pub fn body(&mut self) -> Option<Vec<u8>> {
        if self.body_ends.is_some() {
            return Some(self.seen.body.clone());
        }
        let connection = self.seen.connection;
        let (starts, request) = (self.body_starts, self.request);
        let head = self.seen.clone();
        let (body, length) = self.shared.wait(Duration::from_secs(120), |log| {
            let known = &log.connections[connection];
            match read_body(&head, &known.bytes[starts..]) {
                Some((body, length)) => {
                    if let Some(seen) = log.requests.get_mut(request) {
                        seen.body.clone_from(&body);
                        seen.complete = true;
                    }
                    Some(Some((body, length)))
                }
                None if known.gone.is_some() || known.ended_here => Some(None),
                None => None,
            }
        })??;
        self.shared.changed.notify_all();
        self.body_ends = Some(starts + length);
        self.seen.complete = true;
        self.seen.body.clone_from(&body);
        Some(body)
    }

    /// Sends these bytes; whether the gateway still takes them shows in [`Self::gone_within`].
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = (&*self.stream).write_all(bytes.as_ref());
    }

    /// Sends one chunk of a chunked answer.
    pub fn chunk(&mut self, data: impl AsRef<[u8]>) {
        self.send(chunk(data.as_ref()));
    }

    /// Waits for the body, then sends the head of an event stream.
    pub fn begin_stream(&mut self) {
        self.body();
        self.send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        );
    }

    /// Ends a chunked answer and keeps the connection.
    pub fn end_stream(mut self) {
        self.send("0\r\n\r\n");
        self.keep();
    }

    /// Answers whole, and keeps the connection.
    pub fn reply(mut self, status: &str, headers: &str, body: impl AsRef<[u8]>) {
        if self.body().is_none() {
            return;
        }
        let body = body.as_ref();
        let mut answer = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(body);
        self.send(answer);
        self.keep();
    }

    /// Answers with JSON.
    pub fn reply_json(self, body: &str) {
        self.reply("200 OK", "content-type: application/json\r\n", body);
    }

    /// Answers with a small completion that repeats the request's body length.
    pub fn complete(mut self) {
        let length = self.body().map_or(0, |body| body.len());
        self.reply_json(&format!(
            r#"{{"object":"chat.completion","choices":[],"seen":{length}}}"#
        ));
    }

    /// Answers a GET /v1/models with these, anything else with a small completion.
    pub fn serve_models(self, models: &[&str]) {
        if self.seen.target == "/v1/models" {
            self.list_models(models);
        } else {
            self.complete();
        }
    }

    pub fn list_models(self, models: &[&str]) {
        let data: Vec<_> = models
            .iter()
            .map(|model| serde_json::json!({"id": model, "object": "model"}))
            .collect();
        self.reply_json(&serde_json::json!({"object": "list", "data": data}).to_string());
    }

    /// Sends these bytes as the answer and keeps the connection.
    pub fn answer_raw(mut self, bytes: impl AsRef<[u8]>) {
        self.body();
        self.send(bytes);
        self.keep();
    }

    /// Sends these bytes as the answer and closes the connection.
    pub fn answer_raw_and_close(mut self, bytes: impl AsRef<[u8]>) {
        self.body();
        self.send(bytes);
    }

    /// Leaves the connection open for the next request.
    pub fn keep(mut self) {
        self.body();
        if let (Some(done), Some(next)) = (self.done.take(), self.body_ends) {
            let _ = done.send(next);
        }
    }

    /// Leaves with a reset.
    pub fn reset(mut self) {
        lock(&self.shared.log).connections[self.seen.connection].ended_here = true;
        let _ = socket2::SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
        // Wakes the recording thread without a word to the gateway; when the last of us lets go, that is the reset.
        let _ = self.stream.shutdown(Shutdown::Read);
        self.done = None;
    }

    /// Whether the gateway ends the connection in this time.
    pub fn gone_within(&self, within: Duration) -> bool {
        let connection = self.seen.connection;
        self.shared
            .wait(within, |log| log.connections[connection].gone)
            .is_some()
    }

    /// The gateway lets go of the connection within a second.
    #[track_caller]
    pub fn assert_freed(&self) {
        let start = Instant::now();
        assert!(
            self.gone_within(DEADLINE),
            "the upstream connection was never freed"
        );
        let took = start.elapsed();
        assert!(
            took <= WITHIN_A_SECOND,
            "the upstream was freed after {took:?}"
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.done.is_some() {
            lock(&self.shared.log).connections[self.seen.connection].ended_here = true;
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// The body of a request and its length on the wire, once the whole of it is there.
fn read_body(head: &Seen, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    if head.header("transfer-encoding").is_none() {
        let length = head.header("content-length").map_or(0, |length| {
            length
                .parse()
                .unwrap_or_else(|_| panic!("a length: {length:?}"))
        });
        return bytes.get(..length).map(|body| (body.to_vec(), length));
    }
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let digits = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let size =
            usize::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("a size: {digits:?}"));
        let data = at + line + 2;
        let piece = bytes.get(data..data + size + 2)?;
        body.extend_from_slice(&piece[..size]);
        at = data + size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
