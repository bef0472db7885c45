//! One HTTP/1.1 connection to an upstream: a request out whole, its answer back piece by piece.
//!
//! The upstream is a server the operator chose, but its answers are read strictly all the same: whatever could be
//! framed in two ways is [`Broken`], and a connection is used again only when it is certain that nothing of one
//! answer can reach another client. Dropping a connection closes it, which is how an upstream learns that nobody
//! waits for its answer any more.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::http::clock::{Clock, Watch};

/// Largest head of an answer, in bytes.
const MOST_HEAD: usize = 64 << 10;
/// Most header lines of an answer.
const MOST_LINES: usize = 128;
/// Interim answers (RFC 9110 15.2) that are passed over before the final one.
const MOST_INTERIM: usize = 16;
/// Most bytes of one chunk's size line and of all trailers.
const MOST_CHUNK_LINE: usize = 16 << 10;
/// Room to read into.
const READ_AT_ONCE: usize = 16 << 10;
/// Bodies up to this length leave in one write with their head.
const SMALL_BODY: usize = 8 << 10;

/// A connection, free or in the middle of an exchange.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    read: BytesMut,
    /// What is left to send of the request being exchanged.
    outgoing: Outgoing,
    reused: bool,
}

/// The transport to an upstream.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP, its certificate verified.
    Tls(Box<TlsStream<TcpStream>>),
}

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// All its header lines, as sent.
    pub headers: HeaderMap,
    framing: Framing,
    keeps: bool,
}

/// How the end of an answer's body is known (RFC 9112 6.3).
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Done,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// Before a size line.
    Size,
    /// So many bytes of data left.
    Data(u64),
    /// Before the line end behind the data.
    DataEnd,
    /// After the last chunk; so many bytes of trailers were read.
    Trailers(usize),
    /// After the trailers.
    End,
}

/// Why an exchange came to nothing.
#[derive(Debug)]
pub enum ExchangeFault {
    /// A kept connection had been closed before a byte of the answer came: the request can be sent again.
    Stale,
    /// The answer is not HTTP, or could be read in two ways, or broke off.
    Broken(Broken),
    /// Nothing came in time.
    Silent,
}

/// What was wrong with an answer.
#[derive(Debug)]
pub struct Broken {
    what: &'static str,
    source: Option<io::Error>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<&'static str> for Broken {
    fn from(what: &'static str) -> Self {
        Self { what, source: None }
    }
}

impl Broken {
    fn io(source: io::Error) -> Self {
        Self {
            what: "the connection to the upstream broke",
            source: Some(source),
        }
    }
}

