//! Deadlines of connections and requests, without a timer for each.
//!
//! A worker's connections and requests each hold a [`Watch`]; ten times a second the worker's [`Clock`] looks through
//! all of them and wakes those whose deadline has passed, or that have to look at their key again. A deadline so
//! costs two stores instead of a timer, and is late by at most [`TICK`].

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How often a worker looks.
pub const TICK: Duration = Duration::from_millis(100);

/// What a worker's watches have in common. One a worker; cloning shares it.
#[derive(Clone, Debug)]
pub struct Clock(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    now: Cell<Instant>,
    closing: Cell<bool>,
    watches: RefCell<Vec<Weak<Watch>>>,
}

/// One connection's or request's deadlines.
#[derive(Debug, Default)]
pub struct Watch {
    deadline: Cell<Option<Instant>>,
    expires_at: Cell<Option<i64>>,
    generation: Cell<Option<u64>>,
    waker: RefCell<Option<Waker>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self(Rc::new(Shared {
            now: Cell::new(Instant::now()),
            closing: Cell::new(false),
            watches: RefCell::new(Vec::new()),
        }))
    }
}

impl Clock {
    /// The monotonic time as of the last tick: good enough for deadlines, and free.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// A new watch, without a deadline. It is forgotten when it is dropped.
    #[must_use]
    pub fn watch(&self) -> Rc<Watch> {
        let watch = Rc::new(Watch::default());
        self.0.watches.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    /// Whether the worker ends: connections without a request end too.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.closing.get()
    }

    /// The worker ends. Every connection is woken to see it.
    pub fn close(&self) {
        self.0.closing.set(true);
        for watch in self.0.watches.borrow().iter().filter_map(Weak::upgrade) {
            watch.wake();
        }
    }

    /// Looks through all watches and wakes those with something due.
    pub fn tick(&self, unix_now: i64, generation: u64) {
        let now = Instant::now();
        self.0.now.set(now);
        self.0.watches.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else {
                return false;
            };
            if watch.is_due(now, unix_now, generation) {
                watch.wake();
            }
            true
        });
    }
}

impl Watch {
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

    /// Forgets everything, for the next holder.
    pub fn reset(&self) {
        self.deadline.set(None);
        self.expires_at.set(None);
        self.generation.set(None);
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
        self.is_late(now)
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

    fn watched(set: impl FnOnce(&Watch, Instant)) -> usize {
        let (clock, count) = (Clock::default(), Arc::new(Count::default()));
        let watch = clock.watch();
        watch.register(&Context::from_waker(&Waker::from(Arc::clone(&count))));
        set(&watch, clock.now());
        clock.tick(1_000, 7);
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn a_holder_is_woken_when_something_is_due_and_only_then() {
        assert_eq!(watched(|_, _| ()), 0);
        assert_eq!(
            watched(|watch, now| watch.set_deadline(now + Duration::from_secs(60))),
            0
        );
        assert_eq!(watched(|watch, now| watch.set_deadline(now)), 1);
        assert_eq!(watched(|watch, _| watch.follow(7, None)), 0);
        assert_eq!(watched(|watch, _| watch.follow(6, None)), 1);
        assert_eq!(watched(|watch, _| watch.follow(7, Some(1_000))), 1);
        assert_eq!(watched(|watch, _| watch.follow(7, Some(1_001))), 0);
    }

    #[test]
    fn a_dropped_watch_is_forgotten() {
        let clock = Clock::default();
        drop(clock.watch());
        let kept = clock.watch();
        clock.tick(0, 0);
        assert_eq!(clock.0.watches.borrow().len(), 1);
        drop(kept);
    }
}
