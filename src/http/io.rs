//! A client connection's bytes: TCP, Unix or TLS, under one set of clocks.
//!
//! hyper reads and writes through [`ClientIo`] (in hyper-util's adapter); what the connection's requests and its bytes have to know of each
//! other stands in their [`Line`]. Six things happen here because nothing else can do them: slow and idle peers are
//! ended, a client that leaves is noticed even where nobody reads on, an answer that came before its request was read
//! whole is followed by a lingering close, whoever wants to break a connection off can first wait until what came
//! before is flushed, an idle connection is told apart from hyper's, which can be given up without it, and what is to be
//! written waits for the end of the worker's turn.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::runtime::clock::{Clock, TICK, Watch};
use crate::runtime::turn::Turn;

/// What is read and thrown away, at most, after an early answer: a client that is still sending must get to read it.
const LINGER_BYTES: usize = 1_000_000;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How long an idle HTTP/2 connection is kept once the process drains: a client that sent a request just then is told
/// so, and one that does not even read that it should go is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);
/// What a connection may read before the others of its worker have their turn. Small frames cost far more than their
/// bytes, so a peer that floods must not be read as fast as it sends.
const TURN: usize = 64 << 10;
const MULTIPLEXED_TURN: usize = 16 << 10;
/// How long an HTTP/1 connection is idle before it is folded: longer than a busy one ever is.
const FOLD: Duration = TICK.saturating_mul(2);
/// The same for the first time, at the next tick: where many clients come at once and rest after a request each, the
/// memory that they hold together in the meantime is what the allocator keeps. A busy one pays for that once.
const FIRST_FOLD: Duration = NEXT_TICK;
/// Due at the next tick: more than no time, and less than any tick takes.
const NEXT_TICK: Duration = Duration::from_millis(1);
/// What every HTTP/2 connection begins with (RFC 9113 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as accepted.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The clocks of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From accept, or from a head's first byte on a kept connection, to the whole head.
    pub header_read: Duration,
    /// From the last answer to the next head's first byte.
    pub keep_alive: Duration,
    /// While the client takes nothing of what is to be written.
    pub client_write: Duration,
}

/// What a connection's bytes and its requests know of each other.
#[derive(Debug)]
pub struct Line {
    clock: Clock,
    watch: Rc<Watch>,
    /// That of the one request that HTTP/1 serves at a time.
    of_request: RefCell<Option<Rc<Watch>>>,
    patience: Patience,
    phase: Cell<Phase>,
    multiplexed: Cell<bool>,
    in_flight: Cell<usize>,
    /// Until when the connection may stay idle; the watch may be due before, to have it folded.
    idle_until: Cell<Instant>,
    /// Whether the connection was folded before.
    was_folded: Cell<bool>,
    /// Whether the end of hyper's connection is not the client's.
    folding: Cell<bool>,
    /// Whether the socket is being shut down.
    ending: Cell<bool>,
    write_stalled: Cell<bool>,
    /// For whose end what is to be written waits.
    turn: Turn,
    unread: Cell<bool>,
    /// Bytes read, and requests begun, since the connection's task was woken.
    read: Cell<usize>,
    begun: Cell<usize>,
    /// Whether the last reading waits for the client, who is heard the moment it leaves.
    listening: Cell<bool>,
    /// For a request during which nobody reads; made when there is one.
    departure: OnceCell<Rc<Watch>>,
    flushes: Cell<u64>,
    awaiting_flush: RefCell<Vec<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing answered yet: the clock runs since accept.
    Fresh,
    /// Between an answer and the next head.
    Idle,
    /// Some of a head has come.
    Head,
    /// A request is being served.
    Busy,
}

