//! An upstream's response on its way to the client, piece by piece, under the lease of its request.
//!
//! A response that cannot be finished is never finished cleanly: the connection (HTTP/2: the stream) is broken off, so
//! that no client takes half a response for a whole one. What came before the break is sent first.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::gateway::access_record::AccessRecord;
use crate::gateway::exchange::{BodyPart, Exchange};
use crate::gateway::lease::Lease;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::fields::{FieldKind, Fields};
use crate::policy::denial::Denial;
use crate::upstream::pool::{Piece, UpstreamResponse};

/// How long the last bytes of a revoked stream may take to leave.
const REVOKED_GRACE: Duration = Duration::from_millis(500);
/// Between the last byte's flush and the break: some clients drop what they have not read when a connection breaks.
const TIME_TO_READ: Duration = Duration::from_millis(50);

/// The client's part of an exchange broke off: it left, took nothing for too long, or the response was broken off on
/// purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenOff;

/// What a relay comes to next.
enum RelayEvent {
    Piece(Piece),
    End,
    /// Nothing has come yet, and the head has not left.
    HeadWaits,
    Revoked(Denial),
    UpstreamFailed,
    ClientLeft,
}

/// Why a part was not sent.
enum Unsent {
    /// The client took nothing for too long, or is gone.
    Client,
    /// The lease ended while the client took nothing.
    Revoked(Denial),
}

/// Relays a response whose head was begun, to its last byte.
///
/// # Errors
/// [`BrokenOff`]; the record says why.
pub(super) async fn relay<E: Exchange>(
    worker: &Rc<Worker>,
    exchange: &mut E,
    mut response: UpstreamResponse,
    mut lease: Lease,
    record: &mut AccessRecord,
) -> Result<(), BrokenOff> {
    let is_event_stream = is_event_stream(response.fields());
    let mut head_waits = true;
    loop {
        let event =
            poll_fn(|cx| poll_event(cx, worker, exchange, &mut response, &mut lease, head_waits))
                .await;
        let piece;
        let part = match &event {
            RelayEvent::Piece(place) => {
                piece = response.piece(place);
                record.sent(piece.len());
                match response.is_done() {
                    true => BodyPart::Last(piece),
                    false => BodyPart::More(piece),
                }
            }
            RelayEvent::HeadWaits => BodyPart::More(b""),
            RelayEvent::End => BodyPart::Last(b""),
            RelayEvent::Revoked(denial) => {
                record.revoked(*denial);
                let last_event = is_event_stream.then(|| error_event(*denial));
                break_off(worker, exchange, &last_event.unwrap_or_default(), record).await;
                return Err(BrokenOff);
            }
            RelayEvent::UpstreamFailed => {
                record.upstream_failed();
                break_off(worker, exchange, b"", record).await;
                return Err(BrokenOff);
            }
            RelayEvent::ClientLeft => return Err(BrokenOff),
        };
        head_waits = false;
        match send_under_lease(worker, exchange, part, &mut lease).await {
            Ok(()) if part.is_last() => return Ok(()),
            Ok(()) => {}
            Err(Unsent::Client) => return Err(BrokenOff),
            Err(Unsent::Revoked(denial)) => {
                record.revoked(denial);
                return Err(BrokenOff);
            }
        }
    }
}

