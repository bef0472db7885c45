//! The live counters of one key. The database keeps them over a restart.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::policy::time::UnixTime;

/// Counters to which every worker adds.
#[derive(Debug)]
pub(crate) struct Usage {
    requests: AtomicU64,
    last_used_at: AtomicI64,
    body_bytes: BodyBytes,
    forwarding: AtomicUsize,
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
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            last_used_at: AtomicI64::new(i64::MIN),
            body_bytes: BodyBytes::default(),
            forwarding: AtomicUsize::new(0),
        }
    }
}

impl Usage {
    pub(crate) fn count(&self, now: UnixTime) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Most requests come within a second that is stored already, and a load costs less than a contended store.
        if self.last_used_at.load(Ordering::Relaxed) < now.seconds() {
            self.last_used_at
                .fetch_max(now.seconds(), Ordering::Relaxed);
        }
    }

    /// Adds what was counted before the start.
    pub(crate) fn restore(&self, before: UsageCounts) {
        self.requests.fetch_add(before.requests, Ordering::Relaxed);
        if let Some(last) = before.last_used_at {
            self.last_used_at
                .fetch_max(last.seconds(), Ordering::Relaxed);
        }
    }

    pub(crate) fn forwarding(&self) -> &AtomicUsize {
        &self.forwarding
    }

    pub(crate) fn body_bytes(&self) -> &BodyBytes {
        &self.body_bytes
    }

    pub(crate) fn read(&self) -> UsageCounts {
        let last = self.last_used_at.load(Ordering::Relaxed);
        UsageCounts {
            requests: self.requests.load(Ordering::Relaxed),
            last_used_at: (last != i64::MIN).then(|| UnixTime::from_seconds(last)),
        }
    }
}
