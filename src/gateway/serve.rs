//! Workers: each one thread with a single-threaded runtime, its own listeners and its own upstream connections, so
//! that a request stays on one core from accept to last byte. Here connections begin and end; what happens in between
//! is [`super::request`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::http::body;
use crate::http::clock::{Clock, TICK};
use crate::http::io::{self as client_io, ClientIo, Line, Opening, Stream};
use crate::http::lifecycle::{Lifecycle, Phase};
use crate::http::reply::Refusal;
use crate::http::tls::Certificate;
use crate::http::upstream::Fleet;
use crate::http::upstream::pool::{self, Pool};
use crate::observe::log::{Event, Log};
use crate::observe::metrics::Metrics;
use crate::store::config::{ClientAddressSource, Config};
use crate::table::Table;

use super::lease;
use super::listen::Listeners;
use super::request::{self, Origin};
use super::stream::{self, Relay, ReplyBody};

/// How long accepting rests where it fails, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests that one HTTP/2 connection may have open at once.
const HTTP2_STREAMS: u32 = 250;
/// What an HTTP/2 client may send ahead, of one request's body and of all its requests'.
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
const HTTP2_WINDOW: u32 = 1 << 20;
/// What of one answer may wait for an HTTP/2 client to read it; the upstream waits with the rest.
const HTTP2_SEND_BUFFER: usize = 64 << 10;
/// Streams of one HTTP/2 connection that may fail for reasons of its own before it is closed.
const HTTP2_LOCAL_RESETS: usize = 1024;

/// What all workers have in common.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The keys.
    pub table: Arc<Table>,
    /// The upstreams.
    pub fleet: Arc<Fleet>,
    /// The certificate; None: plain HTTP.
    pub certificate: Option<Certificate>,
    /// Counters.
    pub metrics: Metrics,
    /// Log lines.
    pub log: Log,
    /// The phase the process is in.
    pub lifecycle: Lifecycle,
    /// What the config says.
    pub settings: Arc<Settings>,
    /// Client connections, over all workers.
    pub connections: Arc<AtomicUsize>,
}

/// What the config says of the data path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether /healthz and /readyz answer without a key.
    pub public_health: bool,
    /// Browser origins that may call.
    pub cors_origins: Vec<String>,
    /// How a client's address is found.
    pub client_address: ClientAddressSource,
    /// Under which bodies are read.
    pub bodies: body::Limits,
    /// How long an answer's way is waited for.
    pub relay: stream::Patience,
    /// When the process started, in seconds since 1970.
    pub started: u64,
    connection: client_io::Patience,
    upstream: pool::Patience,
    tls_handshake: Duration,
    head: usize,
    connections: usize,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        Self {
            public_health: config.public_health,
            cors_origins: config.cors_origins.clone(),
            client_address: config.client_address.clone(),
            bodies: body::Limits {
                size: limits.request_body,
                budget: body::Budget::new(limits.buffered_bodies),
                idle: timeouts.body_idle,
            },
            relay: stream::Patience {
                stream_idle: timeouts.stream_idle,
                client_write: timeouts.client_write,
            },
            started: u64::try_from(lease::now().seconds()).unwrap_or(0),
            connection: client_io::Patience {
                header_read: timeouts.header_read,
                keep_alive: timeouts.keep_alive,
                client_write: timeouts.client_write,
            },
            upstream: pool::Patience {
                connect: timeouts.upstream_connect,
                first_byte: timeouts.upstream_first_byte,
                keep_alive: timeouts.upstream_keep_alive,
            },
            tls_handshake: timeouts.tls_handshake,
            head: limits.headers,
            connections: limits.connections,
        }
    }
}

/// One worker, as its requests see it.
#[derive(Debug)]
pub struct Worker {
    gateway: Gateway,
    /// Its connections to upstreams.
    pub pool: Rc<Pool>,
    /// Its deadlines.
    pub clock: Clock,
    relays: RefCell<Vec<Weak<RefCell<Relay>>>>,
    id_prefix: u64,
    next_id: Cell<u64>,
    open: Cell<usize>,
    all_closed: Notify,
}

