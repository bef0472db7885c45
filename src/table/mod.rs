//! Floor 1: the key table in memory.
//!
//! Readers never wait: the whole table is behind one `ArcSwap`, and within it the keys stand in small shards, each
//! behind an `ArcSwap` of its own. A single create, change or delete copies one shard (about [`KEYS_A_SHARD`]
//! pointers), never the table; a reload builds a new table beside the old one and swaps it in whole. Writers take
//! turns. No I/O here, and no clock: whoever knows the time says it.

mod shards;
pub mod usage;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::Entry::{Occupied, Vacant};

use crate::policy::key::{Key, KeyId};
use crate::policy::time::UnixTime;
use crate::policy::token::TokenHash;

use shards::Shards;
use usage::Usage;

/// How many keys a shard holds on average after a reload.
const KEYS_A_SHARD: usize = 8;

/// One key in the table, with the way to its live counters.
#[derive(Debug)]
pub struct Entry {
    key: Key,
    usage: OnceLock<Arc<Usage>>,
}

impl Entry {
    /// The record.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// All keys. See the module's page for how it is kept.
#[derive(Debug)]
pub struct Table {
    current: ArcSwap<Keys>,
    generation: AtomicU64,
    /// By id, for keys that were used; outlives changes and reloads of the key.
    usage: DashMap<KeyId, Arc<Usage>>,
    writer: Mutex<()>,
}

/// The keys of one table: by hash for the gateway, by id and by age for the admin API.
#[derive(Debug)]
struct Keys {
    by_hash: Shards,
    by_id: DashMap<ById, Age>,
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

/// What a new table changes, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the new table only.
    pub added: Vec<KeyId>,
    /// In the old table only.
    pub removed: Vec<KeyId>,
    /// In both, with another record.
    pub changed: Vec<KeyId>,
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
            current: ArcSwap::from_pointee(Keys::of(Vec::new())),
            generation: AtomicU64::new(0),
            usage: DashMap::new(),
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
            keys = Arc::new(Keys::of(keys.in_file_order()));
            self.current.store(Arc::clone(&keys));
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
        let entry = Arc::new(Entry::from(key));
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
        self.usage.remove(&entry.key.key_id());
        self.grow();
        Some(entry)
    }

    /// What [`Table::swap`] with these keys would change.
    #[must_use]
    pub fn compare(&self, keys: &[Key]) -> Difference {
        let current = self.current.load_full();
        let mut difference = Difference::default();
        let mut kept = 0;
        for key in keys {
            match current.entry(key.id()) {
                None => difference.added.push(key.key_id()),
                Some((entry, _)) => {
                    kept += 1;
                    if entry.key != *key {
                        difference.changed.push(key.key_id());
                    }
                }
            }
        }
        if kept < current.by_id.len() {
            let ids: std::collections::HashSet<&str> = keys.iter().map(Key::id).collect();
            let gone = current
                .in_file_order()
                .into_iter()
                .filter(|entry| !ids.contains(entry.key.id()));
            difference.removed = gone.map(|entry| entry.key.key_id()).collect();
        }
        difference
    }

    /// Puts a whole new table in place, in the order of the key file. Requests see the old one or the new one, whole.
    /// The caller has made sure that ids and hashes are unique. Unchanged keys keep their memory.
    pub fn swap(&self, keys: Vec<Key>) -> Difference {
        let _turn = lock(&self.writer);
        let difference = self.compare(&keys);
        let current = self.current.load_full();
        let reuse = |key: Key| match current.entry(key.id()) {
            Some((entry, _)) if entry.key == key => entry,
            _ => Arc::new(Entry::from(key)),
        };
        self.current
            .store(Arc::new(Keys::of(keys.into_iter().map(reuse).collect())));
        for id in &difference.removed {
            self.usage.remove(id);
        }
        self.grow();
        difference
    }

