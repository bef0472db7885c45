//! The one thread that writes to the database.
//!
//! It takes what waits five times a second and writes it in one transaction. A batch that could not be written is tried
//! again, as it is, until it was written: its number makes it count once, also where a commit succeeded and its answer
//! was lost. Meanwhile new records wait in their queues, or in the spool where there is one: a second thread puts them there,
//! since this one may be waiting for the server.
//!
//! Audit rows are written at once, between two batches, in the order in which they were asked for, and answered when they
//! are on disk. Those that may wait do so here, before all later ones, and in the spool.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin};
use crate::store::database::audit::{AuditStatus, AuditWrite, IfNotWritten};
use crate::store::database::driver::{AuditChain, AuditCut, Driver, Retention, WrittenBatches};
use crate::store::database::error::DatabaseError;
use crate::store::database::pending::{BatchNames, PendingUsage, SPOOL_EVERY, WaitingUsage};
use crate::store::database::queue::{Queues, lock};
use crate::store::database::record::{Batch, DAY, SumsMap, UsageRecord, whole};
use crate::store::database::spool::{AuditSpool, DamagedLines, Spool, SpoolError, WaitingRows};

/// Between two transactions, while all is well.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// Between two tries after a failure: the first, doubled each time up to the last.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
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

/// Audit rows that wait in memory: at most so many, and so many bytes. Later ones are counted as lost.
const MAX_AUDIT_WAITING: usize = 10_000;
const MAX_AUDIT_BYTES: usize = 16 << 20;

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
    /// Audit rows that waited are written.
    AuditWritten {
        /// How many.
        rows: usize,
    },
    /// The newest audit row is not as it was written, or the key of the hashes is another one.
    AuditBroken {
        /// Its number.
        n: i64,
    },
    /// Old rows could not be deleted.
    NotDeleted(&'e DatabaseError),
    /// The spool cannot be read or written any more. Said once.
    SpoolDown(&'e SpoolError),
    /// It can again.
    SpoolUp,
    /// Lines of a file in the spool were torn or changed, and are left out.
    SpoolDamaged {
        /// The file.
        file: &'e Path,
        /// How many.
        lines: usize,
    },
}

/// How the database is.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseStatus {
    /// Whether the last write succeeded, and the last report of this gateway where others share the database.
    pub up: bool,
    /// Why not, and what to do.
    pub error: Option<String>,
    /// Records that were dropped since the start, because too many waited.
    pub dropped_records: u64,
    /// Records that wait in memory, and all that waits in the spool, in bytes.
    pub waiting_bytes: usize,
}

/// How long rows are kept, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepFor {
    /// Single records; 0: none are kept at all.
    pub records: i64,
    /// Sums.
    pub sums: i64,
    /// Audit rows.
    pub audit: i64,
}

enum Request {
    Flush(SyncSender<bool>),
    /// There are audit requests.
    Audit,
    Stop,
}

/// Audit rows to be written.
struct AuditRequest {
    entries: Vec<AuditEntry>,
    if_not_written: IfNotWritten,
    answer: oneshot::Sender<Result<AuditWrite, Arc<DatabaseError>>>,
}

/// What the thread shares with its handle.
struct WriterShared {
    queues: Arc<Queues>,
    /// The error of the last write.
    error: Mutex<Option<String>>,
    /// What was taken out of the queues and is not written yet.
    pending: Mutex<PendingUsage>,
    spooled_bytes: Arc<AtomicU64>,
    /// Whether the last write into the spool failed.
    is_spool_down: AtomicBool,
    /// Why the spool could not be read.
    spool_unreadable: Mutex<Option<String>>,
    observer: Mutex<DatabaseObserver>,
    /// Oldest first. None: the thread has ended, and nobody would answer.
    audit_requests: Mutex<Option<VecDeque<AuditRequest>>>,
    audit_waiting: AtomicUsize,
    audit_lost: AtomicU64,
    /// The last audit row that was written.
    audit_head: Mutex<AuditMark>,
}

impl WriterShared {
    fn tell(&self, event: DatabaseEvent<'_>) {
        lock(&self.observer)(event);
    }

    /// Tells that the spool cannot be written, or that it can again.
    fn tell_of_spool(&self, written: Result<(), SpoolError>) {
        match written {
            Ok(()) => {
                if self.is_spool_down.swap(false, Ordering::Relaxed) {
                    self.tell(DatabaseEvent::SpoolUp);
                }
            }
            Err(error) => {
                if !self.is_spool_down.swap(true, Ordering::Relaxed) {
                    self.tell(DatabaseEvent::SpoolDown(&error));
                }
            }
        }
    }

