//! One HTTP/1.1 connection to an upstream: a request out whole, its answer back piece by piece.
//!
//! The upstream is a server the operator chose, but its answers are read strictly all the same, and a connection is
//! used again only when it is certain that nothing of one answer can reach another client. Dropping a connection
//! closes it, which is how an upstream learns that nobody waits for its answer any more.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::runtime::clock::{Clock, Watch};

use super::framing::Framing;
use super::head::{Broken, Head};

/// Interim answers (RFC 9110 15.2) that are passed over before the final one.
const MOST_INTERIM: usize = 16;
/// Room to read into, at first.
const READ_AT_ONCE: usize = 16 << 10;
/// Room to read into where a server sends much at once.
const READ_AT_MOST: usize = 32 << 10;
/// Less room than this is not read into.
const LEAST_ROOM: usize = 4 << 10;

/// A connection, free or in the middle of an exchange.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    read: BytesMut,
    room: usize,
    /// What is left to send of the request being exchanged, where its answer began before that was done.
    unsent: Unsent,
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

/// A request's bytes: its head, to which a small body is joined, and a large body.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The head, and perhaps the body.
    pub head: &'a [u8],
    /// The body, where it does not stand behind the head already.
    pub body: &'a Bytes,
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

/// The rest of a request.
#[derive(Debug, Default)]
struct Unsent {
    head: Vec<u8>,
    body: Bytes,
}

impl Connection {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            room: READ_AT_ONCE,
            unsent: Unsent::default(),
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

    /// Sends a request and reads the head of its answer, its headers into `spare`. An answer that comes before the
    /// request is sent whole is taken, but then the connection is not used again.
    ///
    /// # Errors
    /// [`ExchangeFault`]; the connection is of no further use then.
    pub async fn exchange(
        &mut self,
        request: Request<'_>,
        spare: &mut HeaderMap,
        clock: &Clock,
        watch: &Watch,
    ) -> Result<Head, ExchangeFault> {
        let mut sent = 0;
        let mut interim = 0;
        let result = poll_fn(|cx| {
            // A failed write alone decides nothing: the server may have answered before it closed.
            let _ = self.poll_send(cx, request, &mut sent);
            loop {
                match Head::parse(&self.read, spare) {
                    Ok(Some((head, length))) => {
                        self.read.advance(length);
                        if !head.status.is_informational() {
                            return Poll::Ready(Ok(head));
                        }
                        interim += 1;
                        if head.status == StatusCode::SWITCHING_PROTOCOLS || interim > MOST_INTERIM
                        {
                            let broken = Broken::from("too many interim answers");
                            return Poll::Ready(Err(ExchangeFault::Broken(broken)));
                        }
                    }
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
        let mut head = result?;
        if sent < request.len() {
            head.keeps = false;
            self.unsent = request.from(sent);
        }
        Ok(head)
    }

    /// The next piece of the answer's body; None at its clean end.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
    ) -> Poll<Option<Result<Bytes, Broken>>> {
        if !self.unsent.is_empty() {
            // The answer began before the request was read to its end. Whether it can be finished is the server's to say.
            let _ = self.poll_send_rest(cx);
        }
        loop {
            match head.framing.take_piece(&mut self.read) {
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

    /// The connection, to be used again, where its last answer ended cleanly and nothing is left over; and the room it
    /// read into.
    #[must_use]
    pub fn reusable(mut self, head: &Head) -> Option<(Self, BytesMut)> {
        let room = std::mem::take(&mut self.read);
        self.reused = true;
        self.room = READ_AT_ONCE;
        (head.keeps && head.is_done() && room.is_empty()).then_some((self, room))
    }

    /// Gives it room to read into, for one exchange.
    pub fn lend(&mut self, room: BytesMut) {
        self.read = room;
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        request: Request<'_>,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        while *sent < request.len() {
            let count = ready!(self.stream.poll_write(cx, request.rest(*sent)))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += count;
        }
        self.stream.poll_flush(cx)
    }

    fn poll_send_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = std::mem::take(&mut self.unsent);
        let mut sent = 0;
        let polled = self.poll_send(cx, unsent.as_request(), &mut sent);
        self.unsent = unsent.as_request().from(sent);
        polled
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
        let room = self.read.capacity() - self.read.len();
        if room < LEAST_ROOM {
            self.read.reserve(self.room);
        }
        let before = self.read.len();
        let filled = self.stream.poll_read(cx, &mut self.read);
        if self.read.len() - before >= READ_AT_ONCE {
            self.room = READ_AT_MOST;
        }
        filled
    }
}

impl<'a> Request<'a> {
    fn len(self) -> usize {
        self.head.len() + self.body.len()
    }

    fn rest(self, sent: usize) -> [&'a [u8]; 2] {
        let of_head = sent.min(self.head.len());
        [&self.head[of_head..], &self.body[sent - of_head..]]
    }

    fn from(self, sent: usize) -> Unsent {
        let of_head = sent.min(self.head.len());
        Unsent {
            head: self.head[of_head..].to_vec(),
            body: self.body.slice(sent - of_head..),
        }
    }
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    fn as_request(&self) -> Request<'_> {
        Request {
            head: &self.head,
            body: &self.body,
        }
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

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: [&[u8]; 2]) -> Poll<io::Result<usize>> {
        match (self, slices) {
            // One slice is cheaper for the system to take than a list of them.
            (Self::Tcp(stream), [only, []] | [[], only]) => Pin::new(stream).poll_write(cx, only),
            (Self::Tcp(stream), both) => {
                Pin::new(stream).poll_write_vectored(cx, &both.map(IoSlice::new))
            }
            (Self::Tls(stream), both) => {
                Pin::new(stream).poll_write_vectored(cx, &both.map(IoSlice::new))
            }
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
    use super::super::head::MOST_HEAD;
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
            let request = Request {
                head: b"POST / HTTP/1.1\r\n\r\n",
                body: &body,
            };
            let mut spare = HeaderMap::new();
            let head = connection
                .exchange(request, &mut spare, &clock, &watch)
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
            let request = Request {
                head: b"GET / HTTP/1.1\r\n\r\n",
                body: &body,
            };
            let mut spare = HeaderMap::new();
            let exchange = connection.exchange(request, &mut spare, &clock, &watch);
            let mut head = exchange.await.unwrap();
            while let Some(piece) = poll_fn(|cx| connection.poll_piece(cx, &mut head)).await {
                piece.unwrap();
            }
            let (mut connection, _) = connection.reusable(&head).unwrap();
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
