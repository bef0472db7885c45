//! A worker's connections to upstreams, and the only way to send a request.
//!
//! The pool takes two random replicas and chooses the one with fewer requests in flight. A replica that refuses
//! connections is marked down, and the next one is tried. A request is sent again only if a reused connection was
//! closed before any byte of the response.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::http::buffer::{BufferPool, ReadBuffer};
use crate::http::fields::Fields;
use crate::http::framing::FramingError;
use crate::net::transport::Transport;
use crate::policy::decide::Permit;
use crate::runtime::timers::{TickTimer, TimerEntry};
use crate::upstream::connection::{BrokenResponse, ExchangeError, UpstreamConnection};
use crate::upstream::head::ResponseHead;
use crate::upstream::outbound::OutboundRequest;
use crate::upstream::{Fleet, Replica, Upstream};

/// Timeouts of a connection to an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamTimeouts {
    /// For connecting, including the TLS handshake.
    pub(crate) connect: Duration,
    /// From the last byte of the request to the head of the response.
    pub(crate) first_byte: Duration,
    /// How long an idle connection is kept open.
    pub(crate) keep_alive: Duration,
}

/// The connections of one worker. Workers do not share them, so a request stays on one core.
#[derive(Debug)]
pub(crate) struct Pool {
    fleet: Arc<Fleet>,
    timer: TickTimer,
    timeouts: UpstreamTimeouts,
    buffers: BufferPool,
    /// A list with linear search: a gateway has few replicas, and each request searches it twice.
    idle: RefCell<Vec<IdleConnections>>,
    random: Cell<u64>,
}

/// The idle connections to one replica, and when each became idle.
#[derive(Debug)]
struct IdleConnections {
    replica: u64,
    connections: Vec<(UpstreamConnection, Instant)>,
}

/// An upstream's response, whose body is still to be read. Dropping it before its end closes the connection.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    pool: Rc<Pool>,
    replica: InFlight,
    /// None once the body has ended, because the connection is reusable then.
    connection: Option<UpstreamConnection>,
    read: ReadBuffer,
    head: ResponseHead,
    timing: SendTiming,
}

/// When a request was first given to a connection, and the time spent on connecting.
#[derive(Clone, Copy, Debug, Default)]
struct SendTiming {
    /// The time at which it was first given to a connection, and how much of the time before was spent on connecting.
    first: Option<(Instant, Duration)>,
    connecting: Duration,
}

