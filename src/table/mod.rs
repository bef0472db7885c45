//! Floor 1: the key table in memory.
//!
//! Readers never wait. One `ArcSwap` holds the whole table; in it the keys are spread over small shards, each in an
//! `ArcSwap` of its own. Creating, changing or deleting one key copies one shard (about 8 pointers), never the table. A
//! reload builds a new table beside the current one and swaps it in whole. Writers take turns by a lock; one thread alone
//! adds, changes and removes keys. The writer, not a reader, frees a table that was swapped out.
//!
//! No I/O and no clock here: callers pass the time, and a [`YieldPoint`] for work on many keys.

mod account;
mod ceiling;
mod difference;
mod entry;
mod incremental;
mod indexes;
mod shards;
mod suspension;
mod usage;

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::policy::account::AccountRules;
use crate::policy::key::{Key, KeyToken};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::table::account::Accounts;
use crate::table::indexes::{Indexes, copy_batch, drop_indexes, lock};
use crate::table::suspension::Suspensions;

pub use crate::table::account::AccountEntry;
pub use crate::table::ceiling::{Ceiling, LimitHolder, OfKeyAndAccount};
pub use crate::table::difference::Difference;
pub use crate::table::entry::Entry;
pub use crate::table::incremental::{NO_YIELD, YieldPoint, drop_incrementally, yield_every};
pub use crate::table::indexes::SortKey;
pub use crate::table::suspension::{SuspendedTokens, Suspension};
pub(crate) use crate::table::usage::BodyBytes;
pub use crate::table::usage::UsageCounts;

/// All keys.
#[derive(Debug)]
pub struct Table {
    current: ArcSwap<Indexes>,
    accounts: Accounts,
    /// False until the accounts were read for the first time: nobody knows what their keys may do.
    knows_accounts: AtomicBool,
    /// A [`KeysState`].
    keys_state: AtomicU8,
    generation: AtomicU64,
    writer: Mutex<()>,
    /// Changed and read under the writers' lock.
    suspensions: Mutex<Suspensions>,
    /// The ids of keys whose budgets are loaded, so that nobody has to look at all keys for them.
    with_budgets: Mutex<BTreeSet<Box<str>>>,
}

/// Another key has the same id, or a token with the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateKeyError;

/// Whether the keys of the table can be judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysState {
    /// They can.
    Known = 0,
    /// They could not be read yet.
    Awaited = 1,
    /// They are older than it is allowed.
    Stale = 2,
}

impl std::fmt::Display for DuplicateKeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another key has this id or hash")
    }
}

impl std::error::Error for DuplicateKeyError {}

/// Some keys of the table, newest first.
#[derive(Debug)]
pub struct KeyPage {
    /// The keys.
    pub entries: Vec<Arc<Entry>>,
    /// Where the next page begins; None on the last page.
    pub next: Option<SortKey>,
}

impl Default for Table {
    /// A table without keys: every request is refused.
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Indexes::of(&[], NO_YIELD)),
            accounts: Accounts::default(),
            knows_accounts: AtomicBool::new(true),
            keys_state: AtomicU8::new(KeysState::Known as u8),
            generation: AtomicU64::new(0),
            writer: Mutex::new(()),
            suspensions: Mutex::default(),
            with_budgets: Mutex::default(),
        }
    }
}

impl Table {
    /// Grows with every change. A reader that sees the new number also sees the change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The key that has a token with this hash. It may be a previous token that has ended.
    #[must_use]
    pub fn find(&self, hash: &TokenHash) -> Option<Arc<Entry>> {
        self.current.load().by_hash.find(hash)
    }

