//! HTTP/2 toward clients (RFC 9113): one task for a [`Http2Connection`], and one for each of its streams, which is the
//! [`Exchange`] of one request.
//!
//! Frames, flow control and header compression are the h2 crate's, which is also hyper's; a stream talks to it directly,
//! so that it can wait for the client's window, break off, and notice a reset without anything in between.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use crate::gateway::exchange::{BodyLength, BodyPart, Exchange};
use crate::gateway::keyless::KeylessSlot;
use crate::gateway::request::{self, Origin};
use crate::gateway::worker::Worker;
use crate::http::buffer::{BodyBuffer, ReadBuffer};
use crate::http::fields::Fields;
use crate::http::head::{MAX_REQUEST_FIELDS, RequestHead, decimal};
use crate::net::transport::Transport;
use crate::policy::field_kind::FieldKind;
use crate::request_body::collect::{BodyReadError, BodySource};
use crate::runtime::timers::TimerEntry;

/// Requests that one connection may have open at once.
const MAX_STREAMS: u32 = 250;
/// What a client may send ahead, of one request's body and of all its requests'.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of one response may wait for a client to read it; the upstream waits with the rest.
const SEND_BUFFER: usize = 64 << 10;
/// Streams of one connection that may fail for reasons of its own before it is closed.
const MAX_LOCAL_RESETS: usize = 1024;
/// What is read of a connection before the other tasks of the worker run: small frames cost far more than their bytes,
/// so a peer that floods must not be read as fast as it sends.
const READ_QUOTA: usize = 16 << 10;
/// Most bytes that the heads of one connection's requests hold: by header compression (RFC 7541) a few bytes of a frame
/// can be many of a head. A stream over it waits until others are done with theirs.
const MAX_HEADS: usize = 1 << 20;
/// The last part of a response up to this length is handed over without waiting for the client's window.
const SMALL_LAST: usize = 8 << 10;
/// What a header field takes of memory beside its name and value.
const FIELD_OVERHEAD: usize = 80;
/// Refused uploads of one connection whose rest is read at the same time; those above it are reset at once.
const MAX_DISCARDING: usize = 16;
/// How long a connection without streams is kept once it is to end: a client that sent a request just then is told so,
/// and one that reads nothing is not waited for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How long the rest of a refused request's body is read and thrown away: some clients take a reset behind the response
/// for a failure of the request.
const DISCARD: Duration = Duration::from_secs(10);

/// A client's connection.
pub(super) struct Http2Connection {
    worker: Rc<Worker>,
    origin: Origin,
    io: Io,
}

/// What a connection's bytes and its streams know of each other.
struct Link {
    entry: Rc<TimerEntry>,
    slot: Rc<KeylessSlot>,
    /// Bytes read since the connection's task was woken.
    read: Cell<usize>,
    writing: Cell<Writing>,
    /// Since when the client takes nothing of what is to be written.
    blocked_since: Cell<Option<Instant>>,
    /// How often everything written was flushed, and who waits for the next time.
    flushes: Cell<u64>,
    awaiting_flush: RefCell<Vec<Waker>>,
    streams: Cell<usize>,
    /// Streams that throw away the rest of a refused upload.
    discarding: Cell<usize>,
    /// Bytes that are left of [`MAX_HEADS`].
    heads: Semaphore,
    /// Until when the connection may have no stream.
    idle_until: Cell<Instant>,
}

/// Whether the connection may write: first all ready tasks run, since its streams may have more to send with it (see
/// [`crate::runtime::flush_coalescer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// Nothing is to be written yet.
    Idle,
    /// Something is: the task is queued behind all that are ready.
    Queued,
    /// They have run.
    Allowed,
}

/// A connection's bytes as h2 reads and writes them.
struct Io {
    transport: Transport,
    /// Read while the protocol was being found out.
    before: ReadBuffer,
    link: Rc<Link>,
    worker: Rc<Worker>,
}

impl Http2Connection {
    /// A connection on which the beginning of what the client sent was read already.
    pub(super) fn new(
        worker: Rc<Worker>,
        origin: Origin,
        transport: Transport,
        before: ReadBuffer,
        entry: Rc<TimerEntry>,
        slot: Rc<KeylessSlot>,
    ) -> Self {
        let first_request = worker.timer.now() + worker.settings.timeouts.header_read;
        let link = Rc::new(Link {
            entry,
            slot,
            read: Cell::new(0),
            writing: Cell::new(Writing::Idle),
            blocked_since: Cell::new(None),
            flushes: Cell::new(0),
            awaiting_flush: RefCell::default(),
            streams: Cell::new(0),
            discarding: Cell::new(0),
            heads: Semaphore::new(MAX_HEADS),
            idle_until: Cell::new(first_request),
        });
        Self {
            io: Io {
                transport,
                before,
                link,
                worker: Rc::clone(&worker),
            },
            worker,
            origin,
        }
    }

