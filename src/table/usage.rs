//! The live counters of one key. The database keeps them over a restart.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::policy::key::KeyToken;
use crate::policy::key_limiter::KeyLimiter;
use crate::policy::time::UnixTime;

/// Counters to which every worker adds.
#[derive(Debug)]
pub(crate) struct Usage {
    requests: AtomicU64,
    last_used_at: LastUse,
    /// The last use of the previous token, of those that `last_used_at` has too.
    previous_last_used_at: LastUse,
    body_bytes: BodyBytes,
    forwarding: AtomicUsize,
    /// Allocated at the first request that a limit counts.
    limiter: OnceLock<Box<Mutex<KeyLimiter>>>,
}

/// The time of a use in four bytes, one second late: 0 is never. A time before 1970 counts as 1970, one after 2106 as 2106.
#[derive(Debug, Default)]
struct LastUse(AtomicU32);

impl LastUse {
    fn raise_to(&self, now: UnixTime) {
        let since_1970 = u32::try_from(now.seconds().max(0)).unwrap_or(u32::MAX);
        let stored = since_1970.saturating_add(1);
        // Most requests come within a second that is stored already, and a load costs less than a contended store.
        if self.0.load(Ordering::Relaxed) < stored {
            self.0.fetch_max(stored, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Option<UnixTime> {
        let stored = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(UnixTime::from_seconds(i64::from(stored)))
    }
}

/// Bytes of request bodies that a key holds at the moment.
#[derive(Debug, Default)]
pub(crate) struct BodyBytes {
    pub(crate) large: AtomicUsize,
    pub(crate) small: AtomicUsize,
}

/// A snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Requests that passed the checks of credential, key, expiry and network.
    pub requests: u64,
    /// The time of the last such request.
    pub last_used_at: Option<UnixTime>,
    /// The time of the last one with the previous token, since the rotation that made it the previous one.
    pub previous_last_used_at: Option<UnixTime>,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            last_used_at: LastUse::default(),
            previous_last_used_at: LastUse::default(),
            body_bytes: BodyBytes::default(),
            forwarding: AtomicUsize::new(0),
            limiter: OnceLock::new(),
        }
    }
}

impl Usage {
    pub(crate) fn count(&self, token: KeyToken, now: UnixTime) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.last_used_at.raise_to(now);
        match token {
            KeyToken::Current => {}
            KeyToken::Previous => self.previous_last_used_at.raise_to(now),
        }
    }

    /// The key has another previous token now, or none.
    pub(crate) fn forget_previous_token(&self) {
        self.previous_last_used_at.0.store(0, Ordering::Relaxed);
    }

    /// Adds what was counted before the start.
    pub(crate) fn restore(&self, before: UsageCounts) {
        self.requests.fetch_add(before.requests, Ordering::Relaxed);
        if let Some(last) = before.last_used_at {
            self.last_used_at.raise_to(last);
        }
    }

    pub(crate) fn forwarding(&self) -> &AtomicUsize {
        &self.forwarding
    }

    pub(crate) fn limiter(&self) -> MutexGuard<'_, KeyLimiter> {
        let limiter = self.limiter.get_or_init(Box::default);
        limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn body_bytes(&self) -> &BodyBytes {
        &self.body_bytes
    }

    pub(crate) fn read(&self) -> UsageCounts {
        UsageCounts {
            requests: self.requests.load(Ordering::Relaxed),
            last_used_at: self.last_used_at.get(),
            previous_last_used_at: self.previous_last_used_at.get(),
        }
    }
}
