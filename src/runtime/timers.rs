//! Deadlines of connections and requests, without a timer of the runtime for each.
//!
//! Each connection (HTTP/2: each stream too) has a [`TimerEntry`]. Ten times a second the worker's [`TickTimer`] looks
//! through all of them and wakes those whose deadline has passed, or that have to look at their key again. Setting a
//! deadline costs two stores; it is late by at most [`TICK`].

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// The time between two ticks.
pub const TICK: Duration = Duration::from_millis(100);

/// One worker's deadlines. Cloning shares them.
#[derive(Clone, Debug)]
pub struct TickTimer(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    now: Cell<Instant>,
    closing: Cell<bool>,
    entries: RefCell<Vec<Weak<TimerEntry>>>,
}

/// The deadlines of one connection or stream, moved from phase to phase of its life.
#[derive(Debug, Default)]
pub struct TimerEntry {
    deadline: Cell<Option<Instant>>,
    expires_at: Cell<Option<i64>>,
    generation: Cell<Option<u64>>,
    each_tick: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Default for TickTimer {
    fn default() -> Self {
        Self(Rc::new(Shared {
            now: Cell::new(Instant::now()),
            closing: Cell::new(false),
            entries: RefCell::new(Vec::new()),
        }))
    }
}

impl TickTimer {
    /// The monotonic time as of the last tick: good enough for deadlines, and free.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// A new entry without a deadline. It leaves the timer when it is dropped.
    #[must_use]
    pub fn entry(&self) -> Rc<TimerEntry> {
        let entry = Rc::new(TimerEntry::default());
        self.0.entries.borrow_mut().push(Rc::downgrade(&entry));
        entry
    }

    /// Whether the worker ends: connections without a request end too.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.closing.get()
    }

    /// The worker ends. Every connection is woken to see it.
    pub fn close(&self) {
        self.0.closing.set(true);
        for entry in self.0.entries.borrow().iter().filter_map(Weak::upgrade) {
            entry.wake();
        }
    }

    /// Looks through all entries and wakes those with something due.
    pub fn tick(&self, unix_now: i64, generation: u64) {
        let now = Instant::now();
        self.0.now.set(now);
        self.0.entries.borrow_mut().retain(|entry| {
            let Some(entry) = entry.upgrade() else {
                return false;
            };
            if entry.is_due(now, unix_now, generation) {
                entry.wake();
            }
            true
        });
    }
}

impl TimerEntry {
    /// Sets the deadline after which the holder is woken.
    pub fn set_deadline(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
    }

    /// Sets the deadline where there is none.
    pub fn set_deadline_once(&self, deadline: Instant) {
        self.deadline.set(self.deadline.get().or(Some(deadline)));
    }

    /// Takes the deadline away.
    pub fn clear_deadline(&self) {
        self.deadline.set(None);
    }

    /// Whether the deadline had passed at `now`.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline.get().is_some_and(|deadline| deadline <= now)
    }

    /// Has the holder woken once the table's generation is another, or from `expires_at` on (seconds since 1970).
    pub fn follow(&self, generation: u64, expires_at: Option<i64>) {
        self.generation.set(Some(generation));
        self.expires_at.set(expires_at);
    }

    /// Whether the holder is woken at each tick, to look at what wakes nobody.
    pub fn wake_each_tick(&self, wakes: bool) {
        self.each_tick.set(wakes);
    }

    /// Forgets everything but whom to wake, for the next phase.
    pub fn reset(&self) {
        self.deadline.set(None);
        self.expires_at.set(None);
        self.generation.set(None);
        self.each_tick.set(false);
    }

    /// Whom to wake: the task that polls the holder.
    pub fn register(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
    }

    /// Wakes the task that polls the holder.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn is_due(&self, now: Instant, unix_now: i64, generation: u64) -> bool {
        self.each_tick.get()
            || self.is_late(now)
            || self.generation.get().is_some_and(|seen| seen != generation)
            || self.expires_at.get().is_some_and(|end| end <= unix_now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wakes(set: impl FnOnce(&TimerEntry, Instant)) -> usize {
        let (timer, count) = (TickTimer::default(), Arc::new(Count::default()));
        let entry = timer.entry();
        entry.register(&Context::from_waker(&Waker::from(Arc::clone(&count))));
        set(&entry, timer.now());
        timer.tick(1_000, 7);
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn a_holder_is_woken_when_something_is_due_and_only_then() {
        assert_eq!(wakes(|_, _| ()), 0);
        assert_eq!(
            wakes(|entry, now| entry.set_deadline(now + Duration::from_secs(60))),
            0
        );
        assert_eq!(wakes(|entry, now| entry.set_deadline(now)), 1);
        assert_eq!(wakes(|entry, _| entry.follow(7, None)), 0);
        assert_eq!(wakes(|entry, _| entry.follow(6, None)), 1);
        assert_eq!(wakes(|entry, _| entry.follow(7, Some(1_000))), 1);
        assert_eq!(wakes(|entry, _| entry.follow(7, Some(1_001))), 0);
        assert_eq!(wakes(|entry, _| entry.wake_each_tick(true)), 1);
    }

    #[test]
    fn a_dropped_entry_is_forgotten() {
        let timer = TickTimer::default();
        drop(timer.entry());
        let kept = timer.entry();
        timer.tick(0, 0);
        assert_eq!(timer.0.entries.borrow().len(), 1);
        drop(kept);
    }
}
