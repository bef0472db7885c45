//! The one thread that writes to the database.
//!
//! It takes what waits five times a second and writes it in one transaction. A batch that could not be written is tried
//! again, as it is, until it was written: its number makes it count once, also where a commit succeeded and its answer
//! was lost. Meanwhile new records wait in their queues.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::store::database::driver::{Driver, Retention};
use crate::store::database::error::DatabaseError;
use crate::store::database::queue::{Queues, lock};
use crate::store::database::record::{Batch, SumsMap, UsageRecord, whole};

/// Between two transactions, while all is well.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// Between two tries after a failure: the first, doubled each time up to the last.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// Records of one transaction. More would hold up a flush for longer.
const MAX_BATCH: usize = 20_000;
/// Between two steps of deleting, and rows of a step.
const DELETE_EVERY: Duration = Duration::from_secs(1);
const DELETE_ROWS: u32 = 2_000;
/// Between two looks for rows to delete, when there are none.
const DELETE_PAUSE: Duration = Duration::from_secs(60);

/// After the clock was set by more than [`CLOCK_STEP`], nothing is deleted for so long: a clock that runs ahead for a
/// moment would delete all.
const AFTER_CLOCK_STEP: Duration = Duration::from_secs(3600);
/// In seconds.
const CLOCK_STEP: i64 = 600;

/// What the writer tells of its work, for logs and metrics. It is called on the writer's thread.
pub type DatabaseObserver = Box<dyn Fn(DatabaseEvent<'_>) + Send>;

/// What happened to the database.
#[derive(Debug)]
pub enum DatabaseEvent<'e> {
    /// A transaction was written.
    Written {
        /// How many records it had.
        records: usize,
        /// How long it took.
        took: Duration,
    },
    /// The database cannot be written any more; records wait. Said once for each failure of another kind.
    Down(&'e DatabaseError),
    /// It can be written again.
    Up,
    /// Old rows could not be deleted.
    NotDeleted(&'e DatabaseError),
}

/// How the database is.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseStatus {
    /// Whether the last write succeeded.
    pub up: bool,
    /// Why not, and what to do.
    pub error: Option<String>,
    /// Records that were dropped since the start, because too many waited.
    pub dropped_records: u64,
    /// Records that wait, in bytes.
    pub waiting_bytes: usize,
}

/// How long rows are kept, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepFor {
    /// Single records; 0: none are kept at all.
    pub records: i64,
    /// Sums.
    pub sums: i64,
}

enum Request {
    Flush(SyncSender<bool>),
    Stop,
}

/// What the thread shares with its handle.
struct WriterShared {
    queues: Arc<Queues>,
    /// The error of the last write.
    error: Mutex<Option<String>>,
    /// What was taken out of the queues and is not written yet.
    in_flight: Mutex<Option<Arc<Batch>>>,
}

