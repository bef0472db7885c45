//! Where answers to requests without a valid credential wait: one of them is written each time all other ready tasks of the
//! worker have run.
//!
//! Writing a refusal costs far more than finding out that it is one. A flood of bad tokens that were answered as they
//! come would put all of that cost in front of clients with a key, at each step of their requests; this way it puts one
//! answer there. Nobody is marked: only requests count, so a load balancer's connection, which carries both kinds,
//! serves each as it would alone. A client's next request is read after its last answer, so its later requests wait too,
//! unread.

use tokio::sync::Mutex;

/// The queue of one worker.
#[derive(Debug, Default)]
pub struct UnauthenticatedQueue(Mutex<()>);

impl UnauthenticatedQueue {
    /// Returns once every other ready task has run, behind those that wait already.
    pub async fn wait(&self) {
        // The first in the queue yields once; tokio polls every other ready task before it again.
        let _first = self.0.lock().await;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(15);

    #[tokio::test(flavor = "current_thread")]
    async fn everybody_else_has_a_turn_before_each_of_those_who_wait() {
        let (queue, turns) = (
            Rc::new(UnauthenticatedQueue::default()),
            Rc::new(RefCell::new(String::new())),
        );
        let all = async {
            let mut waiting = Vec::new();
            for _ in 0..50 {
                let (queue, turns) = (Rc::clone(&queue), Rc::clone(&turns));
                waiting.push(spawn_local(async move {
                    queue.wait().await;
                    turns.borrow_mut().push('s');
                }));
            }
            let others = Rc::clone(&turns);
            let others = spawn_local(async move {
                loop {
                    others.borrow_mut().push('o');
                    yield_now().await;
                }
            });
            for waiter in waiting {
                waiter.await.unwrap();
            }
            others.abort();
        };
        let tasks = LocalSet::new();
        let all = tasks.run_until(all);
        tokio::time::timeout(DEADLINE, all).await.unwrap();
        let turns = turns.borrow();
        assert_eq!(turns.matches('s').count(), 50, "{turns}");
        // One of each a turn, in either order, so that two waiting may stand beside each other, of two turns.
        let count = |part: &str, who| part.matches(who).count();
        for end in 1..=turns.len() {
            let so_far = &turns[..end];
            assert!(count(so_far, 's') <= count(so_far, 'o'), "{turns}");
        }
        assert!(count(&turns, 'o') < 100, "nobody is starved: {turns}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_behind_one_who_leaves_go_on_waiting_no_longer_than_without() {
        let queue = Rc::new(UnauthenticatedQueue::default());
        let all = async {
            let wait = || {
                let queue = Rc::clone(&queue);
                spawn_local(async move { queue.wait().await })
            };
            let (first, second, third) = (wait(), wait(), wait());
            yield_now().await;
            first.abort();
            second.abort();
            third.await.unwrap();
            wait().await.unwrap();
        };
        let tasks = LocalSet::new();
        let all = tasks.run_until(all);
        tokio::time::timeout(DEADLINE, all).await.unwrap();
    }
}
