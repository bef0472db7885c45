//! Cooperative yield: long work on many keys lets the threads that serve requests run in between.
//!
//! The kernel's scheduler lets a thread finish a time slice of 1 ms or more before a woken thread runs, and a low
//! priority makes such slices rarer, not shorter. So long work calls [`yield_if_due`] at each key, and yields its core
//! after every 100 µs of work. On an idle core a yield costs next to nothing. On a core that is always busy each yield
//! costs one slice of another thread, and the work would never end: there the work runs longer between two yields, in
//! proportion to how long the last yield took. While a [`PriorityGuard`] lives, nothing yields.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the work runs between two yields on a core that is not always busy. A woken thread waits this long, plus
/// one step of the work.
const RUN_TIME: Duration = Duration::from_micros(100);
const MAX_RUN_TIME: Duration = Duration::from_millis(3);
/// On a core that is always busy, the work takes one part in this many of the time: as much as the key-store worker's
/// niceness entitles it to.
const CORE_SHARE: u32 = 4;
/// The clock is read once in this many steps.
const STEPS_PER_CLOCK_READ: u32 = 32;

/// How many [`PriorityGuard`]s live.
static PRIORITY_GUARDS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STEPS_TAKEN: Cell<u32> = const { Cell::new(0) };
    /// When this thread yields next.
    static NEXT_YIELD: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Somebody waits for the end of the long work that runs now: nothing yields until this is dropped.
#[derive(Debug)]
pub(crate) struct PriorityGuard(());

/// Stops all yields until the guard is dropped.
pub(crate) fn priority() -> PriorityGuard {
    PRIORITY_GUARDS.fetch_add(1, Ordering::Relaxed);
    PriorityGuard(())
}

impl Drop for PriorityGuard {
    fn drop(&mut self) {
        PRIORITY_GUARDS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Call this at each step of long work, a step being microseconds. Most calls do nothing; after each run time one call
/// yields the core.
pub(crate) fn yield_if_due() {
    let steps = STEPS_TAKEN.get() + 1;
    STEPS_TAKEN.set(steps % STEPS_PER_CLOCK_READ);
    if steps < STEPS_PER_CLOCK_READ || PRIORITY_GUARDS.load(Ordering::Relaxed) > 0 {
        return;
    }
    let now = Instant::now();
    if NEXT_YIELD.get().is_none_or(|due| due <= now) {
        std::thread::yield_now();
        NEXT_YIELD.set(Some(Instant::now() + run_time_after(now.elapsed())));
    }
}

/// How long the work runs after a yield that took `waited`.
fn run_time_after(waited: Duration) -> Duration {
    (waited / (CORE_SHARE - 1)).clamp(RUN_TIME, MAX_RUN_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_yields_sooner_or_later() {
        let began = Instant::now();
        while NEXT_YIELD.get().is_none() {
            yield_if_due();
            // Other tests may hold a guard meanwhile.
            assert!(began.elapsed() < Duration::from_secs(15));
        }
    }

    #[test]
    fn nothing_yields_while_a_priority_guard_lives() {
        let guard = priority();
        assert!(PRIORITY_GUARDS.load(Ordering::Relaxed) > 0);
        NEXT_YIELD.set(None);
        (0..STEPS_PER_CLOCK_READ).for_each(|_| yield_if_due());
        assert!(NEXT_YIELD.get().is_none());
        drop(guard);
    }

    #[test]
    fn after_a_long_wait_the_work_runs_a_third_as_long_and_never_for_long() {
        for (waited, run_time) in [(0, 100), (200, 100), (3_000, 1_000), (1_000_000, 3_000)] {
            let waited = Duration::from_micros(waited);
            let run_time = Duration::from_micros(run_time);
            assert_eq!(run_time_after(waited), run_time, "{waited:?}");
        }
    }
}
