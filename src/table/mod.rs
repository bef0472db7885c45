//! Floor 1: the key table in memory.
//!
//! Readers never wait: the whole table is behind one `ArcSwap`, and within it the keys stand in small shards, each
//! behind an `ArcSwap` of its own. A single create, change or delete copies one shard (about [`KEYS_A_SHARD`]
//! pointers), never the table; a reload builds a new table beside the old one and swaps it in whole. Writers take
//! turns, and a table that was swapped out is torn down by the writer, never by a reader. No I/O here, and no clock:
//! whoever knows the time says it, and whoever minds how long a million keys keep a core gives a [`Pause`].

mod shards;
pub mod usage;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::Entry::{Occupied, Vacant};

use crate::policy::key::Key;
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

use shards::Shards;
use usage::Usage;

/// How many keys are copied while the lock of their order is held.
const BATCH: usize = 1024;
/// From this many keys on, a second thread pays.
const WORTH_A_THREAD: usize = 10_000;
/// How many keys a shard holds on average after a reload.
const KEYS_A_SHARD: usize = 8;

/// Called by each thread that does long work here, between steps of microseconds: the place to let other threads run.
pub type Pause = fn();
/// For whoever is in nobody's way.
pub const WITHOUT_PAUSE: Pause = || ();

/// The items, with a pause at each.
pub fn paced<T>(items: impl IntoIterator<Item = T>, pause: Pause) -> impl Iterator<Item = T> {
    items.into_iter().inspect(move |_| pause())
}

/// Drops the items, with a pause at each.
pub fn forget<T>(items: impl IntoIterator<Item = T>, pause: Pause) {
    paced(items, pause).for_each(drop);
}

/// One key in the table, with the way to its live counters.
#[derive(Debug)]
pub struct Entry {
    key: Key,
    /// Made at the first use. A changed key's new entry shares those of the old one, so that no count is lost.
    usage: OnceLock<Arc<Usage>>,
}

impl Entry {
    /// The record.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// An entry for another record of the same key, with the same counters.
    fn changed_to(&self, key: Key) -> Self {
        let usage = self.usage.get_or_init(Arc::default);
        Self {
            key,
            usage: OnceLock::from(Arc::clone(usage)),
        }
    }
}

/// All keys. See the module's page for how it is kept.
#[derive(Debug)]
pub struct Table {
    current: ArcSwap<Keys>,
    generation: AtomicU64,
    writer: Mutex<()>,
}

/// The keys of one table: by hash for the gateway, by id and by age for the admin API.
#[derive(Debug)]
struct Keys {
    by_hash: Shards,
    /// Each with its place in the key file.
    by_id: DashMap<ById, u64>,
    by_age: Mutex<BTreeMap<Age, Arc<Entry>>>,
    next_place: AtomicU64,
}

/// An entry that is found, and owned, by its id.
#[derive(Debug)]
struct ById(Arc<Entry>);

/// Where a key stands among all: by time of creation (unknown is oldest), then by place in the key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Seconds since 1970 of its creation; `i64::MIN` where unknown.
    pub created_at: i64,
    /// Its place in the key file, growing.
    pub place: u64,
}

/// What a new table changes. It may hold the last of many keys, and takes its time to free them.
#[derive(Clone, Debug)]
pub struct Difference {
    /// In the new table only.
    pub added: Vec<Arc<Entry>>,
    /// In the old table only.
    pub removed: Vec<Arc<Entry>>,
    /// In both; the new record.
    pub changed: Vec<Arc<Entry>>,
    /// No key changes, but their order does.
    pub reordered: bool,
    pause: Pause,
}

impl Difference {
    fn none(pause: Pause) -> Self {
        Self {
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            reordered: false,
            pause,
        }
    }

    /// Whether no key changes; their order may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Whether there is something to swap for.
    #[must_use]
    pub fn changes_table(&self) -> bool {
        self.reordered || !self.is_empty()
    }
}

