//! A worker's connections to upstreams, and the one way to send a request.
//!
//! A replica is chosen as the less loaded of two random ones; one that refuses connections is set aside and tried
//! past. A request is sent again only when a kept connection turned out to be closed before any byte of an answer.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::policy::decide::Permit;
use crate::runtime::clock::{Clock, Watch};
use crate::runtime::turn;

use super::connection::{Connection, ExchangeFault, Stream};
use super::head::{Broken, Head};
use super::outbound::Outbound;
use super::{Fleet, Replica, Upstream};

/// Rooms of each kind that a worker keeps.
const MOST_ROOMS: usize = 64;

/// How long a worker waits for the parts of a connection to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// How long a connection is kept idle.
    pub keep_alive: Duration,
}

/// One worker's connections. Not shared between workers, so that a request stays on one core.
#[derive(Debug)]
pub struct Pool {
    fleet: Arc<Fleet>,
    clock: Clock,
    patience: Patience,
    /// Searched from end to end: a gateway has few replicas, and each request asks twice.
    idle: RefCell<Vec<Idle>>,
    random: Cell<u64>,
    rooms: Rooms,
}

/// The connections to one replica that are not in use, each with the time since when.
#[derive(Debug)]
struct Idle {
    replica: u64,
    connections: Vec<(Connection, Instant)>,
}

/// Memory that requests take turns in: to be written from, and to be read into.
#[derive(Debug, Default)]
struct Rooms {
    outgoing: RefCell<Vec<Vec<u8>>>,
    incoming: RefCell<Vec<BytesMut>>,
}

/// An upstream's answer, its body still to come. Dropping it frees the upstream.
#[derive(Debug)]
pub struct Answer {
    pool: Rc<Pool>,
    replica: InFlight,
    connection: Option<Connection>,
    head: Head,
    handing: Handing,
}

/// How long it took until a request was first handed to a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Handing {
    /// When it was, and how much of the time before that went into connecting.
    first: Option<(Instant, Duration)>,
    connecting: Duration,
}

