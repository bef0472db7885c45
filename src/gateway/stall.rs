//! HTTP/2 streams whose client takes nothing. Such a stream does not hold up its connection, so no write stalls; and
//! hyper asks its body for nothing more, so the body cannot notice either. What can be ended is the stream's task:
//! dropping it resets the stream and frees the upstream.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::http::clock::{Clock, Watch};

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
}

impl Stall {
    /// The one of the stream whose task runs; None outside of HTTP/2.
    #[must_use]
    pub fn current() -> Option<Rc<Self>> {
        CURRENT.try_with(Rc::clone).ok()
    }

    /// There is something for the client to take.
    pub fn begin(&self) {
        self.watch.set_deadline(self.clock.now() + self.patience);
    }

    /// It was taken.
    pub fn end(&self) {
        self.watch.clear_deadline();
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
        let stall = &self.stall;
        if polled.is_pending() && !stall.watch.is_late(stall.clock.now()) {
            stall.watch.register(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}
