//! A permit that is checked again for as long as its request runs.
//!
//! Invariant: whoever holds a lease and calls [`Lease::check`] before each piece of a response sends nothing after the
//! key was deleted, disabled, expired or narrowed, itself or by its account, or its token replaced and its grace is over. The common case costs one load: the table's generation.

use std::rc::Rc;
use std::sync::Arc;

use crate::policy::account::JudgedKey;
use crate::policy::decide::Permit;
use crate::policy::denial::Denial;
use crate::policy::time::UnixTime;
use crate::runtime::timers::TimerEntry;
use crate::runtime::wall_clock::now;
use crate::table::{Entry, Table};
use crate::upstream::Upstream;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Lease {
    permit: Permit<Arc<Upstream>>,
    table: Arc<Table>,
    generation: u64,
    expires_at: Option<UnixTime>,
    timer_entry: Rc<TimerEntry>,
}

impl Lease {
    /// Keeps `permit` under watch. `generation` is the table's from before `entry` was looked up, so that no change
    /// since then is missed; `timer_entry` wakes whoever waits while the request stands still.
    #[must_use]
    pub(super) fn new(
        permit: Permit<Arc<Upstream>>,
        entry: &Entry,
        table: Arc<Table>,
        generation: u64,
        timer_entry: Rc<TimerEntry>,
    ) -> Self {
        let mut lease = Self {
            permit,
            table,
            generation,
            expires_at: None,
            timer_entry,
        };
        lease.follow(generation, lease.usable_until(entry));
        lease
    }

    /// What is permitted.
    pub(super) fn permit(&self) -> &Permit<Arc<Upstream>> {
        &self.permit
    }

    /// Whether what was permitted still is.
    ///
    /// # Errors
    /// The rule that refuses by now.
    pub(super) fn check(&mut self) -> Result<(), Denial> {
        let generation = self.table.generation();
        if generation == self.generation && self.expires_at.is_none_or(|end| now() < end) {
            return Ok(());
        }
        let entry = self.table.find(self.permit.hash());
        let account = entry.as_deref().and_then(Entry::account_rules);
        let key = entry.as_deref().map(Entry::key);
        let key = key.map(|key| JudgedKey::new(key, account.as_deref()));
        self.permit.recheck(key, now())?;
        let end = entry.and_then(|entry| self.usable_until(&entry));
        self.follow(generation, end);
        Ok(())
    }

    fn usable_until(&self, entry: &Entry) -> Option<UnixTime> {
        let account = entry.account_rules();
        JudgedKey::new(entry.key(), account.as_deref()).usable_until(self.permit.hash())
    }

    fn follow(&mut self, generation: u64, expires_at: Option<UnixTime>) {
        self.generation = generation;
        self.expires_at = expires_at;
        self.timer_entry
            .follow(generation, expires_at.map(UnixTime::seconds));
    }
}
