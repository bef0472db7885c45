//! Answers whose client takes nothing. hyper then asks their body for nothing more, so that the body cannot notice
//! anything either, not even that its key was taken back; and where it is an HTTP/2 stream, not even a write stalls.
//! What can be ended is the task that the answer belongs to, an HTTP/1 connection's or an HTTP/2 stream's: dropping it
//! resets the one or the other, and frees the upstream.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::runtime::clock::{Clock, Watch};

use super::lease::SharedLease;

/// How long a revoked stream's last words may take to leave.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// That of the task that runs.
    static CURRENT: Rc<Stall>;
}

/// How long an answer's client has taken nothing.
#[derive(Debug)]
pub struct Stall {
    clock: Clock,
    watch: Rc<Watch>,
    patience: Duration,
    lease: RefCell<Option<SharedLease>>,
    since: Cell<Option<Instant>>,
}

impl Stall {
    /// That of the task that runs, from now on under the lease of its request; None outside of such a task.
    #[must_use]
    pub fn of_this_task(lease: &SharedLease) -> Option<Rc<Self>> {
        let stall = CURRENT.try_with(Rc::clone).ok()?;
        stall.lease.replace(Some(Rc::clone(lease)));
        Some(stall)
    }

    /// There is something for the client to take.
    pub fn begin(&self) {
        let now = self.clock.now();
        self.since.set(Some(now));
        self.watch.set_deadline(now + self.patience);
    }

    /// It was taken, or somebody else minds it.
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
        let lease = self.lease.borrow();
        let is_revoked = || {
            let lease = lease.as_ref();
            lease.is_some_and(|lease| lease.borrow_mut().check().is_err())
        };
        waited >= self.patience || waited >= LAST_WORDS && is_revoked()
    }
}

/// Runs a task for as long as its client takes what there is within `patience`; None where it does not.
pub fn end_when_stalled<F: Future + Unpin>(
    task: F,
    clock: &Clock,
    patience: Duration,
) -> impl Future<Output = Option<F::Output>> + use<F> {
    let stall = Rc::new(Stall {
        clock: clock.clone(),
        watch: clock.watch(),
        patience,
        lease: RefCell::new(None),
        since: Cell::new(None),
    });
    CURRENT.scope(Rc::clone(&stall), Stallable { task, stall })
}

struct Stallable<F> {
    task: F,
    stall: Rc<Stall>,
}

impl<F: Future + Unpin> Future for Stallable<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.task).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.stall.is_over() => Poll::Ready(None),
            Poll::Pending => {
                self.stall.watch.register(cx);
                Poll::Pending
            }
        }
    }
}
