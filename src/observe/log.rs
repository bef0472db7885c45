//! The log: one line per event, on standard error.
//!
//! A thread that logs appends the line to a buffer in memory and goes on; one writer thread writes all buffers out. Each
//! worker has its own buffer, so workers never wait for each other, and no request waits for standard error. When
//! standard error is too slow, the buffers fill up and further lines are dropped and counted.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

pub(crate) use crate::observe::event::{AccessEntry, Event, RequestEnd};
use crate::observe::line::LogLines;
use crate::observe::lock::lock;
use crate::observe::refusal_limit::RefusalLineLimit;
use crate::observe::refusals::RecentRefusals;
use crate::runtime::wall_clock::unix_time;
use crate::store::config::LogFormat;

/// The most bytes that a buffer holds; further lines are dropped.
const MAX_BUFFERED: usize = 4 << 20;
/// The pause between two rounds of the writer. Lines collect meanwhile, so a busy worker need not wake the writer for
/// each.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);
/// The memory that the writer keeps for the next round; a flood may have made it grow.
const KEPT_CAPACITY: usize = 256 << 10;

/// Where log lines go. A clone writes to the same buffer.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    buffer: Arc<LogBuffer>,
    writer: Arc<LogWriter>,
}

/// Lines that are not written yet.
#[derive(Debug, Default)]
struct LogBuffer(Mutex<LogLines>);

/// Writes all buffers to standard error.
#[derive(Debug)]
struct LogWriter {
    format: LogFormat,
    buffers: Mutex<Vec<Arc<LogBuffer>>>,
    dropped: IntCounter,
    refusals: RefusalLineLimit,
    recent_refusals: RecentRefusals,
    /// The thread has nothing to write and must be woken.
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
    ending: AtomicBool,
}

/// The writer's thread. [`LogWriterHandle::finish`] writes what is buffered before the process ends.
#[derive(Debug)]
pub(crate) struct LogWriterHandle {
    writer: Arc<LogWriter>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Starts the writer's thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(crate) fn start(
        format: LogFormat,
        dropped: IntCounter,
    ) -> std::io::Result<(Self, LogWriterHandle)> {
        let buffer = Arc::new(LogBuffer::default());
        let writer = Arc::new(LogWriter {
            format,
            buffers: Mutex::new(vec![Arc::clone(&buffer)]),
            dropped,
            refusals: RefusalLineLimit::new(Instant::now()),
            recent_refusals: RecentRefusals::default(),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
            ending: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("log".into()).spawn({
            let writer = Arc::clone(&writer);
            move || writer.run()
        })?;
        let handle = LogWriterHandle {
            writer: Arc::clone(&writer),
            thread,
        };
        Ok((Self { buffer, writer }, handle))
    }

    /// The same log with its own buffer, for a thread that writes many lines.
    #[must_use]
    pub(crate) fn with_own_buffer(&self) -> Self {
        let buffer = Arc::new(LogBuffer::default());
        lock(&self.writer.buffers).push(Arc::clone(&buffer));
        let writer = Arc::clone(&self.writer);
        Self { buffer, writer }
    }

    /// Logs a request, unless too many refused ones were logged within this second.
    pub(crate) fn access(&self, access: &AccessEntry<'_>) {
        if let Some(reason) = access.refusal() {
            let ended = unix_time(access.started + access.duration);
            let recent = &self.writer.recent_refusals;
            recent.record(access.key_id, access.client, reason, ended);
        }
        if access.is_refused_early() && !self.writer.refusals.may_write(Instant::now()) {
            return;
        }
        self.write(|lines| lines.access(self.writer.format, access));
    }

    /// The refused requests of the last hour, those without a line too.
    pub(crate) fn recent_refusals(&self) -> &RecentRefusals {
        &self.writer.recent_refusals
    }

    /// Logs how many lines of refused requests were left out, if there were any. The caller does this often.
    pub(crate) fn tell_left_out(&self) {
        if let Some(count) = self.writer.refusals.take_left_out(Instant::now()) {
            self.event(Event::warn("refusals_left_out").with("count", count));
        }
    }

    /// Logs an event.
    pub(crate) fn event(&self, event: Event) {
        // Formatted before the lock is taken: a panic while formatting logs a line too, and would wait for the lock.
        let mut line = LogLines::default();
        line.event(self.writer.format, &event);
        self.write(|lines| lines.append(&line));
    }

    fn write(&self, write: impl FnOnce(&mut LogLines)) {
        let mut lines = lock(&self.buffer.0);
        if lines.len() >= MAX_BUFFERED {
            self.writer.dropped.inc();
            return;
        }
        write(&mut lines);
        drop(lines);
        self.writer.wake();
    }
}

impl LogWriter {
    fn run(&self) {
        // Only this thread sets it.
        let _ = self.thread.set(std::thread::current());
        let mut text = String::new();
        loop {
            let ends = self.ending.load(Ordering::SeqCst);
            let wrote = self.write_buffers(&mut text);
            if ends {
                return;
            }
            if wrote {
                std::thread::sleep(WRITE_INTERVAL);
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // Look once more: a line that came before `asleep` was set woke nobody.
            if !self.write_buffers(&mut text) && !self.ending.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Writes all buffers; false if all are empty.
    fn write_buffers(&self, text: &mut String) -> bool {
        let mut wrote = false;
        let buffers = lock(&self.buffers).clone();
        for buffer in buffers {
            lock(&buffer.0).swap(text);
            if text.is_empty() {
                continue;
            }
            wrote = true;
            // When standard error is closed or full, there is nowhere left to report it.
            let _ = std::io::stderr().write_all(text.as_bytes());
            text.clear();
            text.shrink_to(KEPT_CAPACITY);
        }
        wrote
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.thread.get().inspect(|thread| thread.unpark());
        }
    }
}

impl LogWriterHandle {
    /// Writes what is buffered and ends the thread. Waits for at most `timeout`.
    pub(crate) fn finish(self, timeout: Duration) {
        let end = Instant::now() + timeout;
        self.writer.ending.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        while Instant::now() < end && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
