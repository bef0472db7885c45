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
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(MOST_DELAYED),
            wrong: Mutex::default(),
        }
    }
}

impl Throttle {
    async fn delay(&self) {
        if let Ok(_permit) = self.permits.try_acquire() {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
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
