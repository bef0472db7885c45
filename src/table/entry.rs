//! One key in the table, with its live counters.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, MutexGuard, OnceLock};

use crate::policy::account::AccountRules;
use crate::policy::key::{Key, KeyToken, PreviousToken};
use crate::policy::key_limiter::KeyLimiter;
use crate::policy::time::UnixTime;
use crate::table::account::AccountEntry;
use crate::table::usage::{BodyBytes, Usage, UsageCounts};

/// One key in the table, with its live counters.
#[derive(Debug)]
pub struct Entry {
    key: Key,
    /// The account that the key names; None where it names none.
    account: Option<Arc<AccountEntry>>,
    /// Allocated at the first use. When a key changes, its new entry shares the old one's counters, so that no request
    /// is lost.
    usage: OnceLock<Arc<Usage>>,
}

impl Entry {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The account that the key names, which may not exist.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<AccountEntry>> {
        self.account.as_ref()
    }

    /// The ceilings of the key's account; None where there is no such account. They change under a key that stays, so they
    /// are read once for a decision.
    #[must_use]
    pub fn account_rules(&self) -> Option<Arc<AccountRules>> {
        self.account.as_ref()?.rules()
    }

    pub(crate) fn count(&self, token: KeyToken, now: UnixTime) {
        self.usage.get_or_init(Arc::default).count(token, now);
    }

    pub(crate) fn restore(&self, before: UsageCounts) {
        self.usage.get_or_init(Arc::default).restore(before);
    }

    /// Bytes of request bodies that the key holds at the moment.
    pub(crate) fn body_bytes(&self) -> &BodyBytes {
        self.usage.get_or_init(Arc::default).body_bytes()
    }

    /// What its limits count. Nothing may wait while it is held.
    pub(crate) fn limiter(&self) -> MutexGuard<'_, KeyLimiter> {
        self.usage.get_or_init(Arc::default).limiter()
    }

    /// How much of the key's fullest budget is used, from 0 on; None where it has none, or nobody knows yet. What was
    /// spent in a period that has ended counts until the key is used again.
    #[must_use]
    pub fn budget_used_ratio(&self) -> Option<f64> {
        let budgets = self.key.budgets();
        match budgets.is_empty() {
            true => None,
            false => self.limiter().used_ratio(budgets),
        }
    }

    /// Requests of the key that are being forwarded.
    pub(crate) fn forwarding(&self) -> &AtomicUsize {
        self.usage.get_or_init(Arc::default).forwarding()
    }

    pub(crate) fn usage(&self) -> UsageCounts {
        let used = self.usage.get();
        used.map(|usage| usage.read()).unwrap_or_default()
    }

    /// An entry for the changed key that shares these counters.
    pub(crate) fn changed_to(&self, key: Key, account: Option<Arc<AccountEntry>>) -> Self {
        let usage = self.usage.get_or_init(Arc::default);
        Self {
            key,
            account,
            usage: OnceLock::from(Arc::clone(usage)),
        }
    }

    /// This entry takes the place of `before`, whose counters it shares: uses of a previous token that it no longer has
    /// are forgotten, and so is what was spent of budgets that it did not have.
    pub(crate) fn takes_place_of(&self, before: &Self) {
        let previous_hash = |entry: &Self| entry.key.previous().map(PreviousToken::hash).copied();
        let Some(usage) = self.usage.get() else {
            return;
        };
        if previous_hash(self) != previous_hash(before) {
            usage.forget_previous_token();
        }
        if !self.key.budgets().is_empty() {
            let budgets = (before.key.budgets(), self.key.budgets());
            usage.limiter().change_budgets(budgets.0, budgets.1);
        }
    }
}

impl Entry {
    pub(crate) fn new(key: Key, account: Option<Arc<AccountEntry>>) -> Self {
        Self {
            key,
            account,
            usage: OnceLock::new(),
        }
    }
}

/// A key without an account, for tests: a key of a table gets the account that it names.
#[cfg(test)]
impl From<Key> for Entry {
    fn from(key: Key) -> Self {
        Self::new(key, None)
    }
}

/// Entries are equal if they are the same allocation.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
