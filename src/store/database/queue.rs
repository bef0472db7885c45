//! What waits to be written: one queue for each worker, so that workers never wait for each other or for the database.
//!
//! Invariant: all queues together hold at most [`MAX_WAITING`] bytes of records. Past that the oldest records of the
//! worker that adds one are dropped and counted; their sums stay.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::database::record::{KeyUse, SumsMap, UsageRecord, add_to_sums};

/// Records that wait for the database, in bytes.
pub const MAX_WAITING: usize = 64 << 20;
/// Records that are summed up while their worker waits for the lock: less than a millisecond.
const SUMMED_AT_ONCE: usize = 1_000;

/// A worker's way to the database. It never waits for the disk.
#[derive(Clone, Debug)]
pub struct UsageSender {
    queue: Arc<Mutex<Waiting>>,
    shared: Arc<Queues>,
}

/// What waits in one queue.
#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<UsageRecord>,
    /// The sums of records that were dropped.
    sums: SumsMap,
    /// The same and those of the first [`Self::summed`] records, for questions while the database cannot be written.
    known: SumsMap,
    summed: usize,
    /// By key, so that they need no more memory than there are keys.
    key_uses: HashMap<Arc<str>, KeyUse>,
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: Mutex<Vec<Arc<Mutex<Waiting>>>>,
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl UsageSender {
    /// Adds a finished request. It is written within a second, where the database can be written.
    pub fn add(&self, record: UsageRecord) {
        let weight = record.weight();
        let waiting = self
            .shared
            .waiting_bytes
            .fetch_add(weight, Ordering::Relaxed);
        let mut queue = lock(&self.queue);
        queue.records.push_back(record);
        if waiting + weight > MAX_WAITING {
            self.drop_oldest(&mut queue);
        }
    }

    /// Adds a request of a key that passed the checks before the body.
    pub fn add_key_use(&self, key_id: &str, at: i64) {
        let mut queue = lock(&self.queue);
        match queue.key_uses.get_mut(key_id) {
            Some(known) => known.add(1, at),
            None => {
                let key_id: Arc<str> = key_id.into();
                let first = KeyUse {
                    key_id: Arc::clone(&key_id),
                    last_used_at: at,
                    requests: 1,
                };
                queue.key_uses.insert(key_id, first);
            }
        }
    }

    #[cold]
    fn drop_oldest(&self, queue: &mut Waiting) {
        while self.shared.waiting_bytes.load(Ordering::Relaxed) > MAX_WAITING {
            let Some(record) = queue.records.pop_front() else {
                return;
            };
            self.shared.forget(record.weight());
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            add_to_sums(&mut queue.sums, &record);
            match queue.summed.checked_sub(1) {
                Some(summed) => queue.summed = summed,
                None => add_to_sums(&mut queue.known, &record),
            }
        }
    }
}

impl Waiting {
    /// Sums up some more records. Returns whether all are summed up.
    fn sum_some(&mut self) -> bool {
        let end = self.records.len().min(self.summed + SUMMED_AT_ONCE);
        for record in self.records.range(self.summed..end) {
            add_to_sums(&mut self.known, record);
        }
        self.summed = end;
        end == self.records.len()
    }
}

/// What was taken out of the queues.
#[derive(Debug, Default)]
pub(crate) struct TakenUsage {
    pub(crate) records: Vec<UsageRecord>,
    /// The sums of all records that were taken or dropped.
    pub(crate) sums: SumsMap,
    pub(crate) key_uses: Vec<KeyUse>,
}

impl TakenUsage {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sums.is_empty() && self.key_uses.is_empty()
    }
}

impl Queues {
    /// A new queue. Each worker has its own.
    pub(crate) fn sender(self: &Arc<Self>) -> UsageSender {
        let queue = Arc::<Mutex<Waiting>>::default();
        lock(&self.queues).push(Arc::clone(&queue));
        UsageSender {
            queue,
            shared: Arc::clone(self),
        }
    }

    /// Takes out at most about `most` records, and all else. They still count as waiting, until [`Self::forget`].
    pub(crate) fn take(&self, most: usize) -> TakenUsage {
        let queues = lock(&self.queues).clone();
        let mut taken = TakenUsage::default();
        for queue in queues {
            let mut queue = lock(&queue);
            let room = most.saturating_sub(taken.records.len());
            let count = room.min(queue.records.len());
            if taken.records.is_empty() && count == queue.records.len() {
                // Nothing is copied while the worker waits for the lock.
                taken.records = Vec::from(std::mem::take(&mut queue.records));
            } else {
                taken.records.extend(queue.records.drain(..count));
            }
            let sums = std::mem::take(&mut queue.sums);
            (queue.known, queue.summed) = (SumsMap::new(), 0);
            let key_uses = std::mem::take(&mut queue.key_uses);
            drop(queue);
            taken.key_uses.extend(key_uses.into_values());
            for (key, sums) in sums {
                taken.sums.entry(key).or_default().add(&sums);
            }
        }
        // Each queue is in the order in which its requests ended; so are all together.
        taken.records.sort_by_key(|record| record.ended_at);
        for record in &taken.records {
            add_to_sums(&mut taken.sums, record);
        }
        taken
    }

    /// The sums of all that is in the queues.
    pub(crate) fn sums(&self) -> SumsMap {
        let mut all = SumsMap::new();
        for queue in lock(&self.queues).clone() {
            // Its worker may add records in between.
            let queue = loop {
                let mut queue = lock(&queue);
                if queue.sum_some() {
                    break queue;
                }
            };
            for (key, sums) in &queue.known {
                all.entry(key.clone()).or_default().add(sums);
            }
        }
        all
    }

    /// Records of so many bytes wait no longer.
    pub(crate) fn forget(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So many records were dropped elsewhere.
    pub(crate) fn count_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A panic leaves a queue usable: at most one record is missing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