impl SendTiming {
    fn note(&mut self) {
        self.first
            .get_or_insert_with(|| (Instant::now(), self.connecting));
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Every replica is marked down.
    Unavailable,
    /// No replica accepted a connection.
    Unreachable(io::Error),
    /// The response ended early or is not valid HTTP.
    Broken(BrokenResponse),
    /// No response arrived in time.
    Silent,
}

impl SendError {
    /// Whether nothing of the request was sent.
    #[must_use]
    pub(crate) fn is_before_sending(&self) -> bool {
        match self {
            Self::Unavailable | Self::Unreachable(_) => true,
            Self::Broken(_) | Self::Silent => false,
        }
    }
}

/// Counts a request as in flight at its replica until it is dropped.
#[derive(Debug)]
struct InFlight(Arc<Replica>);

impl InFlight {
    fn at(replica: Arc<Replica>) -> Self {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(replica)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// The pool of one worker. `seed` makes its random choices differ from those of other workers.
    #[must_use]
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        timer: TickTimer,
        timeouts: UpstreamTimeouts,
        buffers: BufferPool,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            fleet,
            timer,
            timeouts,
            buffers,
            idle: RefCell::default(),
            random: Cell::new(seed | 1),
        })
    }

    /// Step 8: sends a permitted request to the upstream in the permit, and reads the head of the response.
    ///
    /// # Errors
    /// [`SendError`]
    pub(crate) async fn send(
        self: &Rc<Self>,
        permit: &Permit<Arc<Upstream>>,
        mut request: OutboundRequest,
        entry: &TimerEntry,
    ) -> Result<UpstreamResponse, SendError> {
        let upstream = permit.target();
        let mut tried = Vec::new();
        let mut refused = None;
        let mut timing = SendTiming::default();
        while let Some(replica) = self.choose(upstream, &tried) {
            let replica = InFlight::at(replica);
            request.address_to(&replica.0);
            match self
                .exchange(&replica.0, &mut request, &mut timing, entry)
                .await
            {
                Ok(exchanged) => {
                    let (mut connection, sent, read, mut head) = exchanged?;
                    if sent < request.len() {
                        // A response that comes before all of its request was sent ends the use of the connection.
                        head.keeps_open = false;
                        connection.keep_sending(request, sent);
                    }
                    return Ok(UpstreamResponse::new(
                        self, replica, connection, read, head, timing,
                    ));
                }
                Err(error) => {
                    // Where this machine lacks what a connection takes, the replica is not at fault.
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut
                    ) {
                        self.fleet.set_health(upstream, &replica.0, false);
                    }
                    tried.push(replica.0.id);
                    refused = Some(error);
                }
            }
        }
        Err(refused.map_or(SendError::Unavailable, SendError::Unreachable))
    }

    /// Sends a request on an idle connection, or on a new one if there is none or the idle one is closed. The outer
    /// error means that connecting failed, so another replica may work.
    async fn exchange(
        &self,
        replica: &Replica,
        request: &mut OutboundRequest,
        timing: &mut SendTiming,
        entry: &TimerEntry,
    ) -> io::Result<Result<Exchanged, SendError>> {
        let mut kept = self.check_out(replica);
        loop {
            let is_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(kept) => kept,
                None => self.connect(replica, timing).await?,
            };
            timing.note();
            entry.set_deadline(self.timer.now() + self.timeouts.first_byte);
            let mut read = ReadBuffer::new(&self.buffers);
            let mut head = ResponseHead::awaited(self.buffers.take_fields());
            let exchange = connection.exchange(request, &mut read, &mut head, &self.timer, entry);
            return Ok(match exchange.await {
                Ok(sent) => Ok((connection, sent, read, head)),
                Err(ExchangeError::Stale) if is_kept => continue,
                Err(error) => Err(error.into()),
            });
        }
    }

    async fn connect(
        &self,
        replica: &Replica,
        timing: &mut SendTiming,
    ) -> io::Result<UpstreamConnection> {
        let began = Instant::now();
        // Boxed, because most requests reuse a connection and need no memory for a TLS handshake.
        let connecting = Box::pin(connect(replica));
        let connected = timeout(self.timeouts.connect, connecting).await;
        timing.connecting += began.elapsed();
        let transport = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        replica.note_tried();
        Ok(UpstreamConnection::new(transport))
    }

    /// Closes connections that were idle for longer than `keep_alive`.
    pub(crate) fn close_idle(&self) {
        let now = self.timer.now();
        self.idle.borrow_mut().retain_mut(|idle| {
            idle.connections.retain(|(_, since)| {
                now.saturating_duration_since(*since) < self.timeouts.keep_alive
            });
            !idle.connections.is_empty()
        });
    }

    /// Of two random replicas that are up and not tried yet, the one with fewer requests in flight.
    fn choose(&self, upstream: &Upstream, tried: &[u64]) -> Option<Arc<Replica>> {
        let fit = |replica: &&Arc<Replica>| replica.is_up() && !tried.contains(&replica.id);
        let count = upstream.replicas().iter().filter(fit).count();
        let nth = |at: usize| upstream.replicas().iter().filter(fit).nth(at);
        match count {
            0 => None,
            1 => nth(0).cloned(),
            _ => {
                let one = self.random_below(count);
                let other = (one + 1 + self.random_below(count - 1)) % count;
                let load = |replica: &Arc<Replica>| replica.in_flight.load(Ordering::Relaxed);
                let (one, other) = (nth(one)?, nth(other)?);
                Some(Arc::clone(if load(other) < load(one) {
                    other
                } else {
                    one
                }))
            }
        }
    }

    /// xorshift64*, whose randomness is sufficient for balancing load.
    fn random_below(&self, bound: usize) -> usize {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        let spread = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from(spread).unwrap_or(0) % bound
    }

    fn check_out(&self, replica: &Replica) -> Option<UpstreamConnection> {
        let now = self.timer.now();
        loop {
            let (mut connection, since) = {
                let mut all = self.idle.borrow_mut();
                let idle = all.iter_mut().find(|idle| idle.replica == replica.id)?;
                idle.connections.pop()?
            };
            let fresh = now.saturating_duration_since(since) < self.timeouts.keep_alive;
            if fresh && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Stores an idle connection for reuse.
    fn check_in(&self, replica: u64, connection: UpstreamConnection) {
        let kept = (connection, self.timer.now());
        let mut all = self.idle.borrow_mut();
        match all.iter_mut().find(|idle| idle.replica == replica) {
            Some(idle) => idle.connections.push(kept),
            None => all.push(IdleConnections {
                replica,
                connections: vec![kept],
            }),
        }
    }
}

/// The connection, how many bytes of the request were sent, the bytes read after the head, and the head.
type Exchanged = (UpstreamConnection, usize, ReadBuffer, ResponseHead);

impl UpstreamResponse {
    fn new(
        pool: &Rc<Pool>,
        replica: InFlight,
        connection: UpstreamConnection,
        read: ReadBuffer,
        head: ResponseHead,
        timing: SendTiming,
    ) -> Self {
        let mut response = Self {
            pool: Rc::clone(pool),
            replica,
            connection: Some(connection),
            read,
            head,
            timing,
        };
        response.free_connection_at_end();
        response
    }

    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The header fields that may be passed to the client.
    pub(crate) fn fields(&mut self) -> &mut Fields {
        &mut self.head.fields
    }

    /// The length of the body, if it is known.
    #[must_use]
    pub(crate) fn length(&self) -> Option<u64> {
        self.head.length()
    }

    /// Whether the body has ended.
    #[must_use]
    pub(crate) fn is_done(&self) -> bool {
        self.head.framing.is_done()
    }

    /// Waits for the next piece of the body, whose bytes [`Self::piece`] returns; None at the end of a complete body.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BrokenResponse>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let polled = connection.poll_piece(cx, &mut self.read, &mut self.head.framing);
        if polled.is_ready() {
            self.free_connection_at_end();
        }
        polled.map(|next| next.map(|piece| piece.map(Piece)))
    }

    /// The bytes of a piece. They are valid until the next call of [`Self::poll_piece`].
    #[must_use]
    pub(crate) fn piece(&self, piece: &Piece) -> &[u8] {
        self.read.at(piece.0.clone())
    }

    /// The time from `since` until the request was given to a connection, without the time spent on connecting.
    #[must_use]
    pub(crate) fn overhead(&self, since: Instant) -> Duration {
        self.timing
            .first
            .map_or(Duration::ZERO, |(at, connecting)| {
                at.saturating_duration_since(since)
                    .saturating_sub(connecting)
            })
    }

    /// Returns the connection to the pool once the body has ended, because the client may still read the last piece
    /// slowly. If bytes are left over, the connection is closed instead.
    fn free_connection_at_end(&mut self) {
        if !self.is_done() {
            return;
        }
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        connection.end_exchange();
        if self.head.keeps_open
            && self.read.is_empty()
            && let Some(connection) = connection.into_reusable()
        {
            self.pool.check_in(self.replica.0.id, connection);
        }
    }
}