    /// Tells once why the spool cannot be read.
    fn tell_of_unreadable(&self, error: &SpoolError) {
        let text = error.to_string();
        let before = lock(&self.spool_unreadable).replace(text.clone());
        if before.as_deref() != Some(&text) {
            self.tell(DatabaseEvent::SpoolDown(error));
        }
    }

    fn readable<T>(&self, read: Result<T, SpoolError>) -> Option<T> {
        read.inspect_err(|error| self.tell_of_unreadable(error))
            .ok()
    }

    fn tell_of_damage(&self, damaged: Vec<DamagedLines>) {
        for DamagedLines { path, count } in damaged {
            self.tell(DatabaseEvent::SpoolDamaged {
                file: &path,
                lines: count,
            });
        }
    }

    fn is_down(&self) -> bool {
        lock(&self.error).is_some()
    }

    /// Moves what waits into the spool, where it is time.
    fn spool(&self) {
        let is_down = self.is_down();
        let mut pending = lock(&self.pending);
        let spooled = pending.spool_if_due(is_down, now());
        let damaged = pending.take_damaged();
        drop(pending);
        self.tell_of_spool(spooled);
        self.tell_of_damage(damaged);
    }
}

/// The answer to audit rows: await it, or call [`wait`](Self::wait). Dropping it does not cancel them.
#[derive(Debug)]
#[must_use]
pub struct AuditReply(oneshot::Receiver<Result<AuditWrite, Arc<DatabaseError>>>);

impl AuditReply {
    /// Blocks until the rows are on disk. Inside a runtime, await the reply instead.
    ///
    /// # Errors
    /// The rows are not written and do not wait. None: the writer has ended.
    pub fn wait(self) -> Result<AuditWrite, Option<Arc<DatabaseError>>> {
        self.0
            .blocking_recv()
            .map_err(|_| None)
            .and_then(|written| written.map_err(Some))
    }

    /// The same inside a runtime.
    ///
    /// # Errors
    /// Those of [`AuditReply::wait`].
    pub async fn written(self) -> Result<AuditWrite, Option<Arc<DatabaseError>>> {
        self.0
            .await
            .map_err(|_| None)
            .and_then(|written| written.map_err(Some))
    }
}

/// What the thread is told at its start.
pub(crate) struct WriterSettings<'s> {
    /// This gateway's name.
    pub(crate) gateway: &'s str,
    /// A text that no other start of a gateway has.
    pub(crate) instance: &'s str,
    pub(crate) keep_for: KeepFor,
    /// The database cannot be reached yet.
    pub(crate) failed: Option<DatabaseError>,
    pub(crate) spool: Option<WriterSpool>,
}

/// What waits on disk, and what an earlier start has left there.
pub(crate) struct WriterSpool {
    pub(crate) usage: Spool,
    pub(crate) audit: AuditSpool,
    pub(crate) waiting: WaitingRows,
}

/// The handle of the thread.
pub(crate) struct WriterHandle {
    shared: Arc<WriterShared>,
    requests: Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread of the spool ends when this is dropped.
    _spool_end: Sender<()>,
}

