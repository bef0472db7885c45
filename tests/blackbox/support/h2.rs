//! HTTP/2 to the gateway, and one interface to a stream over either protocol. The connections live on one background
//! thread, so that tests stay plain and blocking.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::client::{Call, Client, End, Gone, Response, find};
use super::gateway::Gateway;
use super::{DEADLINE, sweep};

/// The runtime that all HTTP/2 connections of all tests share.
pub fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            tell.send(runtime.handle().clone()).expect("somebody waits");
            runtime.block_on(std::future::pending::<()>());
        });
        told.recv().expect("the runtime starts")
    })
}

/// A TLS server before a plain one: what comes over TLS goes on as it is.
pub fn tls_front(identity: &super::pem::Identity, behind: SocketAddr) -> SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(identity.server());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("non-blocking");
    runtime().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    address
}

/// A request body in pieces, or none.
pub struct Pieces {
    pieces: mpsc::UnboundedReceiver<Frame<Bytes>>,
    none: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.none
    }
}

/// A connection.
#[derive(Clone)]
pub struct H2 {
    sender: SendRequest<Pieces>,
    connection: Arc<Ended>,
    tls: bool,
}

struct Ended {
    told: std::sync::Mutex<Receiver<String>>,
    task: AbortHandle,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl H2 {
    /// Prior knowledge, on a plain port.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_over(address, None).expect("an HTTP/2 connection")
    }

    /// Over TLS.
    pub fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::connect_over(address, Some(config)).expect("an HTTP/2 connection over TLS")
    }

    fn connect_over(
        address: SocketAddr,
        config: Option<Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let tls = config.is_some();
        let (ready, when_ready) = channel();
        let (end, told) = channel();
        let task = runtime().spawn(async move {
            let connected = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            };
            let stream = match connected.await {
                Ok(stream) => stream,
                Err(error) => return drop(ready.send(Err(error.to_string()))),
            };
            match config {
                None => drive(stream, &ready, &end).await,
                Some(config) => {
                    let name = ServerName::try_from("localhost").expect("a name");
                    match tokio_rustls::TlsConnector::from(config)
                        .connect(name, stream)
                        .await
                    {
                        Ok(stream) => drive(stream, &ready, &end).await,
                        Err(error) => drop(ready.send(Err(error.to_string()))),
                    }
                }
            }
        });
        let sender = when_ready
            .recv_timeout(DEADLINE)
            .map_err(|error| error.to_string())??;
        let connection = Arc::new(Ended {
            told: std::sync::Mutex::new(told),
            task: task.abort_handle(),
        });
        Ok(Self {
            sender,
            connection,
            tls,
        })
    }

    /// Opens a stream with a whole request.
    pub fn open(&self, call: &Call) -> H2Stream {
        let (stream, body) = self.send_head(call, call.body.is_empty());
        if !call.body.is_empty() {
            body.data(&call.body);
        }
        stream
    }

    /// Opens a stream; the body's pieces are sent by the test.
    pub fn begin(&self, call: &Call) -> (H2Stream, Sending) {
        self.send_head(call, false)
    }

    fn send_head(&self, call: &Call, none: bool) -> (H2Stream, Sending) {
        let scheme = if self.tls { "https" } else { "http" };
        let mut request = http::Request::builder()
            .method(call.method.as_str())
            .uri(format!("{scheme}://localhost{}", call.target));
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let (sending, pieces) = mpsc::unbounded_channel();
        let request = request.body(Pieces { pieces, none }).expect("a request");
        let (tell, events) = channel();
        let mut sender = self.sender.clone();
        let task = runtime().spawn(async move {
            if let Err(error) = exchange(&mut sender, request, &tell).await {
                let _ = tell.send(Event::Broken(error));
            }
        });
        let stream = H2Stream {
            events,
            task: task.abort_handle(),
            ended: None,
            _connection: self.clone(),
        };
        (stream, Sending(sending))
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&self, call: &Call) -> Response {
        let mut stream = self.open(call);
        let mut response = stream.head();
        stream.finish(&mut response, DEADLINE);
        response
    }

    /// Whether the connection ends in this time.
    pub fn ends_within(&self, within: Duration) -> bool {
        !matches!(
            super::lock(&self.connection.told).recv_timeout(within),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

async fn drive(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    ready: &Sender<Result<SendRequest<Pieces>, String>>,
    end: &Sender<String>,
) {
    match http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await {
        Ok((sender, connection)) => {
            let _ = ready.send(Ok(sender));
            let ended = connection.await;
            let _ = end.send(format!("{ended:?}"));
        }
        Err(error) => drop(ready.send(Err(error.to_string()))),
    }
}

async fn exchange(
    sender: &mut SendRequest<Pieces>,
    request: http::Request<Pieces>,
    tell: &Sender<Event>,
) -> Result<(), String> {
    let describe = |error: hyper::Error| format!("{error:?}");
    sender.ready().await.map_err(describe)?;
    let response = sender.send_request(request).await.map_err(describe)?;
    let (parts, mut body) = response.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let _ = tell.send(Event::Head(parts.status.as_u16(), headers));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(describe)?.into_data() {
            let _ = tell.send(Event::Data(data));
        }
    }
    let _ = tell.send(Event::End);
    Ok(())
}

enum Event {
    Head(u16, Vec<(String, String)>),
    Data(Bytes),
    End,
    Broken(String),
}

/// The sending side of a stream. Dropped, the request's body is at its end.
pub struct Sending(mpsc::UnboundedSender<Frame<Bytes>>);

impl Sending {
    pub fn data(&self, data: &[u8]) {
        let _ = self.0.send(Frame::data(Bytes::copy_from_slice(data)));
    }

    pub fn trailers(&self, trailers: http::HeaderMap) {
        let _ = self.0.send(Frame::trailers(trailers));
    }
}

/// One request's stream. Dropped, it is reset.
pub struct H2Stream {
    events: Receiver<Event>,
    task: AbortHandle,
    ended: Option<End>,
    _connection: H2,
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl H2Stream {
    /// The head of the answer.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.head_or_reset()
            .unwrap_or_else(|error| panic!("the stream was reset before a head: {error}"))
    }

    /// The head, or how the stream ended without one.
    #[track_caller]
    pub fn head_or_reset(&mut self) -> Result<Response, String> {
        match self.events.recv_timeout(DEADLINE) {
            Ok(Event::Head(status, headers)) => Ok(Response {
                status,
                headers,
                body: Vec::new(),
                end: End::Cut,
                interim: Vec::new(),
            }),
            Ok(Event::Broken(error)) => Err(error),
            Ok(_) => panic!("a body before its head"),
            Err(error) => panic!("no head: {error}"),
        }
    }

    /// Waits for one more piece of the body. False at the deadline.
    fn fill(&mut self, response: &mut Response, deadline: Instant) -> bool {
        if self.ended.is_some() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(Event::Data(data)) => response.body.extend_from_slice(&data),
            Ok(Event::End) => self.ended = Some(End::Whole),
            Ok(Event::Broken(_)) | Err(RecvTimeoutError::Disconnected) => {
                self.ended = Some(End::Cut);
            }
            Ok(Event::Head(..)) => panic!("two heads"),
            Err(RecvTimeoutError::Timeout) => return false,
        }
        true
    }

    #[track_caller]
    pub fn until(&mut self, response: &mut Response, needle: &[u8]) {
        let deadline = Instant::now() + DEADLINE;
        while find(&response.body, needle).is_none() {
            assert!(
                self.ended.is_none() && self.fill(response, deadline),
                "the body never held {:?}: {:?}",
                String::from_utf8_lossy(needle),
                response.text()
            );
        }
    }

    #[track_caller]
    pub fn finish(&mut self, response: &mut Response, within: Duration) {
        let deadline = Instant::now() + within;
        while self.ended.is_none() {
            assert!(
                self.fill(response, deadline),
                "the body did not end within {within:?}: {}",
                response.text()
            );
        }
        response.end = self.ended.unwrap_or(End::Cut);
        sweep::answered(response, false);
    }
}

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

