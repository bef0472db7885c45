//! Limits the log lines of refused requests.
//!
//! Anybody can cause refused requests without a key, a hundred thousand a second. A line for each would fill the disk
//! and bury the lines that matter. So only [`LINES`] a second are written, and one line a second says how many were
//! left out. Metrics count all of them. A request with a valid key whose body is read always has its line.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::observe::lock::lock;

/// Lines of refused requests per second, over all workers.
const LINES: u32 = 1000;
/// The lines are counted over this time; it also lies between two lines that report the rest.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts lines that were written and left out, over all workers.
#[derive(Debug)]
pub(super) struct RefusalLineLimit(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    began: Instant,
    written: u32,
    left_out: u64,
    reported: Instant,
}

impl RefusalLineLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Counts {
            began: now,
            written: 0,
            left_out: 0,
            reported: now,
        }))
    }

    /// Whether one more line may be written; if not, it counts as left out.
    pub(super) fn may_write(&self, now: Instant) -> bool {
        let mut counts = lock(&self.0);
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

    /// How many lines were left out since the last report. None if there were none, or the last report was less than a
    /// second ago.
    pub(super) fn take_left_out(&self, now: Instant) -> Option<u64> {
        let mut counts = lock(&self.0);
        if counts.left_out == 0 || now.saturating_duration_since(counts.reported) < WINDOW {
            return None;
        }
        counts.reported = now;
        Some(std::mem::take(&mut counts.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_lines_a_second_are_written_and_the_rest_is_reported_once_a_second() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let refusals = RefusalLineLimit::new(start);
        let written = |time| (0..2500).filter(|_| refusals.may_write(time)).count();
        assert_eq!(
            refusals.take_left_out(at(5000)),
            None,
            "nothing was left out"
        );
        assert_eq!(written(at(0)), 1000);
        assert_eq!(refusals.take_left_out(at(999)), None, "too soon");
        assert_eq!(written(at(999)), 0);
        assert_eq!(refusals.take_left_out(at(1000)), Some(1500 + 2500));
        assert_eq!(written(at(1000)), 1000, "another second");
        assert_eq!(refusals.take_left_out(at(1999)), None, "told a moment ago");
        assert_eq!(refusals.take_left_out(at(2000)), Some(1500));
        assert_eq!(refusals.take_left_out(at(9000)), None);
    }
}
