//! What was taken out of the queues and is not in the database yet, in the order in which it is written: the batch that is
//! being written, the spool on disk, and the queues.
//!
//! While the database answers, nothing of this touches the disk. Where it does not, a thread of its own moves what waits
//! into the spool: the writer itself may be waiting for the server.
//!
//! Invariant: of each request, the usage is in one place: in a queue, in the spool, or in a batch in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::database::driver::WrittenBatches;
use crate::store::database::queue::Queues;
use crate::store::database::record::{Batch, SumsMap, UsageRecord};
use crate::store::database::spool::{DamagedLines, Spool, SpoolContents, SpoolError};

/// Records of one transaction. More would hold up a flush for longer.
const MAX_BATCH: usize = 20_000;
/// What waits goes to the disk where the writer has not come back for so long. With [`SPOOL_EVERY`] and the writer's own
/// pause it is less than a second.
const WRITER_IS_LATE: Duration = Duration::from_millis(450);
/// Between two looks at what waits.
pub(crate) const SPOOL_EVERY: Duration = Duration::from_millis(250);
/// Between two calls of fsync.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// See the module's page.
pub(crate) struct PendingUsage {
    queues: Arc<Queues>,
    names: BatchNames,
    keeps_records: bool,
    next_number: i64,
    in_flight: Option<PendingBatch>,
    /// Could not be put into the spool. It comes behind it.
    held: Option<PendingBatch>,
    spool: Option<Spool>,
    /// Bytes in the spool, for those who only ask for that.
    spooled_bytes: Arc<AtomicU64>,
    /// When the writer asked for a batch last.
    asked_at: Instant,
    synced_at: Instant,
}

/// Whose batches these are.
pub(crate) struct BatchNames {
    /// A text that no other start of a gateway has.
    pub(crate) writer: Arc<str>,
    pub(crate) gateway: Arc<str>,
}

/// A batch in memory.
struct PendingBatch {
    batch: Arc<Batch>,
    /// Bytes that its records still count in the queues.
    bytes: usize,
    /// Whether it is the spool's first.
    is_spooled: bool,
}

impl PendingUsage {
    pub(crate) fn new(
        queues: Arc<Queues>,
        names: BatchNames,
        keeps_records: bool,
        spool: Option<Spool>,
    ) -> Self {
        let pending = Self {
            queues,
            names,
            keeps_records,
            next_number: 1,
            in_flight: None,
            held: None,
            spool,
            spooled_bytes: Arc::default(),
            asked_at: Instant::now(),
            synced_at: Instant::now(),
        };
        pending.count();
        pending
    }