impl Drop for Difference {
    fn drop(&mut self) {
        for keys in [&mut self.added, &mut self.removed, &mut self.changed] {
            forget(keys.drain(..), self.pause);
        }
    }
}

/// A key's id or hash is another key's already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken;

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another key has this id or hash")
    }
}

impl std::error::Error for Taken {}

/// Some keys of the table, newest first.
#[derive(Debug)]
pub struct Page {
    /// The keys.
    pub entries: Vec<Arc<Entry>>,
    /// Where the next page begins, when there is more.
    pub next: Option<Age>,
}

impl Default for Table {
    /// A table without a key: everybody is refused.
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Keys::of(&[], WITHOUT_PAUSE)),
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
    pub fn insert(&self, key: Key) -> Result<Arc<Entry>, Taken> {
        let _turn = lock(&self.writer);
        let mut keys = self.current.load_full();
        if keys.entry(key.id()).is_some() || keys.by_hash.find(key.hash()).is_some() {
            return Err(Taken);
        }
        if keys.by_hash.is_crowded(keys.by_id.len()) {
            let entries = keys.in_file_order(WITHOUT_PAUSE);
            let roomier = Arc::new(Keys::of(&entries, WITHOUT_PAUSE));
            drop(keys);
            tear_down(self.current.swap(Arc::clone(&roomier)), WITHOUT_PAUSE);
            keys = roomier;
        }
        let entry = Arc::new(Entry::from(key));
        keys.add(Arc::clone(&entry));
        self.grow();
        Ok(entry)
    }

    /// Puts another record in the place of the one with the same id. The hash may change too.
    ///
    /// # Errors
    /// [`Taken`] where no key has the id or another key has the hash; nothing changes.
    pub fn replace(&self, key: Key) -> Result<Arc<Entry>, Taken> {
        let _turn = lock(&self.writer);
        let keys = self.current.load_full();
        let (before, age) = keys.entry(key.id()).ok_or(Taken)?;
        let hash_changes = before.key.hash() != key.hash();
        if hash_changes && keys.by_hash.find(key.hash()).is_some() {
            return Err(Taken);
        }
        let entry = Arc::new(before.changed_to(key));
        keys.put(Arc::clone(&entry), age);
        if hash_changes {
            keys.by_hash.remove(before.key.hash());
        }
        self.grow();
        Ok(entry)
    }

    /// Takes a key out; it is refused from the moment this returns.
    pub fn remove(&self, id: &str) -> Option<Arc<Entry>> {
        let _turn = lock(&self.writer);
        let keys = self.current.load_full();
        let (entry, age) = keys.entry(id)?;
        keys.by_hash.remove(entry.key.hash());
        keys.by_id.remove(id);
        lock(&keys.by_age).remove(&age);
        self.grow();
        Some(entry)
    }

    /// An entry for a record that may come into the table: the table's own where the record is the same, so that
    /// unchanged keys keep their memory.
    #[must_use]
    pub fn adopt(&self, key: Key) -> Arc<Entry> {
        let current = self.current.load();
        match current.by_id.get(key.id()) {
            Some(found) if found.key().0.key == key => Arc::clone(&found.key().0),
            Some(found) => Arc::new(found.key().0.changed_to(key)),
            None => Arc::new(Entry::from(key)),
        }
    }

    /// What [`Table::swap`] with these entries would change.
    #[must_use]
    pub fn compare(&self, entries: &[Arc<Entry>], pause: Pause) -> Difference {
        /// How far ahead the entry is looked for that follows in the table, before it is searched by its id.
        const AHEAD: usize = 4;
        let current = self.current.load_full();
        let order = current.in_file_order(pause);
        let mut rest = order.as_slice();
        let mut in_place = 0;
        let mut difference = Difference::none(pause);
        for entry in entries {
            pause();
            let mut ahead = rest.iter().take(AHEAD);
            if let Some(at) = ahead.position(|other| Arc::ptr_eq(other, entry)) {
                rest = &rest[at + 1..];
                in_place += usize::from(at == 0);
                continue;
            }
            match current.by_id.get(entry.key.id()) {
                None => difference.added.push(Arc::clone(entry)),
                Some(found) => {
                    let before = &found.key().0;
                    if !Arc::ptr_eq(before, entry) && before.key != entry.key {
                        difference.changed.push(Arc::clone(entry));
                    }
                }
            }
        }
        let kept = entries.len() - difference.added.len();
        if kept < order.len() {
            let ids: HashSet<&str> = paced(entries, pause).map(|entry| entry.key.id()).collect();
            let gone = paced(&order, pause).filter(|entry| !ids.contains(entry.key.id()));
            difference.removed = gone.cloned().collect();
        }
        difference.reordered = difference.is_empty() && in_place < entries.len();
        forget(order, pause);
        difference
    }

    /// Puts a whole new table in place, in the order of the key file. Requests see the old one or the new one, whole.
    /// The caller has made sure that ids and hashes are unique, and that something changes: the generation grows.
    pub fn swap(&self, entries: Vec<Arc<Entry>>, pause: Pause) {
        let _turn = lock(&self.writer);
        let old = self.current.swap(Arc::new(Keys::of(&entries, pause)));
        self.grow();
        tear_down(old, pause);
        forget(entries, pause);
    }

    /// The keys in the order of the key file.
    #[must_use]
    pub fn in_file_order(&self, pause: Pause) -> Vec<Arc<Entry>> {
        self.current.load_full().in_file_order(pause)
    }

    /// Up to `limit` keys that `wanted` takes, newest first, older than `after`.
    #[must_use]
    pub fn newest_first(
        &self,
        after: Option<Age>,
        limit: usize,
        wanted: impl Fn(&Key) -> bool,
    ) -> Page {
        let keys = self.current.load_full();
        let mut page = Page {
            entries: Vec::new(),
            next: None,
        };
        let mut before = after.map_or(Unbounded, Excluded);
        let mut last = None;
        loop {
            let batch = batch(lock(&keys.by_age).range((Unbounded, before)).rev());
            let Some((oldest, _)) = batch.last() else {
                return page;
            };
            before = Excluded(*oldest);
            for (age, entry) in batch {
                if !wanted(&entry.key) {
                    continue;
                }
                if page.entries.len() == limit {
                    page.next = last;
                    return page;
                }
                page.entries.push(entry);
                last = Some(age);
            }
        }
    }

    /// Counts a request that a key was let in with.
    pub fn count(&self, entry: &Entry, now: UnixTime) {
        entry.usage.get_or_init(Arc::default).count(now);
    }

    /// How often a key was let in, and when last.
    #[must_use]
    pub fn usage(&self, entry: &Entry) -> usage::Reading {
        let used = entry.usage.get();
        used.map(|usage| usage.read()).unwrap_or_default()
    }

    /// The change is visible before the number that announces it.
    fn grow(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Keys {
    /// The index by hash is laid out beside the other two, on a thread of its own.
    fn of(entries: &[Arc<Entry>], pause: Pause) -> Self {
        let by_id = DashMap::with_capacity(entries.len());
        let mut by_age = Vec::with_capacity(entries.len());
        let by_hash = std::thread::scope(|scope| {
            let by_hash = (entries.len() >= WORTH_A_THREAD)
                .then(|| scope.spawn(|| Shards::of(entries, pause)));
            for (entry, place) in paced(entries, pause).zip(0..) {
                by_id.insert(ById(Arc::clone(entry)), place);
                by_age.push((Age::of(&entry.key, place), Arc::clone(entry)));
            }
            by_age.sort_unstable_by_key(|(age, _)| *age);
            by_hash.and_then(|laid_out| laid_out.join().ok())
        });
        Self {
            by_hash: by_hash.unwrap_or_else(|| Shards::of(entries, pause)),
            by_id,
            by_age: Mutex::new(by_age.into_iter().collect()),
            next_place: AtomicU64::new(entries.len() as u64),
        }
    }

    fn entry(&self, id: &str) -> Option<(Arc<Entry>, Age)> {
        self.by_id.get(id).map(|found| {
            let entry = &found.key().0;
            (Arc::clone(entry), Age::of(&entry.key, *found.value()))
        })
    }

    fn add(&self, entry: Arc<Entry>) {
        let age = Age::of(&entry.key, self.next_place.fetch_add(1, Ordering::Relaxed));
        self.put(entry, age);
    }

    fn put(&self, entry: Arc<Entry>, age: Age) {
        lock(&self.by_age).insert(age, Arc::clone(&entry));
        match self.by_id.entry(ById(Arc::clone(&entry))) {
            Occupied(before) => drop(before.replace_entry(age.place)),
            Vacant(free) => drop(free.insert(age.place)),
        }
        self.by_hash.put(entry);
    }

    fn in_file_order(&self, pause: Pause) -> Vec<Arc<Entry>> {
        let mut all = Vec::with_capacity(self.by_id.len());
        let mut after = Unbounded;
        loop {
            let batch = batch(lock(&self.by_age).range((after, Unbounded)));
            let Some((newest, _)) = batch.last() else {
                break;
            };
            after = Excluded(*newest);
            all.extend(batch);
            pause();
        }
        if !all.is_sorted_by_key(|(age, _)| age.place) {
            all.sort_unstable_by_key(|(age, _)| age.place);
        }
        // Not collected, which would keep the room of the ages.
        let mut order = Vec::with_capacity(all.len());
        order.extend(paced(all, pause).map(|(_, entry)| entry));
        order
    }
}

impl Age {
    fn of(key: &Key, place: u64) -> Self {
        Self {
            created_at: key.created_at().map_or(i64::MIN, UnixTime::seconds),
            place,
        }
    }
}

impl From<Key> for Entry {
    fn from(key: Key) -> Self {
        Self {
            key,
            usage: OnceLock::new(),
        }
    }
}

/// Entries are equal when they are the same one.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.key.id() == other.0.key.id()
    }
}

