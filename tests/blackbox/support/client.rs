//! A raw HTTP/1.1 client: it sends exactly the bytes it is given, and says exactly what came back and how it ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{DEADLINE, sweep};

/// A request, to be sent over whichever protocol.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Call {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn get(target: &str, token: &str) -> Self {
        Self::new("GET", target).bearer(token)
    }

    /// A POST of JSON.
    pub fn json(target: &str, token: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut call = Self::new("POST", target)
            .bearer(token)
            .header("content-type", "application/json");
        call.body = body.into();
        call
    }

    /// A chat for a model.
    pub fn chat(token: &str, model: &str) -> Self {
        let body = serde_json::json!({
            "model": model,
            "messages": [{"role": "user", "content": "hello"}],
        });
        Self::json("/v1/chat/completions", token, body.to_string())
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With one more header line.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The head as HTTP/1.1, with Host; and Content-Length where there is a body or the method has one.
    pub fn head(&self) -> Vec<u8> {
        let mut head = self.head_without_length();
        head.truncate(head.len() - 2);
        if !self.body.is_empty() || self.method == "POST" {
            head.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The head as HTTP/1.1, with Host, but without any framing of a body.
    pub fn head_without_length(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The whole request as HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The whole request with its body in chunks of these sizes, the rest in a last one.
    pub fn chunked(&self, sizes: &[usize]) -> Vec<u8> {
        let mut bytes = self.head_without_length();
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        let mut rest = self.body.as_slice();
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            if !piece.is_empty() {
                bytes.extend_from_slice(&chunk(piece));
            }
            rest = after;
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// An orderly end: FIN, under TLS after close_notify.
    Fin,
    /// A reset, or under TLS an end without close_notify.
    Reset,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of Content-Length, the last chunk, or no body at all.
    Whole,
    /// The connection ended and nothing else says where the body does.
    UntilClose,
    /// The connection ended, or the stream was reset, before the body's end.
    Cut,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
    /// The 1xx that came before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "not JSON ({error}), status {}: {}",
                self.status,
                self.text()
            )
        })
    }
}

enum Wire {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Wire {
    fn read_timeout(&self, timeout: Duration) {
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        let set = match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Tls(stream) => stream.sock.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        };
        set.expect("a read timeout");
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => read_tls(stream, buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// Reads what has come even where nothing can be sent any more: the answer may be there.
fn read_tls(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    buffer: &mut [u8],
) -> std::io::Result<usize> {
    loop {
        match stream.conn.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
        stream.conn.read_tls(&mut stream.sock)?;
        stream
            .conn
            .process_new_packets()
            .map_err(std::io::Error::other)?;
        // Answers of TLS itself, such as a key update's, where they still can be sent.
        while stream.conn.wants_write() && stream.conn.write_tls(&mut stream.sock).is_ok() {}
    }
}

/// Where a body's end is.
enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// A connection to the gateway.
pub struct Client {
    wire: Wire,
    inbox: Vec<u8>,
    gone: Option<Gone>,
    framing: Framing,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connected");
        Self::over_tcp(stream)
    }

    /// Connects from one of this machine's loopback addresses.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )
        .expect("a socket");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("bound to the source address");
        socket
            .connect_timeout(&address.into(), DEADLINE)
            .expect("connected");
        Self::over_tcp(socket.into())
    }

    /// Over a connection that stands.
    pub fn over_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("a write timeout");
        Self::over(Wire::Tcp(stream))
    }

