//! The keys by the hashes of their tokens, in many small arrays. A key with a previous token is in two of them. A change of one key replaces its array as a whole, so a
//! reader holds the array from before or after the change and never waits.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::token::TokenHash;
use crate::table::entry::Entry;
use crate::table::incremental::{YieldPoint, yield_every};

/// Keys in a shard on average after a reload.
const KEYS_PER_SHARD: usize = 8;
const MIN_SHARDS: usize = 1024;
/// With more keys in a shard, creating one key copies too much, and the table is built anew with more shards.
const MAX_KEYS_PER_SHARD: usize = 4 * KEYS_PER_SHARD;

#[derive(Debug)]
pub(crate) struct Shards(Box<[ArcSwap<Shard>]>);

/// The first bytes of each hash are beside its entry, so that a search reads no other entry's memory.
type Shard = Vec<(u64, Arc<Entry>)>;

impl Shards {
    /// Allocates every shard once, in its final size. With a million keys, growing vectors would leave the heap
    /// fragmented.
    pub(crate) fn of(entries: &[Arc<Entry>], yield_point: YieldPoint) -> Self {
        let count = (entries.len() / KEYS_PER_SHARD)
            .next_power_of_two()
            .max(MIN_SHARDS);
        let mut sizes = vec![0_u32; count];
        for entry in yield_every(entries, yield_point) {
            for hash in entry.key().hashes() {
                sizes[shard_index(hash_prefix(hash), count)] += 1;
            }
        }
        let sized = |size: &u32| Shard::with_capacity(*size as usize);
        let mut shards: Vec<Shard> = yield_every(&sizes, yield_point).map(sized).collect();
        for entry in yield_every(entries, yield_point) {
            for hash in entry.key().hashes() {
                let prefix = hash_prefix(hash);
                shards[shard_index(prefix, count)].push((prefix, Arc::clone(entry)));
            }
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
            .find(|(other, entry)| *other == prefix && entry.key().token_of(hash).is_some());
        found.map(|(_, entry)| Arc::clone(entry))
    }

    /// Adds the entry under each of its hashes, or replaces the one that has that hash. The caller holds the writer lock.
    pub(crate) fn put(&self, entry: &Arc<Entry>) {
        for hash in entry.key().hashes() {
            let prefix = hash_prefix(hash);
            let mut changed = self.copy_without(hash, 1);
            changed.push((prefix, Arc::clone(entry)));
            self.shard(prefix).store(Arc::new(changed));
        }
    }

    /// Removes the entry that has this hash, where it is of this key: another one may have the hash by now. The caller holds the
    /// writer lock.
    pub(crate) fn remove(&self, hash: &TokenHash, id: &str) {
        if self.find(hash).is_some_and(|found| found.key().id() == id) {
            self.shard(hash_prefix(hash))
                .store(Arc::new(self.copy_without(hash, 0)));
        }
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
                .filter(|(prefix, entry)| {
                    *prefix != hash_prefix(hash) || entry.key().token_of(hash).is_none()
                })
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

/// `count` is a power of two. A token's hash is as good as random, so its lowest bits spread the keys evenly.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only the lowest bits count"
)]
fn shard_index(prefix: u64, count: usize) -> usize {
    prefix as usize & (count - 1)
}
