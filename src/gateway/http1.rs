//! HTTP/1 toward clients (RFC 9112): one task and one [`Http1Connection`] for as long as the client stays.
//!
//! The connection reads a head, hands itself to [`crate::gateway::request`] as the [`Exchange`] of that request, and
//! goes on with the next. Invariants: the next request begins exactly where the body's framing says that this one ends;
//! a connection that waits holds no buffer; and every good end goes through [`Http1Connection::close`].

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gateway::exchange::{BodyLength, BodyPart, Exchange};
use crate::gateway::keyless::KeylessSlot;
use crate::gateway::request::{self, Origin};
use crate::gateway::worker::Worker;
use crate::http::buffer::{BodyBuffer, ReadBuffer};
use crate::http::fields::Fields;
use crate::http::forwarded_headers::{write_line, write_number};
use crate::http::framing::{Framing, Sender};
use crate::http::head::{HeadError, HeadScan, RequestFraming, RequestHead};
use crate::net::transport::Transport;
use crate::policy::field_kind::FieldKind;
use crate::request_body::collect::{BodyReadError, BodySource};
use crate::runtime::timers::TimerEntry;

/// An unread rest of a body up to this length is read and thrown away, and the connection is kept.
const MAX_DISCARDED: u64 = 64 << 10;
/// How long a client that is told `Connection: close` while it sends has to read that.
const LINGER: Duration = Duration::from_secs(10);
/// The same once the process drains.
const LINGER_DRAINING: Duration = Duration::from_secs(1);
/// A part of a response up to this length is copied behind what stands before it: one slice is cheaper to send than a
/// list of slices.
const MAX_COPIED: usize = 8 << 10;
/// What is read ahead of later requests while one is served; with more the connection is only asked whether its client
/// is still there.
const MAX_READ_AHEAD: usize = 16 << 10;

/// A client's connection.
pub(super) struct Http1Connection {
    worker: Rc<Worker>,
    origin: Origin,
    transport: Transport,
    entry: Rc<TimerEntry>,
    slot: Rc<KeylessSlot>,
    read: ReadBuffer,
    head: RequestHead,
    /// What the response needs to know of the request, whose head may be gone by then.
    version: Version,
    is_head_method: bool,
    /// What is left of the request's body.
    body: Framing,
    /// Whether the client waits for 100 Continue (RFC 9110 10.1.1) before it sends the body.
    awaits_continue: bool,
    response: Response,
    /// What is to be written before the part that is being sent.
    out: Vec<u8>,
    /// Bytes that were written so far.
    sent: u64,
    /// Whether another request may follow.
    keeps_open: bool,
    /// Whether bytes that nobody will read may still come.
    lingers: bool,
    is_aborted: bool,
}

/// The response that is being sent.
#[derive(Debug, Default)]
struct Response {
    framing: Option<ResponseFraming>,
    /// The part that is being written: None between two parts.
    part: Option<PartInFlight>,
}

/// How a response's body is framed (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseFraming {
    /// The response has no body, whatever its length field says: that of HEAD, 204 or 304.
    NoBody,
    Length,
    Chunked,
    /// The body ends with the connection (HTTP/1.0).
    UntilClose,
}

/// Where the writing of a part stands.
#[derive(Clone, Copy, Debug)]
struct PartInFlight {
    /// Whether its bytes were copied into `out`.
    is_copied: bool,
    /// What follows it.
    suffix: &'static [u8],
    /// Whether all tasks that were ready ran before the first byte (see [`crate::runtime::flush_coalescer`]).
    has_waited: bool,
    /// Bytes of prefix, part and suffix that were written.
    written: usize,
}

/// What a connection comes to between two requests.
enum NextRequest {
    Request,
    Refused(HeadError),
    /// The client closed, or was silent for too long.
    End,
}

