//! The key-store worker's loop. It waits for commands, for changes of the source, and for the next retry of pending
//! changes.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::policy::audit::ChangeOrigin;
use crate::store::key_store::command::{DropLimit, ReloadCommand, StoreCommand};
use crate::store::key_store::error::StoreError;
use crate::store::key_store::state::{KeyStoreState, RejectedRevision};

/// How often pending changes are written again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How many commands are run together.
const MAX_BATCH: usize = 4096;
/// The worker's nice value (see `nice(2)`). Loading a million keys takes a second on every core, and the threads that
/// serve requests must come first.
const NICENESS: i32 = 5;

impl RejectedRevision {
    /// A revision that could not be audited may be loaded later, as it is.
    fn is_tried_again(&self) -> bool {
        matches!(self.error, StoreError::Audit(_)) && self.at.elapsed() >= RETRY_INTERVAL
    }
}

impl KeyStoreState {
    /// Runs until every handle is dropped.
    pub(crate) fn run(mut self, commands: &Receiver<StoreCommand>) {
        // An error is ignored: the worker then runs at normal priority, which is still correct.
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
            match commands.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    let rest = commands.try_iter().take(MAX_BATCH - 1);
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
                self.commit(Vec::new());
                next_retry = None;
            }
            let due = || next_retry.unwrap_or_else(|| Instant::now() + RETRY_INTERVAL);
            next_retry = (!self.pending.is_empty()).then(due);
        }
        if !self.pending.is_empty() {
            self.commit(Vec::new());
        }
    }

    fn run_batch(&mut self, commands: impl Iterator<Item = StoreCommand>) {
        let (mut writes, mut reloads, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        let (mut looks, mut accepts) = (Vec::new(), Vec::new());
        let mut copy_is_old = false;
        for command in commands {
            match command {
                StoreCommand::Write(write, guard) => {
                    writes.push(*write);
                    guards.push(guard);
                }
                StoreCommand::Reload(reload) => reloads.push(reload),
                StoreCommand::Follow(look) => looks.push(look),
                StoreCommand::AcceptRollback(accept) => accepts.push(accept),
                StoreCommand::AccountsChanged => copy_is_old = true,
                StoreCommand::GatewaysSeen(seen) => {
                    copy_is_old |= self.gateways.see(seen, Instant::now());
                }
            }
        }
        // First: it may take access away.
        for look in looks {
            self.follow(look);
        }
        if copy_is_old {
            self.write_copy();
        }
        for accept in accepts {
            self.accept_rollback(accept);
        }
        if !reloads.is_empty() {
            self.reload(reloads);
        }
        drop(guards);
        if !writes.is_empty() {
            self.commit(writes);
        }
    }

    /// Reloads if the source's revision is neither the loaded one nor the one that was rejected last.
    fn reload_if_changed(&mut self) {
        let now = self.source.revision();
        let rejected = self.rejected.as_ref();
        if self.loaded.is_current(now)
            || rejected.is_some_and(|rejected| {
                rejected.revision.is_current(now) && !rejected.is_tried_again()
            })
        {
            return;
        }
        let (reply, _) = oneshot::channel();
        self.reload(vec![ReloadCommand {
            drop_limit: DropLimit::Enforce,
            dry_run: false,
            origin: ChangeOrigin::key_file(),
            reply,
        }]);
    }
}