    /// The key of this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<Arc<Entry>> {
        self.current.load().entry(id).map(|(entry, _)| entry)
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.load().by_id.len()
    }

    /// Whether the table has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a key, in file order the last one.
    ///
    /// # Errors
    /// [`DuplicateKeyError`]; nothing changes.
    pub fn insert(&self, key: Key) -> Result<Arc<Entry>, DuplicateKeyError> {
        let _writer = lock(&self.writer);
        let mut keys = self.current.load_full();
        if keys.entry(key.id()).is_some() || keys.has_token_of_another(&key) {
            return Err(DuplicateKeyError);
        }
        if keys.by_hash.is_overfull(keys.by_id.len()) {
            let entries = keys.in_file_order(NO_YIELD);
            let roomier = Arc::new(Indexes::of(&entries, NO_YIELD));
            self.take_out_all_suspended(&roomier);
            drop(keys);
            drop_indexes(self.current.swap(Arc::clone(&roomier)), NO_YIELD);
            keys = roomier;
        }
        let account = self.accounts.of(&key);
        let entry = Arc::new(Entry::new(key, account));
        keys.add(Arc::clone(&entry));
        self.take_out_suspended(&keys, &entry);
        self.bump_generation();
        Ok(entry)
    }

    /// Replaces the key that has the same id. Its tokens may change too.
    ///
    /// # Errors
    /// [`DuplicateKeyError`] if no key has this id, or another key has one of these tokens; nothing changes.
    pub fn replace(&self, key: Key) -> Result<Arc<Entry>, DuplicateKeyError> {
        let _writer = lock(&self.writer);
        let keys = self.current.load_full();
        let (before, sort_key) = keys.entry(key.id()).ok_or(DuplicateKeyError)?;
        if keys.has_token_of_another(&key) {
            return Err(DuplicateKeyError);
        }
        let account = self.accounts.of(&key);
        let entry = Arc::new(before.changed_to(key, account));
        keys.put(Arc::clone(&entry), sort_key);
        self.take_out_suspended(&keys, &entry);
        let is_gone = |hash: &&TokenHash| entry.key().token_of(hash).is_none();
        for hash in before.key().hashes().filter(is_gone) {
            keys.by_hash.remove(hash, before.key().id());
        }
        entry.takes_place_of(&before);
        self.bump_generation();
        Ok(entry)
    }

    /// Removes a key. When this returns, the key is refused.
    pub fn remove(&self, id: &str) -> Option<Arc<Entry>> {
        let _writer = lock(&self.writer);
        let keys = self.current.load_full();
        let (entry, sort_key) = keys.entry(id)?;
        for hash in entry.key().hashes() {
            keys.by_hash.remove(hash, id);
        }
        keys.by_id.remove(id);
        lock(&keys.by_sort_key).remove(&sort_key);
        self.bump_generation();
        Some(entry)
    }

    /// Suspends tokens of a key: they are refused at once, whatever is done to the key, until the answer is dropped. Then the
    /// key is as it was changed meanwhile. None: there is no such key.
    #[must_use]
    pub fn suspend(self: &Arc<Self>, id: &str, tokens: SuspendedTokens) -> Option<Suspension> {
        let _writer = lock(&self.writer);
        let keys = self.current.load_full();
        let (entry, _) = keys.entry(id)?;
        self.suspensions().begin(id, tokens);
        self.take_out_suspended(&keys, &entry);
        self.bump_generation();
        Some(Suspension {
            table: Arc::clone(self),
            id: id.into(),
            tokens,
        })
    }

    fn end_suspension(&self, id: &str, tokens: SuspendedTokens) {
        let _writer = lock(&self.writer);
        self.suspensions().end(id, tokens);
        let keys = self.current.load_full();
        let Some((entry, _)) = keys.entry(id) else {
            return;
        };
        let is_suspended = self.suspensions().has(id, KeyToken::Current);
        // Where nobody has changed it, its tokens are to be found again.
        if !is_suspended && !keys.has_token_of_another(entry.key()) {
            keys.by_hash.put(&entry);
            self.take_out_suspended(&keys, &entry);
            self.bump_generation();
        }
    }

    /// Suspended tokens are not found. One of a disabled key is: it is refused for that, and can be explained.
    fn take_out_suspended(&self, keys: &Indexes, entry: &Entry) {
        let key = entry.key();
        if key.disabled() {
            return;
        }
        let suspensions = self.suspensions();
        let is_suspended = |hash: &&TokenHash| {
            let token = key.token_of(hash);
            token.is_some_and(|token| suspensions.has(key.id(), token))
        };
        for hash in key.hashes().filter(is_suspended) {
            keys.by_hash.remove(hash, key.id());
        }
    }

    fn take_out_all_suspended(&self, keys: &Indexes) {
        let ids = self.suspensions().ids();
        for (entry, _) in ids.iter().filter_map(|id| keys.entry(id)) {
            self.take_out_suspended(keys, &entry);
        }
    }

    fn suspensions(&self) -> MutexGuard<'_, Suspensions> {
        lock(&self.suspensions)
    }

    /// An entry for this key: the table's own if the key is unchanged, so that a reload of an unchanged key allocates
    /// nothing that stays.
    #[must_use]
    pub fn adopt(&self, key: Key) -> Arc<Entry> {
        let current = self.current.load();
        match current.by_id.get(key.id()) {
            Some(found) if *found.key().0.key() == key => Arc::clone(&found.key().0),
            Some(found) => {
                let account = self.accounts.of(&key);
                Arc::new(found.key().0.changed_to(key, account))
            }
            None => {
                let account = self.accounts.of(&key);
                Arc::new(Entry::new(key, account))
            }
        }
    }

    /// What [`Table::swap`] with these entries would change.
    #[must_use]
    pub fn compare(&self, entries: &[Arc<Entry>], yield_point: YieldPoint) -> Difference {
        /// How many of the next entries are compared by pointer before the entry is searched by its id.
        const LOOK_AHEAD: usize = 4;
        let current = self.current.load_full();
        let order = current.in_file_order(yield_point);
        let mut rest = order.as_slice();
        let mut in_place = 0;
        let mut difference = Difference::none(yield_point);
        for entry in entries {
            yield_point();
            let mut ahead = rest.iter().take(LOOK_AHEAD);
            if let Some(at) = ahead.position(|other| Arc::ptr_eq(other, entry)) {
                rest = &rest[at + 1..];
                in_place += usize::from(at == 0);
                continue;
            }
            match current.by_id.get(entry.key().id()) {
                None => difference.added.push(Arc::clone(entry)),
                Some(found) => {
                    let before = &found.key().0;
                    if !Arc::ptr_eq(before, entry) && before.key() != entry.key() {
                        difference.changed.push(Arc::clone(entry));
                        difference.before.push(Arc::clone(before));
                    }
                }
            }
        }
        let kept = entries.len() - difference.added.len();
        if kept < order.len() {
            let ids: HashSet<&str> = yield_every(entries, yield_point)
                .map(|entry| entry.key().id())
                .collect();
            let gone =
                yield_every(&order, yield_point).filter(|entry| !ids.contains(entry.key().id()));
            difference.removed = gone.cloned().collect();
        }
        difference.reordered = difference.is_empty() && in_place < entries.len();
        drop_incrementally(order, yield_point);
        difference
    }

    /// Replaces the whole table by these entries, which are in file order. A request sees either the old table or the
    /// new one. The caller makes sure that ids and hashes are unique and that something changes, since the generation
    /// grows.
    pub fn swap(&self, entries: Vec<Arc<Entry>>, yield_point: YieldPoint) {
        let new = Arc::new(Indexes::of(&entries, yield_point));
        let writer = lock(&self.writer);
        self.take_out_all_suspended(&new);
        let old = self.current.swap(new);
        self.bump_generation();
        drop(writer);
        drop_indexes(old, yield_point);
        drop_incrementally(entries, yield_point);
        let _writer = lock(&self.writer);
        self.accounts.prune();
    }

    /// Adds an account, or changes the one of this id. When this returns, its ceilings hold for all of its keys.
    pub fn put_account(&self, rules: AccountRules) {
        let _writer = lock(&self.writer);
        self.accounts.put(rules);
        self.bump_generation();
    }

    /// Whether the keys can be judged by.
    #[must_use]
    pub fn keys_state(&self) -> KeysState {
        match self.keys_state.load(Ordering::Acquire) {
            0 => KeysState::Known,
            1 => KeysState::Awaited,
            _ => KeysState::Stale,
        }
    }

    /// The keys cannot be read yet. Until [`Self::keys_are_known`], every request is to be refused.
    pub fn await_keys(&self) {
        self.keys_state
            .store(KeysState::Awaited as u8, Ordering::Release);
    }

    /// The keys are those of the source.
    pub fn keys_are_known(&self) {
        self.keys_state
            .store(KeysState::Known as u8, Ordering::Release);
    }

    /// The keys are too old to judge by. Where none were read yet, that stays so.
    pub fn keys_are_stale(&self) {
        let (from, to) = (KeysState::Known as u8, KeysState::Stale as u8);
        // An error means that it is another state, which stays.
        let _ = self
            .keys_state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The accounts cannot be read yet. Until [`Self::accounts_are_known`], keys that name one are to be refused.
    pub fn await_accounts(&self) {
        self.knows_accounts.store(false, Ordering::Release);
    }

    /// All accounts were put into the table.
    pub fn accounts_are_known(&self) {
        self.knows_accounts.store(true, Ordering::Release);
    }

    /// Whether the accounts are known.
    #[must_use]
    pub fn knows_accounts(&self) -> bool {
        self.knows_accounts.load(Ordering::Acquire)
    }

    /// Removes an account. Keys that still name it are free of it.
    pub fn remove_account(&self, id: &str) {
        let _writer = lock(&self.writer);
        self.accounts.remove(id);
        self.bump_generation();
    }

    /// The account of this id.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<Arc<AccountRules>> {
        self.accounts.rules(id)
    }

    /// All accounts, by their ids.
    #[must_use]
    pub fn accounts(&self) -> Vec<Arc<AccountRules>> {
        self.accounts.existing()
    }

    /// The ids of the keys that name this account. Looks at every key.
    #[must_use]
    pub fn keys_of_account(&self, id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        self.walk_newest_first(None, |_, entry| {
            if entry.key().account() == Some(id) {
                ids.push(entry.key().id().to_owned());
            }
            ControlFlow::Continue(())
        });
        ids
    }

    /// All keys, in file order.
    #[must_use]
    pub fn in_file_order(&self, yield_point: YieldPoint) -> Vec<Arc<Entry>> {
        self.current.load_full().in_file_order(yield_point)
    }

    /// Up to `limit` keys for which `wanted` is true, newest first, from behind `after`.
    #[must_use]
    pub fn newest_first(
        &self,
        after: Option<SortKey>,
        limit: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> KeyPage {
        let mut page = KeyPage {
            entries: Vec::new(),
            next: None,
        };
        let mut last = None;
        self.walk_newest_first(after, |sort_key, entry| {
            if !wanted(&entry) {
                return ControlFlow::Continue(());
            }
            if page.entries.len() == limit {
                page.next = last;
                return ControlFlow::Break(());
            }
            page.entries.push(entry);
            last = Some(sort_key);
            ControlFlow::Continue(())
        });
        page
    }

    /// Visits the keys, newest first, from behind `after`, until `visit` breaks.
    pub fn walk_newest_first(
        &self,
        after: Option<SortKey>,
        mut visit: impl FnMut(SortKey, Arc<Entry>) -> ControlFlow<()>,
    ) {
        let keys = self.current.load_full();
        let mut before = after.map_or(Unbounded, Excluded);
        loop {
            let batch = copy_batch(lock(&keys.by_sort_key).range((Unbounded, before)).rev());
            let Some((oldest, _)) = batch.last() else {
                return;
            };
            before = Excluded(*oldest);
            for (sort_key, entry) in batch {
                if visit(sort_key, entry).is_break() {
                    return;
                }
            }
        }
    }

    /// Counts a request that this key was accepted for.
    pub fn count(&self, entry: &Entry, token: KeyToken, now: UnixTime) {
        entry.count(token, now);
    }

    /// After a swap: forgets the uses of previous tokens that keys no longer have.
    pub fn forget_ended_tokens(&self, changes: &Difference) {
        for (entry, before) in changes.changed.iter().zip(&changes.before) {
            entry.takes_place_of(before);
        }
    }

    /// Adds what was counted for this key before the start, if the table has it.
    pub fn restore_usage(&self, id: &str, before: UsageCounts) {
        if let Some(entry) = self.by_id(id) {
            entry.restore(before);
        }
    }

    /// The key's counters.
    #[must_use]
    pub fn usage(&self, entry: &Entry) -> UsageCounts {
        entry.usage()
    }

    /// What was spent of this key's budgets is loaded.
    pub(crate) fn budgets_loaded(&self, id: &str) {
        self.with_budgets().insert(id.into());
    }

    /// The keys whose fullest budget is fullest, with how much of it is used, at most `most`.
    #[must_use]
    pub fn fullest_budgets(&self, most: usize) -> Vec<(Arc<Entry>, f64)> {
        let mut with_budgets = self.with_budgets();
        let mut fullest = Vec::new();
        with_budgets.retain(|id| {
            let entry = self
                .by_id(id)
                .filter(|entry| !entry.key().budgets().is_empty());
            let is_there = entry.is_some();
            fullest.extend(entry.and_then(|entry| {
                let ratio = entry.budget_used_ratio()?;
                Some((entry, ratio))
            }));
            is_there
        });
        fullest.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        fullest.truncate(most);
        fullest
    }

    fn with_budgets(&self) -> MutexGuard<'_, BTreeSet<Box<str>>> {
        self.with_budgets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Call this after the change: readers must not see the new number before the change.
    fn bump_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