impl Line {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(clock: &Clock, patience: Patience) -> Rc<Self> {
        let watch = clock.watch();
        watch.set_deadline(clock.now() + patience.header_read);
        Rc::new(Self {
            clock: clock.clone(),
            watch,
            of_request: RefCell::new(None),
            patience,
            phase: Cell::new(Phase::Fresh),
            multiplexed: Cell::new(false),
            in_flight: Cell::new(0),
            idle_until: Cell::new(clock.now()),
            was_folded: Cell::new(false),
            folding: Cell::new(false),
            ending: Cell::new(false),
            write_stalled: Cell::new(false),
            turn: Turn::default(),
            unread: Cell::new(false),
            read: Cell::new(0),
            begun: Cell::new(0),
            listening: Cell::new(false),
            departure: OnceCell::new(),
            flushes: Cell::new(0),
            awaiting_flush: RefCell::new(Vec::new()),
        })
    }

    /// Says that requests share the connection (HTTP/2).
    pub fn set_multiplexed(&self) {
        self.multiplexed.set(true);
    }

    /// A request begins; it ends when what is returned is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.enter(Phase::Busy);
        InFlight(Rc::clone(self))
    }

    /// A watch for a request, without a deadline: the last request's, where that has ended.
    pub fn watch_request(&self) -> Rc<Watch> {
        let mut last = self.of_request.borrow_mut();
        if let Some(last) = last.as_ref().filter(|watch| Rc::strong_count(watch) == 1) {
            last.reset();
            return Rc::clone(last);
        }
        Rc::clone(last.insert(self.clock.watch()))
    }

    /// Says that the process drains: from now on nobody stays idle for long.
    pub fn close(&self) {
        if self.phase.get() == Phase::Idle {
            self.enter(Phase::Idle);
        }
    }

    /// The connection's task is woken: it may read again.
    pub fn begin_turn(&self) {
        self.read.set(0);
        self.begun.set(0);
    }

    /// Whether another request began in this turn: those that a client sends behind one another without waiting take
    /// turns with everybody else's. (Shared connections have a task for each.)
    #[must_use]
    pub fn has_more_than_its_turn(&self) -> bool {
        self.begun.get() > 1 && !self.multiplexed.get()
    }

    /// Whether hyper's connection, of HTTP/1, is to end now and the client's is not: it has been idle for a while, with
    /// nothing read that was not a request's and nothing unsent. Shutting it down does not reach the socket then.
    #[must_use]
    pub fn begin_fold(&self) -> bool {
        let is_due = self.phase.get() == Phase::Idle
            && !self.write_stalled.get()
            && !self.turn.is_waiting()
            && !self.ending.get()
            && self.watch.is_late(self.clock.now());
        if !is_due {
            return false;
        }
        self.watch.set_deadline(self.idle_until.get());
        let folds = self.listening.get() && !self.clock.is_closing() && !self.is_late();
        self.folding.set(folds);
        folds
    }

    /// From now on the end of hyper's connection is the client's again. Returns whether it was not.
    pub fn end_fold(&self) -> bool {
        self.folding.replace(false)
    }

    fn is_turn_over(&self) -> bool {
        let most = if self.multiplexed.get() {
            MULTIPLEXED_TURN
        } else {
            TURN
        };
        self.read.get() >= most
    }

    /// An answer goes out before its request was read: the connection has to linger before it closes.
    pub fn leave_unread(&self) {
        self.unread.set(true);
    }

    /// How often everything written was flushed.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// The flush after which everything handed to hyper by now is out: the next, or, where one is under way that was
    /// begun before, the one after it.
    #[must_use]
    pub fn next_flush(&self) -> u64 {
        let is_under_way = self.write_stalled.get() || self.turn.is_waiting();
        self.flushes.get() + 1 + u64::from(self.multiplexed.get() && is_under_way)
    }

    /// Wakes this task at the next flush.
    pub fn wake_at_flush(&self, context: &Context<'_>) {
        self.awaiting_flush
            .borrow_mut()
            .push(context.waker().clone());
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        if self.write_stalled.get() {
            return;
        }
        match phase {
            Phase::Busy => self.watch.clear_deadline(),
            Phase::Idle => {
                let keep_alive = self.patience.keep_alive;
                let idle = if self.clock.is_closing() {
                    keep_alive.min(FAREWELL)
                } else {
                    keep_alive
                };
                self.idle_until.set(self.clock.now() + idle);
                self.await_fold();
            }
            Phase::Fresh | Phase::Head => self
                .watch
                .set_deadline(self.clock.now() + self.patience.header_read),
        }
    }

    fn received(&self, bytes: usize) {
        self.read.set(self.read.get() + bytes);
        if self.phase.get() == Phase::Idle && !self.multiplexed.get() {
            self.enter(Phase::Head);
        }
    }

    fn is_late(&self) -> bool {
        let now = self.clock.now();
        match self.phase.get() {
            Phase::Idle if !self.write_stalled.get() => self.idle_until.get() <= now,
            Phase::Fresh if self.clock.is_closing() => true,
            _ => self.watch.is_late(now),
        }
    }

    /// Has an idle connection's task woken to fold it, or to end it, whichever comes first.
    fn await_fold(&self) {
        let end = self.idle_until.get();
        let rest = if self.was_folded.get() {
            FOLD
        } else {
            FIRST_FOLD
        };
        self.watch.set_deadline(if self.multiplexed.get() {
            end
        } else {
            end.min(self.clock.now() + rest)
        });
    }

    fn stall(&self) {
        if !self.write_stalled.replace(true) {
            self.watch
                .set_deadline(self.clock.now() + self.patience.client_write);
        }
    }

    fn written(&self) {
        if self.write_stalled.replace(false) {
            self.enter(self.phase.get());
        }
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for waker in self.awaiting_flush.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Whether it is time to look if the client is still there. While a request runs hyper reads on only until it holds
    /// bytes of the next one: from then on nobody would hear the client leave, so each tick has a look.
    fn must_look(&self, cx: &Context<'_>) -> bool {
        let is_deaf =
            self.phase.get() == Phase::Busy && !self.multiplexed.get() && !self.listening.get();
        if !is_deaf {
            if let Some(departure) = self.departure.get() {
                departure.clear_deadline();
            }
            return false;
        }
        let departure = self.departure.get_or_init(|| self.clock.watch());
        let now = self.clock.now();
        let is_due = departure.is_late(now);
        if is_due {
            departure.clear_deadline();
        }
        departure.set_deadline_once(now + NEXT_TICK);
        departure.register(cx);
        is_due
    }

    /// Whether bytes that nobody will read may still be coming in.
    fn must_linger(&self) -> bool {
        self.unread.get() || self.phase.get() == Phase::Head
    }
}

