//! Slows down clients that guess tokens or sign-in links.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::admin::Services;
use crate::observe::log::Event;

/// The delay of the response to a wrong token.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(200);
/// The most responses that are delayed at once; further ones are sent immediately.
const MOST_DELAYED: usize = 64;
/// Audit rows of wrong tokens: so many at once, then one a second. The next row counts those that had none.
const MOST_ROWS: u32 = 50;
const ROW_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two log lines about wrong tokens.
const WRONG_TOKEN_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Delays the response to a wrong token or link. Logs `line` from time to time; its argument is the number of wrong ones
/// since the last line.
pub(super) async fn delay_response(services: &Services, line: impl FnOnce(u64) -> Event) {
    let throttle = &services.state.throttle;
    if let Some(count) = throttle.count() {
        services.log.event(line(count));
    }
    throttle.delay().await;
}

/// Limits and counts the delayed responses.
pub(super) struct Throttle {
    permits: Semaphore,
    /// Wrong tokens since the last log line, and when that was.
    wrong: Mutex<(u64, Option<Instant>)>,
    rows: Mutex<RowBudget>,
}

/// How many audit rows of wrong tokens may be written, so that who guesses tokens does not fill the disk.
#[derive(Debug)]
struct RowBudget {
    left: u32,
    since: Instant,
    without_row: u64,
}

impl RowBudget {
    fn new(now: Instant) -> Self {
        Self {
            left: MOST_ROWS,
            since: now,
            without_row: 0,
        }
    }

    /// Counts a wrong token. Some: it gets a row, which stands for so many.
    fn count(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_secs() / ROW_INTERVAL.as_secs();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(MOST_ROWS);
            self.since += ROW_INTERVAL * more;
        }
        self.without_row += 1;
        self.left = self.left.checked_sub(1)?;
        Some(std::mem::take(&mut self.without_row))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(MOST_DELAYED),
            wrong: Mutex::default(),
            rows: Mutex::new(RowBudget::new(Instant::now())),
        }
    }
}

impl Throttle {
    async fn delay(&self) {
        if let Ok(_permit) = self.permits.try_acquire() {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
    }

    /// Counts a wrong token. Some: it gets an audit row, which stands for so many.
    pub(super) fn row(&self) -> Option<u64> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.count(Instant::now())
    }

    /// Counts a wrong token. Some: a log line is due, with this count.
    fn count(&self) -> Option<u64> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.0 += 1;
        if wrong
            .1
            .is_some_and(|last| last.elapsed() < WRONG_TOKEN_LOG_INTERVAL)
        {
            return None;
        }
        let count = wrong.0;
        *wrong = (0, Some(Instant::now()));
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_guesses_fast_gets_a_row_a_second_that_counts_the_others() {
        let start = Instant::now();
        let mut budget = RowBudget::new(start);
        for _ in 0..MOST_ROWS {
            assert_eq!(budget.count(start), Some(1));
        }
        assert_eq!(budget.count(start), None);
        assert_eq!(budget.count(start + Duration::from_millis(999)), None);
        assert_eq!(budget.count(start + Duration::from_secs(1)), Some(3));
        assert_eq!(budget.count(start + Duration::from_secs(1)), None);
        let later = start + Duration::from_secs(10_000);
        assert_eq!(budget.count(later), Some(2));
        for _ in 1..MOST_ROWS {
            assert_eq!(budget.count(later), Some(1));
        }
        assert_eq!(budget.count(later), None);
    }
}