impl Connection {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            outgoing: Outgoing::default(),
            reused: false,
        }
    }

    /// Whether a kept connection is still silent and open. What a server says unasked is nobody's answer.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        let socket = match &mut self.stream {
            Stream::Tcp(socket) => &*socket,
            Stream::Tls(stream) => {
                // What was deciphered already, the system knows nothing of any more.
                let (socket, session) = stream.get_mut();
                match session.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() == 0 => &*socket,
                    Ok(_) | Err(_) => return false,
                }
            }
        };
        // Asked of the system, since what the runtime knows of the socket may be older than the last answer.
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(socket, &mut [0_u8; 1], flags);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Sends a request and reads the head of its answer. An answer that comes before the request is sent whole is
    /// taken, but then the connection is not used again.
    ///
    /// # Errors
    /// [`ExchangeFault`]; the connection is of no further use then.
    pub async fn exchange(
        &mut self,
        head: Vec<u8>,
        body: &Bytes,
        clock: &Clock,
        watch: &Watch,
    ) -> Result<Head, ExchangeFault> {
        self.outgoing = Outgoing::of(head, body);
        let mut interim = 0;
        let result = poll_fn(|cx| {
            // A failed write alone decides nothing: the server may have answered before it closed.
            let _ = self.poll_send(cx);
            loop {
                match self.parse_head(self.outgoing.is_sent()) {
                    Ok(Some(head)) if head.status.is_informational() => {
                        interim += 1;
                        if head.status == StatusCode::SWITCHING_PROTOCOLS || interim > MOST_INTERIM
                        {
                            return Poll::Ready(Err(ExchangeFault::Broken(
                                "too many interim answers".into(),
                            )));
                        }
                    }
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Ok(None) => match self.poll_fill(cx) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed(interim, None))),
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(self.closed(interim, Some(error))));
                        }
                        Poll::Pending if watch.is_late(clock.now()) => {
                            return Poll::Ready(Err(ExchangeFault::Silent));
                        }
                        Poll::Pending => {
                            watch.register(cx);
                            return Poll::Pending;
                        }
                    },
                    Err(broken) => return Poll::Ready(Err(ExchangeFault::Broken(broken))),
                }
            }
        })
        .await;
        watch.clear_deadline();
        result
    }

    /// The next piece of the answer's body; None at its clean end.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
    ) -> Poll<Option<Result<Bytes, Broken>>> {
        if !self.outgoing.is_sent() {
            // The answer began before the request was read to its end. Whether it can be finished is the server's to say.
            let _ = self.poll_send(cx);
        }
        loop {
            match self.take_piece(&mut head.framing) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if head.framing == Framing::Done => return Poll::Ready(None),
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if head.framing == Framing::UntilClose => head.framing = Framing::Done,
                Ok(0) => {
                    return Poll::Ready(Some(Err(
                        "the upstream closed in the middle of its answer".into(),
                    )));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Broken::io(error)))),
            }
        }
    }

    /// The connection, to be used again, where its last answer ended cleanly and nothing is left over.
    #[must_use]
    pub fn reusable(mut self, head: &Head) -> Option<Self> {
        self.reused = true;
        (head.keeps && head.is_done() && self.read.is_empty()).then_some(self)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_sent() {
            let count = ready!(self.stream.poll_write(cx, &self.outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.sent += count;
        }
        // Sent whole: what it held is free again.
        self.outgoing = Outgoing::default();
        self.stream.poll_flush(cx)
    }

    fn closed(&self, interim: usize, error: Option<io::Error>) -> ExchangeFault {
        let untouched = interim == 0 && self.read.is_empty();
        match error {
            _ if self.reused && untouched => ExchangeFault::Stale,
            Some(error) => ExchangeFault::Broken(Broken::io(error)),
            None => ExchangeFault::Broken("the upstream closed before its answer was whole".into()),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ_AT_ONCE);
        self.stream.poll_read(cx, &mut self.read)
    }

    /// Takes a whole head off what was read.
    fn parse_head(&mut self, request_sent: bool) -> Result<Option<Head>, Broken> {
        if self.read.is_empty() {
            return Ok(None);
        }
        let mut lines = [httparse::EMPTY_HEADER; MOST_LINES];
        let mut response = httparse::Response::new(&mut lines);
        let parsed = response
            .parse(&self.read)
            .map_err(|_| Broken::from("the upstream's answer is not HTTP"))?;
        let httparse::Status::Complete(length) = parsed else {
            return if self.read.len() < MOST_HEAD {
                Ok(None)
            } else {
                Err("the answer's head is too long".into())
            };
        };
        if length > MOST_HEAD {
            return Err("the answer's head is too long".into());
        }
        let version = if response.version == Some(1) {
            Version::HTTP_11
        } else {
            Version::HTTP_10
        };
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or("the upstream's answer has no status")?;
        let mut headers = HeaderMap::with_capacity(response.headers.len());
        for line in response.headers.iter() {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            let value = HeaderValue::from_bytes(line.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err("the answer has a header that is none".into());
            };
            headers.append(name, value);
        }
        self.read.advance(length);
        let framing = Framing::of(status, version, &headers)?;
        let keeps = request_sent
            && framing != Framing::UntilClose
            && !(framing == Framing::Done && announces_body(&headers))
            && keeps_open(version, &headers);
        Ok(Some(Head {
            status,
            headers,
            framing,
            keeps,
        }))
    }

    /// Takes what there is of a body off what was read; None where more has to be read, or at the end.
    fn take_piece(&mut self, framing: &mut Framing) -> Result<Option<Bytes>, Broken> {
        match framing {
            Framing::Done => Ok(None),
            Framing::UntilClose if self.read.is_empty() => Ok(None),
            Framing::UntilClose => Ok(Some(self.read.split().freeze())),
            Framing::Length(left) => {
                let piece = self.take_up_to(left);
                if *left == 0 {
                    *framing = Framing::Done;
                }
                Ok(piece)
            }
            Framing::Chunked(chunk) => {
                let piece = self.take_chunk(chunk)?;
                if *chunk == Chunk::End {
                    *framing = Framing::Done;
                }
                Ok(piece)
            }
        }
    }

    fn take_up_to(&mut self, left: &mut u64) -> Option<Bytes> {
        let count = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(self.read.len());
        *left -= count as u64;
        (count > 0).then(|| self.read.split_to(count).freeze())
    }

    /// RFC 9112 7.1, strictly: hexadecimal sizes without signs or blanks, CRLF everywhere.
    fn take_chunk(&mut self, chunk: &mut Chunk) -> Result<Option<Bytes>, Broken> {
        loop {
            match chunk {
                Chunk::Size => {
                    let Some(line) = self.take_line()? else {
                        return Ok(None);
                    };
                    *chunk = match chunk_size(&line)? {
                        0 => Chunk::Trailers(0),
                        size => Chunk::Data(size),
                    };
                }
                Chunk::Data(left) => {
                    let piece = self.take_up_to(left);
                    if *left == 0 {
                        *chunk = Chunk::DataEnd;
                    }
                    return Ok(piece);
                }
                Chunk::DataEnd => {
                    let Some(line) = self.take_line()? else {
                        return Ok(None);
                    };
                    if !line.is_empty() {
                        return Err("a chunk is longer than it says".into());
                    }
                    *chunk = Chunk::Size;
                }
                Chunk::End => return Ok(None),
                Chunk::Trailers(read) => {
                    let Some(line) = self.take_line()? else {
                        return Ok(None);
                    };
                    *read += line.len();
                    if *read > MOST_CHUNK_LINE {
                        return Err("the answer's trailers are too long".into());
                    }
                    if line.is_empty() {
                        *chunk = Chunk::End;
                    }
                }
            }
        }
    }

    /// A line without its CRLF; a bare LF is no line end.
    fn take_line(&mut self) -> Result<Option<Bytes>, Broken> {
        match memchr::memchr(b'\n', &self.read) {
            Some(end) if end > 0 && self.read[end - 1] == b'\r' => {
                let line = self.read.split_to(end + 1).freeze();
                Ok(Some(line.slice(..end - 1)))
            }
            Some(_) => Err("a chunk's line ends without CR".into()),
            None if self.read.len() > MOST_CHUNK_LINE => Err("a chunk's line is too long".into()),
            None => Ok(None),
        }
    }
}

impl Head {
    /// The body's length, where the upstream declared one.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.framing == Framing::Done
    }
}

