//! The keeper's thread: waits for requests, for changes of the file, and for the time to try again.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::key_file;
use crate::store::key_store::command::{DropLimit, ReloadCommand, StoreCommand};
use crate::store::key_store::state::KeyStoreState;

/// How often an pending change is tried again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often a watched file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How many requests one rewrite of the file may answer.
const MAX_BATCH: usize = 4096;
/// How willingly the keeper gives way to the threads that serve requests (see `nice(2)`). Reading and laying out a
/// million keys is a second of work on every core, and must not be felt.
const NICENESS: i32 = 5;

impl KeyStoreState {
    pub(crate) fn run(mut self, requests: &Receiver<StoreCommand>) {
        // Where this is not permitted the keeper is merely a little more in the way.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut next_check = Instant::now() + WATCH_INTERVAL;
        let mut next_retry = None;
        loop {
            let retry_wait =
                next_retry.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let wake = match self.watch {
                true => retry_wait.min(next_check),
                false => retry_wait,
            };
            match requests.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    let rest = requests.try_iter().take(MAX_BATCH - 1);
                    self.run_batch(std::iter::once(first).chain(rest));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.watch && Instant::now() >= next_check {
                self.reload_if_changed();
                next_check = Instant::now() + WATCH_INTERVAL;
            }
            if next_retry.is_some_and(|due| Instant::now() >= due) {
                self.write(Vec::new());
                next_retry = None;
            }
            let due = || next_retry.unwrap_or_else(|| Instant::now() + RETRY_INTERVAL);
            next_retry = (!self.pending.is_empty()).then(due);
        }
        if !self.pending.is_empty() {
            self.write(Vec::new());
        }
    }

    fn run_batch(&mut self, requests: impl Iterator<Item = StoreCommand>) {
        let (mut writes, mut reloads, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match request {
                StoreCommand::Write(write, guard) => {
                    writes.push(write);
                    guards.push(guard);
                }
                StoreCommand::Reload(reload) => reloads.push(reload),
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

    /// Reloads where the file is neither the one in force nor the one that was rejected last.
    fn reload_if_changed(&mut self) {
        let now = key_file::stamp_of(&self.file);
        let rejected = self.rejected.as_ref();
        if self.loaded.is_some_and(|stamp| stamp.is_unchanged(now))
            || rejected.is_some_and(|rejected| rejected.is(now))
        {
            return;
        }
        let (reply, _) = oneshot::channel();
        self.reload(vec![ReloadCommand {
            drop_limit: DropLimit::Enforce,
            dry_run: false,
            reply,
        }]);
    }
}
