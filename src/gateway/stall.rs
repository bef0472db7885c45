//! HTTP/2 streams whose client takes nothing. Such a stream does not hold up its connection, so no write stalls; and
//! hyper asks its body for nothing more, so the body cannot notice either, not even that its key was taken back. What
//! can be ended is the stream's task: dropping it resets the stream and frees the upstream.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::clock::{Clock, Watch};

use super::lease::Lease;

/// How long a revoked stream's last words may take to leave.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// That of the stream whose task runs.
    static CURRENT: Rc<Stall>;
}

/// How long a stream's client has taken nothing.
#[derive(Debug)]
pub struct Stall {
    clock: Clock,
    watch: Rc<Watch>,
    patience: Duration,
    lease: RefCell<Option<Lease>>,
    since: Cell<Option<Instant>>,
}

impl Stall {
    /// The one of the stream whose task runs, from now on under the lease of its request; None outside of HTTP/2.
    #[must_use]
    pub fn of_this_stream(lease: &Lease) -> Option<Rc<Self>> {
        let stall = CURRENT.try_with(Rc::clone).ok()?;
        stall.lease.replace(Some(lease.clone()));
        Some(stall)
    }

    /// There is something for the client to take.
    pub fn begin(&self) {
        let now = self.clock.now();
        self.since.set(Some(now));
        self.watch.set_deadline(now + self.patience);
    }

    /// It was taken.
    pub fn end(&self) {
        self.since.set(None);
        self.watch.clear_deadline();
    }

    /// Whether the client has had its time, or what it does not take is not its own any more.
    fn is_over(&self) -> bool {
        let Some(since) = self.since.get() else {
            return false;
        };
        let waited = self.clock.now().saturating_duration_since(since);
        let is_revoked = || {
            self.lease
                .borrow_mut()
                .as_mut()
                .is_some_and(|lease| lease.check().is_err())
        };
        waited >= self.patience || waited >= LAST_WORDS && is_revoked()
    }
}

/// Runs a stream's task for as long as its client takes what there is within `patience`.
pub fn end_when_stalled<F>(
    task: F,
    clock: &Clock,
    patience: Duration,
) -> impl Future<Output = ()> + use<F>
where
    F: Future<Output = ()> + 'static,
{
    let stall = Rc::new(Stall {
        clock: clock.clone(),
        watch: clock.watch(),
        patience,
        lease: RefCell::new(None),
        since: Cell::new(None),
    });
    CURRENT.scope(
        Rc::clone(&stall),
        Stallable {
            task: Box::pin(task),
            stall,
        },
    )
}

struct Stallable<F> {
    task: Pin<Box<F>>,
    stall: Rc<Stall>,
}

impl<F: Future<Output = ()>> Future for Stallable<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.task.as_mut().poll(cx);
        if polled.is_pending() && !self.stall.is_over() {
            self.stall.watch.register(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}