impl Http1Connection {
    /// A connection on which the beginning of what the client sent was read already.
    pub(super) fn new(
        worker: Rc<Worker>,
        origin: Origin,
        transport: Transport,
        read: ReadBuffer,
        entry: Rc<TimerEntry>,
        slot: Rc<KeylessSlot>,
    ) -> Self {
        Self {
            worker,
            origin,
            transport,
            entry,
            slot,
            read,
            head: RequestHead::default(),
            version: Version::HTTP_11,
            is_head_method: false,
            body: Framing::Done,
            awaits_continue: false,
            response: Response::default(),
            out: Vec::new(),
            sent: 0,
            keeps_open: true,
            lingers: false,
            is_aborted: false,
        }
    }

    /// Serves requests until either side ends the connection. Requests tell of themselves in the log; a connection does
    /// not.
    pub(super) async fn serve(mut self) {
        let worker = Rc::clone(&self.worker);
        let mut next = self.next_head().await;
        loop {
            // Boxed, so that an idle connection holds no room for a request.
            match next {
                NextRequest::Request => {
                    Box::pin(request::handle(&worker, self.origin, &mut self)).await
                }
                NextRequest::Refused(error) => {
                    self.begin_refused();
                    Box::pin(request::refuse_head(&worker, self.origin, error, &mut self)).await;
                }
                NextRequest::End => break,
            }
            if self.is_aborted {
                return;
            }
            if !self.keeps_open || !self.discard_body().await {
                break;
            }
            self.end_exchange();
            next = self.next_head().await;
        }
        self.close().await;
    }