impl Framing {
    fn of(status: StatusCode, version: Version, headers: &HeaderMap) -> Result<Self, Broken> {
        let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        let (encoding, length) = (encodings.next(), lengths.next());
        if encodings.next().is_some()
            || lengths.next().is_some()
            || (encoding.is_some() && length.is_some())
        {
            return Err("the answer's length is said twice".into());
        }
        if status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Self::Done);
        }
        match (encoding, length) {
            (Some(encoding), _)
                if version == Version::HTTP_11
                    && encoding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
            {
                Ok(Self::Chunked(Chunk::Size))
            }
            (Some(_), _) => Err("the answer's transfer encoding is not chunked".into()),
            (None, Some(length)) => {
                let digits = length.as_bytes();
                let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                let length = length
                    .to_str()
                    .ok()
                    .filter(|_| plain)
                    .and_then(|digits| digits.parse().ok());
                match length.ok_or("the answer's length is no number")? {
                    0 => Ok(Self::Done),
                    length => Ok(Self::Length(length)),
                }
            }
            (None, None) => Ok(Self::UntilClose),
        }
    }
}

/// Whether an answer that has no body by its status says that it has one: its server may send it all the same.
fn announces_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

fn keeps_open(version: Version, headers: &HeaderMap) -> bool {
    let mut keeps = version == Version::HTTP_11;
    for line in headers.get_all(header::CONNECTION) {
        for word in line
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
        {
            if word.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= word.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}

fn chunk_size(line: &[u8]) -> Result<u64, Broken> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if !(1..=15).contains(&digits.len()) {
        return Err("a chunk's size is no number".into());
    }
    digits.iter().try_fold(0_u64, |size, byte| {
        let digit = char::from(*byte)
            .to_digit(16)
            .ok_or("a chunk's size is no number")?;
        Ok(size << 4 | u64::from(digit))
    })
}

/// A request on its way out: its head and its body, together in one write where the body is small.
#[derive(Debug, Default)]
struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
    sent: usize,
}