    pub(crate) fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    /// Bytes in the spool, as they change.
    pub(crate) fn spooled_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.spooled_bytes)
    }

    fn count(&self) {
        let bytes = self.spool.as_ref().map_or(0, Spool::bytes);
        self.spooled_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The batch to be written next. It stays the same until [`Self::written`]. None: nothing waits. `or_empty`: then an
    /// empty one.
    pub(crate) fn next(
        &mut self,
        or_empty: bool,
        now: i64,
    ) -> Result<Option<Arc<Batch>>, SpoolError> {
        self.asked_at = Instant::now();
        if self.in_flight.is_none() {
            let spooled = match &mut self.spool {
                Some(spool) => spool.front(now)?,
                None => None,
            };
            self.count();
            let held = self.held.take();
            self.in_flight = match spooled {
                Some(batch) => {
                    self.held = held;
                    Some(PendingBatch {
                        batch,
                        bytes: 0,
                        is_spooled: true,
                    })
                }
                None => held.or_else(|| self.cut(or_empty, now)),
            };
        }
        let in_flight = self.in_flight.as_ref();
        Ok(in_flight.map(|in_flight| Arc::clone(&in_flight.batch)))
    }

    /// A batch of what is in the queues.
    fn cut(&mut self, or_empty: bool, now: i64) -> Option<PendingBatch> {
        let taken = self.queues.take(MAX_BATCH);
        if taken.is_empty() && !or_empty {
            return None;
        }
        let mut records = taken.records;
        let mut bytes = records.iter().map(UsageRecord::weight).sum();
        if !self.keeps_records {
            self.queues.forget(bytes);
            records.clear();
            bytes = 0;
        }
        let number = self.next_number;
        self.next_number += 1;
        Some(PendingBatch {
            batch: Arc::new(Batch {
                writer: Arc::clone(&self.names.writer),
                gateway: Arc::clone(&self.names.gateway),
                number,
                now,
                records,
                sums: taken.sums,
                key_uses: taken.key_uses,
            }),
            bytes,
            is_spooled: false,
        })
    }

    /// The batch that was asked for is in the database.
    pub(crate) fn written(&mut self) -> Result<(), SpoolError> {
        let Some(in_flight) = self.in_flight.take() else {
            return Ok(());
        };
        self.queues.forget(in_flight.bytes);
        let removed = match &mut self.spool {
            Some(spool) if in_flight.is_spooled => spool.remove_front(),
            _ => Ok(()),
        };
        self.count();
        removed
    }

    /// Moves what waits into the spool, where it is time. `is_down`: the last write failed.
    pub(crate) fn spool_if_due(&mut self, is_down: bool, now: i64) -> Result<(), SpoolError> {
        let has_waiting = self.spool.as_ref().is_some_and(|spool| !spool.is_empty());
        let is_late = self.asked_at.elapsed() >= WRITER_IS_LATE;
        if is_down || is_late || has_waiting || self.held.is_some() {
            self.spool_all(now)?;
        }
        if self.synced_at.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Moves all that waits into the spool.
    pub(crate) fn spool_all(&mut self, now: i64) -> Result<(), SpoolError> {
        let spooled = self.move_to_spool(now);
        if let Some(spool) = &mut self.spool {
            self.queues.count_dropped(spool.take_dropped());
        }
        self.count();
        spooled
    }

    fn move_to_spool(&mut self, now: i64) -> Result<(), SpoolError> {
        let Some(mut spool) = self.spool.take() else {
            return Ok(());
        };
        let moved = self.move_to(&mut spool, now);
        self.spool = Some(spool);
        moved
    }

    fn move_to(&mut self, spool: &mut Spool, now: i64) -> Result<(), SpoolError> {
        // It may be on its way to the database, so it comes first.
        if let Some(in_flight) = &mut self.in_flight
            && !in_flight.is_spooled
            && !in_flight.batch.is_empty()
        {
            spool.append_sent(&in_flight.batch)?;
            in_flight.is_spooled = true;
            self.queues.forget(std::mem::take(&mut in_flight.bytes));
        }
        while let Some(held) = self.held.take().or_else(|| self.cut(false, now)) {
            if let Err(error) = spool.append(&held.batch) {
                self.held = Some(held);
                return Err(error);
            }
            self.queues.forget(held.bytes);
        }
        Ok(())
    }

    /// Returns when all that is in the spool is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        self.synced_at = Instant::now();
        self.spool.as_mut().map_or(Ok(()), Spool::sync)
    }

    /// What was found to be damaged in the spool since this was asked last.
    pub(crate) fn take_damaged(&mut self) -> Vec<DamagedLines> {
        self.spool
            .as_mut()
            .map(Spool::take_damaged)
            .unwrap_or_default()
    }

    /// Of how many requests the usage is in the spool.
    pub(crate) fn spooled_requests(&self) -> i64 {
        self.spool.as_ref().map_or(0, Spool::requests)
    }

    /// Single records in the spool, and batches.
    pub(crate) fn spooled_batches(&self) -> (u64, usize) {
        let spool = self.spool.as_ref();
        spool.map_or((0, 0), |spool| (spool.records(), spool.batches()))
    }

    /// The sums of all that is in memory and not in the spool.
    pub(crate) fn sums_in_memory(&self) -> SumsMap {
        let mut all = self.queues.sums();
        for waiting in [&self.in_flight, &self.held].into_iter().flatten() {
            if !waiting.is_spooled {
                for (key, sums) in &waiting.batch.sums {
                    all.entry(key.clone()).or_default().add(sums);
                }
            }
        }
        all
    }

    /// All that waits, as it is now.
    pub(crate) fn waiting(&self) -> Result<WaitingUsage, SpoolError> {
        let in_memory = [&self.in_flight, &self.held].into_iter().flatten();
        let in_memory = in_memory.filter(|waiting| !waiting.is_spooled);
        Ok(WaitingUsage {
            queued: self.queues.sums(),
            batches: in_memory
                .map(|waiting| Arc::clone(&waiting.batch))
                .collect(),
            spooled: self.spool.as_ref().map(Spool::contents).transpose()?,
            writer: Arc::clone(&self.names.writer),
            next_number: self.next_number,
        })
    }
}

/// What waits at one instant.
pub(crate) struct WaitingUsage {
    queued: SumsMap,
    batches: Vec<Arc<Batch>>,
    spooled: Option<SpoolContents>,
    writer: Arc<str>,
    next_number: i64,
}

impl WaitingUsage {
    /// The sums of what is not among these batches, which were written later. None: what was in the queues may be among
    /// them.
    pub(crate) fn sums_without(
        self,
        written: &WrittenBatches,
    ) -> Result<Option<SumsMap>, SpoolError> {
        let last = |writer: &str| written.get(writer).copied().unwrap_or(i64::MIN);
        if last(&self.writer) >= self.next_number {
            return Ok(None);
        }
        let mut all = self.queued;
        let mut add = |batch: &Batch| {
            if batch.number > last(&batch.writer) {
                for (key, sums) in &batch.sums {
                    all.entry(key.clone()).or_default().add(sums);
                }
            }
        };
        self.batches.iter().for_each(|batch| add(batch));
        if let Some(spooled) = self.spooled {
            spooled.each_batch(&mut add)?;
        }
        Ok(Some(all))
    }
}