impl WriterHandle {
    pub(crate) fn start(
        driver: Box<dyn Driver>,
        chain: AuditChain,
        queues: Arc<Queues>,
        settings: WriterSettings<'_>,
        observer: DatabaseObserver,
    ) -> std::io::Result<Self> {
        let WriterSettings {
            gateway,
            instance,
            keep_for,
            failed,
            spool,
        } = settings;
        let (spool, audit_spool, waiting) = match spool {
            Some(WriterSpool {
                usage,
                audit,
                waiting,
            }) => (Some(usage), Some(audit), waiting),
            None => (None, None, WaitingRows::default()),
        };
        let names = BatchNames {
            writer: instance.into(),
            gateway: gateway.into(),
        };
        let pending = PendingUsage::new(Arc::clone(&queues), names, keep_for.records > 0, spool);
        let has_spool = pending.has_spool();
        let shared = Arc::new(WriterShared {
            queues,
            error: Mutex::new(None),
            spooled_bytes: pending.spooled_bytes(),
            pending: Mutex::new(pending),
            is_spool_down: AtomicBool::new(false),
            spool_unreadable: Mutex::new(None),
            observer: Mutex::new(observer),
            audit_requests: Mutex::new(Some(VecDeque::new())),
            audit_waiting: AtomicUsize::new(waiting.entries.len()),
            audit_lost: AtomicU64::new(0),
            audit_head: Mutex::new(chain.last.clone()),
        });
        let damaged = lock(&shared.pending).take_damaged();
        shared.tell_of_damage(damaged);
        let (requests, received) = channel();
        let mut writer = DatabaseWriter {
            driver,
            chain,
            audit_bytes: waiting.entries.iter().map(AuditEntry::weight).sum(),
            audit_waiting: waiting.entries,
            audit_lost: waiting.lost.map(|(first, count)| LostRows { first, count }),
            audit_spool,
            shared: Arc::clone(&shared),
            keep_for,
            retry: RETRY[0],
            next_delete: Instant::now(),
            clock: ClockGuard::new(now(), Instant::now()),
            is_up: true,
        };
        if let Some(error) = failed {
            writer.failed(&error);
        }
        let thread = std::thread::Builder::new()
            .name("database".to_owned())
            .spawn(move || writer.run(&received))?;
        let (spool_end, ended) = channel();
        if has_spool {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("spool".to_owned())
                .spawn(move || {
                    while ended.recv_timeout(SPOOL_EVERY) == Err(RecvTimeoutError::Timeout) {
                        shared.spool();
                    }
                })?;
        }
        Ok(Self {
            shared,
            requests,
            thread: Mutex::new(Some(thread)),
            _spool_end: spool_end,
        })
    }

    /// Writes all that waits now. Returns whether it was written in this time.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let (answer, answered) = sync_channel(1);
        self.requests.send(Request::Flush(answer)).is_ok()
            && answered.recv_timeout(timeout).unwrap_or(false)
    }

    /// Writes audit rows, behind all that were asked for before.
    pub(crate) fn audit(
        &self,
        entries: Vec<AuditEntry>,
        if_not_written: IfNotWritten,
    ) -> AuditReply {
        let (answer, answered) = oneshot::channel();
        // If the thread has ended, the answer's sender is dropped, and the reply says so.
        if let Some(requests) = &mut *lock(&self.shared.audit_requests) {
            requests.push_back(AuditRequest {
                entries,
                if_not_written,
                answer,
            });
        }
        let _ = self.requests.send(Request::Audit);
        AuditReply(answered)
    }

    pub(crate) fn audit_status(&self) -> AuditStatus {
        AuditStatus {
            waiting: self.shared.audit_waiting.load(Ordering::Relaxed),
            lost: self.shared.audit_lost.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn audit_head(&self) -> AuditMark {
        lock(&self.shared.audit_head).clone()
    }

    /// Writes all that waits and ends the thread. Returns whether all was written in this time. What was not is in the
    /// spool, where there is one.
    pub(crate) fn stop(&self, timeout: Duration) -> bool {
        let flushed = self.flush(timeout);
        let mut pending = lock(&self.shared.pending);
        let spooled = pending.spool_all(now()).and_then(|()| pending.sync());
        drop(pending);
        self.shared.tell_of_spool(spooled);
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
            waiting_bytes: self.shared.queues.waiting_bytes().saturating_add(
                usize::try_from(self.shared.spooled_bytes.load(Ordering::Relaxed))
                    .unwrap_or(usize::MAX),
            ),
        }
    }

    /// Of how many requests the usage is not written yet, those included whose records were dropped; and of how many of them
    /// it is in the spool.
    pub(crate) fn unwritten_requests(&self) -> (i64, i64) {
        let pending = lock(&self.shared.pending);
        let spooled = pending.spooled_requests();
        let in_memory: i64 = pending
            .sums_in_memory()
            .values()
            .map(|sums| sums.requests)
            .sum();
        (in_memory.saturating_add(spooled), spooled)
    }

    /// All that is not written yet, as it is now. None: the spool cannot be read.
    pub(crate) fn waiting(&self) -> Option<WaitingUsage> {
        // All under one lock, so that a batch is seen once while it moves.
        let waiting = lock(&self.shared.pending).waiting();
        self.shared.readable(waiting)
    }

    /// The sums of what waited and is not among these batches, which were written since. None: that is not known.
    pub(crate) fn sums_without(
        &self,
        waiting: WaitingUsage,
        written: &WrittenBatches,
    ) -> Option<SumsMap> {
        self.shared
            .readable(waiting.sums_without(written))
            .flatten()
    }
}