    /// Serves streams until either side ends the connection.
    pub(super) async fn serve(self) {
        let Self { worker, origin, io } = self;
        let link = Rc::clone(&io.link);
        let max_head = u32::try_from(worker.settings.max_head).unwrap_or(u32::MAX);
        let shaking = h2::server::Builder::new()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(max_head)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .handshake::<_, Bytes>(io);
        let mut shaking = pin!(shaking);
        let shaken = poll_fn(|cx| {
            link.begin_turn();
            match shaking.as_mut().poll(cx) {
                Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
                Poll::Pending => link.poll_deadline(cx, &worker).map(|()| None),
            }
        });
        let Some(mut connection) = shaken.await else {
            return;
        };
        let mut is_ending = false;
        poll_fn(|cx| {
            link.begin_turn();
            if worker.timer.is_closing() && !is_ending {
                is_ending = true;
                connection.graceful_shutdown();
                link.begin_shutdown(&worker);
            }
            loop {
                let (request, respond) = match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(accepted))) => accepted,
                    Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                    Poll::Pending => break,
                };
                let open = OpenStream::new(&link, &worker);
                tokio::task::spawn_local(serve_stream(open, origin, request, respond));
            }
            if link.poll_deadline(cx, &worker).is_pending() {
                return Poll::Pending;
            }
            if is_ending || link.blocked_since.get().is_some() {
                return Poll::Ready(());
            }
            // It was idle for long enough. The client is told before the connection closes.
            is_ending = true;
            connection.graceful_shutdown();
            link.begin_shutdown(&worker);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Link {
    /// The connection's task was woken.
    fn begin_turn(&self) {
        self.read.set(0);
        self.writing.set(match self.writing.get() {
            Writing::Queued => Writing::Allowed,
            Writing::Idle | Writing::Allowed => Writing::Idle,
        });
    }

    /// Ready once all tasks that were ready have run. A write that the client does not take waits for the socket alone,
    /// so that a stalled client costs nothing.
    fn poll_ready_tasks_ran(&self, cx: &Context<'_>) -> Poll<()> {
        if self.writing.get() == Writing::Allowed || self.blocked_since.get().is_some() {
            return Poll::Ready(());
        }
        if self.writing.replace(Writing::Queued) == Writing::Idle {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Ready once the client took nothing for too long, or the connection was without a stream for too long.
    fn poll_deadline(&self, cx: &Context<'_>, worker: &Worker) -> Poll<()> {
        let deadline = match self.blocked_since.get() {
            Some(since) => Some(since + worker.settings.timeouts.client_write),
            None => (self.streams.get() == 0).then(|| self.idle_until.get()),
        };
        match deadline {
            Some(deadline) if deadline <= worker.timer.now() => return Poll::Ready(()),
            Some(deadline) => self.entry.set_deadline(deadline),
            None => self.entry.clear_deadline(),
        }
        self.entry.register(cx);
        Poll::Pending
    }

    fn begin_shutdown(&self, worker: &Worker) {
        let until = worker.timer.now() + SHUTDOWN_GRACE;
        self.idle_until.set(until);
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for waker in self.awaiting_flush.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// The flush after which all that was handed to h2 by now is out: the next, or, where one is under way that began
    /// before, the one after it.
    fn next_flush(&self) -> u64 {
        self.flushes.get() + 1 + u64::from(self.blocked_since.get().is_some())
    }
}

impl Io {
    fn note_write<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let blocked = &self.link.blocked_since;
        blocked.set(match &written {
            Poll::Pending => blocked.get().or(Some(self.worker.timer.now())),
            Poll::Ready(_) => None,
        });
        written
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.before.is_empty() {
            let count = this.before.len().min(buffer.remaining());
            buffer.put_slice(&this.before.unread()[..count]);
            this.before.consume(count);
            this.before.release_if_empty();
            return Poll::Ready(Ok(()));
        }
        let read = &this.link.read;
        if read.get() >= READ_QUOTA {
            // Polled again once the worker's other tasks have run.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.transport).poll_read(cx, buffer))?;
        read.set(read.get() + buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.link.poll_ready_tasks_ran(cx));
        let written = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.note_write(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.link.poll_ready_tasks_ran(cx));
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, slices);
        this.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.transport).poll_flush(cx);
        let flushed = this.note_write(flushed);
        if let Poll::Ready(Ok(())) = flushed {
            this.link.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

/// One request and its response.
struct Stream {
    head: RequestHead,
    is_head_method: bool,
    worker: Rc<Worker>,
    /// Bytes of [`MAX_HEADS`] that its head holds.
    held: u32,
    body: RecvStream,
    entry: Rc<TimerEntry>,
    link: Rc<Link>,
    response: Answering,
    sent: u64,
    /// Bytes of the part being sent that h2 has taken.
    part_sent: usize,
    /// The flush that is waited for.
    flush: Option<u64>,
}

/// How far the response is.
enum Answering {
    Awaited(SendResponse<Bytes>),
    /// The head was sent; None where the body has ended with it.
    Begun(Option<SendStream<Bytes>>),
}

/// Serves one request.
async fn serve_stream(
    open: OpenStream,
    origin: Origin,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (worker, link) = (Rc::clone(&open.worker), Rc::clone(&open.link));
    let (parts, body) = request.into_parts();
    let Some(held) = hold_head(&worker, &link, &parts, &mut respond).await else {
        return;
    };
    let mut head = RequestHead::in_fields(worker.buffers.take_fields());
    let read = head.read_http2(&parts, worker.settings.max_head);
    drop(parts);
    let mut stream = Stream {
        is_head_method: head.method() == "HEAD",
        head,
        worker: Rc::clone(&worker),
        held,
        body,
        entry: worker.timer.entry(),
        link,
        response: Answering::Awaited(respond),
        sent: 0,
        part_sent: 0,
        flush: None,
    };
    match read {
        // Boxed, so that a stream that only discards its upload holds no room for a request.
        Ok(()) => Box::pin(request::handle(&worker, origin, &mut stream)).await,
        Err(error) => Box::pin(request::refuse_head(&worker, origin, error, &mut stream)).await,
    }
    stream.release_head();
    stream.discard_body(&worker).await;
}

/// Waits until the connection's [`MAX_HEADS`] has room for a head, and returns what the head takes of it; None where the
/// client resets the stream meanwhile, or other streams hold their heads for too long.
async fn hold_head(
    worker: &Worker,
    link: &Link,
    parts: &Parts,
    respond: &mut SendResponse<Bytes>,
) -> Option<u32> {
    if parts.headers.len() > MAX_REQUEST_FIELDS {
        // It is refused before it is copied.
        return Some(0);
    }
    let held = u32::try_from(head_size(parts).min(MAX_HEADS)).unwrap_or(u32::MAX);
    let mut acquiring = pin!(link.heads.acquire_many(held));
    let acquired = tokio::time::timeout(
        worker.settings.timeouts.header_read,
        poll_fn(|cx| match acquiring.as_mut().poll(cx) {
            // Nobody closes the semaphore. What is taken is given back with the head.
            Poll::Ready(permit) => Poll::Ready(permit.ok().map(|permit| permit.forget())),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }),
    )
    .await;
    if acquired.is_err() {
        respond.send_reset(Reason::REFUSED_STREAM);
    }
    acquired.ok().flatten().map(|()| held)
}

/// What a head takes of memory.
fn head_size(parts: &Parts) -> usize {
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
        .sum();
    let target = parts.uri.path_and_query();
    fields + target.map_or(1, |target| target.as_str().len())
}

/// Counts a stream while it is open.
struct OpenStream {
    link: Rc<Link>,
    worker: Rc<Worker>,
}

impl OpenStream {
    fn new(link: &Rc<Link>, worker: &Rc<Worker>) -> Self {
        link.streams.set(link.streams.get() + 1);
        Self {
            link: Rc::clone(link),
            worker: Rc::clone(worker),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Self { link, worker } = self;
        let left = link.streams.get().saturating_sub(1);
        link.streams.set(left);
        if left == 0 {
            let timeouts = &worker.settings.timeouts;
            let patience = match worker.timer.is_closing() {
                true => SHUTDOWN_GRACE,
                false => timeouts.keep_alive,
            };
            link.idle_until.set(worker.timer.now() + patience);
            // The connection's task sets the deadline.
            link.entry.wake();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.release_head();
    }
}

impl Stream {
    /// Reads and throws away what is left of the body of a request that was answered before its end.
    async fn discard_body(&mut self, worker: &Worker) {
        if self.body.is_end_stream() || matches!(self.response, Answering::Awaited(_)) {
            return;
        }
        let others = self.link.discarding.get();
        if others >= MAX_DISCARDING {
            return;
        }
        self.link.discarding.set(others + 1);
        let mut left = worker.settings.bodies.size;
        let discarding = poll_fn(|cx| {
            loop {
                match ready!(self.body.poll_data(cx)) {
                    Some(Ok(data)) if left > 0 => {
                        left = left.saturating_sub(data.len());
                        let _ = self.body.flow_control().release_capacity(data.len());
                    }
                    Some(_) | None => return Poll::Ready(()),
                }
            }
        });
        // A client that goes on for longer sees a reset with NO_ERROR behind its response (RFC 9113 8.1).
        let _ = tokio::time::timeout(DISCARD, discarding).await;
        self.link.discarding.set(self.link.discarding.get() - 1);
    }
}

impl BodySource for Stream {
    fn declared_length(&self) -> Option<u64> {
        if self.body.is_end_stream() {
            return Some(0);
        }
        self.head
            .fields()
            .only(FieldKind::ContentLength)
            .and_then(decimal)
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BodyBuffer,
    ) -> Poll<Result<usize, BodyReadError>> {
        loop {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    let released = self.body.flow_control().release_capacity(data.len());
                    released.map_err(|_| BodyReadError)?;
                    if !data.is_empty() {
                        into.append(&data);
                        return Poll::Ready(Ok(data.len()));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(BodyReadError)),
                None => {
                    // Trailers are dropped, but a body ends cleanly only behind them.
                    let trailers = ready!(self.body.poll_trailers(cx));
                    return Poll::Ready(trailers.map(|_| 0).map_err(|_| BodyReadError));
                }
            }
        }
    }
}

impl Exchange for Stream {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn release_head(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.link.heads.add_permits(held as usize);
        let head = std::mem::take(&mut self.head);
        self.worker.buffers.give_fields(head.into_fields());
    }

    fn authenticated(&self) {
        self.link.slot.authenticated();
    }

    fn timer_entry(&self) -> &Rc<TimerEntry> {
        &self.entry
    }

    fn close_after(&mut self) {}

    fn begin(&mut self, status: StatusCode, fields: &Fields, length: BodyLength) {
        let Answering::Awaited(respond) = &mut self.response else {
            return;
        };
        let mut head = Response::new(());
        *head.status_mut() = status;
        let headers = head.headers_mut();
        for line in fields.lines() {
            // What HTTP/1 takes for a field, the http crate does too; a line that it does not take is dropped.
            if let (Ok(name), Ok(mut value)) = (
                HeaderName::from_bytes(fields.name(line)),
                HeaderValue::from_bytes(fields.value(line)),
            ) {
                // This value is another in each response: remembering it for header compression (RFC 7541) would push
                // out fields that do come again.
                value.set_sensitive(line.kind() == FieldKind::XRequestId);
                headers.append(name, value);
            }
        }
        let has_no_body = self.is_head_method
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if let BodyLength::Known(length) = length
            && status != StatusCode::NO_CONTENT
            && status != StatusCode::NOT_MODIFIED
        {
            headers.insert(http::header::CONTENT_LENGTH, length.into());
        }
        let ends = has_no_body || length == BodyLength::Known(0);
        // Where the client has reset the stream, the next part fails.
        let body = respond.send_response(head, ends).ok();
        self.response = Answering::Begun(body.filter(|_| !ends));
    }

    fn has_begun(&self) -> bool {
        matches!(self.response, Answering::Begun(_))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, part: BodyPart<'_>) -> Poll<io::Result<()>> {
        let Answering::Begun(Some(stream)) = &mut self.response else {
            return Poll::Ready(Ok(()));
        };
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        loop {
            let rest = &part.bytes()[self.part_sent..];
            if rest.is_empty() {
                self.part_sent = 0;
                if part.is_last() && part.bytes().is_empty() {
                    stream.send_data(Bytes::new(), true).map_err(|_| reset())?;
                }
                return Poll::Ready(Ok(()));
            }
            let is_small_last = part.is_last() && rest.len() <= SMALL_LAST;
            if !is_small_last {
                stream.reserve_capacity(rest.len());
            }
            while stream.capacity() == 0 && !is_small_last {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(reset())),
                }
            }
            let count = match is_small_last {
                true => rest.len(),
                false => stream.capacity().min(rest.len()),
            };
            let ends = part.is_last() && count == rest.len();
            let data = Bytes::copy_from_slice(&rest[..count]);
            stream.send_data(data, ends).map_err(|_| reset())?;
            self.part_sent += count;
            self.sent += count as u64;
        }
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = *self.flush.get_or_insert_with(|| {
            // The connection's task flushes whenever it is woken, also where there is nothing to write.
            self.link.entry.wake();
            self.link.next_flush()
        });
        if self.link.flushes.get() >= flush {
            self.flush = None;
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.link.awaiting_flush.borrow_mut();
        waiting.push(cx.waker().clone());
        Poll::Pending
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.response {
            Answering::Awaited(respond) => respond.poll_reset(cx).map(drop),
            Answering::Begun(Some(stream)) => stream.poll_reset(cx).map(drop),
            Answering::Begun(None) => Poll::Ready(()),
        }
    }

    fn abort(&mut self) {
        match &mut self.response {
            Answering::Awaited(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answering::Begun(Some(stream)) => stream.send_reset(Reason::INTERNAL_ERROR),
            Answering::Begun(None) => {}
        }
    }
}
