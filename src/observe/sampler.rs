//! Limits lines that a flood could cause: one per second is written, with the count of those left out.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Decides which of many similar lines are written.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    last: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl Sampler {
    /// Some if a line is due now: the count of lines left out since the last one.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let is_early = |last: Instant| now.saturating_duration_since(last) < INTERVAL;
        if self.last.get().is_some_and(is_early) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_written_and_the_others_are_counted() {
        let (sampler, start) = (Sampler::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(sampler.due(at(0)), Some(0));
        assert_eq!(sampler.due(at(1)), None);
        assert_eq!(sampler.due(at(999)), None);
        assert_eq!(sampler.due(at(1000)), Some(2));
        assert_eq!(sampler.due(at(1001)), None);
        assert_eq!(sampler.due(at(9000)), Some(1));
    }
}
