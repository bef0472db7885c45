//! All that limits how a key is used, as one: its rate limits and its budgets. A request takes from all of them or from
//! none.
//!
//! Where gateways share their limits, a request also needs room in the leases of this gateway (`limit_leases`).
//!
//! Pure: the caller passes the time, and loads what was spent before.

use crate::policy::budget::{
    Budget, BudgetMode, BudgetPeriod, BudgetUnit, LoadedSpending, Spending,
};
use crate::policy::fleet_link::LeaseRule;
use crate::policy::limit_leases::KeyLeases;
use crate::policy::limit_terms::{KeyTerms, LimitClock, LimitError, UsedAmounts};
use crate::policy::rate_limit::{MOST_TOKENS, RateLimiter, RateReservation, Remaining};
use crate::policy::shared_check::{SharedCheck, remaining};
use crate::policy::shared_limit::LEASE_MILLIS;
use crate::policy::time::UnixTime;

/// What a request has taken. Give it to [`KeyLimiter::settle`] or [`KeyLimiter::cancel`] once.
#[must_use]
#[derive(Debug)]
pub struct LimitReservation {
    reservation: RateReservation,
    expected: UsedAmounts,
    budgets: Box<[(BudgetUnit, BudgetPeriod)]>,
    /// What was taken from leases too.
    leased: LeasedKinds,
}

#[derive(Clone, Copy, Debug, Default)]
struct LeasedKinds {
    requests: bool,
    tokens: bool,
    budgets: bool,
}

/// A budget has reached a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetMark {
    /// The budget.
    pub budget: Budget,
    /// In percent.
    pub percent: u64,
    /// What is spent.
    pub spent: u64,
    /// When its period began.
    pub period_start: UnixTime,
    /// When it begins anew; None: never.
    pub resets_at: Option<UnixTime>,
}

impl BudgetMark {
    fn of(budget: &Budget, percent: u64, spending: &Spending) -> Self {
        Self {
            budget: *budget,
            percent,
            spent: spending.last_spent(),
            period_start: spending.period_start(),
            resets_at: spending.resets_at(),
        }
    }
}

/// What is left of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLeft {
    /// Spent in the present period.
    pub spent: u64,
    /// Neither spent nor reserved.
    pub remaining: u64,
    /// When it begins anew; None: never.
    pub resets_at: Option<UnixTime>,
}

/// The counts of one key.
#[derive(Debug, Default)]
pub struct KeyLimiter {
    rate: RateLimiter,
    /// Of each budget that was loaded.
    spendings: Vec<LoadedSpending>,
    /// Where gateways share limits; allocated at the first use.
    leases: Option<Box<KeyLeases>>,
}

