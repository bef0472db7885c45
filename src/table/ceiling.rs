//! The limits and budgets in force for a key: its own, and those that its account has for all of its keys together.

use std::sync::{Arc, MutexGuard};

use crate::policy::account::AccountRules;
use crate::policy::budget::Budget;
use crate::policy::key_limiter::KeyLimiter;
use crate::policy::key_limits::KeyLimits;
use crate::policy::limit_terms::KeyTerms;
use crate::policy::rate_limit::RateLimits;
use crate::table::account::AccountEntry;
use crate::table::entry::Entry;

/// A key or an account that has limits or budgets.
#[derive(Clone, Debug)]
pub enum LimitHolder {
    /// A key.
    Key(Arc<Entry>),
    /// An account, with its rules as they were when it was asked for.
    Account(Arc<AccountEntry>, Arc<AccountRules>),
}

impl LimitHolder {
    /// The id of the key or account.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Key(entry) => entry.key().id(),
            Self::Account(entry, _) => entry.id(),
        }
    }

    /// Its budgets.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        match self {
            Self::Key(entry) => entry.key().budgets(),
            Self::Account(_, rules) => &rules.allowance.budgets,
        }
    }

    /// What its limits and budgets count. Nothing may wait while it is held.
    pub(crate) fn limiter(&self) -> MutexGuard<'_, KeyLimiter> {
        match self {
            Self::Key(entry) => entry.limiter(),
            Self::Account(entry, _) => entry.limiter(),
        }
    }
}

/// The limits and budgets of a key alone, or those of an account: at least one.
#[derive(Clone, Debug)]
pub struct Ceiling {
    /// What they are on.
    pub holder: LimitHolder,
    /// How fast it may be used.
    pub rates: RateLimits,
}

/// One of a key and one of its account, where they have any.
pub type OfKeyAndAccount<T> = [Option<T>; 2];

impl Ceiling {
    /// All that limit a key, where the config has these defaults; None where nothing does.
    #[inline]
    #[must_use]
    pub fn of(entry: &Arc<Entry>, defaults: &KeyLimits) -> Option<OfKeyAndAccount<Self>> {
        let (key, account) = (Self::of_key(entry, defaults), Self::of_account(entry));
        let limits = key.is_some() || account.is_some();
        limits.then_some([key, account])
    }

    #[inline]
    fn of_key(entry: &Arc<Entry>, defaults: &KeyLimits) -> Option<Self> {
        if entry.key().allowance().is_none() && defaults.are_unset() {
            return None;
        }
        let rates = entry.key().limits().in_force(defaults);
        let limits = rates != RateLimits::default() || !entry.key().budgets().is_empty();
        limits.then(|| Self {
            holder: LimitHolder::Key(Arc::clone(entry)),
            rates,
        })
    }

    /// Those of a key's account. The config's defaults are for keys.
    #[inline]
    fn of_account(entry: &Entry) -> Option<Self> {
        let account = entry.account()?;
        let rules = account.rules()?;
        let limits = !rules.allowance.is_unset();
        limits.then(|| Self {
            rates: rules.allowance.limits.in_force(&KeyLimits::default()),
            holder: LimitHolder::Account(Arc::clone(account), rules),
        })
    }

    /// What the limiter of the holder is asked with.
    #[must_use]
    pub fn terms(&self) -> KeyTerms<'_> {
        KeyTerms {
            rates: self.rates,
            budgets: self.holder.budgets(),
        }
    }
}
