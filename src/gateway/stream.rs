//! An answer's way to the client, piece by piece, under the lease of its request.
//!
//! An answer that cannot be finished is never finished cleanly: the connection (HTTP/2: the stream) is broken off, so
//! that no client takes half an answer for a whole one. hyper throws away what it has not written yet when a body
//! fails; so the body first waits until everything before the break, the error event included, is flushed.
//!
//! hyper asks an HTTP/2 answer for its next piece only while the client's flow-control window is open. A client that
//! keeps it shut must not keep the upstream, past the end of its key least of all: so the worker looks after every
//! relay that nobody polls ([`Relay::look_after`]).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};

use crate::http::clock::Clock;
use crate::http::io::{InFlight, Line};
use crate::http::reply::Refusal;
use crate::http::upstream::pool::Answer;
use crate::policy::denial::Denial;

use super::lease::Lease;
use super::record::Record;

/// How long a revoked stream's last words may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(500);

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
    pub in_flight: InFlight,
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Relay(Rc<RefCell<Relay>>),
}

/// An upstream's answer on its way.
#[derive(Debug)]
pub struct Relay {
    /// None once it was let go of, since the client does not read it.
    answer: Option<Answer>,
    lease: Lease,
    line: Rc<Line>,
    clock: Clock,
    patience: Patience,
    is_event_stream: bool,
    /// Since when a piece is on its way and the next one was not asked for.
    unasked_since: Option<Instant>,
    /// The flush that takes out everything handed over so far.
    flush_awaited: u64,
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

impl From<Rc<RefCell<Relay>>> for ReplyBody {
    fn from(relay: Rc<RefCell<Relay>>) -> Self {
        Self {
            source: Source::Relay(relay),
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
        lease: Lease,
        line: &Rc<Line>,
        clock: &Clock,
        patience: Patience,
    ) -> Self {
        let is_event_stream = is_event_stream(&answer.head().headers);
        let flush_awaited = line.next_flush();
        Self {
            answer: Some(answer),
            lease,
            line: Rc::clone(line),
            clock: clock.clone(),
            patience,
            is_event_stream,
            unasked_since: Some(clock.now()),
            flush_awaited,
            state: State::Streaming,
        }
    }

    /// Lets go of the upstream where the client asks for nothing more and may have nothing more, or has taken nothing
    /// for too long. The answer is broken off as soon as it is asked for again.
    pub fn look_after(&mut self) {
        let Some(since) = self.unasked_since else {
            return;
        };
        let unasked = self.clock.now().saturating_duration_since(since);
        let is_over = unasked >= self.patience.client_write
            || unasked >= LAST_WORDS && self.lease.check().is_err();
        if is_over && !self.is_done() {
            self.answer = None;
        }
    }

    fn is_done(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::is_done)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.unasked_since = None;
        let next = match &mut self.state {
            State::Streaming => self.poll_streaming(cx),
            State::LastWords(event) => {
                let event = std::mem::take(event);
                self.state = State::Breaking;
                Poll::Ready(Next::Piece(event))
            }
            State::Breaking => self.poll_break(cx),
        };
        if let Poll::Ready(Next::Piece(_)) = next {
            self.unasked_since = Some(self.clock.now());
            self.flush_awaited = self.line.next_flush();
        }
        next
    }

    fn poll_streaming(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let watch = self.lease.watch();
        if let Err(denial) = self.lease.check() {
            watch.set_deadline(Instant::now() + LAST_WORDS);
            self.state = if self.is_event_stream {
                State::LastWords(last_event(denial))
            } else {
                State::Breaking
            };
            return Poll::Ready(Next::Revoked(denial));
        }
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(Next::Break);
        };
        match answer.poll_piece(cx) {
            Poll::Ready(Some(Ok(piece))) => {
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

    /// hyper flushes whenever it finds nothing more to write; the deadline is for a client that takes nothing.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let watch = self.lease.watch();
        if self.line.flushes() >= self.flush_awaited || watch.is_late(Instant::now()) {
            return Poll::Ready(Next::Break);
        }
        self.line.wake_at_flush(cx);
        watch.register(cx);
        Poll::Pending
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
                Source::Relay(relay) => {
                    std::task::ready!(relay.borrow_mut().poll_next(cx))
                }
            };
            match next {
                Next::Piece(piece) => {
                    this.record(|record| record.sent(piece.len()));
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
                let relay = relay.borrow();
                matches!(relay.state, State::Streaming) && relay.is_done()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Source::Relay(relay) => relay
                .borrow()
                .answer
                .as_ref()
                .and_then(|answer| answer.head().length())
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
