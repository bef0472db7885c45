//! Log lines on standard error: one line an event.
//!
//! Whoever logs writes the line to a page in memory and goes on; one thread carries the pages out. Each worker has a
//! page of its own, so that requests on different cores never wait for each other, and no request waits for standard
//! error: when that is too slow, pages are full, and lines are given up and counted.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

pub use crate::observe::event::{Access, End, Event, Form};
use crate::observe::line::Lines;
pub use crate::observe::line::is_harmless;
use crate::observe::refusals::Refusals;

/// Bytes of lines that may wait on a page.
const MOST_WAITING: usize = 4 << 20;
/// The pause between two rounds: lines are gathered, and a busy worker need not wake the writer for each.
const GATHER: Duration = Duration::from_millis(5);
/// What a page keeps of its memory when a flood is over.
const KEPT: usize = 256 << 10;

/// Where log lines go. Cloning shares its page.
#[derive(Clone, Debug)]
pub struct Log {
    page: Arc<Page>,
    press: Arc<Press>,
}

/// Lines that wait to be carried out.
#[derive(Debug, Default)]
struct Page(Mutex<Lines>);

/// What carries all pages out.
#[derive(Debug)]
struct Press {
    form: Form,
    pages: Mutex<Vec<Arc<Page>>>,
    dropped: IntCounter,
    refusals: Refusals,
    /// The writer found nothing to do and has to be woken.
    asleep: AtomicBool,
    writer: OnceLock<Thread>,
    ending: AtomicBool,
}

/// Writes what is waiting before the process ends.
#[derive(Debug)]
pub struct Writer {
    press: Arc<Press>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(form: Form, dropped: IntCounter) -> std::io::Result<(Self, Writer)> {
        let page = Arc::new(Page::default());
        let press = Arc::new(Press {
            form,
            pages: Mutex::new(vec![Arc::clone(&page)]),
            dropped,
            refusals: Refusals::new(Instant::now()),
            asleep: AtomicBool::new(false),
            writer: OnceLock::new(),
            ending: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("log".into()).spawn({
            let press = Arc::clone(&press);
            move || press.run()
        })?;
        let writer = Writer {
            press: Arc::clone(&press),
            thread,
        };
        Ok((Self { page, press }, writer))
    }

    /// The same log with a page of its own, for a thread that writes much.
    #[must_use]
    pub fn with_own_page(&self) -> Self {
        let page = Arc::new(Page::default());
        lock(&self.press.pages).push(Arc::clone(&page));
        let press = Arc::clone(&self.press);
        Self { page, press }
    }

    /// Hands over a request's line, unless it is one too many of a flood of refused ones.
    pub fn access(&self, access: &Access<'_>) {
        if access.is_refused_early() && !self.press.refusals.has_room(Instant::now()) {
            return;
        }
        self.write(|lines| lines.access(self.press.form, access));
    }

    /// Tells how many lines of refused requests were left out, where there is something to tell. To be called often.
    pub fn tell_left_out(&self) {
        if let Some(count) = self.press.refusals.left_out(Instant::now()) {
            self.event(Event::warn("refusals_left_out").with("count", count));
        }
    }

    /// Hands over an event's line.
    pub fn event(&self, event: Event) {
        // Written before the page is taken: a panic in between would wait for the page with its own line.
        let mut line = Lines::default();
        line.event(self.press.form, &event);
        self.write(|lines| lines.append(&line));
    }

    fn write(&self, write: impl FnOnce(&mut Lines)) {
        let mut lines = lock(&self.page.0);
        if lines.len() >= MOST_WAITING {
            self.press.dropped.inc();
            return;
        }
        write(&mut lines);
        drop(lines);
        self.press.wake();
    }
}

impl Press {
    fn run(&self) {
        // Only this thread sets it.
        let _ = self.writer.set(std::thread::current());
        let mut text = String::new();
        loop {
            let ends = self.ending.load(Ordering::SeqCst);
            let carried = self.carry_out(&mut text);
            if ends {
                return;
            }
            if carried {
                std::thread::sleep(GATHER);
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // A line may have come in since the last look, from somebody who saw that nobody slept.
            if !self.carry_out(&mut text) && !self.ending.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Writes out what is on the pages; false where there is nothing.
    fn carry_out(&self, text: &mut String) -> bool {
        let mut carried = false;
        let pages = lock(&self.pages).clone();
        for page in pages {
            lock(&page.0).swap(text);
            if text.is_empty() {
                continue;
            }
            carried = true;
            // Nobody is left to be told where standard error is closed or full.
            let _ = std::io::stderr().write_all(text.as_bytes());
            text.clear();
            text.shrink_to(KEPT);
        }
        carried
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.writer.get().inspect(|writer| writer.unpark());
        }
    }
}

impl Writer {
    /// Writes what is waiting, up to `patience`, and ends the thread.
    pub fn finish(self, patience: Duration) {
        let end = Instant::now() + patience;
        self.press.ending.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        while Instant::now() < end && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Lines stay lines where a thread panicked while it held them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
