//! Lines that a flood could cause: one a second is written, and says how many were not.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides which of many like lines is written.
#[derive(Debug, Default)]
pub struct Sampler {
    last: Cell<Option<Instant>>,
    passed_over: Cell<u64>,
}

impl Sampler {
    /// Whether a line is to be written now: then, how many were passed over since the last.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let is_early = |last: Instant| now.saturating_duration_since(last) < PAUSE;
        if self.last.get().is_some_and(is_early) {
            self.passed_over.set(self.passed_over.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.passed_over.take())
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
