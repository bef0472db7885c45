//! Long work that gives way to the threads that serve requests.
//!
//! A kernel that shares cores by deadlines lets a thread end its time slice, of a millisecond or more, before it looks at
//! who woke up meanwhile, and a low priority makes such slices rarer, not shorter. Who yields every so often lets
//! whoever waits run at once, and loses next to nothing where nobody does. But where somebody always waits, each yield
//! costs one of their slices, and the work would never end: who had to wait long works longer. And while somebody waits
//! for the end of such work, nobody gives way.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::table::Pause;

/// How long others may have to wait, beside a single step, on a core that is not always busy.
const SPELL: Duration = Duration::from_micros(100);
const LONGEST_SPELL: Duration = Duration::from_millis(3);
/// Of a core that is always busy, one part in so many is taken: as much as the keeper's niceness entitles it to.
const SHARE: u32 = 4;
/// The clock is looked at once in so many steps.
const STEPS: u32 = 32;

/// How many wait for the end of some work.
static HURRYING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STEPS_TAKEN: Cell<u32> = const { Cell::new(0) };
    /// Until when this thread works on.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The [`Pause`] of work that must not be felt: nothing most times, and the core for others after each spell of work.
pub const GIVE_WAY: Pause = give_way;

/// Somebody waits for the end of the work that goes on: nobody gives way until this is dropped.
#[derive(Debug)]
pub struct Haste(());

impl Default for Haste {
    fn default() -> Self {
        HURRYING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        HURRYING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn give_way() {
    let steps = STEPS_TAKEN.get() + 1;
    STEPS_TAKEN.set(steps % STEPS);
    if steps < STEPS || HURRYING.load(Ordering::Relaxed) > 0 {
        return;
    }
    let now = Instant::now();
    if UNTIL.get().is_none_or(|until| until <= now) {
        std::thread::yield_now();
        UNTIL.set(Some(Instant::now() + spell_after(now.elapsed())));
    }
}

/// How long to work after others had the core for so long.
fn spell_after(wait: Duration) -> Duration {
    (wait / (SHARE - 1)).clamp(SPELL, LONGEST_SPELL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_on_gives_way_sooner_or_later() {
        let began = Instant::now();
        while UNTIL.get().is_none() {
            give_way();
            // Other tests may be in haste meanwhile.
            assert!(began.elapsed() < Duration::from_secs(15));
        }
    }

    #[test]
    fn nobody_gives_way_while_somebody_waits_for_the_end() {
        let haste = Haste::default();
        assert!(HURRYING.load(Ordering::Relaxed) > 0);
        UNTIL.set(None);
        (0..STEPS).for_each(|_| give_way());
        assert!(UNTIL.get().is_none());
        drop(haste);
    }

    #[test]
    fn who_had_to_wait_long_works_a_third_as_long_and_never_for_long() {
        for (wait, spell) in [(0, 100), (200, 100), (3_000, 1_000), (1_000_000, 3_000)] {
            let (wait, spell) = (Duration::from_micros(wait), Duration::from_micros(spell));
            assert_eq!(spell_after(wait), spell, "{wait:?}");
        }
    }
}