    /// The keys in the order of the key file.
    #[must_use]
    pub fn in_file_order(&self) -> Vec<Arc<Entry>> {
        self.current.load().in_file_order()
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
        let by_age = lock(&keys.by_age);
        let older = match after {
            Some(after) => by_age.range(..after),
            None => by_age.range(..),
        };
        let mut page = Page {
            entries: Vec::new(),
            next: None,
        };
        let mut last = None;
        for (age, entry) in older.rev().filter(|(_, entry)| wanted(&entry.key)) {
            if page.entries.len() == limit {
                page.next = last;
                break;
            }
            page.entries.push(Arc::clone(entry));
            last = Some(*age);
        }
        page
    }

    /// Counts a request that a key was let in with.
    pub fn count(&self, entry: &Entry, now: UnixTime) {
        let find = || Arc::clone(&self.usage.entry(entry.key.key_id()).or_default());
        entry.usage.get_or_init(find).count(now);
    }

    /// How often a key was let in, and when last.
    #[must_use]
    pub fn usage(&self, entry: &Entry) -> usage::Reading {
        let used = entry
            .usage
            .get()
            .cloned()
            .or_else(|| self.usage.get(&entry.key.key_id()).map(|u| Arc::clone(&u)));
        used.map(|usage| usage.read()).unwrap_or_default()
    }

    /// The change is visible before the number that announces it.
    fn grow(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Keys {
    fn of(entries: Vec<Arc<Entry>>) -> Self {
        let ages = entries
            .iter()
            .zip(0..)
            .map(|(entry, place)| Age::of(&entry.key, place));
        let by_id = DashMap::with_capacity(entries.len());
        let mut by_age: Vec<_> = ages.zip(entries.iter().cloned()).collect();
        for (age, entry) in &by_age {
            by_id.insert(ById(Arc::clone(entry)), *age);
        }
        by_age.sort_unstable_by_key(|(age, _)| *age);
        let next_place = AtomicU64::new(entries.len() as u64);
        Self {
            by_hash: Shards::of(entries),
            by_id,
            by_age: Mutex::new(by_age.into_iter().collect()),
            next_place,
        }
    }

    fn entry(&self, id: &str) -> Option<(Arc<Entry>, Age)> {
        self.by_id
            .get(id)
            .map(|found| (Arc::clone(&found.key().0), *found.value()))
    }

    fn add(&self, entry: Arc<Entry>) {
        let age = Age::of(&entry.key, self.next_place.fetch_add(1, Ordering::Relaxed));
        self.put(entry, age);
    }

    fn put(&self, entry: Arc<Entry>, age: Age) {
        lock(&self.by_age).insert(age, Arc::clone(&entry));
        match self.by_id.entry(ById(Arc::clone(&entry))) {
            Occupied(before) => drop(before.replace_entry(age)),
            Vacant(free) => drop(free.insert(age)),
        }
        self.by_hash.put(entry);
    }

    fn in_file_order(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = lock(&self.by_age)
            .iter()
            .map(|(age, entry)| (age.place, Arc::clone(entry)))
            .collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, entry)| entry).collect()
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

/// No code panics while it holds one of these locks; if it ever did, what it guards is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::{KeyFields, KeyName};
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
        table.swap(vec![key(1, 8, Some(3))]);
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
        table.swap(vec![
            key(1, 1, None),
            key(2, 2, Some(5)),
            key(3, 3, Some(9)),
            key(4, 4, Some(5)),
            key(5, 5, None),
        ]);
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
            ids(&table.in_file_order()),
            ["key_1", "key_3", "key_4", "key_5"]
        );
    }

    #[test]
    fn a_swap_reports_what_it_adds_removes_and_changes_and_keeps_the_rest() {
        let table = Table::default();
        table.swap(vec![key(1, 1, None), key(2, 2, None), key(3, 3, None)]);
        let kept = table.by_id("key_3").unwrap();
        let next = vec![key(2, 9, None), key(3, 3, None), key(4, 4, None)];
        assert_eq!(table.compare(&next), table.swap(next.clone()));
        assert!(Arc::ptr_eq(&kept, &table.by_id("key_3").unwrap()));
        assert!(table.find(&hash(2)).is_none() && table.find(&hash(9)).is_some());
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
                        table.swap(model.iter().map(|(id, token)| key(*id, *token, None)).collect());
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
