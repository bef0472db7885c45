//! An answer's way to the client, piece by piece, under the lease of its request.
//!
//! An answer that cannot be finished is never finished cleanly: the connection (HTTP/2: the stream) is broken off, so
//! that no client takes half an answer for a whole one. hyper throws away what it has not written yet when a body
//! fails; so the body first waits until everything before the break, the error event included, is flushed.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};

use crate::gateway::reply::Refusal;
use crate::http::io::{InFlight, Line};
use crate::policy::denial::Denial;
use crate::runtime::clock::{Clock, Watch};
use crate::upstream::pool::Answer;

use super::lease::{Lease, SharedLease};
use super::record::Record;
use super::stall::{LAST_WORDS, Stall};
use super::worker::Worker;

/// Between the last byte's flush and the break.
const TIME_TO_READ: Duration = Duration::from_millis(50);

/// The body of every answer.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    /// Gone once the answer is out whole.
    guard: Option<Guard>,
}

/// What lives as long as the answer: it is logged, counted and given back when this is dropped.
#[derive(Debug)]
pub struct Guard {
    /// What is known of the request.
    pub record: Record,
    /// Its place on the connection.
    #[expect(dead_code, reason = "held for its Drop")]
    pub in_flight: InFlight,
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Relay(Box<Relay>),
}

/// An upstream's answer on its way.
#[derive(Debug)]
pub struct Relay {
    answer: Answer,
    lease: SharedLease,
    watch: Rc<Watch>,
    line: Rc<Line>,
    clock: Clock,
    patience: Patience,
    is_event_stream: bool,
    /// Whether the client takes what it is given.
    stall: Option<Rc<Stall>>,
    /// The flush that takes out everything handed over so far, and whether a break has seen it.
    flush_awaited: u64,
    is_flushed: bool,
    state: State,
}

/// How long a relay waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the next piece of the answer.
    pub stream_idle: Duration,
    /// For the client to take what was there before a break.
    pub client_write: Duration,
}

#[derive(Debug)]
enum State {
    Streaming,
    /// To say once more, before the break.
    LastWords(Bytes),
    /// Nothing more to say: wait until all of it is flushed.
    Breaking,
}

/// The answer is broken off on purpose.
#[derive(Clone, Copy, Debug)]
pub struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer cannot be finished")
    }
}

impl std::error::Error for BrokenOff {}

impl From<Bytes> for ReplyBody {
    fn from(whole: Bytes) -> Self {
        Self {
            source: Source::Whole(whole),
            guard: None,
        }
    }
}

impl From<Relay> for ReplyBody {
    fn from(relay: Relay) -> Self {
        Self {
            source: Source::Relay(Box::new(relay)),
            guard: None,
        }
    }
}

impl ReplyBody {
    /// Ties the request's record and its place on the connection to the answer's life.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        if self.is_end_stream() {
            self.finish();
        }
        self
    }

    fn finish(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.record.complete();
        }
    }

    fn record(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(guard) = &mut self.guard {
            note(&mut guard.record);
        }
    }
}

impl Relay {
    /// Takes an answer whose head is about to be handed over.
    #[must_use]
    pub fn new(
        answer: Answer,
        headers: &HeaderMap,
        lease: Lease,
        line: &Rc<Line>,
        worker: &Worker,
    ) -> Self {
        let is_event_stream = is_event_stream(headers);
        let flush_awaited = line.next_flush();
        let watch = Rc::clone(lease.watch());
        let lease = Rc::new(RefCell::new(lease));
        let stall = Stall::of_this_task(&lease);
        if let Some(stall) = &stall {
            stall.begin();
        }
        Self {
            answer,
            lease,
            watch,
            line: Rc::clone(line),
            clock: worker.clock.clone(),
            patience: worker.settings.relay,
            is_event_stream,
            stall,
            flush_awaited,
            is_flushed: false,
            state: State::Streaming,
        }
    }