/// The handle of the thread.
pub(crate) struct WriterHandle {
    shared: Arc<WriterShared>,
    requests: Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WriterHandle {
    pub(crate) fn start(
        driver: Box<dyn Driver>,
        queues: Arc<Queues>,
        gateway: &str,
        instance: &str,
        keep_for: KeepFor,
        observer: DatabaseObserver,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(WriterShared {
            queues,
            error: Mutex::new(None),
            in_flight: Mutex::new(None),
        });
        let (requests, received) = channel();
        let mut writer = DatabaseWriter {
            driver,
            shared: Arc::clone(&shared),
            gateway: gateway.into(),
            instance: instance.into(),
            next_number: 1,
            keep_for,
            observer,
            retry: RETRY[0],
            next_delete: Instant::now(),
            clock: ClockGuard::new(now(), Instant::now()),
            is_up: true,
        };
        let thread = std::thread::Builder::new()
            .name("database".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Self {
            shared,
            requests,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes all that waits now. Returns whether it was written in this time.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let (answer, answered) = sync_channel(1);
        self.requests.send(Request::Flush(answer)).is_ok()
            && answered.recv_timeout(timeout).unwrap_or(false)
    }

    /// Writes all that waits and ends the thread. Returns whether all was written in this time.
    pub(crate) fn stop(&self, timeout: Duration) -> bool {
        let flushed = self.flush(timeout);
        let told = self.requests.send(Request::Stop).is_ok();
        let thread = lock(&self.thread).take();
        // After a failure the thread may be in a write that takes longer, and is left alone.
        if let Some(thread) = thread
            && flushed
            && told
        {
            let _ = thread.join();
        }
        flushed
    }

    pub(crate) fn status(&self) -> DatabaseStatus {
        let thread = lock(&self.thread);
        let has_ended = thread.as_ref().is_none_or(JoinHandle::is_finished);
        let ended = || "the thread that writes to the database has ended; restart the gateway";
        let error = lock(&self.shared.error).clone();
        let error = error.or_else(|| has_ended.then(|| ended().to_owned()));
        DatabaseStatus {
            up: error.is_none(),
            error,
            dropped_records: self.shared.queues.dropped(),
            waiting_bytes: self.shared.queues.waiting_bytes(),
        }
    }

    /// Of how many requests the usage is not written yet, those included whose records were dropped.
    pub(crate) fn unwritten_requests(&self) -> i64 {
        self.waiting_sums().values().map(|sums| sums.requests).sum()
    }

    /// The sums of all that is not written yet.
    pub(crate) fn waiting_sums(&self) -> SumsMap {
        // Both under one lock, so that a batch is seen once while it moves.
        let in_flight = lock(&self.shared.in_flight);
        let mut all = self.shared.queues.sums();
        if let Some(batch) = &*in_flight {
            for (key, sums) in &batch.sums {
                all.entry(key.clone()).or_default().add(sums);
            }
        }
        all
    }
}

/// The thread's state.
struct DatabaseWriter {
    driver: Box<dyn Driver>,
    shared: Arc<WriterShared>,
    gateway: Arc<str>,
    instance: Arc<str>,
    next_number: i64,
    keep_for: KeepFor,
    observer: DatabaseObserver,
    retry: Duration,
    next_delete: Instant,
    clock: ClockGuard,
    is_up: bool,
}

impl DatabaseWriter {
    fn run(&mut self, requests: &Receiver<Request>) {
        let mut next_write = Instant::now() + WRITE_EVERY;
        loop {
            let pause = next_write.saturating_duration_since(Instant::now());
            match requests.recv_timeout(pause) {
                Ok(Request::Flush(answer)) => {
                    // The one who asked may have given up.
                    let _ = answer.try_send(self.write_all());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    next_write = match self.write_all() {
                        // Counted from its beginning, so that a long write does not delay the next one too.
                        true => began + WRITE_EVERY,
                        false => Instant::now() + self.retry,
                    };
                    self.delete_step();
                }
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.write_all();
                    return;
                }
            }
        }
    }

    /// Writes all that waits. Returns whether it could.
    fn write_all(&mut self) -> bool {
        // What is added meanwhile waits for the next time, so that this ends.
        let mut left = 1 + self.shared.queues.waiting_bytes() / size_of::<UsageRecord>();
        loop {
            let Some(batch) = self.batch() else {
                return true;
            };
            let began = Instant::now();
            match self.driver.write(&batch) {
                Ok(()) => {
                    let bytes = batch.records.iter().map(UsageRecord::weight).sum();
                    *lock(&self.shared.in_flight) = None;
                    self.shared.queues.forget(bytes);
                    self.wrote(batch.records.len(), began.elapsed());
                    left = left.saturating_sub(batch.records.len().max(1));
                    if left == 0 {
                        return true;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    return false;
                }
            }
        }
    }

    /// The batch that could not be written, or a new one. None if nothing waits.
    fn batch(&mut self) -> Option<Arc<Batch>> {
        let mut in_flight = lock(&self.shared.in_flight);
        if let Some(batch) = &*in_flight {
            return Some(Arc::clone(batch));
        }
        let taken = self.shared.queues.take(MAX_BATCH);
        if taken.is_empty() {
            return None;
        }
        let mut records = taken.records;
        if self.keep_for.records == 0 {
            let bytes = records.iter().map(UsageRecord::weight).sum();
            self.shared.queues.forget(bytes);
            records.clear();
        }
        let batch = Arc::new(Batch {
            writer: Arc::clone(&self.instance),
            gateway: Arc::clone(&self.gateway),
            number: self.next_number,
            now: now(),
            records,
            sums: taken.sums,
            key_uses: taken.key_uses,
        });
        self.next_number += 1;
        *in_flight = Some(Arc::clone(&batch));
        Some(batch)
    }

    fn wrote(&mut self, records: usize, took: Duration) {
        self.retry = RETRY[0];
        if !self.is_up {
            self.is_up = true;
            *lock(&self.shared.error) = None;
            (self.observer)(DatabaseEvent::Up);
        }
        (self.observer)(DatabaseEvent::Written { records, took });
    }

    fn failed(&mut self, error: &DatabaseError) {
        self.retry = (self.retry * 2).min(RETRY[1]);
        self.is_up = false;
        let text = error.to_string();
        let before = lock(&self.shared.error).replace(text.clone());
        if before.as_deref() != Some(&text) {
            (self.observer)(DatabaseEvent::Down(error));
        }
    }

    /// Deletes some old rows, if it is time.
    fn delete_step(&mut self) {
        if !self.is_up || Instant::now() < self.next_delete {
            return;
        }
        let now = now();
        if !self.clock.is_steady(now, Instant::now()) {
            return;
        }
        let retention = Retention {
            now,
            records_before: now.saturating_sub(self.keep_for.records),
            sums_before: now.saturating_sub(self.keep_for.sums),
        };
        let deleted = self.driver.delete_old(&retention, DELETE_ROWS);
        if let Err(error) = &deleted {
            (self.observer)(DatabaseEvent::NotDeleted(error));
        }
        let pause = match deleted {
            Ok(rows) if rows > 0 => DELETE_EVERY,
            _ => DELETE_PAUSE,
        };
        self.next_delete = Instant::now() + pause;
    }
}

/// Notices that the clock was set.
struct ClockGuard {
    /// The clock at the last look, in seconds, and when that was.
    last: (i64, Instant),
    steady_from: Instant,
}

impl ClockGuard {
    fn new(now: i64, at: Instant) -> Self {
        Self {
            last: (now, at),
            steady_from: at,
        }
    }

    /// Whether the clock was not set for long enough.
    fn is_steady(&mut self, now: i64, at: Instant) -> bool {
        let (last, last_at) = self.last;
        let passed = whole(at.saturating_duration_since(last_at).as_secs());
        if now.saturating_sub(last).abs_diff(passed) > CLOCK_STEP.unsigned_abs() {
            self.steady_from = at + AFTER_CLOCK_STEP;
        }
        self.last = (now, at);
        at >= self.steady_from
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    whole(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_for_an_hour_after_the_clock_was_set() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut guard = ClockGuard::new(1_000_000, start);
        assert!(guard.is_steady(1_000_060, at(60)));
        // Ten years ahead, and back.
        assert!(!guard.is_steady(316_000_000, at(120)));
        assert!(!guard.is_steady(1_000_180, at(180)));
        assert!(!guard.is_steady(1_003_700, at(3_700)));
        assert!(guard.is_steady(1_003_780, at(3_780)));
        // A clock that is corrected by some minutes deletes no more than it should.
        assert!(guard.is_steady(1_004_300, at(3_840)));
        // Back by a day.
        assert!(!guard.is_steady(917_900, at(3_900)));
    }
}