    /// Connects over TLS and finishes the handshake.
    pub fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        Self::connect_tls_with(b"", "localhost", address, config)
    }

    /// The same, with these bytes before the hello and in one write with it.
    pub fn connect_tls_after(
        first: &[u8],
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        Self::connect_tls_with(first, "localhost", address, config)
    }

    /// The same, asking for this name; an address asks for none.
    pub fn connect_tls_as(
        name: &'static str,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        Self::connect_tls_with(b"", name, address, config)
    }

    fn connect_tls_with(
        first: &[u8],
        name: &'static str,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name).expect("a name");
        let mut session = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let mut bytes = first.to_vec();
        session.write_tls(&mut bytes)?;
        stream.write_all(&bytes)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self::over(Wire::Tls(Box::new(StreamOwned::new(
            session, stream,
        )))))
    }

    pub fn connect_unix(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self::over(Wire::Unix(stream)))
    }

    fn over(wire: Wire) -> Self {
        Self {
            wire,
            inbox: Vec::new(),
            gone: None,
            framing: Framing::None,
        }
    }

    /// What TLS agreed on.
    pub fn session(&self) -> &ClientConnection {
        match &self.wire {
            Wire::Tls(stream) => &stream.conn,
            _ => panic!("not a TLS connection"),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.wire {
            Wire::Tcp(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
            Wire::Unix(_) => panic!("not a TCP connection"),
        }
    }

    /// Sends these bytes, all of them.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the bytes are sent");
    }

    /// Sends as much as the other side takes.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.write(bytes)
    }

    /// Ends this side's direction.
    pub fn shut_write(&mut self) {
        if let Wire::Tls(stream) = &mut self.wire {
            stream.conn.send_close_notify();
            stream.flush().expect("close_notify is sent");
        }
        self.tcp()
            .shutdown(std::net::Shutdown::Write)
            .expect("the write side is shut");
    }

    /// Ends this side's direction where the other side has not ended both.
    pub fn shut_write_or_leave(&mut self) {
        let _ = self.tcp().shutdown(std::net::Shutdown::Write);
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, call: &Call) -> Response {
        self.send(&call.bytes());
        self.answer_to(&call.method)
    }

    /// The next answer, whole.
    #[track_caller]
    pub fn answer(&mut self) -> Response {
        self.answer_to("GET")
    }

    /// The next answer, to a request of this method.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Response {
        let mut response = self.head_of(method);
        self.finish(&mut response, DEADLINE);
        response
    }

    /// The next answer, or None where the connection ends without a byte of one.
    #[track_caller]
    pub fn answer_or_end(&mut self) -> Option<Response> {
        let deadline = Instant::now() + DEADLINE;
        while self.inbox.is_empty() && self.gone.is_none() {
            assert!(self.fill(deadline), "neither an answer nor an end in time");
        }
        if self.inbox.is_empty() {
            return None;
        }
        Some(self.answer())
    }

    /// The head of the next answer; its body is read by [`Self::until`] and [`Self::finish`].
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.head_of("GET")
    }

    #[track_caller]
    pub fn head_of(&mut self, method: &str) -> Response {
        let deadline = Instant::now() + DEADLINE;
        let mut interim = Vec::new();
        loop {
            let response = self.one_head(deadline);
            if (100..200).contains(&response.status) {
                interim.push(response.status);
                continue;
            }
            self.framing = framing(method, &response);
            return Response {
                interim,
                ..response
            };
        }
    }

    #[track_caller]
    fn one_head(&mut self, deadline: Instant) -> Response {
        let length = loop {
            if let Some(at) = find(&self.inbox, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.gone.is_none(),
                "the connection ended ({:?}) within a head: {:?}",
                self.gone,
                String::from_utf8_lossy(&self.inbox)
            );
            assert!(
                self.fill(deadline),
                "no head in time: {:?}",
                String::from_utf8_lossy(&self.inbox)
            );
        };
        let head: Vec<u8> = self.inbox.drain(..length).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let (version, rest) = first.split_once(' ').unwrap_or_default();
        assert!(version.starts_with("HTTP/1."), "not an answer: {first:?}");
        let status = rest.get(..3).and_then(|digits| digits.parse().ok());
        let headers = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Response {
            status: status.unwrap_or_else(|| panic!("not a status: {first:?}")),
            headers,
            body: Vec::new(),
            end: End::Cut,
            interim: Vec::new(),
        }
    }

    /// Reads the body until it holds these bytes.
    #[track_caller]
    pub fn until(&mut self, response: &mut Response, needle: &[u8]) {
        let deadline = Instant::now() + DEADLINE;
        while find(&response.body, needle).is_none() {
            let ended = self.take_body(response);
            if find(&response.body, needle).is_some() {
                return;
            }
            assert!(
                ended.is_none() && self.fill(deadline),
                "the body never held {:?}: {:?}",
                String::from_utf8_lossy(needle),
                response.text()
            );
        }
    }

    /// Reads the body to its end.
    #[track_caller]
    pub fn finish(&mut self, response: &mut Response, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = self.take_body(response) {
                response.end = end;
                sweep::answered(response, matches!(self.wire, Wire::Unix(_)));
                return;
            }
            assert!(
                self.fill(deadline),
                "the body did not end within {within:?}: {}",
                response.text()
            );
        }
    }

    /// Moves what has come from the inbox into the body; says so where that is its end.
    fn take_body(&mut self, response: &mut Response) -> Option<End> {
        loop {
            match &mut self.framing {
                Framing::None => return Some(End::Whole),
                Framing::Length(left) => {
                    let count = self.inbox.len().min(*left);
                    response.body.extend(self.inbox.drain(..count));
                    *left -= count;
                    if *left == 0 {
                        self.framing = Framing::None;
                        return Some(End::Whole);
                    }
                    return self.gone.map(|_| End::Cut);
                }
                Framing::UntilClose => {
                    response.body.append(&mut self.inbox);
                    return self.gone.map(|_| End::UntilClose);
                }
                Framing::Chunked => {
                    let Some(size_end) = find(&self.inbox, b"\r\n") else {
                        return self.gone.map(|_| End::Cut);
                    };
                    let line = String::from_utf8_lossy(&self.inbox[..size_end]).into_owned();
                    let size =
                        usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
                            .unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
                    let whole = size_end + 2 + size + 2;
                    if self.inbox.len() < whole {
                        return self.gone.map(|_| End::Cut);
                    }
                    assert_eq!(&self.inbox[whole - 2..whole], b"\r\n", "a chunk's end");
                    response
                        .body
                        .extend_from_slice(&self.inbox[size_end + 2..whole - 2]);
                    self.inbox.drain(..whole);
                    if size == 0 {
                        self.framing = Framing::None;
                        return Some(End::Whole);
                    }
                }
            }
        }
    }

    /// Reads once. False at the deadline.
    fn fill(&mut self, deadline: Instant) -> bool {
        if self.gone.is_some() {
            return true;
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return false;
        };
        self.wire.read_timeout(left);
        let mut buffer = [0_u8; 16 * 1024];
        match self.wire.read(&mut buffer) {
            Ok(0) => self.gone = Some(Gone::Fin),
            Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.gone = Some(Gone::Reset),
        }
        true
    }

    /// Waits for the connection's end, and how it came; bytes before it are kept in the inbox. None: not in time.
    pub fn ends_within(&mut self, within: Duration) -> Option<Gone> {
        let deadline = Instant::now() + within;
        while self.gone.is_none() {
            if !self.fill(deadline) {
                return None;
            }
        }
        self.gone
    }

    /// The connection ends, and nothing more comes before.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let gone = self.ends_within(DEADLINE);
        assert!(gone.is_some(), "the connection stays open");
        assert!(
            self.inbox.is_empty(),
            "more came before the end: {:?}",
            String::from_utf8_lossy(&self.inbox)
        );
    }

    /// Whether nothing comes, no byte and no end, for this long.
    pub fn silent_for(&mut self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        while self.inbox.is_empty() && self.gone.is_none() {
            if !self.fill(deadline) {
                return true;
            }
        }
        false
    }

    /// What came and was not read as part of an answer.
    pub fn unread(&self) -> &[u8] {
        &self.inbox
    }
}

fn framing(method: &str, response: &Response) -> Framing {
    if method == "HEAD" || matches!(response.status, 204 | 304) {
        return Framing::None;
    }
    if let Some(coding) = response.header("transfer-encoding") {
        assert!(
            coding.eq_ignore_ascii_case("chunked"),
            "transfer-encoding: {coding}"
        );
        assert!(response.header("content-length").is_none(), "two framings");
        return Framing::Chunked;
    }
    match response.all("content-length").as_slice() {
        [] => Framing::UntilClose,
        [length] => Framing::Length(length.parse().expect("a length")),
        lengths => panic!("several lengths: {lengths:?}"),
    }
}

/// Where the needle begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
