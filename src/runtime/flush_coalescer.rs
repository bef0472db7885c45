//! Lets every ready task of a worker run before one of them sends.
//!
//! To send is the most expensive thing a worker does: the kernel carries the bytes to the receiver and wakes it. When
//! all ready tasks run first, what they have to send leaves together: one wake-up serves many, and each task finds its
//! code in the processor's cache. Where no other task is ready, sending is not delayed.

use std::future::poll_fn;
use std::task::Poll;

/// Returns once all tasks that are ready now have run.
pub async fn ready_tasks_ran() {
    let mut is_requeued = false;
    poll_fn(|cx| {
        // Pending on the first call, which queues the task behind all that are ready; Ready on the second.
        if std::mem::replace(&mut is_requeued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn all_ready_tasks_run_before_one_of_them_sends() {
        let events = Rc::new(RefCell::new(String::new()));
        let tasks = LocalSet::new();
        let all = tasks.run_until(async {
            let run = |_| {
                let events = Rc::clone(&events);
                spawn_local(async move {
                    events.borrow_mut().push('r');
                    ready_tasks_ran().await;
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
