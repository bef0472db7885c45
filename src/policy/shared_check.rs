//! What a gateway lets through where it shares limits with others: as much as its leases have room for, and a share of the
//! limit where it cannot have a lease.

use crate::policy::budget::{Budget, BudgetMode, LoadedSpending};
use crate::policy::fleet_link::{FleetLink, LeaseRule};
use crate::policy::limit_leases::{AmountLease, KeyLeases, LackOfLease};
use crate::policy::limit_terms::{KeyTerms, LimitClock, LimitError, UsedAmounts};
use crate::policy::rate_limit::{Monotonic, RateLimitError, RateLimiter, Remaining};
use crate::policy::shared_limit::{BUDGET_LEASE_MILLIS, LEASE_MILLIS};

/// Where nobody knows how long to wait, in milliseconds.
const LONGEST_WAIT: u64 = 60_000;

/// The check of leases and shares.
pub(crate) struct SharedCheck<'c> {
    pub(crate) rate: &'c RateLimiter,
    pub(crate) spendings: &'c [LoadedSpending],
    pub(crate) leases: &'c mut KeyLeases,
    pub(crate) link: &'c FleetLink,
    pub(crate) now: Monotonic,
}

impl SharedCheck<'_> {
    /// Whether leases and shares have room for what a request is expected to use.
    ///
    /// # Errors
    /// [`LimitError`] names the limit.
    pub(crate) fn check(
        &mut self,
        terms: &KeyTerms<'_>,
        expected: &UsedAmounts,
    ) -> Result<(), LimitError> {
        for budget in terms.budgets {
            if budget.mode == BudgetMode::Enforce {
                self.budget(budget, expected.of(budget.unit))?;
            }
        }
        let (rates, now, rate) = (&terms.rates, self.now, self.rate);
        if let Some(limit) = rates.tokens_per_minute {
            let confirmed = self.leases.tokens.confirmed;
            let tokens = expected.tokens;
            let covers = |leases: &mut KeyLeases| leases.tokens.covers(limit, tokens, now);
            let share = |share| match tokens > share {
                true => LONGEST_WAIT,
                false => rate.wait_for_tokens(share, tokens, now),
            };
            self.rate(limit, confirmed, covers, share, |retry_after| {
                RateLimitError::Tokens { retry_after }
            })?;
        }
        if let Some(limit) = rates.requests_per_minute {
            let confirmed = self.leases.requests.confirmed;
            let covers = |leases: &mut KeyLeases| leases.requests.covers(limit, 1, now);
            let share = |share| match share {
                0 => LONGEST_WAIT,
                share => rate.wait_for_request(share, now),
            };
            self.rate(limit, confirmed, covers, share, |retry_after| {
                RateLimitError::Requests { retry_after }
            })?;
        }
        if let Some(limit) = rates.concurrent_requests {
            let confirmed = self.leases.running.confirmed;
            let running = rate.running();
            let covers = |leases: &mut KeyLeases| leases.running.covers(limit, running);
            let share = |share| u64::from(running >= share);
            self.rate(limit, confirmed, covers, share, |_| {
                RateLimitError::Concurrent
            })?;
        }
        Ok(())
    }

    /// `wait` says how long a share has to be waited for.
    fn rate(
        &mut self,
        limit: u64,
        confirmed: Option<Monotonic>,
        covers: impl FnOnce(&mut KeyLeases) -> Result<(), LackOfLease>,
        wait: impl FnOnce(u64) -> u64,
        error: impl FnOnce(u64) -> RateLimitError,
    ) -> Result<(), LimitError> {
        let refuse_after = |millis| match millis {
            0 => Ok(()),
            millis => Err(error(millis).into()),
        };
        match self.link.rule(confirmed, LEASE_MILLIS, self.now) {
            LeaseRule::Lease => match covers(self.leases) {
                Ok(()) => Ok(()),
                Err(lack) => {
                    self.leases.lacks(lack);
                    refuse_after(lack.retry_after)
                }
            },
            LeaseRule::NoLease => {
                // It notes what is needed.
                let _ = covers(self.leases);
                self.leases.lacks(LackOfLease::UNKNOWN);
                refuse_after(LackOfLease::UNKNOWN.retry_after)
            }
            LeaseRule::LeaseOrRefuse => covers(self.leases).map_err(|_| LimitError::Unavailable),
            LeaseRule::LeaseAndShare { gateways, left } => {
                match (wait(limit / gateways), covers(self.leases)) {
                    (0, Ok(())) => Ok(()),
                    (0, Err(lack)) => {
                        self.leases.lacks(lack);
                        let millis = match self.link.is_away() {
                            true => left,
                            false => lack.retry_after,
                        };
                        refuse_after(millis)
                    }
                    (millis, _) => refuse_after(millis),
                }
            }
            LeaseRule::Share { gateways } => refuse_after(wait(limit / gateways)),
            LeaseRule::Refuse => Err(LimitError::Unavailable),
        }
    }

    fn budget(&mut self, budget: &Budget, expected: u64) -> Result<(), LimitError> {
        let lease = self.leases.budget(budget);
        let confirmed = lease.confirmed;
        let mut spendings = self.spendings.iter();
        let spending = spendings.find(|loaded| loaded.is_of(budget));
        let spent = LimitError::Budget {
            unit: budget.unit,
            resets_at: spending.and_then(|loaded| loaded.spending.resets_at()),
        };
        let amount = expected.max(1);
        let covers = lease.covers(budget.amount, amount, self.now);
        let rule = self.link.rule(confirmed, BUDGET_LEASE_MILLIS, self.now);
        let error = match rule {
            LeaseRule::Refuse => return Err(LimitError::Unavailable),
            _ if confirmed.is_none() => LimitError::Unavailable,
            LeaseRule::NoLease => LimitError::Unavailable,
            // What nobody had borrowed, in equal parts.
            LeaseRule::Share { gateways }
                if lease.effective(budget.amount) + lease.free() / gateways >= amount =>
            {
                return Ok(());
            }
            LeaseRule::LeaseOrRefuse => LimitError::Unavailable,
            LeaseRule::Lease | LeaseRule::LeaseAndShare { .. } | LeaseRule::Share { .. } => spent,
        };
        match covers {
            Ok(()) if rule != LeaseRule::NoLease => Ok(()),
            Ok(()) => {
                self.leases.lacks(LackOfLease::UNKNOWN);
                Err(error)
            }
            Err(lack) => {
                self.leases.lacks(lack);
                Err(error)
            }
        }
    }
}