impl std::ops::Deref for Worker {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Worker {
    fn new(gateway: Gateway) -> io::Result<Rc<Self>> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let id_prefix = u64::from_le_bytes(random);
        let clock = Clock::default();
        let patience = gateway.settings.upstream;
        let pool = Pool::new(
            Arc::clone(&gateway.fleet),
            clock.clone(),
            patience,
            id_prefix,
        );
        let (next_id, open, all_closed) = (Cell::new(0), Cell::new(0), Notify::new());
        Ok(Rc::new(Self {
            gateway,
            pool,
            clock,
            relays: RefCell::default(),
            id_prefix,
            next_id,
            open,
            all_closed,
        }))
    }

    /// An x-request-id that no other request of this or another worker has.
    #[must_use]
    pub fn new_request_id(&self) -> String {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        format!("req-{:016x}-{id:x}", self.id_prefix)
    }

    /// Takes a relay under watch, for as long as it lives.
    pub fn looked_after(&self, relay: Relay) -> Rc<RefCell<Relay>> {
        let relay = Rc::new(RefCell::new(relay));
        self.relays.borrow_mut().push(Rc::downgrade(&relay));
        relay
    }

    fn look_after_relays(&self) {
        self.relays.borrow_mut().retain(|relay| {
            let relay = relay.upgrade();
            if let Some(relay) = &relay {
                relay.borrow_mut().look_after();
            }
            relay.is_some()
        });
    }

    /// Whether table and catalogue are loaded and the process is not about to end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.fleet.is_ready() && self.lifecycle.phase() == Phase::Running
    }

    /// Whether requests are taken at all.
    ///
    /// # Errors
    /// [`Refusal::ShuttingDown`], [`Refusal::NotReady`]
    pub fn check_open(&self) -> Result<(), Refusal> {
        if self.lifecycle.phase() >= Phase::Draining {
            return Err(Refusal::ShuttingDown);
        }
        if self.fleet.is_ready() {
            Ok(())
        } else {
            Err(Refusal::NotReady)
        }
    }
}

/// A worker's whole life: serves until the process drains, and returns once its last connection is done.
///
/// # Errors
/// Where the runtime or a listener cannot be set up.
pub fn run_worker(gateway: Gateway, listeners: Listeners) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let lifecycle = gateway.lifecycle.clone();
    let life = async {
        tokio::select! {
            done = live(gateway, listeners) => done,
            () = lifecycle.reached(Phase::Ending) => Ok(()),
        }
    };
    LocalSet::new().block_on(&runtime, life)
}

async fn live(gateway: Gateway, listeners: Listeners) -> io::Result<()> {
    let worker = Worker::new(gateway)?;
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    let mut accepting = Vec::new();
    for listener in listeners.tcp {
        let listener = TcpListener::from_std(listener)?;
        let accept = move |cx: &mut Context<'_>| {
            let accepted = ready!(listener.poll_accept(cx));
            Poll::Ready(accepted.map(|(socket, peer)| (Stream::Tcp(socket), Some(peer.ip()))))
        };
        accepting.push(tokio::task::spawn_local(accept_all(
            Rc::clone(&worker),
            accept,
        )));
    }
    for listener in listeners.unix {
        let listener = UnixListener::from_std(listener)?;
        let accept = move |cx: &mut Context<'_>| {
            let accepted = ready!(listener.poll_accept(cx));
            Poll::Ready(accepted.map(|(socket, _)| (Stream::Unix(socket), None)))
        };
        accepting.push(tokio::task::spawn_local(accept_all(
            Rc::clone(&worker),
            accept,
        )));
    }
    for accept in accepting {
        // A task that panicked has no listener left to wait for.
        let _ = accept.await;
    }
    worker.clock.close();
    while worker.open.get() > 0 {
        worker.all_closed.notified().await;
    }
    Ok(())
}

/// Looks at every deadline, and closes upstream connections that were idle for too long.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker
            .clock
            .tick(lease::now().seconds(), worker.table.generation());
        worker.look_after_relays();
        worker.pool.tidy();
    }
}