pub const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// One request and its answer as it comes, over either protocol, plain or, where the gateway has it, TLS. Dropped,
/// the client has left.
pub enum Stream {
    Http1(Box<Client>, String),
    Http2(H2Stream),
}

impl Stream {
    pub fn open(protocol: Protocol, gateway: &Gateway, call: &Call) -> Self {
        match protocol {
            Protocol::Http1 => {
                let mut client = gateway.client();
                client.send(&call.bytes());
                Self::Http1(Box::new(client), call.method.clone())
            }
            Protocol::Http2 => Self::Http2(gateway.h2().open(call)),
        }
    }

    #[track_caller]
    pub fn head(&mut self) -> Response {
        match self {
            Self::Http1(client, method) => client.head_of(method),
            Self::Http2(stream) => stream.head(),
        }
    }

    /// Reads on until the body holds these bytes.
    #[track_caller]
    pub fn until(&mut self, response: &mut Response, needle: &str) {
        match self {
            Self::Http1(client, _) => client.until(response, needle.as_bytes()),
            Self::Http2(stream) => stream.until(response, needle.as_bytes()),
        }
    }

    /// Reads to the end of the body, and says how it came: over HTTP/1 a cut body also ends the connection.
    #[track_caller]
    pub fn finish(&mut self, response: &mut Response, within: Duration) {
        match self {
            Self::Http1(client, _) => {
                client.finish(response, within);
                if response.end == End::Cut {
                    assert!(matches!(
                        client.ends_within(within),
                        Some(Gone::Fin | Gone::Reset)
                    ));
                }
            }
            Self::Http2(stream) => stream.finish(response, within),
        }
    }
}

/// One request over either protocol, and its whole answer.
#[track_caller]
pub fn ask(protocol: Protocol, gateway: &Gateway, call: &Call) -> Response {
    let mut stream = Stream::open(protocol, gateway, call);
    let mut response = stream.head();
    stream.finish(&mut response, DEADLINE);
    response
}