impl Drop for UpstreamResponse {
    fn drop(&mut self) {
        let fields = std::mem::take(&mut self.head.fields);
        self.pool.buffers.give_fields(fields);
    }
}

/// The position of a piece of a response's body in the read buffer.
#[derive(Debug)]
pub(crate) struct Piece(std::ops::Range<usize>);

pub(super) async fn connect(replica: &Replica) -> io::Result<Transport> {
    let socket = TcpStream::connect((&*replica.url.host, replica.url.port)).await?;
    socket.set_nodelay(true)?;
    if !replica.url.https {
        return Ok(Transport::Tcp(socket));
    }
    let Some((config, name)) = replica.tls.clone() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the upstream's host is no TLS server name",
        ));
    };
    let stream = TlsConnector::from(config).connect(name, socket).await?;
    Ok(Transport::Tls(Box::new(stream.into())))
}

impl From<ExchangeError> for SendError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Broken(broken) => Self::Broken(broken),
            ExchangeError::Silent => Self::Silent,
            ExchangeError::Stale => Self::Broken(BrokenResponse::Framing(FramingError(
                "the upstream closed a fresh connection",
            ))),
        }
    }
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable => f.write_str("every replica is set aside"),
            Self::Unreachable(_) => f.write_str("no replica could be connected to"),
            Self::Broken(broken) => broken.fmt(f),
            Self::Silent => f.write_str("no response came in time"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            Self::Broken(broken) => Some(broken),
            Self::Unavailable | Self::Silent => None,
        }
    }
}
