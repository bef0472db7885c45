//! One key in the table.

use std::sync::{Arc, OnceLock};

use crate::policy::key::Key;
use crate::policy::time::UnixTime;
use crate::table::usage::{Usage, UsageCounts};

/// One key in the table, with the way to its live counters.
#[derive(Debug)]
pub struct Entry {
    key: Key,
    /// Made at the first use. A changed key's new entry shares those of the old one, so that no count is lost.
    usage: OnceLock<Arc<Usage>>,
}

impl Entry {
    /// The record.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Counts a request that the key was let in with.
    pub(crate) fn count(&self, now: UnixTime) {
        self.usage.get_or_init(Arc::default).count(now);
    }

    /// What was counted.
    pub(crate) fn usage(&self) -> UsageCounts {
        let used = self.usage.get();
        used.map(|usage| usage.read()).unwrap_or_default()
    }

    /// An entry for another record of the same key, with the same counters.
    pub(crate) fn changed_to(&self, key: Key) -> Self {
        let usage = self.usage.get_or_init(Arc::default);
        Self {
            key,
            usage: OnceLock::from(Arc::clone(usage)),
        }
    }
}

impl From<Key> for Entry {
    fn from(key: Key) -> Self {
        Self {
            key,
            usage: OnceLock::new(),
        }
    }
}

/// Entries are equal when they are the same one.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