impl Handing {
    fn note(&mut self) {
        self.first
            .get_or_insert_with(|| (Instant::now(), self.connecting));
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum SendFault {
    /// Every replica is set aside.
    Unavailable,
    /// No replica could be connected to.
    Unreachable(io::Error),
    /// The answer broke off or is not HTTP.
    Broken(Broken),
    /// No answer came in time.
    Silent,
}

/// A request counted at its replica.
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
    /// A worker's pool. `seed` makes its choices differ from the other workers'.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, clock: Clock, patience: Patience, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            fleet,
            clock,
            patience,
            idle: RefCell::default(),
            random: Cell::new(seed | 1),
            rooms: Rooms::default(),
        })
    }

    /// Memory to write a request into.
    #[must_use]
    pub fn room(&self) -> Vec<u8> {
        self.rooms.outgoing.borrow_mut().pop().unwrap_or_default()
    }

    /// Step 8: sends a permitted request to the upstream that serves its model, and reads its answer's head. `spare` is
    /// used for the answer's headers.
    ///
    /// # Errors
    /// [`SendFault`]
    pub async fn send(
        self: &Rc<Self>,
        _permit: &Permit,
        upstream: &Upstream,
        mut outbound: Outbound,
        mut spare: HeaderMap,
        watch: &Watch,
    ) -> Result<Answer, SendFault> {
        turn::end().await;
        let mut tried = Vec::new();
        let mut refused = None;
        let mut handing = Handing::default();
        while let Some(replica) = self.choose(upstream, &tried) {
            let replica = InFlight::at(replica);
            let request = outbound.addressed_to(&replica.0);
            // A kept connection first; a fresh one where there is none, or where it turns out to be closed.
            let mut kept = self.kept(&replica.0);
            let answered = loop {
                let is_kept = kept.is_some();
                let connected = match kept.take() {
                    Some(kept) => Ok(kept),
                    None => self.connect(&replica.0, &mut handing).await,
                };
                let mut connection = match connected {
                    Ok(connection) => connection,
                    Err(error) => break Err(error),
                };
                handing.note();
                connection.lend(self.rooms.take_incoming());
                watch.set_deadline(self.clock.now() + self.patience.first_byte);
                let exchange = connection.exchange(request, &mut spare, &self.clock, watch);
                match exchange.await {
                    Err(ExchangeFault::Stale) if is_kept => {}
                    answered => break Ok(answered.map(|head| (connection, head))),
                }
            };
            let answered = match answered {
                Ok(answered) => answered,
                Err(error) => {
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut
                    ) {
                        self.fleet.set_health(upstream, &replica.0, false);
                    }
                    tried.push(replica.0.id);
                    refused = Some(error);
                    continue;
                }
            };
            self.rooms.put_outgoing(outbound.into_room());
            return match answered {
                Ok((connection, head)) => Ok(Answer::new(self, replica, connection, head, handing)),
                Err(ExchangeFault::Broken(broken)) => Err(SendFault::Broken(broken)),
                Err(ExchangeFault::Stale) => Err(SendFault::Broken(
                    "the upstream closed a fresh connection".into(),
                )),
                Err(ExchangeFault::Silent) => Err(SendFault::Silent),
            };
        }
        Err(refused.map_or(SendFault::Unavailable, SendFault::Unreachable))
    }

    async fn connect(&self, replica: &Replica, handing: &mut Handing) -> io::Result<Connection> {
        let began = Instant::now();
        // Boxed: most requests find a kept connection, and none should carry the room that a handshake takes.
        let connecting = Box::pin(connect(replica));
        let connected = timeout(self.patience.connect, connecting).await;
        handing.connecting += began.elapsed();
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Connection::new(stream))
    }

    /// Closes connections that were idle for too long.
    pub fn tidy(&self) {
        let now = self.clock.now();
        self.idle.borrow_mut().retain_mut(|idle| {
            idle.connections.retain(|(_, since)| {
                now.saturating_duration_since(*since) < self.patience.keep_alive
            });
            !idle.connections.is_empty()
        });
    }

    /// The less loaded of two random replicas that are up and not tried yet.
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

    /// xorshift64*: good enough to spread load.
    fn random_below(&self, bound: usize) -> usize {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        let spread = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from(spread).unwrap_or(0) % bound
    }

    fn kept(&self, replica: &Replica) -> Option<Connection> {
        let now = self.clock.now();
        loop {
            let (mut connection, since) = {
                let mut all = self.idle.borrow_mut();
                let idle = all.iter_mut().find(|idle| idle.replica == replica.id)?;
                idle.connections.pop()?
            };
            let fresh = now.saturating_duration_since(since) < self.patience.keep_alive;
            if fresh && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    fn shelve(&self, replica: u64, connection: Connection) {
        let kept = (connection, self.clock.now());
        let mut all = self.idle.borrow_mut();
        match all.iter_mut().find(|idle| idle.replica == replica) {
            Some(idle) => idle.connections.push(kept),
            None => all.push(Idle {
                replica,
                connections: vec![kept],
            }),
        }
    }
}

impl Answer {
    fn new(
        pool: &Rc<Pool>,
        replica: InFlight,
        connection: Connection,
        head: Head,
        handing: Handing,
    ) -> Self {
        let mut answer = Self {
            pool: Rc::clone(pool),
            replica,
            connection: Some(connection),
            head,
            handing,
        };
        if answer.head.is_done() {
            answer.keep();
        }
        answer
    }

    /// The answer's head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Takes its headers out, for the client.
    pub fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.head.headers)
    }

    /// The next piece of the body, as it comes; None at its clean end, after which the connection is kept.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let polled = connection.poll_piece(cx, &mut self.head);
        // Kept as soon as the last piece is out: the client may never ask whether there is another.
        if self.head.is_done() && matches!(polled, Poll::Ready(None | Some(Ok(_)))) {
            self.keep();
        }
        polled
    }

    /// The time from `since` until the request was handed to a connection, without connecting.
    #[must_use]
    pub fn overhead(&self, since: Instant) -> Duration {
        self.handing
            .first
            .map_or(Duration::ZERO, |(at, connecting)| {
                at.saturating_duration_since(since)
                    .saturating_sub(connecting)
            })
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.connection.is_none()
    }

    fn keep(&mut self) {
        let connection = self
            .connection
            .take()
            .and_then(|connection| connection.reusable(&self.head));
        if let Some((connection, room)) = connection {
            self.pool.shelve(self.replica.0.id, connection);
            self.pool.rooms.put_incoming(room);
        }
    }
}

impl Rooms {
    fn take_incoming(&self) -> BytesMut {
        self.incoming.borrow_mut().pop().unwrap_or_default()
    }

    fn put_incoming(&self, room: BytesMut) {
        let mut rooms = self.incoming.borrow_mut();
        if rooms.len() < MOST_ROOMS {
            rooms.push(room);
        }
    }

    fn put_outgoing(&self, room: Vec<u8>) {
        let mut rooms = self.outgoing.borrow_mut();
        if rooms.len() < MOST_ROOMS {
            rooms.push(room);
        }
    }
}

pub(super) async fn connect(replica: &Replica) -> io::Result<Stream> {
    let socket = TcpStream::connect((&*replica.url.host, replica.url.port)).await?;
    socket.set_nodelay(true)?;
    if !replica.url.https {
        return Ok(Stream::Tcp(socket));
    }
    let Some((config, name)) = replica.tls.clone() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the upstream's host is no TLS server name",
        ));
    };
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, socket)
        .await?;
    Ok(Stream::Tls(Box::new(stream)))
}

impl std::fmt::Display for SendFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable => f.write_str("every replica is set aside"),
            Self::Unreachable(_) => f.write_str("no replica could be connected to"),
            Self::Broken(broken) => broken.fmt(f),
            Self::Silent => f.write_str("no answer came in time"),
        }
    }
}

impl std::error::Error for SendFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            Self::Broken(broken) => Some(broken),
            Self::Unavailable | Self::Silent => None,
        }
    }
}
