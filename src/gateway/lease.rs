//! A permit that stays under watch for as long as its request runs.
//!
//! Invariant: whoever holds a lease and asks [`Lease::check`] before each piece of an answer sends nothing after the
//! key was deleted, disabled, expired or narrowed. The common case costs one load: the table's generation.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::policy::decide::Permit;
use crate::policy::denial::Denial;
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::runtime::clock::Watch;
use crate::runtime::wall_clock::now;
use crate::table::{Entry, Table};

/// A lease that an answer shares with whoever ends it when its client takes nothing.
pub type SharedLease = Rc<RefCell<Lease>>;

/// See the module's page.
#[derive(Debug)]
pub struct Lease {
    permit: Permit,
    hash: TokenHash,
    table: Arc<Table>,
    generation: u64,
    expires_at: Option<UnixTime>,
    watch: Rc<Watch>,
}

impl Lease {
    /// Keeps `permit` under watch. `generation` is the table's from before `entry` was looked up, so that no change
    /// since then is missed; `watch` wakes whoever waits while the request stands still.
    #[must_use]
    pub fn new(
        permit: Permit,
        entry: &Entry,
        table: Arc<Table>,
        generation: u64,
        watch: Rc<Watch>,
    ) -> Self {
        let mut lease = Self {
            permit,
            hash: *entry.key().hash(),
            table,
            generation,
            expires_at: None,
            watch,
        };
        lease.follow(generation, entry.key().expires_at());
        lease
    }

    /// What is permitted.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The watch that wakes whoever waits for this request.
    #[must_use]
    pub fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    /// Whether what was permitted still is.
    ///
    /// # Errors
    /// The rule that refuses by now.
    pub fn check(&mut self) -> Result<(), Denial> {
        let generation = self.table.generation();
        if generation == self.generation && self.expires_at.is_none_or(|end| now() < end) {
            return Ok(());
        }
        let entry = self.table.find(&self.hash);
        self.permit
            .recheck(entry.as_deref().map(Entry::key), now())?;
        self.follow(generation, entry.and_then(|entry| entry.key().expires_at()));
        Ok(())
    }

    fn follow(&mut self, generation: u64, expires_at: Option<UnixTime>) {
        self.generation = generation;
        self.expires_at = expires_at;
        self.watch
            .follow(generation, expires_at.map(UnixTime::seconds));
    }
}