fn poll_event<E: Exchange>(
    cx: &mut Context<'_>,
    worker: &Worker,
    exchange: &mut E,
    response: &mut UpstreamResponse,
    lease: &mut Lease,
    head_waits: bool,
) -> Poll<RelayEvent> {
    if let Err(denial) = lease.check() {
        return Poll::Ready(RelayEvent::Revoked(denial));
    }
    match response.poll_piece(cx) {
        Poll::Ready(Some(Ok(piece))) => {
            exchange.timer_entry().clear_deadline();
            return Poll::Ready(RelayEvent::Piece(piece));
        }
        Poll::Ready(None) => return Poll::Ready(RelayEvent::End),
        Poll::Ready(Some(Err(_))) => return Poll::Ready(RelayEvent::UpstreamFailed),
        Poll::Pending => {}
    }
    if head_waits {
        return Poll::Ready(RelayEvent::HeadWaits);
    }
    if exchange.poll_closed(cx).is_ready() {
        return Poll::Ready(RelayEvent::ClientLeft);
    }
    let (entry, now) = (exchange.timer_entry(), worker.timer.now());
    if entry.is_late(now) {
        return Poll::Ready(RelayEvent::UpstreamFailed);
    }
    entry.set_deadline_once(now + worker.settings.timeouts.stream_idle);
    entry.register(cx);
    Poll::Pending
}

/// Sends a part for as long as the client takes something of it within `client_write`.
///
/// # Errors
/// The connection's, or that the client took nothing for too long.
pub(super) async fn send<E: Exchange>(
    worker: &Worker,
    exchange: &mut E,
    part: BodyPart<'_>,
) -> io::Result<()> {
    let timeout = worker.settings.timeouts.client_write;
    let mut sent = None;
    let result = poll_fn(|cx| {
        let polled = exchange.poll_send(cx, part);
        if polled.is_pending() {
            let (entry, now) = (exchange.timer_entry(), worker.timer.now());
            if sent != Some(exchange.sent()) {
                sent = Some(exchange.sent());
                entry.set_deadline(now + timeout);
            } else if entry.is_late(now) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            entry.register(cx);
        }
        polled
    })
    .await;
    exchange.timer_entry().clear_deadline();
    result
}

/// The same under a lease: once that has ended, a client that takes nothing has only [`REVOKED_GRACE`].
async fn send_under_lease<E: Exchange>(
    worker: &Worker,
    exchange: &mut E,
    part: BodyPart<'_>,
    lease: &mut Lease,
) -> Result<(), Unsent> {
    let entry = Rc::clone(exchange.timer_entry());
    let mut sending = std::pin::pin!(send(worker, exchange, part));
    let mut revoked = None;
    poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent.map_err(|_| Unsent::Client));
        }
        let now = worker.timer.now();
        if let Some((denial, until)) = revoked {
            if until <= now {
                return Poll::Ready(Err(Unsent::Revoked(denial)));
            }
        } else if let Err(denial) = lease.check() {
            revoked = Some((denial, now + REVOKED_GRACE));
            // The grace may end long before the client's own time does.
            entry.wake_each_tick(true);
        }
        Poll::Pending
    })
    .await
}

/// Sends a last event, waits until all that was sent has left, and gives the client a moment to read it.
async fn break_off<E: Exchange>(
    worker: &Worker,
    exchange: &mut E,
    last_event: &[u8],
    record: &mut AccessRecord,
) {
    record.sent(last_event.len());
    let patience = match last_event.is_empty() {
        true => worker.settings.timeouts.client_write,
        false => REVOKED_GRACE,
    };
    // A client that does not take it, or is gone, loses it: the response is broken off in any case.
    let _ = tokio::time::timeout(patience, async {
        send(worker, exchange, BodyPart::More(last_event)).await?;
        poll_fn(|cx| exchange.poll_flushed(cx)).await
    })
    .await;
    let _ = tokio::time::timeout(TIME_TO_READ, poll_fn(|cx| exchange.poll_closed(cx))).await;
}

/// Server-sent events (WHATWG HTML 9.2) that are not encoded.
fn is_event_stream(fields: &Fields) -> bool {
    let kind = fields.first(FieldKind::ContentType).unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
        && fields.count(FieldKind::ContentEncoding) == 0
}

/// The denial as an event. The empty line before it ends an event that the last piece may have left open.
fn error_event(denial: Denial) -> Vec<u8> {
    let body = Refusal::from(denial).body();
    [b"\n\ndata: ".as_slice(), &body, b"\n\n"].concat()
}
