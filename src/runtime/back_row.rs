//! Where strangers wait: a request refused for its credential gets its answer once everybody else of its worker has had
//! their turn, and of those who wait, one a turn. Writing an answer costs far more than finding out that it is a refusal, so
//! a flood of bad tokens that were answered as they come would put all of that before whoever has a key, at each step of
//! their requests. This way it puts one answer there.
//!
//! Nobody is marked: what counts is the request, so that a connection of a load balancer, which carries strangers and others
//! alike, serves each as it would on its own. And since a client's next request is read after its last answer went
//! out, those behind it wait too, unread.

use tokio::sync::Mutex;

/// The row of one worker.
#[derive(Debug, Default)]
pub struct BackRow(Mutex<()>);

impl BackRow {
    /// Returns once everybody else has had a turn, behind those who wait already.
    pub async fn wait(&self) {
        // The foremost yields, which the runtime ends once it has looked after all tasks and sockets that are ready; the next
        // is the foremost from then on.
        let _foremost = self.0.lock().await;
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
        let (row, turns) = (
            Rc::new(BackRow::default()),
            Rc::new(RefCell::new(String::new())),
        );
        let all = async {
            let mut strangers = Vec::new();
            for _ in 0..50 {
                let (row, turns) = (Rc::clone(&row), Rc::clone(&turns));
                strangers.push(spawn_local(async move {
                    row.wait().await;
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
            for stranger in strangers {
                stranger.await.unwrap();
            }
            others.abort();
        };
        let tasks = LocalSet::new();
        let all = tasks.run_until(all);
        tokio::time::timeout(DEADLINE, all).await.unwrap();
        let turns = turns.borrow();
        assert_eq!(turns.matches('s').count(), 50, "{turns}");
        // One of each a turn, in either order, so that two strangers may stand beside each other, of two turns.
        let count = |part: &str, who| part.matches(who).count();
        for end in 1..=turns.len() {
            let so_far = &turns[..end];
            assert!(count(so_far, 's') <= count(so_far, 'o'), "{turns}");
        }
        assert!(count(&turns, 'o') < 100, "nobody is starved: {turns}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_behind_one_who_leaves_go_on_waiting_no_longer_than_without() {
        let row = Rc::new(BackRow::default());
        let all = async {
            let wait = || {
                let row = Rc::clone(&row);
                spawn_local(async move { row.wait().await })
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
