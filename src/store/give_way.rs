//! Long work that gives way to the threads that serve requests.
//!
//! A kernel that shares cores by deadlines lets a thread end its time slice, of a millisecond or more, before it looks at
//! who woke up meanwhile, and a low priority makes such slices rarer, not shorter. Who yields every so often lets
//! whoever waits run at once, and loses next to nothing where nobody does.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::table::Pause;

/// How long others may have to wait.
const SPELL: Duration = Duration::from_micros(100);
/// The clock is looked at once in so many steps.
const STEPS: u32 = 32;

thread_local! {
    static STEPS_TAKEN: Cell<u32> = const { Cell::new(0) };
    static GAVE_WAY: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The [`Pause`] of work that must not be felt: nothing most times, and the core for others after each spell of work.
pub const GIVE_WAY: Pause = give_way;

fn give_way() {
    let steps = STEPS_TAKEN.get() + 1;
    STEPS_TAKEN.set(steps % STEPS);
    if steps == STEPS && GAVE_WAY.get().is_none_or(|then| then.elapsed() >= SPELL) {
        std::thread::yield_now();
        GAVE_WAY.set(Some(Instant::now()));
    }
}