/// A request being served on a connection.
#[derive(Debug)]
pub struct InFlight(Rc<Line>);

impl InFlight {
    /// The connection it came by.
    #[must_use]
    pub fn line(&self) -> &Rc<Line> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get().saturating_sub(1);
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.enter(Phase::Idle);
        }
    }
}

/// A client connection as hyper reads and writes it.
#[derive(Debug)]
pub struct ClientIo {
    stream: Stream,
    /// Read while the protocol was being found out.
    before: Bytes,
    line: Rc<Line>,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    bytes_left: usize,
    until: Instant,
}

/// The protocol a plain connection opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// HTTP/1: anything but the preface of HTTP/2.
    Http1,
    /// HTTP/2 by prior knowledge (RFC 9113 3.3).
    Http2,
}

impl ClientIo {
    /// Puts a connection under its clocks.
    #[must_use]
    pub fn new(stream: Stream, line: Rc<Line>) -> Self {
        Self {
            stream,
            before: Bytes::new(),
            line,
            lingering: None,
        }
    }

    /// Finds out what a plain connection speaks; what was read for that is read again by hyper.
    ///
    /// # Errors
    /// Where the peer is gone, or silent for longer than `header_read`.
    pub async fn opening(&mut self) -> io::Result<Opening> {
        let mut read = Vec::with_capacity(HTTP2_PREFACE.len());
        while HTTP2_PREFACE.starts_with(&read) && read.len() < HTTP2_PREFACE.len() {
            let mut bytes = [0_u8; 24];
            let room = HTTP2_PREFACE.len() - read.len();
            let count = std::future::poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut bytes[..room]);
                ready!(self.poll_in_time(cx, &mut buffer))?;
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read.extend_from_slice(&bytes[..count]);
        }
        let opening = if read == HTTP2_PREFACE {
            Opening::Http2
        } else {
            Opening::Http1
        };
        self.before = read.into();
        Ok(opening)
    }

    /// Keeps of an idle connection no more than must be kept. What hyper had read is read again.
    #[must_use]
    pub fn fold(mut self, read: Bytes) -> Self {
        // Some of a head that came while the last request was served; line ends before one are nothing (RFC 9112 2.2).
        if !read.iter().all(|byte| b"\r\n".contains(byte)) {
            self.before = read;
            self.line.enter(Phase::Head);
        }
        self.line.was_folded.set(true);
        self.line.of_request.take();
        self.line.awaiting_flush.take();
        self
    }

    /// Waits, with no room to read into, until there is something to read or the connection is to end.
    pub async fn wait(&mut self) {
        std::future::poll_fn(|cx| {
            let line = &self.line;
            if !self.before.is_empty() || line.clock.is_closing() || line.is_late() {
                return Poll::Ready(());
            }
            line.watch.register(cx);
            // Why a socket fails, its next reading tells.
            self.stream.poll_read_ready(cx).map(|_| ())
        })
        .await;
        if self.line.phase.get() == Phase::Idle {
            self.line.await_fold();
        }
    }

    /// Reads, or ends the reading once the connection is late.
    fn poll_in_time(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.is_turn_over() {
            // A peer that never pauses is late like any other.
            return if self.line.is_late() {
                Poll::Ready(Ok(()))
            } else {
                // Woken again once the worker has looked after everybody else.
                pin!(tokio::task::yield_now()).poll(cx).map(Ok)
            };
        }
        let before = buffer.filled().len();
        let read = self.stream.poll_read(cx, buffer);
        self.line.listening.set(read.is_pending());
        match read {
            Poll::Pending if self.line.is_late() => Poll::Ready(Ok(())),
            Poll::Pending => {
                self.line.watch.register(cx);
                Poll::Pending
            }
            Poll::Ready(result) => {
                let count = buffer.filled().len() - before;
                if count > 0 {
                    self.line.received(count);
                }
                Poll::Ready(result)
            }
        }
    }

    fn watch_write<T>(
        &self,
        cx: &Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => {
                if self.line.write_stalled.get() && self.line.is_late() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.line.stall();
                self.line.watch.register(cx);
                Poll::Pending
            }
            Poll::Ready(result) => {
                self.line.written();
                Poll::Ready(result)
            }
        }
    }

    /// Throws away what still comes in, so that the client gets to read the answer: closing with unread bytes would
    /// reset the connection and take the answer away from it.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| {
            let until = Instant::now() + LINGER_TIME;
            self.line.watch.set_deadline(until);
            Lingering {
                bytes_left: LINGER_BYTES,
                until,
            }
        });
        let mut bytes = [const { MaybeUninit::uninit() }; 16 << 10];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Pending if lingering.until <= self.line.clock.now() => return Poll::Ready(()),
                Poll::Pending => {
                    self.line.watch.register(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    lingering.bytes_left =
                        lingering.bytes_left.saturating_sub(buffer.filled().len());
                    if lingering.bytes_left == 0 {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.before.is_empty() {
            return this.poll_in_time(cx, buffer);
        }
        let count = this.before.len().min(buffer.remaining());
        buffer.put_slice(&this.before.split_to(count));
        // What follows comes with it: hyper makes room anew for every reading, and would keep twice what it needs. Whether
        // there is nothing more, or never will be, the next reading tells.
        if buffer.remaining() > 0 {
            let _ = this.poll_in_time(cx, buffer);
        }
        // Whatever that found: hyper has something to do, and may not read again before it is done.
        this.line.listening.set(false);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.line.turn.poll_end(cx));
        let written = this.stream.poll_write(cx, bytes);
        this.watch_write(cx, written)
    }

    /// hyper then joins head and body: one short piece costs the system less than a list of pieces.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes whenever it is woken, whether or not there is anything to write.
        if this.line.must_look(cx) && this.stream.is_left() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let flushed = this.stream.poll_flush(cx);
        let flushed = this.watch_write(cx, flushed);
        if let Poll::Ready(Ok(())) = flushed {
            this.line.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.line.folding.get() {
            return Poll::Ready(Ok(()));
        }
        this.line.ending.set(true);
        if this.lingering.is_none() {
            let shut = this.stream.poll_shutdown(cx);
            ready!(this.watch_write(cx, shut))?;
        }
        if this.line.must_linger() {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

macro_rules! on_stream {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Unix($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
        }
    };
}

impl Stream {
    /// Whether the client has ended its side, or both. Asked of the system, since what it sent before is still unread.
    fn is_left(&self) -> bool {
        let socket = match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        };
        let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        poll(&mut asked, Some(&at_once)).is_ok_and(|told| told > 0)
    }

    /// Whether there may be something to read. Asked after a reading that found nothing.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Tls(stream) => stream.get_ref().0.poll_read_ready(cx),
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_read(cx, buffer))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, inner => inner.poll_write(cx, bytes))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const PATIENCE: Patience = Patience {
        header_read: Duration::from_millis(1),
        keep_alive: Duration::from_secs(60),
        client_write: Duration::from_secs(60),
    };

    /// A connection on which far more waits than a turn takes.
    async fn flooded(clock: &Clock) -> (ClientIo, UnixStream) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let size = socket2::SockRef::from(&client).set_send_buffer_size(1 << 20);
        size.unwrap();
        client.write_all(&[7; 4 * TURN]).await.unwrap();
        server.readable().await.unwrap();
        let line = Line::new(clock, PATIENCE);
        (ClientIo::new(Stream::Unix(server), line), client)
    }

    /// Reads until there is nothing to read at the moment, or nothing ever more.
    async fn read(io: &mut ClientIo) -> (usize, bool) {
        let mut all = 0;
        poll_fn(|cx| {
            loop {
                let mut bytes = [0_u8; 8 << 10];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Ready((all, false)),
                    Poll::Ready(result) if buffer.filled().is_empty() => {
                        return Poll::Ready((all, result.is_ok()));
                    }
                    Poll::Ready(_) => all += buffer.filled().len(),
                }
            }
        })
        .await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_reads_no_more_than_its_turn_until_it_is_woken_again() {
        let clock = Clock::default();
        let (mut io, _client) = flooded(&clock).await;
        for _ in 0..4 {
            assert_eq!(read(&mut io).await, (TURN, false));
            assert_eq!(read(&mut io).await, (0, false), "its turn is over");
            io.line.begin_turn();
        }
        assert_eq!(read(&mut io).await, (0, false), "nothing is left");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_peer_that_never_pauses_is_late_like_any_other() {
        let clock = Clock::default();
        let (mut io, _client) = flooded(&clock).await;
        assert_eq!(read(&mut io).await, (TURN, false));
        tokio::time::sleep(2 * PATIENCE.header_read).await;
        clock.tick(0, 0);
        assert_eq!(read(&mut io).await, (0, true), "its reading ends");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_request_of_a_turn_is_served_at_once_and_those_behind_it_wait() {
        let line = Line::new(&Clock::default(), PATIENCE);
        for _ in 0..2 {
            line.begin_turn();
            let first = line.begin();
            assert!(!line.has_more_than_its_turn());
            drop(first);
            let _second = line.begin();
            assert!(line.has_more_than_its_turn());
        }
        line.set_multiplexed();
        let _third = line.begin();
        assert!(!line.has_more_than_its_turn(), "each has a task of its own");
    }
}
