//! How many lines a flood of refused requests may write.
//!
//! Anybody can have requests refused, a hundred thousand a second, without a key: a line for each would fill the disk and
//! push out the lines that matter. So only so many a second are written; of the others there is one line a second
//! that says how many they were. Metrics count every one of them. A request that a key vouches for, and that gets as
//! far as its body, always has its line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of refused requests that are written a second, over all workers.
const LINES: u32 = 1000;
/// The time those are counted over, and between two lines that tell of the others.
const WINDOW: Duration = Duration::from_secs(1);

/// What was written and left out of late, over all workers.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    began: Instant,
    written: u32,
    left_out: u64,
    told: Instant,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Counts {
            began: now,
            written: 0,
            left_out: 0,
            told: now,
        }))
    }

    /// Whether one more line may be written; else it is counted as left out.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(counts.began) >= WINDOW {
            counts.began = now;
            counts.written = 0;
        }
        if counts.written < LINES {
            counts.written += 1;
            return true;
        }
        counts.left_out += 1;
        false
    }

    /// How many were left out since this was last told; None where there is nothing to tell, or it was told just now.
    pub(super) fn left_out(&self, now: Instant) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.left_out == 0 || now.saturating_duration_since(counts.told) < WINDOW {
            return None;
        }
        counts.told = now;
        Some(std::mem::take(&mut counts.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_lines_a_second_have_room_and_the_others_are_told_once_a_second() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let refusals = Refusals::new(start);
        let written = |time| (0..2500).filter(|_| refusals.has_room(time)).count();
        assert_eq!(refusals.left_out(at(5000)), None, "nothing was left out");
        assert_eq!(written(at(0)), 1000);
        assert_eq!(refusals.left_out(at(999)), None, "too soon");
        assert_eq!(written(at(999)), 0);
        assert_eq!(refusals.left_out(at(1000)), Some(1500 + 2500));
        assert_eq!(written(at(1000)), 1000, "another second");
        assert_eq!(refusals.left_out(at(1999)), None, "told a moment ago");
        assert_eq!(refusals.left_out(at(2000)), Some(1500));
        assert_eq!(refusals.left_out(at(9000)), None);
    }
}