impl Eq for ById {}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.id().hash(state);
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.key.id()
    }
}

/// Frees a table that is no longer the current one. A reader that still holds it for the length of one search must not
/// be the one to free a million keys, so it is waited for.
fn tear_down(mut old: Arc<Keys>, pause: Pause) {
    let keys = loop {
        match Arc::try_unwrap(old) {
            Ok(keys) => break keys,
            Err(held) => old = held,
        }
        std::thread::sleep(Duration::from_micros(100));
    };
    forget(keys.by_hash, pause);
    forget(keys.by_id, pause);
    let by_age = keys.by_age.into_inner();
    forget(by_age.unwrap_or_else(PoisonError::into_inner), pause);
}

/// The first of these keys, as many as hold nobody up who waits for the lock. Whoever goes on from there sees what changed
/// meanwhile among those that come, and not among those that came.
fn batch<'k>(keys: impl Iterator<Item = (&'k Age, &'k Arc<Entry>)>) -> Vec<(Age, Arc<Entry>)> {
    let owned = keys.map(|(age, entry)| (*age, Arc::clone(entry)));
    owned.take(BATCH).collect()
}

/// No code panics while it holds one of these locks; if it ever did, what it guards is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::{KeyFields, KeyId, KeyName};
    use crate::policy::model_access::ModelAccess;
    use crate::policy::network::AllowFrom;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(id: u32, token: u32, created_at: Option<i64>) -> Key {
        Key::from(KeyFields {
            id: KeyId::parse(&format!("key_{id}")).unwrap(),
            name: KeyName::parse("name").unwrap(),
            hash: hash(token),
            hint: None,
            model_access: ModelAccess::All,
            allow_from: AllowFrom::Anywhere,
            expires_at: None,
            created_at: created_at.map(UnixTime::from_seconds),
            account: None,
            disabled: false,
        })
    }

    fn swap(table: &Table, keys: Vec<Key>) -> Difference {
        let entries: Vec<_> = keys.into_iter().map(|key| table.adopt(key)).collect();
        let difference = table.compare(&entries, WITHOUT_PAUSE);
        if difference.changes_table() {
            table.swap(entries, WITHOUT_PAUSE);
        }
        difference
    }

    fn hash(token: u32) -> TokenHash {
        TokenHash::of(&token.to_le_bytes())
    }

    fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.key.id()).collect()
    }

    #[test]
    fn a_removed_key_is_not_found_by_hash_or_id() {
        let table = Table::default();
        table.insert(key(1, 1, None)).unwrap();
        let before = table.generation();
        assert!(table.remove("key_1").is_some());
        assert!(
            table.find(&hash(1)).is_none() && table.by_id("key_1").is_none() && table.is_empty()
        );
        assert!(table.generation() > before);
        assert!(table.remove("key_1").is_none());
    }

    #[test]
    fn an_id_or_hash_is_taken_once() {
        let table = Table::default();
        table.insert(key(1, 1, None)).unwrap();
        assert_eq!(table.insert(key(1, 2, None)).unwrap_err(), Taken);
        assert_eq!(table.insert(key(2, 1, None)).unwrap_err(), Taken);
        table.insert(key(2, 2, None)).unwrap();
        assert_eq!(table.replace(key(2, 1, None)).unwrap_err(), Taken);
        assert_eq!(table.replace(key(3, 3, None)).unwrap_err(), Taken);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn counters_outlive_changes_and_reloads_of_the_key_but_not_its_deletion() {
        let table = Table::default();
        let entry = table.insert(key(1, 1, None)).unwrap();
        table.count(&entry, UnixTime::from_seconds(5));
        table.replace(key(1, 7, None)).unwrap();
        swap(&table, vec![key(1, 8, Some(3))]);
        let entry = table.find(&hash(8)).unwrap();
        table.count(&entry, UnixTime::from_seconds(9));
        let reading = table.usage(&entry);
        assert_eq!(
            (reading.requests, reading.last_used_at),
            (2, Some(UnixTime::from_seconds(9)))
        );
        table.remove("key_1");
        let again = table.insert(key(1, 1, None)).unwrap();
        assert_eq!(table.usage(&again).requests, 0);
    }

    #[test]
    fn the_newest_key_comes_first_and_those_without_a_date_last() {
        let table = Table::default();
        let keys = vec![
            key(1, 1, None),
            key(2, 2, Some(5)),
            key(3, 3, Some(9)),
            key(4, 4, Some(5)),
            key(5, 5, None),
        ];
        swap(&table, keys);
        let first = table.newest_first(None, 3, |_| true);
        assert_eq!(ids(&first.entries), ["key_3", "key_4", "key_2"]);
        table.remove("key_2");
        let second = table.newest_first(first.next, 3, |_| true);
        assert_eq!(
            ids(&second.entries),
            ["key_5", "key_1"],
            "a cursor outlives its key"
        );
        assert_eq!(second.next, None);
        assert_eq!(
            ids(&table.in_file_order(WITHOUT_PAUSE)),
            ["key_1", "key_3", "key_4", "key_5"]
        );
    }

    #[test]
    fn a_swap_reports_what_it_adds_removes_and_changes_and_keeps_the_rest() {
        let table = Table::default();
        swap(
            &table,
            vec![key(1, 1, None), key(2, 2, None), key(3, 3, None)],
        );
        let kept = table.by_id("key_3").unwrap();
        let next = vec![key(2, 9, None), key(3, 3, None), key(4, 4, None)];
        let difference = swap(&table, next);
        assert_eq!(ids(&difference.added), ["key_4"]);
        assert_eq!(ids(&difference.removed), ["key_1"]);
        assert_eq!(ids(&difference.changed), ["key_2"]);
        assert!(Arc::ptr_eq(&kept, &table.by_id("key_3").unwrap()));
        assert!(table.find(&hash(2)).is_none() && table.find(&hash(9)).is_some());
    }

    #[test]
    fn a_swap_with_the_same_keys_changes_nothing_but_another_order_does() {
        let table = Table::default();
        swap(&table, vec![key(1, 1, None), key(2, 2, None)]);
        let generation = table.generation();
        assert!(swap(&table, vec![key(1, 1, None), key(2, 2, None)]).is_empty());
        assert_eq!(table.generation(), generation);
        assert!(swap(&table, vec![key(2, 2, None), key(1, 1, None)]).is_empty());
        assert_eq!(ids(&table.in_file_order(WITHOUT_PAUSE)), ["key_2", "key_1"]);
        assert!(table.generation() > generation);
    }

    #[test]
    fn a_use_that_began_before_a_change_of_the_key_is_counted() {
        let table = Table::default();
        let before = table.insert(key(1, 1, None)).unwrap();
        table.replace(key(1, 1, Some(7))).unwrap();
        table.count(&before, UnixTime::from_seconds(5));
        assert_eq!(table.usage(&table.by_id("key_1").unwrap()).requests, 1);
    }

    #[test]
    fn readers_find_every_kept_key_while_tables_are_swapped() {
        let table = Table::default();
        swap(&table, (0..100).map(|id| key(id, id, None)).collect());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!((0..100).all(|id| table.find(&hash(id)).is_some()));
                }
            });
            for round in 0..200 {
                let newest = key(100 + round, 100 + round, None);
                let kept = (0..100).map(|id| key(id, id, Some(i64::from(round))));
                swap(&table, kept.chain([newest]).collect());
                assert!(table.find(&hash(99 + round)).is_none() || round == 0);
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }

    #[test]
    fn whoever_lays_out_compares_or_frees_many_keys_pauses_at_each() {
        static PAUSES: AtomicU64 = AtomicU64::new(0);
        let pause: Pause = || _ = PAUSES.fetch_add(1, Ordering::Relaxed);
        let many = 20_000;
        let all = |created_at| (0..many).map(move |id| key(id, id, Some(created_at)));
        let table = Table::default();
        swap(&table, all(1).collect());
        let entries: Vec<_> = all(2).map(|key| table.adopt(key)).collect();
        let pauses = || PAUSES.swap(0, Ordering::Relaxed) / u64::from(many);
        assert_eq!(table.compare(&entries, pause).changed.len(), 20_000);
        // The old order is read, compared and forgotten.
        assert!(pauses() >= 3);
        table.swap(entries, pause);
        // Two rounds by hash, one by id and age, one each for what is freed of those two and of what was given.
        assert!(pauses() >= 6);
    }

    #[test]
    fn ten_thousand_single_creates_stay_findable() {
        let table = Table::default();
        for id in 0..10_000 {
            table.insert(key(id, id, None)).unwrap();
        }
        assert!((0..10_000).all(|id| {
            table
                .find(&hash(id))
                .is_some_and(|found| found.key.id() == format!("key_{id}"))
        }));
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_map(steps in prop::collection::vec((0_u8..4, 0_u32..12, 0_u32..12), 0..60)) {
            let table = Table::default();
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (step, id, token) in steps {
                let hash_free = model.iter().all(|(other, taken)| *other == id || *taken != token);
                match step {
                    0 => {
                        let free = hash_free && !model.contains_key(&id);
                        prop_assert_eq!(table.insert(key(id, token, None)).is_ok(), free);
                        if free { model.insert(id, token); }
                    }
                    1 => {
                        let fits = hash_free && model.contains_key(&id);
                        prop_assert_eq!(table.replace(key(id, token, None)).is_ok(), fits);
                        if fits { model.insert(id, token); }
                    }
                    2 => prop_assert_eq!(table.remove(&format!("key_{id}")).is_some(), model.remove(&id).is_some()),
                    _ => {
                        model.retain(|other, _| *other != id);
                        swap(&table, model.iter().map(|(id, token)| key(*id, *token, None)).collect());
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for token in 0..12 {
                    let expected = model.iter().find(|(_, taken)| **taken == token).map(|(id, _)| format!("key_{id}"));
                    prop_assert_eq!(table.find(&hash(token)).map(|found| found.key.id().to_owned()), expected);
                }
            }
        }
    }
}