impl KeyLimiter {
    /// The budgets of which it is not known what was spent.
    pub fn unloaded<'b>(&self, budgets: &'b [Budget]) -> impl Iterator<Item = &'b Budget> {
        budgets
            .iter()
            .filter(|budget| !self.spendings.iter().any(|loaded| loaded.is_of(budget)))
    }

    /// So much was spent of a budget in its present period. Where that is known already, it stays.
    pub fn load(&mut self, budget: &Budget, spent: u64, clock: &LimitClock<'_>) {
        if self.spending(budget).is_none() {
            self.spendings.push(LoadedSpending {
                unit: budget.unit,
                period: budget.period,
                spending: Spending::of(budget, spent, clock.now, clock.zone),
            });
        }
    }

    /// Forgets what was spent of budgets, so that it is loaded anew.
    pub fn unload(&mut self) {
        self.spendings.clear();
        if let Some(leases) = &mut self.leases {
            leases.forget_budgets();
        }
    }

    /// The key has these budgets in place of `before`. Of those that it did not have, what was spent is loaded anew: what
    /// is known of an earlier time is old.
    pub fn change_budgets(&mut self, before: &[Budget], budgets: &[Budget]) {
        let had = |loaded: &LoadedSpending| before.iter().any(|budget| loaded.is_of(budget));
        let has = |loaded: &LoadedSpending| budgets.iter().any(|budget| loaded.is_of(budget));
        self.spendings.retain(|loaded| had(loaded) || !has(loaded));
    }

    /// Whether a request that is expected to use this would be let in. Nothing is taken.
    ///
    /// # Errors
    /// [`LimitError`] names the limit.
    pub fn check(
        &mut self,
        terms: &KeyTerms<'_>,
        expected: &UsedAmounts,
        clock: &LimitClock<'_>,
    ) -> Result<(), LimitError> {
        if clock.fleet.is_some() {
            let leases = self.leases.get_or_insert_default();
            leases.asked(clock.monotonic);
        }
        for budget in terms.budgets {
            let expected = expected.of(budget.unit);
            let spending = self.spending(budget).ok_or(LimitError::Unavailable)?;
            if clock.fleet.is_some() {
                // What is known here may be old; the lease decides.
                continue;
            }
            spending
                .check(budget, expected, clock.now, clock.zone)
                .map_err(|error| LimitError::Budget {
                    unit: budget.unit,
                    resets_at: error.resets_at,
                })?;
        }
        self.rate
            .check(&terms.rates, expected.tokens, clock.monotonic)?;
        match (&clock.fleet, &mut self.leases) {
            (Some(link), Some(leases)) => {
                let mut shared = SharedCheck {
                    rate: &self.rate,
                    spendings: &self.spendings,
                    leases,
                    link,
                    now: clock.monotonic,
                };
                shared.check(terms, expected)
            }
            _ => Ok(()),
        }
    }

    /// Takes what a request is expected to use from all limits and budgets, or from none.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn take(
        &mut self,
        terms: &KeyTerms<'_>,
        expected: &UsedAmounts,
        clock: &LimitClock<'_>,
    ) -> Result<LimitReservation, LimitError> {
        self.check(terms, expected, clock)?;
        // No sum of what runs may overflow: what is reserved is what is given back.
        let expected = &UsedAmounts {
            tokens: expected.tokens.min(MOST_TOKENS),
            ..*expected
        };
        let reservation = self
            .rate
            .take(&terms.rates, expected.tokens, clock.monotonic)?;
        for budget in terms.budgets {
            if let Some(spending) = self.spending(budget) {
                spending.reserve(expected.of(budget.unit));
            }
        }
        let leased = match &clock.fleet {
            Some(_) => self.take_from_leases(terms, expected, reservation.second()),
            None => LeasedKinds::default(),
        };
        let budgets = terms.budgets.iter();
        Ok(LimitReservation {
            reservation,
            expected: *expected,
            budgets: budgets.map(|budget| (budget.unit, budget.period)).collect(),
            leased,
        })
    }

    fn take_from_leases(
        &mut self,
        terms: &KeyTerms<'_>,
        expected: &UsedAmounts,
        second: u64,
    ) -> LeasedKinds {
        let running = self.rate.running();
        let leases = self.leases.get_or_insert_default();
        let leased = LeasedKinds {
            requests: terms.rates.requests_per_minute.is_some(),
            tokens: terms.rates.tokens_per_minute.is_some(),
            budgets: true,
        };
        if leased.requests {
            leases.requests.take(1, second);
        }
        if leased.tokens {
            leases.tokens.take(expected.tokens, second);
        }
        leases.running.take(running);
        for budget in terms.budgets {
            let expected = expected.of(budget.unit);
            leases.budget(budget).take(expected, WHOLE_PERIOD);
        }
        leased
    }

    /// The leases; None where limits are not shared, or were not asked for.
    pub fn leases(&mut self) -> Option<&mut KeyLeases> {
        self.leases.as_deref_mut()
    }

    /// What the leases say of budgets is what was spent: other gateways spend of them too.
    pub fn learn_spent(&mut self, budgets: &[Budget]) {
        let Some(leases) = &self.leases else { return };
        for loaded in &mut self.spendings {
            if budgets.iter().any(|budget| loaded.is_of(budget))
                && let Some(lease) = leases.known_budget(loaded.unit, loaded.period)
                && lease.confirmed.is_some()
            {
                loaded.spending.learn(lease.used());
            }
        }
    }

    /// The upstream of a request was released: another may take its place.
    pub fn release(&mut self) {
        self.rate.release();
    }

    /// The request was never sent: it costs nothing.
    pub fn cancel(&mut self, taken: LimitReservation, clock: &LimitClock<'_>) {
        let LimitReservation {
            reservation,
            expected,
            budgets,
            leased,
        } = taken;
        if let Some(leases) = &mut self.leases {
            let second = reservation.second();
            if leased.requests {
                leases.requests.give_back(1, second);
            }
            leases.settle(&leased, &expected, Some(0), (second, second));
            for (unit, period) in budgets.iter().filter(|_| leased.budgets) {
                leases.settle_budget((*unit, *period), expected.of(*unit), 0);
            }
        }
        self.rate.cancel(reservation, clock.monotonic);
        for loaded in &mut self.spendings {
            if budgets.contains(&(loaded.unit, loaded.period)) {
                loaded.spending.give_back(expected.of(loaded.unit));
            }
        }
    }

    /// The request has used this. `tokens` of None: nobody knows, and what was reserved counts. Returns the budgets that
    /// reach a mark by it.
    pub fn settle(
        &mut self,
        taken: LimitReservation,
        budgets: &[Budget],
        used: &UsedAmounts,
        tokens: Option<u64>,
        clock: &LimitClock<'_>,
    ) -> Vec<BudgetMark> {
        let LimitReservation {
            reservation,
            expected,
            budgets: reserved,
            leased,
        } = taken;
        if let Some(leases) = &mut self.leases {
            let seconds = (reservation.second(), clock.monotonic.second());
            leases.settle(&leased, &expected, tokens, seconds);
            for (unit, period) in reserved.iter().filter(|_| leased.budgets) {
                let used = match (unit, tokens) {
                    (BudgetUnit::Tokens, None) => expected.tokens,
                    (unit, _) => used.of(*unit),
                };
                leases.settle_budget((*unit, *period), expected.of(*unit), used);
            }
        }
        self.rate.settle(reservation, tokens, clock.monotonic);
        let mut marks = Vec::new();
        for budget in budgets {
            if !reserved.contains(&(budget.unit, budget.period)) {
                continue;
            }
            let used = match (budget.unit, tokens) {
                (BudgetUnit::Tokens, None) => expected.tokens,
                (unit, _) => used.of(unit),
            };
            let Some(spending) = self.spending(budget) else {
                continue;
            };
            let expected = expected.of(budget.unit);
            let mark = spending.settle(budget, expected, used, clock.now, clock.zone);
            marks.extend(mark.map(|percent| BudgetMark::of(budget, percent, spending)));
        }
        marks
    }

    /// The marks that budgets have reached without a request that told of it: by what was spent before they were loaded,
    /// or since their amounts changed.
    pub fn marks(&mut self, budgets: &[Budget], clock: &LimitClock<'_>) -> Vec<BudgetMark> {
        let mut marks = Vec::new();
        for budget in budgets {
            if let Some(spending) = self.spending(budget) {
                let mark = spending.reach_mark(budget, clock.now, clock.zone);
                marks.extend(mark.map(|percent| BudgetMark::of(budget, percent, spending)));
            }
        }
        marks
    }

    /// Requests that run.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.rate.running()
    }

    /// What is left of a limit on requests a minute.
    pub fn requests_left(&mut self, limit: u64, clock: &LimitClock<'_>) -> Remaining {
        let here = self.rate.requests(limit, clock.monotonic);
        let leases = self.leases.as_deref();
        remaining(here, leases.map(|leases| &leases.requests), clock)
    }

    /// What is left of a limit on tokens a minute.
    pub fn tokens_left(&mut self, limit: u64, clock: &LimitClock<'_>) -> Remaining {
        let here = self.rate.tokens(limit, clock.monotonic);
        let leases = self.leases.as_deref();
        remaining(here, leases.map(|leases| &leases.tokens), clock)
    }

    /// What is left of a limit on requests at the same time.
    pub fn places_left(&mut self, limit: u64, clock: &LimitClock<'_>) -> Remaining {
        let running = self.rate.running();
        let here = limit.saturating_sub(running);
        let lease = self.leases.as_deref().map(|leases| &leases.running);
        let confirmed = lease.and_then(|lease| lease.confirmed);
        let held = |all: bool| {
            lease.map_or(0, |lease| match all {
                true => lease.left(limit, running),
                false => lease.effective(limit).saturating_sub(running),
            })
        };
        let share = |gateways: u64| (limit / gateways).saturating_sub(running);
        let rule = clock
            .fleet
            .map(|link| link.rule(confirmed, LEASE_MILLIS, clock.monotonic));
        Remaining {
            limit,
            remaining: match rule {
                None => here,
                Some(LeaseRule::Lease | LeaseRule::LeaseOrRefuse) => here.min(held(true)),
                Some(LeaseRule::LeaseAndShare { gateways, .. }) => held(false).min(share(gateways)),
                Some(LeaseRule::Share { gateways }) => share(gateways),
                Some(LeaseRule::NoLease) => share(clock.fleet.map_or(1, |link| link.gateways())),
                Some(LeaseRule::Refuse) => 0,
            },
            reset_after: 0,
        }
    }

    /// What is left of a budget; None where it is not known.
    pub fn left(&mut self, budget: &Budget, clock: &LimitClock<'_>) -> Option<BudgetLeft> {
        let lease = self.leases.as_deref();
        let lease = lease.and_then(|leases| leases.known_budget(budget.unit, budget.period));
        let shared = lease.filter(|lease| clock.fleet.is_some() && lease.confirmed.is_some());
        let most = shared.map_or(u64::MAX, |lease| lease.left(budget.amount));
        let most = match budget.mode {
            BudgetMode::Enforce => most,
            BudgetMode::Observe => u64::MAX,
        };
        let spending = self.spending(budget)?;
        Some(BudgetLeft {
            spent: spending.spent(budget, clock.now, clock.zone),
            remaining: spending.remaining(budget, clock.now, clock.zone).min(most),
            resets_at: spending.resets_at(),
        })
    }

    /// How much of the fullest of these budgets is used, from 0 on; None where nothing is known.
    #[must_use]
    pub fn used_ratio(&self, budgets: &[Budget]) -> Option<f64> {
        let ratios = budgets.iter().filter_map(|budget| {
            let loaded = self.spendings.iter().find(|loaded| loaded.is_of(budget))?;
            #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
            Some(loaded.spending.last_spent() as f64 / budget.amount as f64)
        });
        ratios.max_by(f64::total_cmp)
    }

    fn spending(&mut self, budget: &Budget) -> Option<&mut Spending> {
        let loaded = self
            .spendings
            .iter_mut()
            .find(|loaded| loaded.is_of(budget));
        loaded.map(|loaded| &mut loaded.spending)
    }
}