/// What is left of a limit over all gateways, where it is known, and at least not more.
pub(crate) fn remaining(
    here: Remaining,
    lease: Option<&AmountLease>,
    clock: &LimitClock<'_>,
) -> Remaining {
    let Some(link) = &clock.fleet else {
        return here;
    };
    let limit = here.limit;
    let used_here = limit.saturating_sub(here.remaining);
    let share = |gateways: u64| (limit / gateways).saturating_sub(used_here);
    let confirmed = lease.and_then(|lease| lease.confirmed);
    let held = lease.map_or(0, |lease| lease.effective(limit));
    let left = match link.rule(confirmed, LEASE_MILLIS, clock.monotonic) {
        LeaseRule::Lease | LeaseRule::LeaseOrRefuse => lease.map_or(0, |lease| lease.left(limit)),
        LeaseRule::LeaseAndShare { gateways, .. } => held.min(share(gateways)),
        LeaseRule::Share { gateways } => share(gateways),
        LeaseRule::NoLease => share(link.gateways()),
        LeaseRule::Refuse => 0,
    };
    let reset_after = lease.map_or(0, |lease| lease.reset_after(clock.monotonic));
    Remaining {
        limit,
        remaining: here.remaining.min(left),
        reset_after: here.reset_after.max(reset_after),
    }
}
