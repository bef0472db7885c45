//! The end of a worker's turn, when it sends.
//!
//! To send is the dearest thing a worker does: the system carries the bytes over to whoever waits for them, and wakes it
//! where it sleeps. So whoever has something to send lets all that are ready have their turn first, and what a turn has
//! to send leaves in one go: one waking serves many, and each task finds its code and its data where the one before
//! left them. Where nobody else is ready that is at once.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Whether a task that has something to send lets the others have their turn first.
#[derive(Debug, Default)]
pub struct Turn {
    waits: Cell<bool>,
}

impl Turn {
    /// Ready every second time: the first has the task woken behind all that are ready.
    pub fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waits.replace(!self.waits.get()) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether something is to be sent at the end of this turn.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waits.get()
    }
}

/// Returns once all tasks that are ready by now had their turn.
pub async fn end() {
    let turn = Turn::default();
    poll_fn(|cx| turn.poll_end(cx)).await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn all_that_are_ready_have_their_turn_before_one_of_them_sends() {
        let events = Rc::new(RefCell::new(String::new()));
        let tasks = LocalSet::new();
        let all = tasks.run_until(async {
            let run = |_| {
                let events = Rc::clone(&events);
                spawn_local(async move {
                    events.borrow_mut().push('r');
                    end().await;
                    events.borrow_mut().push('s');
                })
            };
            let running: Vec<_> = (0..3).map(run).collect();
            for task in running {
                task.await.unwrap();
            }
        });
        let deadline = std::time::Duration::from_secs(15);
        tokio::time::timeout(deadline, all).await.unwrap();
        assert_eq!(*events.borrow(), "rrrsss");
    }
}