impl Outgoing {
    fn of(mut head: Vec<u8>, body: &Bytes) -> Self {
        if body.len() <= SMALL_BODY {
            head.extend_from_slice(body);
            return Self {
                head,
                body: Bytes::new(),
                sent: 0,
            };
        }
        Self {
            head,
            body: body.clone(),
            sent: 0,
        }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.head.len() + self.body.len()
    }

    fn rest(&self) -> [&[u8]; 2] {
        let of_body = self.sent.saturating_sub(self.head.len());
        [
            &self.head[self.sent.min(self.head.len())..],
            &self.body[of_body..],
        ]
    }
}

impl Stream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Tls(stream) => pin!(stream.read_buf(buffer)).poll(cx),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, outgoing: &Outgoing) -> Poll<io::Result<usize>> {
        let slices = outgoing.rest().map(IoSlice::new);
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, &slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, &slices),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// What a client of `answer` gets: status and body, or what was wrong; and whether the connection can be kept.
    async fn exchange(answer: &[u8]) -> (Result<(u16, Vec<u8>), String>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let answer = answer.to_vec();
        let server = async move {
            let mut request = [0_u8; 64];
            let count = server.read(&mut request).await.unwrap();
            assert_eq!(&request[..count], b"POST / HTTP/1.1\r\n\r\nbody");
            for piece in answer.chunks(7.max(answer.len() / 64)) {
                // The client may have seen enough.
                if server.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = server.shutdown().await;
        };
        let client = async move {
            let (clock, mut connection) = (Clock::default(), Connection::new(Stream::Tcp(stream)));
            let watch = clock.watch();
            let body = Bytes::from_static(b"body");
            let head = connection
                .exchange(b"POST / HTTP/1.1\r\n\r\n".to_vec(), &body, &clock, &watch)
                .await;
            let mut head = match head {
                Ok(head) => head,
                Err(fault) => return (Err(format!("{fault:?}")), false),
            };
            let mut body = Vec::new();
            while let Some(piece) = poll_fn(|cx| connection.poll_piece(cx, &mut head)).await {
                match piece {
                    Ok(piece) => body.extend_from_slice(&piece),
                    Err(broken) => return (Err(broken.to_string()), false),
                }
            }
            (
                Ok((head.status.as_u16(), body)),
                connection.reusable(&head).is_some(),
            )
        };
        let both = async { tokio::join!(server, client).1 };
        tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .unwrap()
    }

    async fn accepts(answer: &str, status: u16, body: &str, kept: bool) {
        let (result, reusable) = exchange(answer.as_bytes()).await;
        assert_eq!(result, Ok((status, body.as_bytes().to_vec())), "{answer:?}");
        assert_eq!(reusable, kept, "{answer:?}");
    }

    async fn refuses(answer: &str) {
        let (result, _) = exchange(answer.as_bytes()).await;
        assert!(result.is_err(), "{answer:?}: {result:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_framing_is_read_to_its_end() {
        accepts(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            200,
            "hello",
            true,
        )
        .await;
        accepts(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            200,
            "",
            true,
        )
        .await;
        accepts("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true).await;
        for (status, length) in [(204, 2), (304, 2), (204, 0)] {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            accepts(&head, status, "", length == 0).await;
        }
        let chunked = "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n";
        accepts(chunked, 204, "", false).await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        accepts(
            &format!("{chunked}5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"),
            200,
            "hello!",
            true,
        )
        .await;
        accepts(
            &format!("{chunked}5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"),
            200,
            "hello",
            true,
        )
        .await;
        accepts(
            "HTTP/1.1 200 OK\r\n\r\nuntil close",
            200,
            "until close",
            false,
        )
        .await;
        accepts(
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            200,
            "hi",
            false,
        )
        .await;
        accepts(
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nhi",
            200,
            "hi",
            false,
        )
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_comes_after_an_answer_is_nobodys_and_ends_the_connection() {
        accepts(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
            200,
            "hi",
            false,
        )
        .await;
        accepts("HTTP/1.1 204 No Content\r\n\r\nbody", 204, "", false).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_could_be_read_in_two_ways_is_refused() {
        for headers in [
            "content-length: 2\r\ntransfer-encoding: chunked",
            "content-length: 2\r\ncontent-length: 2",
            "content-length: +2",
            "content-length: 2, 2",
            "content-length: ",
            "content-length: 0x2",
            "content-length: 99999999999999999999",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: identity",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "x: a\0b",
            "x: a\r\n b",
            "x : a",
            "no colon",
        ] {
            refuses(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\nhi")).await;
        }
        refuses("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
        refuses("garbage\r\n\r\n").await;
        refuses("HTTP/2 200 OK\r\n\r\n").await;
        refuses(&format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "y".repeat(MOST_HEAD)
        ))
        .await;
    }

    /// A TLS connection, and what serves it: whatever is written to that leaves as a record of its own.
    async fn over_tls() -> (Connection, tokio_rustls::server::TlsStream<TcpStream>) {
        use std::sync::Arc;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let (stream, served) = tokio::join!(
            connector.connect("localhost".try_into().unwrap(), socket),
            acceptor.accept(accepted)
        );
        let stream = Stream::Tls(Box::new(stream.unwrap()));
        (Connection::new(stream), served.unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_whose_tls_holds_more_than_its_answer_is_not_quiet() {
        for leftover in ["", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
            let (mut connection, mut server) = over_tls().await;
            // Answer and leftover fill more than one reading.
            let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 16300\r\n\r\n".to_owned();
            let rest = READ_AT_ONCE - answer.len();
            answer = answer.replace("16300", &rest.to_string()) + &"x".repeat(rest);
            server.write_all(answer.as_bytes()).await.unwrap();
            server.write_all(leftover.as_bytes()).await.unwrap();
            server.flush().await.unwrap();
            let (clock, body) = (Clock::default(), Bytes::new());
            let watch = clock.watch();
            let exchange =
                connection.exchange(b"GET / HTTP/1.1\r\n\r\n".to_vec(), &body, &clock, &watch);
            let mut head = exchange.await.unwrap();
            while let Some(piece) = poll_fn(|cx| connection.poll_piece(cx, &mut head)).await {
                piece.unwrap();
            }
            let mut connection = connection.reusable(&head).unwrap();
            assert_eq!(connection.is_quiet(), leftover.is_empty());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn broken_chunks_are_refused() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "5_\r\nhello\r\n0\r\n\r\n",
            "10000000000000002\r\nhello",
            "5\r\nhelloXX0\r\n\r\n",
            "\r\nhello",
            "5\r\nhello\r\n",
            "5\r\nhel",
            "5\r\nhello\r\n0\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
        ] {
            refuses(&format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_breaks_off_is_not_an_answer() {
        refuses("").await;
        refuses("HTTP/1.1 200").await;
        refuses("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell").await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn interim_answers_are_passed_over_up_to_a_bound() {
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        accepts(&format!("{}{last}", interim.repeat(16)), 200, "hi", true).await;
        refuses(&format!("{}{last}", interim.repeat(17))).await;
        refuses(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n{last}"
        ))
        .await;
    }
}
