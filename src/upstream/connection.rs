//! One HTTP/1.1 connection to an upstream: sends a whole request, and reads the response piece by piece.
//!
//! Although the operator chose the upstream, its responses are parsed strictly, and a connection is reused only if no
//! byte of one response can reach another client. Dropping a connection closes it: that tells the upstream that its
//! response is no longer needed.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWrite;

use crate::http::buffer::ReadBuffer;
use crate::http::framing::{Framing, FramingError};
use crate::net::transport::Transport;
use crate::runtime::timers::{TickTimer, TimerEntry};
use crate::upstream::head::ResponseHead;
use crate::upstream::outbound::OutboundRequest;

/// Maximum number of interim responses (RFC 9110 15.2) before the final one.
const MAX_INTERIM: usize = 16;
/// How long a large body is kept after it was sent on a reused connection. A server that had closed the connection before
/// says so at once; then the request is sent again.
const KEPT_FOR_RETRY: Duration = Duration::from_secs(1);
/// Most bytes of a body that are read at once, and so the most that the connection of a slow client buffers.
const MAX_PIECE: u64 = 32 << 10;

/// A connection, idle or in the middle of an exchange.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    transport: Transport,
    /// If the response began before the whole request was sent: the request, and how much of it was sent. Boxed because
    /// it is rare.
    unsent: Option<Box<(OutboundRequest, usize)>>,
    is_reused: bool,
    /// Whether an exchange has begun and not ended.
    in_exchange: bool,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// A reused connection was closed before any byte of the response. The request can be sent again.
    Stale,
    /// The response is not HTTP, is ambiguous, or ended early.
    Broken(BrokenResponse),
    /// No response arrived in time.
    Silent,
}

/// What was wrong with a response.
#[derive(Debug)]
pub(crate) enum BrokenResponse {
    /// Its head or its framing.
    Framing(FramingError),
    /// The connection failed.
    Io(io::Error),
}

impl std::fmt::Display for BrokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Framing(error) => error.fmt(f),
            Self::Io(_) => f.write_str("the connection to the upstream broke"),
        }
    }
}

impl std::error::Error for BrokenResponse {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Framing(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl From<FramingError> for BrokenResponse {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
    }
}

impl From<FramingError> for ExchangeError {
    fn from(error: FramingError) -> Self {
        Self::Broken(error.into())
    }
}

impl UpstreamConnection {
    #[must_use]
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            unsent: None,
            is_reused: false,
            in_exchange: false,
        }
    }

    /// Whether an idle connection is open and has nothing to read. A server's unsolicited data belongs to no request.
    #[must_use]
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.transport.is_quiet()
    }

    /// Sends a request and reads the head of its response. Returns how much of the request was sent: a response that
    /// begins before the whole request was sent is accepted, but the connection is reused only if the rest is sent too.
    ///
    /// # Errors
    /// [`ExchangeError`]; the connection must not be used after it.
    pub(crate) async fn exchange(
        &mut self,
        request: &mut OutboundRequest,
        read: &mut ReadBuffer,
        head: &mut ResponseHead,
        timer: &TickTimer,
        entry: &TimerEntry,
    ) -> Result<usize, ExchangeError> {
        self.in_exchange = true;
        let mut sent = 0;
        let mut interim = 0;
        let mut sent_at = None;
        let result = poll_fn(|cx| {
            // A failed write is no error yet: the server may have sent a response before it closed.
            let _ = self.poll_send(cx, request, &mut sent);
            if sent == request.len() && request.holds_body() {
                let sent_at = *sent_at.get_or_insert_with(|| timer.now());
                if !self.is_reused || timer.now() >= sent_at + KEPT_FOR_RETRY {
                    request.release_body();
                    entry.wake_each_tick(false);
                } else {
                    entry.wake_each_tick(true);
                }
            }
            loop {
                match head.parse(read.unread())? {
                    Some(length) => {
                        read.consume(length);
                        if !head.status.is_informational() {
                            return Poll::Ready(Ok(()));
                        }
                        interim += 1;
                        if head.status == StatusCode::SWITCHING_PROTOCOLS || interim > MAX_INTERIM {
                            return Poll::Ready(Err(
                                FramingError("too many interim responses").into()
                            ));
                        }
                    }
                    None => match read.poll_fill_at_most(&mut self.transport, MAX_PIECE, cx) {
                        Poll::Ready(Ok(count)) if count > 0 => {}
                        Poll::Ready(ended) => {
                            let is_untouched = interim == 0 && read.is_empty();
                            let can_repeat = request.holds_body() || request.is_small();
                            return Poll::Ready(Err(self.closed(
                                is_untouched,
                                can_repeat,
                                ended.err(),
                            )));
                        }
                        Poll::Pending if entry.is_late(timer.now()) => {
                            return Poll::Ready(Err(ExchangeError::Silent));
                        }
                        Poll::Pending => {
                            entry.register(cx);
                            return Poll::Pending;
                        }
                    },
                }
            }
        })
        .await;
        entry.clear_deadline();
        entry.wake_each_tick(false);
        result.map(|()| sent)
    }

    /// Continues to send a request whose response began before the whole request was sent.
    pub(super) fn keep_sending(&mut self, request: OutboundRequest, sent: usize) {
        self.unsent = Some(Box::new((request, sent)));
    }

    /// Reads the next piece of the response's body and returns its position in `read`, which is valid until the next
    /// call; None at the end of a complete body.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut ReadBuffer,
        framing: &mut Framing,
    ) -> Poll<Option<Result<Range<usize>, BrokenResponse>>> {
        if let Some(mut unsent) = self.unsent.take() {
            let (request, sent) = &mut *unsent;
            // The upstream decides whether it can finish the response without the rest of the request.
            if self.poll_send(cx, request, sent).is_pending() {
                self.unsent = Some(unsent);
            }
        }
        loop {
            let piece = match framing.take(read) {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if framing.is_done() {
                return Poll::Ready(None);
            }
            match ready!(read.poll_fill_at_most(&mut self.transport, MAX_PIECE, cx)) {
                Ok(0) if *framing == Framing::UntilClose => *framing = Framing::Done,
                Ok(0) => {
                    let error = FramingError("the upstream closed in the middle of its response");
                    return Poll::Ready(Some(Err(error.into())));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BrokenResponse::Io(error)))),
            }
        }
    }

    /// Its response was read to the end.
    pub(super) fn end_exchange(&mut self) {
        self.in_exchange = false;
    }

    /// Returns the connection for reuse, if its last request was sent completely.
    #[must_use]
    pub(super) fn into_reusable(mut self) -> Option<Self> {
        self.is_reused = true;
        self.unsent.is_none().then_some(self)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        request: &OutboundRequest,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        while *sent < request.len() {
            let slices = request.rest(*sent);
            let count = ready!(self.transport.poll_write_slices(cx, slices))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += count;
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn closed(
        &self,
        is_untouched: bool,
        can_repeat: bool,
        error: Option<io::Error>,
    ) -> ExchangeError {
        match error {
            _ if self.is_reused && is_untouched && can_repeat => ExchangeError::Stale,
            Some(error) => ExchangeError::Broken(BrokenResponse::Io(error)),
            None => FramingError("the upstream closed before its response was whole").into(),
        }
    }
}

/// In the middle of an exchange it closes with a reset: after FIN the local port would stay in use for a minute
/// (TIME-WAIT, RFC 9293 3.6.1), and clients that leave early could use up all of them.
impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        if self.in_exchange {
            self.transport.reset_on_drop();
        }
    }
}

#[cfg(test)]
mod tests;
