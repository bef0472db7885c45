//! Slows down whoever guesses tokens and sign-in links.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::admin::Services;
use crate::observe::log::Event;

/// How late a wrong token is answered.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(200);
/// How many wrong tokens may wait for their answer; further ones are answered at once.
const MOST_DELAYED: usize = 64;
/// How often wrong tokens are worth a log line.
const WRONG_TOKEN_LOGGED: Duration = Duration::from_secs(10);

/// Lets whoever showed a wrong secret wait. `line`, with the count of such since the last, is logged now and then.
pub(super) async fn slow_down(services: &Services, line: impl FnOnce(u64) -> Event) {
    let throttle = &services.memory.throttle;
    if let Some(count) = throttle.count() {
        services.log.event(line(count));
    }
    throttle.delay().await;
}

/// Slows down whoever guesses.
pub(super) struct Throttle {
    seats: Semaphore,
    /// Wrong tokens since the last log line, and when that was.
    wrong: Mutex<(u64, Option<Instant>)>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            seats: Semaphore::new(MOST_DELAYED),
            wrong: Mutex::default(),
        }
    }
}

impl Throttle {
    async fn delay(&self) {
        if let Ok(_seat) = self.seats.try_acquire() {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
    }

    /// Counts a wrong token. Some: that many deserve a log line now.
    fn count(&self) -> Option<u64> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.0 += 1;
        if wrong
            .1
            .is_some_and(|last| last.elapsed() < WRONG_TOKEN_LOGGED)
        {
            return None;
        }
        let count = wrong.0;
        *wrong = (0, Some(Instant::now()));
        Some(count)
    }
}
