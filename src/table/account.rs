//! The accounts that keys name, each with its ceilings and with what its keys have used together.
//!
//! Every key that names an account holds its [`AccountEntry`], whether the account exists or not. So a change of an account
//! is one store, which all of its keys see at once, and no key can miss it: also one that is being loaded.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;

use crate::policy::account::AccountRules;
use crate::policy::key::{Key, KeyId};
use crate::policy::key_limiter::KeyLimiter;

/// An account that keys name, or one without keys.
#[derive(Debug)]
pub struct AccountEntry {
    id: Box<str>,
    /// None: there is no such account, and its keys are free.
    rules: ArcSwapOption<AccountRules>,
    /// Allocated at the first request that a limit counts.
    limiter: OnceLock<Box<Mutex<KeyLimiter>>>,
}

impl AccountEntry {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            rules: ArcSwapOption::empty(),
            limiter: OnceLock::new(),
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ceilings; None: there is no such account.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<AccountRules>> {
        self.rules.load_full()
    }

    /// What its limits count, of all of its keys. Nothing may wait while it is held.
    pub(crate) fn limiter(&self) -> MutexGuard<'_, KeyLimiter> {
        let limiter = self.limiter.get_or_init(Box::default);
        limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All accounts, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Accounts(DashMap<Box<str>, Arc<AccountEntry>>);

impl Accounts {
    /// The account that a key names; None where it names none, or its text cannot be an id.
    pub(crate) fn of(&self, key: &Key) -> Option<Arc<AccountEntry>> {
        let id = key.account()?;
        if let Some(found) = self.0.get(id) {
            return Some(Arc::clone(&found));
        }
        KeyId::parse(id).ok()?;
        Some(self.get_or_add(id))
    }

    pub(crate) fn rules(&self, id: &str) -> Option<Arc<AccountRules>> {
        self.0.get(id)?.rules()
    }

    /// Those that exist, by their ids.
    pub(crate) fn existing(&self) -> Vec<Arc<AccountRules>> {
        let mut existing: Vec<_> = self.0.iter().filter_map(|entry| entry.rules()).collect();
        existing.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        existing
    }

    pub(crate) fn put(&self, rules: AccountRules) {
        let entry = self.get_or_add(rules.id.as_str());
        let rules = Arc::new(rules);
        let before = entry.rules.swap(Some(Arc::clone(&rules)));
        let budgets = before
            .as_ref()
            .map_or(&[][..], |before| &before.allowance.budgets);
        if !rules.allowance.budgets.is_empty() {
            entry
                .limiter()
                .change_budgets(budgets, &rules.allowance.budgets);
        }
    }

    pub(crate) fn remove(&self, id: &str) {
        if let Some(entry) = self.0.get(id) {
            entry.rules.store(None);
        }
    }

    /// Frees those that do not exist and that no key names. Keys that somebody still holds count, so that some stay until
    /// the table is swapped again.
    pub(crate) fn prune(&self) {
        self.0
            .retain(|_, entry| entry.rules.load().is_some() || Arc::strong_count(entry) > 1);
    }

    fn get_or_add(&self, id: &str) -> Arc<AccountEntry> {
        let entry = self.0.entry(id.into());
        Arc::clone(&entry.or_insert_with(|| Arc::new(AccountEntry::new(id))))
    }
}
