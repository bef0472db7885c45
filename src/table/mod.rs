//! Floor 1: the key table in memory.
//!
//! Readers never wait: the whole table is behind one `ArcSwap`, and within it the keys stand in small shards, each
//! behind an `ArcSwap` of its own. A single create, change or delete copies one shard (about [`KEYS_A_SHARD`]
//! pointers), never the table; a reload builds a new table beside the old one and swaps it in whole. Writers take
//! turns, and a table that was swapped out is torn down by the writer, never by a reader. No I/O here, and no clock:
//! whoever knows the time says it, and whoever minds how long a million keys keep a core gives a [`YieldPoint`].

mod difference;
mod entry;
mod incremental;
mod indexes;
mod shards;
pub mod usage;

use std::collections::HashSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::policy::key::Key;
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;
use crate::table::indexes::{Indexes, copy_batch, drop_indexes, lock};

pub use crate::table::difference::Difference;
pub use crate::table::entry::Entry;
pub use crate::table::incremental::{NO_YIELD, YieldPoint, drop_incrementally, yield_every};
pub use crate::table::indexes::SortKey;

/// All keys. See the module's page for how it is kept.
#[derive(Debug)]
pub struct Table {
    current: ArcSwap<Indexes>,
    generation: AtomicU64,
    writer: Mutex<()>,
}

/// A key's id or hash is another key's already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateKeyError;

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
    /// Where the next page begins, when there is more.
    pub next: Option<SortKey>,
}

impl Default for Table {
    /// A table without a key: everybody is refused.
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Indexes::of(&[], NO_YIELD)),
            generation: AtomicU64::new(0),
            writer: Mutex::new(()),
        }
    }
}

impl Table {
    /// Grows with every change. Whoever sees a new generation sees the change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The key whose token has this hash.
    #[must_use]
    pub fn find(&self, hash: &TokenHash) -> Option<Arc<Entry>> {
        self.current.load().by_hash.find(hash)
    }

    /// The key of this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<Arc<Entry>> {
        self.current.load().entry(id).map(|(entry, _)| entry)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.load().by_id.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a key, as the last of the file.
    ///
    /// # Errors
    /// [`Taken`], and nothing changes.
    pub fn insert(&self, key: Key) -> Result<Arc<Entry>, DuplicateKeyError> {
        let _writer = lock(&self.writer);
        let mut keys = self.current.load_full();
        if keys.entry(key.id()).is_some() || keys.by_hash.find(key.hash()).is_some() {
            return Err(DuplicateKeyError);
        }
        if keys.by_hash.is_overfull(keys.by_id.len()) {
            let entries = keys.in_file_order(NO_YIELD);
            let roomier = Arc::new(Indexes::of(&entries, NO_YIELD));
            drop(keys);
            drop_indexes(self.current.swap(Arc::clone(&roomier)), NO_YIELD);
            keys = roomier;
        }
        let entry = Arc::new(Entry::from(key));
        keys.add(Arc::clone(&entry));
        self.bump_generation();
        Ok(entry)
    }

    /// Puts another record in the place of the one with the same id. The hash may change too.
    ///
    /// # Errors
    /// [`Taken`] where no key has the id or another key has the hash; nothing changes.
    pub fn replace(&self, key: Key) -> Result<Arc<Entry>, DuplicateKeyError> {
        let _writer = lock(&self.writer);
        let keys = self.current.load_full();
        let (before, sort_key) = keys.entry(key.id()).ok_or(DuplicateKeyError)?;
        let hash_changes = before.key().hash() != key.hash();
        if hash_changes && keys.by_hash.find(key.hash()).is_some() {
            return Err(DuplicateKeyError);
        }
        let entry = Arc::new(before.changed_to(key));
        keys.put(Arc::clone(&entry), sort_key);
        if hash_changes {
            keys.by_hash.remove(before.key().hash());
        }
        self.bump_generation();
        Ok(entry)
    }

    /// Takes a key out; it is refused from the moment this returns.
    pub fn remove(&self, id: &str) -> Option<Arc<Entry>> {
        let _writer = lock(&self.writer);
        let keys = self.current.load_full();
        let (entry, sort_key) = keys.entry(id)?;
        keys.by_hash.remove(entry.key().hash());
        keys.by_id.remove(id);
        lock(&keys.by_sort_key).remove(&sort_key);
        self.bump_generation();
        Some(entry)
    }

    /// An entry for a record that may come into the table: the table's own where the record is the same, so that
    /// unchanged keys keep their memory.
    #[must_use]
    pub fn adopt(&self, key: Key) -> Arc<Entry> {
        let current = self.current.load();
        match current.by_id.get(key.id()) {
            Some(found) if *found.key().0.key() == key => Arc::clone(&found.key().0),
            Some(found) => Arc::new(found.key().0.changed_to(key)),
            None => Arc::new(Entry::from(key)),
        }
    }

    /// What [`Table::swap`] with these entries would change.
    #[must_use]
    pub fn compare(&self, entries: &[Arc<Entry>], yield_point: YieldPoint) -> Difference {
        /// How far ahead the entry is looked for that follows in the table, before it is searched by its id.
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

    /// Puts a whole new table in place, in the order of the key file. Requests see the old one or the new one, whole.
    /// The caller has made sure that ids and hashes are unique, and that something changes: the generation grows.
    pub fn swap(&self, entries: Vec<Arc<Entry>>, yield_point: YieldPoint) {
        let _writer = lock(&self.writer);
        let old = self
            .current
            .swap(Arc::new(Indexes::of(&entries, yield_point)));
        self.bump_generation();
        drop_indexes(old, yield_point);
        drop_incrementally(entries, yield_point);
    }

    /// The keys in the order of the key file.
    #[must_use]
    pub fn in_file_order(&self, yield_point: YieldPoint) -> Vec<Arc<Entry>> {
        self.current.load_full().in_file_order(yield_point)
    }

    /// Up to `limit` keys that `wanted` takes, newest first, older than `after`.
    #[must_use]
    pub fn newest_first(
        &self,
        after: Option<SortKey>,
        limit: usize,
        wanted: impl Fn(&Key) -> bool,
    ) -> KeyPage {
        let keys = self.current.load_full();
        let mut page = KeyPage {
            entries: Vec::new(),
            next: None,
        };
        let mut before = after.map_or(Unbounded, Excluded);
        let mut last = None;
        loop {
            let batch = copy_batch(lock(&keys.by_sort_key).range((Unbounded, before)).rev());
            let Some((oldest, _)) = batch.last() else {
                return page;
            };
            before = Excluded(*oldest);
            for (sort_key, entry) in batch {
                if !wanted(&entry.key()) {
                    continue;
                }
                if page.entries.len() == limit {
                    page.next = last;
                    return page;
                }
                page.entries.push(entry);
                last = Some(sort_key);
            }
        }
    }

    /// Counts a request that a key was let in with.
    pub fn count(&self, entry: &Entry, now: UnixTime) {
        entry.count(now);
    }

    /// How often a key was let in, and when last.
    #[must_use]
    pub fn usage(&self, entry: &Entry) -> usage::UsageCounts {
        entry.usage()
    }

    /// The change is visible before the number that announces it.
    fn bump_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