    /// A piece is hyper's now.
    fn handed_over(&mut self) {
        self.flush_awaited = self.line.next_flush();
        if let Some(stall) = &self.stall {
            stall.begin();
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        // Being asked for more means that what came before was taken.
        if let Some(stall) = &self.stall {
            stall.end();
        }
        match &mut self.state {
            State::Streaming => self.poll_streaming(cx),
            State::LastWords(event) => {
                let event = std::mem::take(event);
                self.state = State::Breaking;
                Poll::Ready(Next::Piece(event))
            }
            State::Breaking => self.poll_break(cx),
        }
    }

    fn poll_streaming(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let watch = &self.watch;
        if let Err(denial) = self.lease.borrow_mut().check() {
            watch.set_deadline(Instant::now() + LAST_WORDS);
            self.state = if self.is_event_stream {
                State::LastWords(last_event(denial))
            } else {
                State::Breaking
            };
            return Poll::Ready(Next::Revoked(denial));
        }
        match self.answer.poll_piece(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                #[cfg(test)]
                super::tests::panic_where_asked(&piece);
                watch.clear_deadline();
                Poll::Ready(Next::Piece(piece))
            }
            Poll::Ready(None) => Poll::Ready(Next::End),
            Poll::Pending if !watch.is_late(self.clock.now()) => {
                // The clock runs while the upstream is waited for, not while a slow client is.
                watch.set_deadline_once(self.clock.now() + self.patience.stream_idle);
                watch.register(cx);
                Poll::Pending
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {
                watch.set_deadline(self.clock.now() + self.patience.client_write);
                self.state = State::Breaking;
                Poll::Ready(Next::UpstreamFailed)
            }
        }
    }

    /// hyper flushes whenever it finds nothing more to write; the deadline is for a client that takes nothing. Once all
    /// is flushed the client gets a moment to read it: some drop what they have not read when a connection breaks.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let watch = &self.watch;
        if watch.is_late(Instant::now()) {
            return Poll::Ready(Next::Break);
        }
        if self.line.flushes() < self.flush_awaited {
            self.line.wake_at_flush(cx);
        } else if !self.is_flushed {
            self.is_flushed = true;
            watch.set_deadline(Instant::now() + TIME_TO_READ);
        }
        watch.register(cx);
        Poll::Pending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What is left of a whole answer to be taken, its connection minds.
        if let Some(stall) = &self.stall {
            stall.end();
        }
    }
}

/// What a relay comes to next.
enum Next {
    Piece(Bytes),
    End,
    Revoked(Denial),
    UpstreamFailed,
    Break,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        loop {
            let next = match &mut this.source {
                Source::Whole(whole) if whole.is_empty() => Next::End,
                Source::Whole(whole) => Next::Piece(std::mem::take(whole)),
                Source::Relay(relay) => std::task::ready!(relay.poll_next(cx)),
            };
            match next {
                Next::Piece(piece) => {
                    this.record(|record| record.sent(piece.len()));
                    if let Source::Relay(relay) = &mut this.source {
                        relay.handed_over();
                    }
                    if this.is_end_stream() {
                        this.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Next::End => {
                    this.finish();
                    return Poll::Ready(None);
                }
                Next::Revoked(denial) => this.record(|record| record.revoked(denial)),
                Next::UpstreamFailed => this.record(Record::upstream_failed),
                Next::Break => {
                    this.guard = None;
                    return Poll::Ready(Some(Err(BrokenOff)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(whole) => whole.is_empty(),
            Source::Relay(relay) => {
                matches!(relay.state, State::Streaming) && relay.answer.is_done()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Source::Relay(relay) => relay
                .answer
                .head()
                .length()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Server-sent events (WHATWG HTML 9.2), readable as they stand.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
        && !headers.contains_key(CONTENT_ENCODING)
}

/// The denial as an event. The empty line before it ends an event that the last piece may have left open.
fn last_event(denial: Denial) -> Bytes {
    let body = Refusal::from(denial).body();
    [b"\n\ndata: ".as_slice(), &body, b"\n\n"].concat().into()
}
