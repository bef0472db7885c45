//! Keys by the hash of their token: many small arrays, each replaced as a whole when a key of it changes, so that a
//! reader holds either the array before a change or the one after it and never waits for either.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::token::TokenHash;
use crate::table::entry::Entry;
use crate::table::incremental::{YieldPoint, yield_every};

/// How many keys a shard holds on average after a reload.
const KEYS_PER_SHARD: usize = 8;
const MIN_SHARDS: usize = 1024;
/// Past this many keys a shard, single creates are no longer cheap and the table is laid out anew.
const MAX_KEYS_PER_SHARD: usize = 4 * KEYS_PER_SHARD;

#[derive(Debug)]
pub(crate) struct Shards(Box<[ArcSwap<Shard>]>);

/// The hash's first bytes stand beside each entry, so that a search touches no entry but the one it finds.
type Shard = Vec<(u64, Arc<Entry>)>;

impl Shards {
    /// Every shard is allocated once, in its final size: at a million keys, whatever else was allocated on the way
    /// would stay behind as holes in the heap.
    pub(crate) fn of(entries: &[Arc<Entry>], yield_point: YieldPoint) -> Self {
        let count = (entries.len() / KEYS_PER_SHARD)
            .next_power_of_two()
            .max(MIN_SHARDS);
        let mut sizes = vec![0_u32; count];
        for entry in yield_every(entries, yield_point) {
            sizes[shard_index(hash_prefix(entry.key().hash()), count)] += 1;
        }
        let sized = |size: &u32| Shard::with_capacity(*size as usize);
        let mut shards: Vec<Shard> = yield_every(&sizes, yield_point).map(sized).collect();
        for entry in yield_every(entries, yield_point) {
            let prefix = hash_prefix(entry.key().hash());
            shards[shard_index(prefix, count)].push((prefix, Arc::clone(entry)));
        }
        let empty = Arc::new(Shard::new());
        let share = |shard: Shard| {
            ArcSwap::new(if shard.is_empty() {
                Arc::clone(&empty)
            } else {
                Arc::new(shard)
            })
        };
        Self(yield_every(shards, yield_point).map(share).collect())
    }

    pub(crate) fn find(&self, hash: &TokenHash) -> Option<Arc<Entry>> {
        let prefix = hash_prefix(hash);
        let shard = self.shard(prefix).load();
        let found = shard
            .iter()
            .find(|(other, entry)| *other == prefix && entry.key().hash() == hash);
        found.map(|(_, entry)| Arc::clone(entry))
    }

    /// Adds the entry, or puts it in the place of the one with the same hash. The caller is the only writer.
    pub(crate) fn put(&self, entry: Arc<Entry>) {
        let prefix = hash_prefix(entry.key().hash());
        let mut changed = self.copy_without(entry.key().hash(), 1);
        changed.push((prefix, entry));
        self.shard(prefix).store(Arc::new(changed));
    }

    /// The caller is the only writer.
    pub(crate) fn remove(&self, hash: &TokenHash) {
        self.shard(hash_prefix(hash))
            .store(Arc::new(self.copy_without(hash, 0)));
    }

    pub(crate) fn is_overfull(&self, keys: usize) -> bool {
        keys / self.0.len() >= MAX_KEYS_PER_SHARD
    }

    fn copy_without(&self, hash: &TokenHash, extra_capacity: usize) -> Shard {
        let shard = self.shard(hash_prefix(hash)).load();
        let mut others = Vec::with_capacity(shard.len() + extra_capacity);
        others.extend(
            shard
                .iter()
                .filter(|(_, entry)| entry.key().hash() != hash)
                .cloned(),
        );
        others
    }

    fn shard(&self, prefix: u64) -> &ArcSwap<Shard> {
        &self.0[shard_index(prefix, self.0.len())]
    }
}

impl IntoIterator for Shards {
    type Item = ArcSwap<Shard>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn hash_prefix(hash: &TokenHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// `count` is a power of two; a token's hash is as good as random, so its lowest bits spread keys evenly.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only the lowest bits count"
)]
fn shard_index(prefix: u64, count: usize) -> usize {
    prefix as usize & (count - 1)
}
