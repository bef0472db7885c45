//! The keeper's thread: waits for requests, for changes of the file, and for the time to try again.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::key_file;
use crate::store::key_store::command::{Drops, Reload, Request};
use crate::store::key_store::state::Desk;

/// How often an unwritten change is tried again.
pub const RETRY_EVERY: Duration = Duration::from_secs(5);
/// How often a watched file is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How many requests one rewrite of the file may answer.
const LARGEST_BATCH: usize = 4096;
/// How willingly the keeper gives way to the threads that serve requests (see `nice(2)`). Reading and laying out a
/// million keys is a second of work on every core, and must not be felt.
const NICENESS: i32 = 5;

impl Desk {
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        // Where this is not permitted the keeper is merely a little more in the way.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut next_look = Instant::now() + WATCH_EVERY;
        let mut next_retry = None;
        loop {
            let retry_wait =
                next_retry.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let wake = match self.watch {
                true => retry_wait.min(next_look),
                false => retry_wait,
            };
            match requests.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    let rest = requests.try_iter().take(LARGEST_BATCH - 1);
                    self.serve(std::iter::once(first).chain(rest));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.watch && Instant::now() >= next_look {
                self.look();
                next_look = Instant::now() + WATCH_EVERY;
            }
            if next_retry.is_some_and(|due| Instant::now() >= due) {
                self.write(Vec::new());
                next_retry = None;
            }
            let due = || next_retry.unwrap_or_else(|| Instant::now() + RETRY_EVERY);
            next_retry = (!self.unwritten.is_empty()).then(due);
        }
        if !self.unwritten.is_empty() {
            self.write(Vec::new());
        }
    }

    fn serve(&mut self, requests: impl Iterator<Item = Request>) {
        let (mut writes, mut reloads, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Write(write, guard) => {
                    writes.push(write);
                    guards.push(guard);
                }
                Request::Reload(reload) => reloads.push(reload),
            }
        }
        if !reloads.is_empty() {
            self.reload(reloads);
        }
        drop(guards);
        if !writes.is_empty() {
            self.write(writes);
        }
    }

    /// Reloads where the file is neither the one in force nor the one that was refused last.
    fn look(&mut self) {
        let now = key_file::stamp_of(&self.file);
        let refused = self.refused.as_ref();
        if self.loaded.is_some_and(|stamp| stamp.is_unchanged(now))
            || refused.is_some_and(|refused| refused.is(now))
        {
            return;
        }
        let (answer, _) = oneshot::channel();
        self.reload(vec![Reload {
            drops: Drops::Guarded,
            rehearsal: false,
            answer,
        }]);
    }
}