/// The thread's state.
struct DatabaseWriter {
    driver: Box<dyn Driver>,
    chain: AuditChain,
    /// Audit rows that could not be written, oldest first, and their bytes.
    audit_waiting: VecDeque<AuditEntry>,
    audit_bytes: usize,
    /// The row that says how many more there were.
    audit_lost: Option<LostRows>,
    audit_spool: Option<AuditSpool>,
    shared: Arc<WriterShared>,
    keep_for: KeepFor,
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
                Ok(Request::Audit) => self.answer_audits(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.write_all();
                    return;
                }
            }
            let began = Instant::now();
            if began >= next_write {
                next_write = match self.write_all() {
                    // Counted from its beginning, so that a long write does not delay the next one too.
                    true => began + WRITE_EVERY,
                    false => Instant::now() + self.retry,
                };
                self.delete_step();
            }
        }
    }

    /// Writes the audit rows that were asked for.
    fn answer_audits(&mut self) {
        loop {
            let request = lock(&self.shared.audit_requests)
                .as_mut()
                .and_then(VecDeque::pop_front);
            let Some(AuditRequest {
                entries,
                if_not_written,
                answer,
            }) = request
            else {
                return;
            };
            // The one who asked may have given up.
            let _ = answer.send(self.audit(entries, if_not_written));
        }
    }

    /// Writes these audit rows and those that wait, in one transaction.
    fn audit(
        &mut self,
        entries: Vec<AuditEntry>,
        if_not_written: IfNotWritten,
    ) -> Result<AuditWrite, Arc<DatabaseError>> {
        let count = entries.len();
        // What may wait does not try again what has just failed.
        if !self.audit_waiting.is_empty() && if_not_written == IfNotWritten::Wait && !self.is_up {
            self.let_wait(entries);
            return Ok(AuditWrite::Waiting);
        }
        match self.append_audit(entries) {
            Ok(mut marks) => {
                let of_these = marks.split_off(marks.len().saturating_sub(count));
                Ok(AuditWrite::Written(of_these))
            }
            Err((error, entries)) => {
                self.failed(&error);
                match if_not_written {
                    IfNotWritten::Refuse => Err(Arc::new(error)),
                    IfNotWritten::Wait => {
                        self.let_wait(entries);
                        Ok(AuditWrite::Waiting)
                    }
                }
            }
        }
    }

    /// Appends what waits and these entries. Gives the entries back where it could not.
    fn append_audit(
        &mut self,
        mut entries: Vec<AuditEntry>,
    ) -> Result<Vec<AuditMark>, (DatabaseError, Vec<AuditEntry>)> {
        let waiting = self.audit_waiting.len();
        let mut all: Vec<AuditEntry> = self.audit_waiting.drain(..).collect();
        all.extend(self.audit_lost.as_ref().map(LostRows::entry));
        let before = all.len();
        all.append(&mut entries);
        match self.driver.append_audit(&all, &mut self.chain) {
            Ok(marks) => {
                *lock(&self.shared.audit_head) = self.chain.last.clone();
                self.audit_bytes = 0;
                self.audit_lost = None;
                self.shared.audit_waiting.store(0, Ordering::Relaxed);
                if waiting > 0 {
                    if let Some(spool) = &mut self.audit_spool {
                        self.shared.tell_of_spool(spool.remove());
                    }
                    self.shared
                        .tell(DatabaseEvent::AuditWritten { rows: before });
                }
                self.can_be_written();
                Ok(marks)
            }
            Err(error) => {
                let entries = all.split_off(before);
                all.truncate(waiting);
                self.audit_waiting = all.into();
                Err((error, entries))
            }
        }
    }

    fn let_wait(&mut self, entries: Vec<AuditEntry>) {
        let known = self.audit_waiting.len();
        for entry in entries {
            let weight = entry.weight();
            let is_full = self.audit_waiting.len() >= MAX_AUDIT_WAITING
                || self.audit_bytes + weight > MAX_AUDIT_BYTES;
            if is_full || self.audit_lost.is_some() {
                let first = entry.at;
                let lost = self.audit_lost.get_or_insert(LostRows { first, count: 0 });
                lost.count += 1;
                self.shared.audit_lost.fetch_add(1, Ordering::Relaxed);
            } else {
                self.audit_bytes += weight;
                self.audit_waiting.push_back(entry);
            }
        }
        let waiting = self.audit_waiting.len();
        self.shared.audit_waiting.store(waiting, Ordering::Relaxed);
        if let Some(spool) = &mut self.audit_spool {
            let lost = self.audit_lost.as_ref();
            // Not each time, so that the file does not grow without an end.
            let lost = lost.filter(|lost| lost.count.is_power_of_two());
            let kept = match waiting - known {
                0 => Ok(()),
                more => spool.keep(&self.chain.last, &self.audit_waiting, more),
            };
            let kept = kept
                .and_then(|()| lost.map_or(Ok(()), |lost| spool.keep_lost(lost.first, lost.count)));
            self.shared.tell_of_spool(kept);
        }
    }

    /// Writes all that waits. Returns whether it could.
    fn write_all(&mut self) -> bool {
        if !self.audit_waiting.is_empty()
            && let Err((error, _)) = self.append_audit(Vec::new())
        {
            self.failed(&error);
            return false;
        }
        // What is added meanwhile waits for the next time, so that this ends.
        let (records, batches) = lock(&self.shared.pending).spooled_batches();
        let spooled = usize::try_from(records).unwrap_or(usize::MAX);
        let in_memory = self.shared.queues.waiting_bytes() / size_of::<UsageRecord>();
        let mut left = (1 + batches + in_memory).saturating_add(spooled);
        loop {
            self.answer_audits();
            let batch = match self.batch() {
                Ok(Some(batch)) => batch,
                Ok(None) => return true,
                Err(error) => {
                    self.shared.tell_of_unreadable(&error);
                    return false;
                }
            };
            let began = Instant::now();
            match self.driver.write(&batch) {
                Ok(()) => {
                    let removed = lock(&self.shared.pending).written();
                    if let Err(error) = removed {
                        self.shared.tell_of_unreadable(&error);
                    }
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

    /// The batch that could not be written, or the next one. None if nothing waits.
    fn batch(&mut self) -> Result<Option<Arc<Batch>>, SpoolError> {
        let mut pending = lock(&self.shared.pending);
        // After a failure an empty batch finds out whether the database can be written again.
        let batch = pending.next(!self.is_up, now());
        let damaged = pending.take_damaged();
        drop(pending);
        self.shared.tell_of_damage(damaged);
        batch
    }

    fn wrote(&mut self, records: usize, took: Duration) {
        self.can_be_written();
        self.shared.tell(DatabaseEvent::Written { records, took });
    }

    fn can_be_written(&mut self) {
        self.retry = RETRY[0];
        if !self.is_up {
            self.is_up = true;
            *lock(&self.shared.error) = None;
            self.shared.tell(DatabaseEvent::Up);
        }
    }

    fn failed(&mut self, error: &DatabaseError) {
        self.retry = (self.retry * 2).min(RETRY[1]);
        self.is_up = false;
        let text = error.to_string();
        let before = lock(&self.shared.error).replace(text.clone());
        if before.as_deref() != Some(&text) {
            self.shared.tell(DatabaseEvent::Down(error));
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
        let cut = audit_cut(now, self.keep_for.audit);
        let deleted = deleted.and_then(|deleted| {
            let cut = self.driver.cut_audit(&cut, &mut self.chain)?;
            *lock(&self.shared.audit_head) = self.chain.last.clone();
            Ok(deleted + cut)
        });
        if let Err(error) = &deleted {
            self.shared.tell(DatabaseEvent::NotDeleted(error));
        }
        let pause = match deleted {
            Ok(rows) if rows > 0 => DELETE_EVERY,
            _ => DELETE_PAUSE,
        };
        self.next_delete = Instant::now() + pause;
    }
}

impl Drop for DatabaseWriter {
    /// Nobody waits for an answer that does not come, also after a panic.
    fn drop(&mut self) {
        lock(&self.shared.audit_requests).take();
    }
}

/// Each cut leaves a row, so that one comes about once a day, or after a hundredth of the time that rows are kept.
fn audit_cut(now: i64, keep: i64) -> AuditCut {
    let before = now.saturating_sub(keep);
    let pause = (keep / 100).min(DAY);
    AuditCut {
        now: now.saturating_mul(1000),
        before: before.saturating_mul(1000),
        due: before.saturating_sub(pause).saturating_mul(1000),
        most: DELETE_ROWS,
    }
}

/// Audit rows for which there was no room in memory.
struct LostRows {
    /// When the first was asked for, in milliseconds since 1970.
    first: i64,
    count: u64,
}

impl LostRows {
    fn entry(&self) -> AuditEntry {
        AuditEntry {
            at: self.first,
            origin: ChangeOrigin::gateway(),
            action: AuditAction::RowsLost,
            target: None,
            account: None,
            before: None,
            after: Some(format!("{{\"rows\":{}}}", self.count)),
        }
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