/// Accepts until the process drains, and then what had connected before that. Nothing here waits for a peer.
async fn accept_all<A>(worker: Rc<Worker>, mut accept: A)
where
    A: FnMut(&mut Context<'_>) -> Poll<io::Result<(Stream, Option<IpAddr>)>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(&mut accept) => accepted,
            () = worker.lifecycle.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok((stream, peer)) => begin(&worker, stream, peer),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                worker
                    .log
                    .event(Event::error("accept_failed").with("reason", error.to_string()));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts a connection's task, where there is room for one more.
fn begin(worker: &Rc<Worker>, stream: Stream, peer: Option<IpAddr>) {
    let open = Open::new(worker);
    if worker.connections.load(Ordering::Relaxed) > worker.settings.connections {
        turn_away(&stream);
        return;
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        // How a connection ended is told by its requests' lines; a peer that never sent one is not worth one.
        let _ = serve_connection(&worker, stream, peer).await;
        drop(open);
    });
}

/// Counts a connection while it is open.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        worker.metrics.connections().inc();
        Self(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections().dec();
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.all_closed.notify_one();
        }
    }
}

/// Says that there is no room, as far as that takes no waiting. A TLS client only sees the connection close.
fn turn_away(stream: &Stream) {
    let body = Refusal::Overloaded.body();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), &body].concat();
    // The client may be gone already, and is told nothing then.
    let _ = match stream {
        Stream::Tcp(socket) => socket.try_write(&answer),
        Stream::Unix(socket) => socket.try_write(&answer),
        Stream::Tls(_) => Ok(0),
    };
}

async fn serve_connection(
    worker: &Rc<Worker>,
    stream: Stream,
    peer: Option<IpAddr>,
) -> io::Result<()> {
    let (stream, opening) = match (stream, &worker.certificate) {
        (Stream::Tcp(socket), Some(certificate)) => {
            let stream = shake_hands(worker, socket, certificate).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (
                Stream::Tls(Box::new(stream)),
                Some(if is_http2 {
                    Opening::Http2
                } else {
                    Opening::Http1
                }),
            )
        }
        (stream, _) => (stream, None),
    };
    let scheme = if matches!(stream, Stream::Tls(_)) {
        "https"
    } else {
        "http"
    };
    if let Stream::Tcp(socket) = &stream {
        socket.set_nodelay(true)?;
    }
    let line = Line::new(&worker.clock, worker.settings.connection);
    let mut io = ClientIo::new(stream, Rc::clone(&line));
    let opening = match opening {
        Some(opening) => opening,
        None => io.opening().await?,
    };
    let origin = Origin { peer, scheme };
    let service = |request: Request<Incoming>| {
        let (worker, in_flight) = (Rc::clone(worker), line.begin());
        async move {
            Ok::<Response<ReplyBody>, Infallible>(
                request::handle(&worker, origin, in_flight, request).await,
            )
        }
    };
    match opening {
        Opening::Http1 => {
            let connection = http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(worker.settings.head)
                .serve_connection(TokioIo::new(io), service_fn(service));
            run(worker, connection, |connection| {
                line.close();
                connection.graceful_shutdown();
            })
            .await
        }
        Opening::Http2 => {
            line.set_multiplexed();
            let connection = http2::Builder::new(Local)
                .max_concurrent_streams(HTTP2_STREAMS)
                .initial_stream_window_size(HTTP2_STREAM_WINDOW)
                .initial_connection_window_size(HTTP2_WINDOW)
                .max_header_list_size(u32::try_from(worker.settings.head).unwrap_or(u32::MAX))
                .max_send_buf_size(HTTP2_SEND_BUFFER)
                .max_local_error_reset_streams(Some(HTTP2_LOCAL_RESETS))
                .serve_connection(TokioIo::new(io), service_fn(service));
            run(worker, connection, |connection| {
                line.close();
                connection.graceful_shutdown();
            })
            .await
        }
    }
}

async fn shake_hands(
    worker: &Worker,
    socket: TcpStream,
    certificate: &Certificate,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    tokio::select! {
        shaken = timeout(worker.settings.tls_handshake, certificate.acceptor().accept(socket)) => shaken?,
        () = worker.lifecycle.reached(Phase::Draining) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Runs a connection to its end, and tells it once when the process drains.
async fn run<C>(worker: &Worker, connection: C, stop: impl Fn(Pin<&mut C>)) -> io::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut told = false;
    poll_fn(|cx| {
        if worker.clock.is_closing() && !told {
            told = true;
            stop(connection.as_mut());
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(io::Error::other)
}

/// Spawns the tasks of an HTTP/2 connection's requests on the thread they came in on.
#[derive(Clone, Copy)]
struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
