//! The indexes of one table: by the hashes of the tokens for the gateway, by id and by creation time for the admin API.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::Entry::{Occupied, Vacant};

use crate::policy::key::Key;
use crate::policy::time::UnixTime;
use crate::table::entry::Entry;
use crate::table::incremental::{YieldPoint, drop_incrementally, yield_every};
use crate::table::shards::Shards;

/// How many entries are copied while the lock of `by_sort_key` is held.
const BATCH_SIZE: usize = 1024;

/// With fewer keys, a second thread costs more time than it saves.
const MIN_KEYS_FOR_THREAD: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) by_hash: Shards,
    /// Each entry with its position in the key file.
    pub(crate) by_id: DashMap<ById, u64>,
    pub(crate) by_sort_key: Mutex<BTreeMap<SortKey, Arc<Entry>>>,
    pub(crate) next_position: AtomicU64,
}

/// An entry that hashes and compares by its id.
#[derive(Debug)]
pub(crate) struct ById(pub(crate) Arc<Entry>);

/// The order of the keys: by creation time (unknown is oldest), then by position in the key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey {
    /// The creation time in seconds since 1970; `i64::MIN` if unknown.
    pub created_at: i64,
    /// The position in the key file. Keys that are added later have larger ones.
    pub position: u64,
}

impl Indexes {
    /// Builds the index by hash on a second thread, beside the other two.
    pub(crate) fn of(entries: &[Arc<Entry>], yield_point: YieldPoint) -> Self {
        let by_id = DashMap::with_capacity(entries.len());
        let mut by_sort_key = Vec::with_capacity(entries.len());
        let by_hash = std::thread::scope(|scope| {
            let by_hash = (entries.len() >= MIN_KEYS_FOR_THREAD)
                .then(|| scope.spawn(|| Shards::of(entries, yield_point)));
            for (entry, position) in yield_every(entries, yield_point).zip(0..) {
                by_id.insert(ById(Arc::clone(entry)), position);
                by_sort_key.push((SortKey::of(entry.key(), position), Arc::clone(entry)));
            }
            by_sort_key.sort_unstable_by_key(|(sort_key, _)| *sort_key);
            by_hash.and_then(|laid_out| laid_out.join().ok())
        });
        Self {
            by_hash: by_hash.unwrap_or_else(|| Shards::of(entries, yield_point)),
            by_id,
            by_sort_key: Mutex::new(by_sort_key.into_iter().collect()),
            next_position: AtomicU64::new(entries.len() as u64),
        }
    }

    pub(crate) fn entry(&self, id: &str) -> Option<(Arc<Entry>, SortKey)> {
        self.by_id.get(id).map(|found| {
            let entry = &found.key().0;
            (Arc::clone(entry), SortKey::of(entry.key(), *found.value()))
        })
    }

    /// Whether a key of another id has one of this key's tokens.
    pub(crate) fn has_token_of_another(&self, key: &Key) -> bool {
        let is_another = |found: Arc<Entry>| found.key().id() != key.id();
        key.hashes()
            .any(|hash| self.by_hash.find(hash).is_some_and(is_another))
    }

    pub(crate) fn add(&self, entry: Arc<Entry>) {
        let sort_key = SortKey::of(
            entry.key(),
            self.next_position.fetch_add(1, Ordering::Relaxed),
        );
        self.put(entry, sort_key);
    }

    pub(crate) fn put(&self, entry: Arc<Entry>, sort_key: SortKey) {
        lock(&self.by_sort_key).insert(sort_key, Arc::clone(&entry));
        match self.by_id.entry(ById(Arc::clone(&entry))) {
            Occupied(before) => drop(before.replace_entry(sort_key.position)),
            Vacant(free) => drop(free.insert(sort_key.position)),
        }
        self.by_hash.put(&entry);
    }

    pub(crate) fn in_file_order(&self, yield_point: YieldPoint) -> Vec<Arc<Entry>> {
        let mut all = Vec::with_capacity(self.by_id.len());
        let mut after = Unbounded;
        loop {
            let batch = copy_batch(lock(&self.by_sort_key).range((after, Unbounded)));
            let Some((newest, _)) = batch.last() else {
                break;
            };
            after = Excluded(*newest);
            all.extend(batch);
            yield_point();
        }
        if !all.is_sorted_by_key(|(sort_key, _)| sort_key.position) {
            all.sort_unstable_by_key(|(sort_key, _)| sort_key.position);
        }
        // `collect` would reuse the allocation, which is larger by the sort keys.
        let mut order = Vec::with_capacity(all.len());
        order.extend(yield_every(all, yield_point).map(|(_, entry)| entry));
        order
    }
}

impl SortKey {
    pub(crate) fn of(key: &Key, position: u64) -> Self {
        Self {
            created_at: key.created_at().map_or(i64::MIN, UnixTime::seconds),
            position,
        }
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.key().id() == other.0.key().id()
    }
}

impl Eq for ById {}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().id().hash(state);
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.key().id()
    }
}

/// Frees the indexes of a table that was swapped out. A reader may hold them for the length of one search. This waits
/// for it, so that no reader has to free a million keys.
pub(crate) fn drop_indexes(mut old: Arc<Indexes>, yield_point: YieldPoint) {
    let keys = loop {
        match Arc::try_unwrap(old) {
            Ok(keys) => break keys,
            Err(held) => old = held,
        }
        std::thread::sleep(Duration::from_micros(100));
    };
    drop_incrementally(keys.by_hash, yield_point);
    drop_incrementally(keys.by_id, yield_point);
    let by_sort_key = keys.by_sort_key.into_inner();
    drop_incrementally(
        by_sort_key.unwrap_or_else(PoisonError::into_inner),
        yield_point,
    );
}

/// Copies the first entries, few enough that nobody waits long for the lock. Between two batches the table may change:
/// the caller sees changes ahead of its position and misses those behind it.
pub(crate) fn copy_batch<'k>(
    keys: impl Iterator<Item = (&'k SortKey, &'k Arc<Entry>)>,
) -> Vec<(SortKey, Arc<Entry>)> {
    let owned = keys.map(|(sort_key, entry)| (*sort_key, Arc::clone(entry)));
    owned.take(BATCH_SIZE).collect()
}

/// A poisoned lock is taken all the same: no code panics while it holds one, and the data would still be consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