impl KeyLeases {
    /// A request that was let in with the first of these seconds has used so many tokens; it ends in the other.
    fn settle(
        &mut self,
        leased: &LeasedKinds,
        expected: &UsedAmounts,
        tokens: Option<u64>,
        (began, ended): (u64, u64),
    ) {
        if !leased.tokens {
            return;
        }
        let used = tokens.unwrap_or(expected.tokens);
        match used.checked_sub(expected.tokens) {
            Some(more) => self.tokens.take(more.min(MOST_TOKENS), ended),
            None => self.tokens.give_back(expected.tokens - used, began),
        }
    }

    fn settle_budget(&mut self, of: (BudgetUnit, BudgetPeriod), expected: u64, used: u64) {
        if let Some(lease) = self.used_budget(of) {
            match used.checked_sub(expected) {
                Some(more) => lease.take(more, WHOLE_PERIOD),
                None => lease.give_back(expected - used, WHOLE_PERIOD),
            }
        }
    }
}

/// Uses of a budget need no second: they count until its period ends.
const WHOLE_PERIOD: u64 = 0;

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::policy::rate_limit::{Monotonic, RateLimits};

    const DAILY: Budget = Budget {
        unit: BudgetUnit::Tokens,
        amount: 100,
        period: BudgetPeriod::Day,
        mode: BudgetMode::Enforce,
    };
    const REQUESTS: Budget = Budget {
        unit: BudgetUnit::Requests,
        amount: 2,
        period: BudgetPeriod::Total,
        mode: BudgetMode::Enforce,
    };

    fn clock(zone: &TimeZone) -> LimitClock<'_> {
        LimitClock {
            monotonic: Monotonic::from_millis(0),
            now: UnixTime::from_seconds(1_800_000_000),
            zone,
            fleet: None,
        }
    }

    fn tokens(tokens: u64) -> UsedAmounts {
        UsedAmounts {
            tokens,
            requests: 1,
            ..UsedAmounts::default()
        }
    }

    fn terms(budgets: &[Budget]) -> KeyTerms<'_> {
        KeyTerms {
            rates: RateLimits {
                requests_per_minute: Some(3),
                ..RateLimits::default()
            },
            budgets,
        }
    }

    #[test]
    fn a_request_takes_from_all_or_from_none() {
        let (zone, budgets) = (TimeZone::UTC, [DAILY, REQUESTS]);
        let (clock, terms) = (clock(&zone), terms(&budgets));
        let mut limiter = KeyLimiter::default();
        assert_eq!(
            limiter.take(&terms, &tokens(1), &clock).unwrap_err(),
            LimitError::Unavailable
        );
        for budget in &budgets {
            limiter.load(budget, 0, &clock);
        }
        let error = limiter.take(&terms, &tokens(101), &clock).unwrap_err();
        assert!(matches!(
            error,
            LimitError::Budget {
                unit: BudgetUnit::Tokens,
                resets_at: Some(_)
            }
        ));
        let taken = limiter.take(&terms, &tokens(60), &clock).unwrap();
        // 60 are reserved; 50 more do not fit, and cost no request.
        assert!(limiter.take(&terms, &tokens(50), &clock).is_err());
        let marks = limiter.settle(taken, &budgets, &tokens(10), Some(10), &clock);
        assert_eq!(marks, []);
        let taken = limiter.take(&terms, &tokens(50), &clock).unwrap();
        let marks = limiter.settle(taken, &budgets, &tokens(70), Some(70), &clock);
        let reached: Vec<(BudgetUnit, u64)> = marks
            .iter()
            .map(|mark| (mark.budget.unit, mark.percent))
            .collect();
        assert_eq!(
            reached,
            [(BudgetUnit::Tokens, 80), (BudgetUnit::Requests, 95)]
        );
        let error = limiter.take(&terms, &tokens(1), &clock).unwrap_err();
        assert_eq!(
            error,
            LimitError::Budget {
                unit: BudgetUnit::Requests,
                resets_at: None
            }
        );
        assert_eq!(limiter.requests_left(3, &clock).remaining, 1);
    }

    #[test]
    fn a_budget_that_was_taken_away_is_loaded_anew_when_it_is_given_again() {
        let zone = TimeZone::UTC;
        let clock = clock(&zone);
        let mut limiter = KeyLimiter::default();
        limiter.load(&DAILY, 10, &clock);
        let raised = Budget {
            amount: 200,
            ..DAILY
        };
        limiter.change_budgets(&[DAILY], &[raised, REQUESTS]);
        assert_eq!(limiter.left(&raised, &clock).unwrap().spent, 10);
        let budgets = [raised];
        let terms = terms(&budgets);
        let taken = limiter.take(&terms, &tokens(50), &clock).unwrap();
        limiter.change_budgets(&[raised], &[]);
        limiter.change_budgets(&[], &[DAILY]);
        assert_eq!(limiter.left(&DAILY, &clock), None);
        // What ran all the time is counted, too.
        limiter.load(&DAILY, 30, &clock);
        let _ = limiter.settle(taken, &budgets, &tokens(20), Some(20), &clock);
        assert_eq!(limiter.left(&DAILY, &clock).unwrap().spent, 50);
    }

    #[test]
    fn a_cancelled_request_costs_nothing() {
        let (zone, budgets) = (TimeZone::UTC, [DAILY, REQUESTS]);
        let (clock, terms) = (clock(&zone), terms(&budgets));
        let mut limiter = KeyLimiter::default();
        for budget in &budgets {
            limiter.load(budget, 0, &clock);
        }
        for _ in 0..9 {
            let taken = limiter.take(&terms, &tokens(90), &clock).unwrap();
            limiter.cancel(taken, &clock);
            limiter.release();
        }
        assert_eq!(limiter.left(&DAILY, &clock).unwrap().remaining, 100);
        assert_eq!(limiter.requests_left(3, &clock).remaining, 3);
    }

    #[test]
    fn an_observed_budget_refuses_nothing_and_reaches_its_marks() {
        let observed = Budget {
            mode: BudgetMode::Observe,
            ..DAILY
        };
        let (zone, budgets) = (TimeZone::UTC, [observed]);
        let (clock, terms) = (clock(&zone), terms(&budgets));
        let mut limiter = KeyLimiter::default();
        limiter.load(&observed, 90, &clock);
        let taken = limiter.take(&terms, &tokens(500), &clock).unwrap();
        let marks = limiter.settle(taken, &budgets, &tokens(500), None, &clock);
        assert_eq!(marks[0].percent, 95);
        assert_eq!(limiter.used_ratio(&budgets), Some(5.9));
    }
}