    /// Waits for the next request's head.
    async fn next_head(&mut self) -> NextRequest {
        let worker = Rc::clone(&self.worker);
        let (timer, timeouts) = (&worker.timer, &worker.settings.timeouts);
        if !self.read.is_empty() {
            // Requests that a client sends behind one another without waiting take turns with everybody else's.
            tokio::task::yield_now().await;
        }
        let mut scan = HeadScan::default();
        // Line ends behind the last request are no beginning of a head.
        let begins = |unread: &[u8]| unread.iter().any(|byte| !b"\r\n".contains(byte));
        let mut is_idle = self.sent > 0 && !begins(self.read.unread());
        // The first head's time runs since the connection was accepted.
        self.entry.set_deadline_once(match is_idle {
            true => timer.now() + timeouts.keep_alive,
            false => timer.now() + timeouts.header_read,
        });
        let mut has_fields = false;
        let next = poll_fn(|cx| {
            loop {
                if !self.read.is_empty() {
                    if !has_fields {
                        has_fields = true;
                        self.head = RequestHead::in_fields(worker.buffers.take_fields());
                    }
                    let max = worker.settings.max_head;
                    match self.head.parse(self.read.unread(), max, &mut scan) {
                        Ok(Some(length)) => {
                            self.read.consume(length);
                            return Poll::Ready(NextRequest::Request);
                        }
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(NextRequest::Refused(error)),
                    }
                }
                match self.read.poll_fill(&mut self.transport, cx) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        if is_idle && begins(self.read.unread()) {
                            is_idle = false;
                            self.entry.set_deadline(timer.now() + timeouts.header_read);
                        }
                    }
                    Poll::Ready(_) => return Poll::Ready(NextRequest::End),
                    Poll::Pending => {
                        let is_over = timer.is_closing() && (is_idle || self.sent == 0);
                        if is_over || self.entry.is_late(timer.now()) {
                            return Poll::Ready(NextRequest::End);
                        }
                        self.entry.register(cx);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
        self.entry.reset();
        match next {
            NextRequest::Request => self.begin_exchange(),
            NextRequest::Refused(_) => self.lingers = true,
            NextRequest::End => {
                // Nothing was answered to the head that stopped coming, so there is nothing to be lost.
                self.read.consume(usize::MAX);
                self.give_back_fields();
            }
        }
        next
    }

    fn begin_exchange(&mut self) {
        self.body = match self.head.framing() {
            RequestFraming::Length(length) => Framing::length(length),
            RequestFraming::Chunked => Framing::chunked(Sender::Client),
            RequestFraming::Stream => Framing::Done,
        };
        self.version = self.head.version();
        self.is_head_method = self.head.method() == "HEAD";
        self.keeps_open = self.head.keeps_open();
        self.awaits_continue = self.version == Version::HTTP_11
            && !self.body.is_done()
            && self.head.fields().count(FieldKind::Expect) > 0;
    }

    /// Where the next request begins after a head that is no head, nobody knows.
    fn begin_refused(&mut self) {
        (self.body, self.keeps_open) = (Framing::Done, false);
        (self.version, self.is_head_method) = (Version::HTTP_11, false);
        self.awaits_continue = false;
    }

    fn end_exchange(&mut self) {
        self.response = Response::default();
        self.entry.reset();
        self.give_back_fields();
        self.read.release_if_empty();
    }

    fn give_back_fields(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.worker.buffers.give_fields(head.into_fields());
    }

    /// Decides, when a response begins before its request was read whole, whether another request can follow.
    fn plan_unread_body(&mut self) {
        if self.body.is_done() {
            return;
        }
        // Nobody knows whether a client that was not told to continue will send its body.
        let can_be_discarded = !self.awaits_continue
            && match self.body {
                Framing::Length(left) => {
                    left.saturating_sub(self.read.len() as u64) <= MAX_DISCARDED
                }
                Framing::Chunked(_) => self.discard_read_chunks(),
                Framing::UntilClose | Framing::Done => false,
            };
        if !can_be_discarded {
            self.keeps_open = false;
            self.lingers = true;
        }
    }

    /// Throws away what was read of a chunked body; whether it has ended with that.
    fn discard_read_chunks(&mut self) -> bool {
        loop {
            match self.body.take(&mut self.read) {
                Ok(_) if self.body.is_done() => return true,
                Ok(data) if !data.is_empty() => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }

    /// Throws away what is left of the body, so that the next request can be read; false where it does not come.
    async fn discard_body(&mut self) -> bool {
        if self.body.is_done() {
            return true;
        }
        let worker = Rc::clone(&self.worker);
        self.entry.set_deadline(worker.timer.now() + LINGER);
        let is_read = poll_fn(|cx| {
            loop {
                match self.body.take(&mut self.read) {
                    Ok(_) if self.body.is_done() => return Poll::Ready(true),
                    Ok(data) if !data.is_empty() => continue,
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(false),
                }
                match self.read.poll_fill(&mut self.transport, cx) {
                    Poll::Ready(Ok(count)) if count > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.entry.is_late(worker.timer.now()) => {
                        return Poll::Ready(false);
                    }
                    Poll::Pending => {
                        self.entry.register(cx);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
        self.lingers |= !is_read;
        is_read
    }

    /// Ends the connection so that the client gets all that was sent: the sending side is shut (over TLS with
    /// close_notify), and what still comes is thrown away. Closing with unread bytes would reset the connection and
    /// take the response away from a client that is still sending.
    async fn close(mut self) {
        let worker = Rc::clone(&self.worker);
        let timer = &worker.timer;
        let lingers = self.lingers || !self.read.is_empty();
        self.entry.reset();
        self.give_back_fields();
        self.read.consume(usize::MAX);
        self.read.release_if_empty();
        self.entry.set_deadline(timer.now() + LINGER);
        let mut is_draining = false;
        let mut left = worker.settings.bodies.size;
        let mut is_shut = false;
        poll_fn(|cx| {
            self.entry.register(cx);
            if timer.is_closing() && !std::mem::replace(&mut is_draining, true) {
                self.entry.set_deadline(timer.now() + LINGER_DRAINING);
            }
            if self.entry.is_late(timer.now()) {
                return Poll::Ready(());
            }
            if !is_shut {
                if ready!(Pin::new(&mut self.transport).poll_shutdown(cx)).is_err() {
                    return Poll::Ready(());
                }
                is_shut = true;
            }
            if !lingers {
                return Poll::Ready(());
            }
            self.poll_discard(cx, &mut left)
        })
        .await;
    }

    /// Throws away up to `left` bytes; from then on nothing is read, and the client is only waited for. Ready once it
    /// has closed.
    fn poll_discard(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let mut bytes = [const { MaybeUninit::uninit() }; 16 << 10];
        while *left > 0 {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            let read = Pin::new(&mut self.transport).poll_read(cx, &mut buffer);
            if ready!(read).is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
            *left = left.saturating_sub(buffer.filled().len());
        }
        if self.transport.is_hung_up() {
            return Poll::Ready(());
        }
        // Bytes that stay unread would hide the client's end from the runtime, so each tick has a look.
        self.entry.wake_each_tick(true);
        Poll::Pending
    }

    /// Writes what is in `out`, and a part and its suffix behind it, from where the writing stands.
    fn poll_write(&mut self, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<()>> {
        let Some(in_flight) = &mut self.response.part else {
            return Poll::Ready(Ok(()));
        };
        if !std::mem::replace(&mut in_flight.has_waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (part, suffix) = match in_flight.is_copied {
            true => (&[][..], &[][..]),
            false => (part, in_flight.suffix),
        };
        let before_suffix = self.out.len() + part.len();
        while in_flight.written < before_suffix + suffix.len() {
            let written = in_flight.written;
            let slices = [
                self.out.get(written..).unwrap_or_default(),
                &part[written.saturating_sub(self.out.len()).min(part.len())..],
                &suffix[written.saturating_sub(before_suffix)..],
            ];
            let count = ready!(self.transport.poll_write_slices(cx, slices))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            in_flight.written += count;
            self.sent += count as u64;
        }
        if self.transport.is_tls() {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        }
        self.response.part = None;
        self.worker
            .buffers
            .give_write(std::mem::take(&mut self.out));
        Poll::Ready(Ok(()))
    }

    /// Puts what frames a part around it.
    fn begin_part(&mut self, part: BodyPart<'_>) {
        if self.out.capacity() == 0 {
            self.out = self.worker.buffers.take_write();
        }
        let bytes = match self.response.framing {
            None | Some(ResponseFraming::NoBody) => &[],
            Some(_) => part.bytes(),
        };
        let is_chunked = self.response.framing == Some(ResponseFraming::Chunked);
        let suffix: &'static [u8] = match (is_chunked, bytes.is_empty(), part.is_last()) {
            (false, _, _) | (true, true, false) => b"",
            (true, true, true) => b"0\r\n\r\n",
            (true, false, false) => b"\r\n",
            (true, false, true) => b"\r\n0\r\n\r\n",
        };
        if is_chunked && !bytes.is_empty() {
            write_chunk_size(&mut self.out, bytes.len());
        }
        let is_copied = bytes.len() <= MAX_COPIED;
        if is_copied {
            self.out.extend_from_slice(bytes);
            self.out.extend_from_slice(suffix);
        }
        self.response.part = Some(PartInFlight {
            is_copied,
            suffix,
            has_waited: false,
            written: 0,
        });
    }

    /// Tells a client that waits for it that its body will be read.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.awaits_continue {
            return Poll::Ready(Ok(()));
        }
        if self.response.part.is_none() {
            self.begin_part(BodyPart::More(b""));
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        ready!(self.poll_write(cx, b""))?;
        self.awaits_continue = false;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http1Connection {
    fn drop(&mut self) {
        self.worker
            .buffers
            .give_write(std::mem::take(&mut self.out));
    }
}

impl BodySource for Http1Connection {
    fn declared_length(&self) -> Option<u64> {
        match self.body {
            Framing::Length(left) => Some(left),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BodyBuffer,
    ) -> Poll<Result<usize, BodyReadError>> {
        loop {
            if let Framing::Length(left) = self.body {
                let there = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(self.read.len());
                let count = if there == 0 {
                    ready!(self.poll_continue(cx)).map_err(|_| BodyReadError)?;
                    // The rest is read to where it will stand.
                    ready!(into.poll_fill(&mut self.transport, left, cx))
                        .map_err(|_| BodyReadError)?
                } else {
                    self.awaits_continue = false;
                    if into.is_empty() {
                        *into = self.read.split_off_body(there);
                    } else {
                        into.append(&self.read.unread()[..there]);
                        self.read.consume(there);
                    }
                    there
                };
                if count == 0 {
                    return Poll::Ready(Err(BodyReadError));
                }
                self.body = Framing::length(left - count as u64);
                return Poll::Ready(Ok(count));
            }
            let data = self.body.take(&mut self.read).map_err(|_| BodyReadError)?;
            if !data.is_empty() || self.body.is_done() {
                self.awaits_continue = false;
                into.append(self.read.at(data.clone()));
                return Poll::Ready(Ok(data.len()));
            }
            ready!(self.poll_continue(cx)).map_err(|_| BodyReadError)?;
            let filled = ready!(self.read.poll_fill(&mut self.transport, cx));
            if !filled.is_ok_and(|count| count > 0) {
                return Poll::Ready(Err(BodyReadError));
            }
        }
    }
}

impl Exchange for Http1Connection {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn release_head(&mut self) {
        self.give_back_fields();
    }

    fn authenticated(&self) {
        self.slot.authenticated();
    }

    fn timer_entry(&self) -> &Rc<TimerEntry> {
        &self.entry
    }

    fn close_after(&mut self) {
        self.keeps_open = false;
        self.lingers = true;
    }

    fn begin(&mut self, status: StatusCode, fields: &Fields, length: BodyLength) {
        self.plan_unread_body();
        self.keeps_open &= !self.worker.timer.is_closing();
        let version = self.version;
        let has_no_body = self.is_head_method
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match length {
            _ if has_no_body => ResponseFraming::NoBody,
            BodyLength::Known(_) => ResponseFraming::Length,
            BodyLength::Unknown if version == Version::HTTP_10 => ResponseFraming::UntilClose,
            BodyLength::Unknown => ResponseFraming::Chunked,
        };
        if framing == ResponseFraming::UntilClose {
            self.keeps_open = false;
            self.transport.reset_on_drop();
        }
        if self.out.capacity() == 0 {
            self.out = self.worker.buffers.take_write();
        }
        if let Some(interrupted) = self.response.part.take() {
            // A refusal behind a 100 Continue that did not leave whole.
            self.out.drain(..interrupted.written.min(self.out.len()));
        }
        let out = &mut self.out;
        write_status_line(out, version, status);
        fields.write(out, |_| true);
        match length {
            BodyLength::Known(length)
                if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED =>
            {
                write_number(out, "content-length", length);
            }
            BodyLength::Unknown if framing == ResponseFraming::Chunked => {
                write_line(out, "transfer-encoding", b"chunked");
            }
            BodyLength::Known(_) | BodyLength::Unknown => {}
        }
        match (self.keeps_open, version) {
            (false, _) => write_line(out, "connection", b"close"),
            (true, Version::HTTP_10) => write_line(out, "connection", b"keep-alive"),
            (true, _) => {}
        }
        out.extend_from_slice(b"\r\n");
        self.response.framing = Some(framing);
    }

    fn has_begun(&self) -> bool {
        self.response.framing.is_some()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, part: BodyPart<'_>) -> Poll<io::Result<()>> {
        if self.response.part.is_none() {
            self.begin_part(part);
        }
        let bytes = match self.response.framing {
            None | Some(ResponseFraming::NoBody) => &[],
            Some(_) => part.bytes(),
        };
        ready!(self.poll_write(cx, bytes))?;
        if part.is_last() && self.response.framing == Some(ResponseFraming::UntilClose) {
            self.transport.finish_on_drop();
        }
        Poll::Ready(Ok(()))
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A part is sent once the system has taken all of it; but a reset throws away what the system still holds.
        let is_reset = self.response.framing == Some(ResponseFraming::UntilClose);
        if !is_reset || self.transport.is_all_sent() {
            return Poll::Ready(Ok(()));
        }
        self.entry.wake_each_tick(true);
        self.entry.register(cx);
        Poll::Pending
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.read.len() < MAX_READ_AHEAD {
            let filled = ready!(self.read.poll_fill(&mut self.transport, cx));
            if !filled.is_ok_and(|count| count > 0) {
                return Poll::Ready(());
            }
        }
        if self.transport.is_hung_up() {
            return Poll::Ready(());
        }
        // Nothing is read any more, so each tick has a look.
        self.entry.wake_each_tick(true);
        self.entry.register(cx);
        Poll::Pending
    }

    fn abort(&mut self) {
        self.is_aborted = true;
    }
}

fn write_status_line(out: &mut Vec<u8>, version: Version, status: StatusCode) {
    let version: &[u8] = match version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    };
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (place * 4) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}
