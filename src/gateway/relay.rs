//! An upstream's response on its way to the client, piece by piece, under the lease of its request.
//!
//! A response that cannot be finished is never finished cleanly: the connection (HTTP/2: the stream) is broken off, so
//! that no client takes half a response for a whole one. What came before the break is sent first.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::gateway::access_record::AccessRecord;
use crate::gateway::error_response::ErrorFormat;
use crate::gateway::exchange::{BodyPart, Exchange};
use crate::gateway::lease::Lease;
use crate::gateway::limits::RunningRequest;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::http::event_stream::{EventFollower, is_event_stream};
use crate::policy::denial::Denial;
use crate::policy::field_kind::FieldKind;
use crate::upstream::pool::{Piece, UpstreamResponse};

/// A comment and the end of its event, which event readers skip (WHATWG HTML 9.2.6).
const PING: &[u8] = b": ping\n\n";
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
    /// The client is sent a comment, since nothing else has come for a while.
    Ping,
    Revoked(Denial),
    UpstreamFailed,
    ClientLeft,
}

/// How far a response is, and for how long its upstream has sent nothing.
struct RelayState {
    head_waits: bool,
    /// After this silence the response is broken off.
    longest: Duration,
    /// After this, and again and again, the client is sent a comment; None: never.
    ping_after: Option<Duration>,
    ends_at: Option<Instant>,
    ping_at: Option<Instant>,
    /// Where a stream of events stands; None where the body is something else, or encoded.
    events: Option<EventFollower>,
    /// The stream's last event has come.
    has_final_event: bool,
    /// It has left: a client that leaves now has read all that it wants.
    is_final_event_sent: bool,
}

/// Why a part was not sent.
enum Unsent {
    /// The client took nothing for too long, or is gone.
    Client,
    /// The lease ended while the client took nothing.
    Revoked(Denial),
}

/// Relays a response whose head was begun, to its last byte. Its request's place among those of its key is given back, and
/// what it used is settled, before its last byte leaves: the client's next request may come at once.
///
/// # Errors
/// [`BrokenOff`]; the record says why.
pub(super) async fn relay<E: Exchange>(
    worker: &Rc<Worker>,
    exchange: &mut E,
    (mut response, mut running): (UpstreamResponse, RunningRequest),
    mut lease: Lease,
    format: ErrorFormat<'_>,
    record: &mut AccessRecord,
) -> Result<(), BrokenOff> {
    let waits_for_rest = record.takes_out();
    let can_add_events = is_event_stream(response.fields())
        && response.fields().count(FieldKind::ContentEncoding) == 0;
    let timeouts = &worker.settings.timeouts;
    let mut state = RelayState {
        head_waits: true,
        longest: timeouts.stream_idle,
        ping_after: timeouts.sse_ping.filter(|_| can_add_events),
        ends_at: None,
        ping_at: None,
        events: can_add_events.then(EventFollower::default),
        has_final_event: false,
        is_final_event_sent: false,
    };
    loop {
        let event = poll_fn(|cx| {
            let state = &mut state;
            poll_event(cx, worker, exchange, &mut response, &mut lease, state)
        })
        .await;
        let has_ended = match &event {
            RelayEvent::Piece(_) => response.is_done(),
            RelayEvent::End => true,
            RelayEvent::HeadWaits
            | RelayEvent::Ping
            | RelayEvent::Revoked(_)
            | RelayEvent::UpstreamFailed
            | RelayEvent::ClientLeft => false,
        };
        if has_ended {
            running.finish();
        }
        let part = match &event {
            RelayEvent::Piece(place) if has_ended && !waits_for_rest => {
                let piece = response.piece(place);
                // Nothing is taken out, so it passes as it is.
                record.relayed_last(piece);
                record.upstream_finished();
                state.follow(piece);
                BodyPart::Last(piece)
            }
            RelayEvent::Piece(place) => {
                let passed = match has_ended {
                    true => record.relayed_last(response.piece(place)),
                    false => record.relayed(response.piece(place)),
                };
                state.follow(passed);
                BodyPart::More(passed)
            }
            RelayEvent::HeadWaits => BodyPart::More(b""),
            RelayEvent::Ping => {
                record.sent(PING.len());
                BodyPart::More(PING)
            }
            RelayEvent::End => {
                record.upstream_finished();
                BodyPart::Last(record.rest())
            }
            RelayEvent::Revoked(denial) => {
                record.revoked(*denial);
                let last_event = can_add_events.then(|| format.event(&Refusal::from(*denial)));
                break_off(worker, exchange, &last_event.unwrap_or_default(), record).await;
                return Err(BrokenOff);
            }
            RelayEvent::UpstreamFailed => {
                record.upstream_failed();
                break_off(worker, exchange, b"", record).await;
                return Err(BrokenOff);
            }
            RelayEvent::ClientLeft => {
                if state.is_final_event_sent {
                    record.complete();
                }
                return Err(BrokenOff);
            }
        };
        state.head_waits = false;
        match send_under_lease(worker, exchange, part, &mut lease).await {
            Ok(()) if part.is_last() => return Ok(()),
            Ok(()) => state.has_final_event = can_add_events && record.has_final_event(),
            Err(Unsent::Client) => {
                if state.is_final_event_sent {
                    record.complete();
                }
                return Err(BrokenOff);
            }
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
    state: &mut RelayState,
) -> Poll<RelayEvent> {
    // Before the response is read on: its end may come in the same moment in which the client leaves.
    if !state.is_final_event_sent
        && state.has_final_event
        && state.is_between_events()
        && exchange.poll_flushed(cx).map(|sent| sent.is_ok()) == Poll::Ready(true)
    {
        state.is_final_event_sent = true;
    }
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
    if state.head_waits {
        return Poll::Ready(RelayEvent::HeadWaits);
    }
    if exchange.poll_closed(cx).is_ready() {
        return Poll::Ready(RelayEvent::ClientLeft);
    }
    let entry = exchange.timer_entry();
    match state.wait(worker.timer.now()) {
        Ok(deadline) => entry.set_deadline(deadline),
        Err(event) => return Poll::Ready(event),
    }
    entry.register(cx);
    Poll::Pending
}

impl RelayState {
    /// The upstream has sent a piece.
    fn follow(&mut self, piece: &[u8]) {
        self.ends_at = None;
        self.ping_at = None;
        if let Some(events) = &mut self.events {
            events.follow(piece);
        }
    }

    fn is_between_events(&self) -> bool {
        self.events
            .as_ref()
            .is_some_and(EventFollower::is_between_events)
    }

    /// The upstream is silent: until when to wait.
    ///
    /// # Errors
    /// What is due instead.
    fn wait(&mut self, now: Instant) -> Result<Instant, RelayEvent> {
        let ends_at = *self.ends_at.get_or_insert(now + self.longest);
        if ends_at <= now {
            return Err(RelayEvent::UpstreamFailed);
        }
        let Some(pause) = self.ping_after.filter(|_| self.is_between_events()) else {
            return Ok(ends_at);
        };
        let ping_at = *self.ping_at.get_or_insert(now + pause);
        if ping_at <= now {
            self.ping_at = Some(now + pause);
            return Err(RelayEvent::Ping);
        }
        Ok(ends_at.min(ping_at))
    }
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
