//! All that limits how a key is used, as one: its rate limits and its budgets. A request takes from all of them or from
//! none.
//!
//! Pure: the caller passes the time, and loads what was spent before.

use jiff::tz::TimeZone;

use crate::policy::budget::{Budget, BudgetPeriod, BudgetUnit, Spending};
use crate::policy::rate_limit::{
    MOST_TOKENS, Monotonic, RateLimitError, RateLimiter, RateLimits, RateReservation,
};
use crate::policy::time::UnixTime;

/// The time by the clocks that limits use.
#[derive(Clone, Copy, Debug)]
pub struct LimitClock<'z> {
    /// For rates.
    pub monotonic: Monotonic,
    /// For budgets.
    pub now: UnixTime,
    /// Whose days, weeks and months budgets have.
    pub zone: &'z TimeZone,
}

/// What limits a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyTerms<'k> {
    /// How fast it may be used.
    pub rates: RateLimits,
    /// How much of it may be used.
    pub budgets: &'k [Budget],
}

/// Amounts that a request is expected to use, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedAmounts {
    /// Tokens of input and output.
    pub tokens: u64,
    /// 1, or 0 for a request that failed.
    pub requests: u64,
    /// In millionths of the currency.
    pub cost: u64,
    /// In millionths of a second.
    pub audio: u64,
}

impl UsedAmounts {
    /// The amount of a unit.
    #[must_use]
    pub fn of(&self, unit: BudgetUnit) -> u64 {
        match unit {
            BudgetUnit::Tokens => self.tokens,
            BudgetUnit::Requests => self.requests,
            BudgetUnit::Cost => self.cost,
            BudgetUnit::AudioSeconds => self.audio,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// It is too fast.
    Rate(RateLimitError),
    /// A budget is used up, or the request would use it up.
    Budget {
        /// What of.
        unit: BudgetUnit,
        /// When it begins anew; None: never.
        resets_at: Option<UnixTime>,
    },
    /// Nobody knows what was spent of a budget.
    Unavailable,
}

impl From<RateLimitError> for LimitError {
    fn from(error: RateLimitError) -> Self {
        Self::Rate(error)
    }
}

/// What a request has taken. Give it to [`KeyLimiter::settle`] or [`KeyLimiter::cancel`] once.
#[must_use]
#[derive(Debug)]
pub struct LimitReservation {
    reservation: RateReservation,
    expected: UsedAmounts,
    budgets: Box<[(BudgetUnit, BudgetPeriod)]>,
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
}

#[derive(Debug)]
struct LoadedSpending {
    unit: BudgetUnit,
    period: BudgetPeriod,
    spending: Spending,
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
        for budget in terms.budgets {
            let expected = expected.of(budget.unit);
            let spending = self.spending(budget).ok_or(LimitError::Unavailable)?;
            spending
                .check(budget, expected, clock.now, clock.zone)
                .map_err(|error| LimitError::Budget {
                    unit: budget.unit,
                    resets_at: error.resets_at,
                })?;
        }
        Ok(self
            .rate
            .check(&terms.rates, expected.tokens, clock.monotonic)?)
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
        let budgets = terms.budgets.iter();
        Ok(LimitReservation {
            reservation,
            expected: *expected,
            budgets: budgets.map(|budget| (budget.unit, budget.period)).collect(),
        })
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
        } = taken;
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
        } = taken;
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

    /// The rates, to show what is left of them.
    pub fn rate(&mut self) -> &mut RateLimiter {
        &mut self.rate
    }

    /// What is left of a budget; None where it is not known.
    pub fn left(&mut self, budget: &Budget, clock: &LimitClock<'_>) -> Option<BudgetLeft> {
        let spending = self.spending(budget)?;
        Some(BudgetLeft {
            spent: spending.spent(budget, clock.now, clock.zone),
            remaining: spending.remaining(budget, clock.now, clock.zone),
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

impl LoadedSpending {
    fn is_of(&self, budget: &Budget) -> bool {
        self.unit == budget.unit && self.period == budget.period
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::BudgetMode;

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
        assert_eq!(limiter.rate().requests(3, clock.monotonic).remaining, 1);
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
        assert_eq!(limiter.rate().requests(3, clock.monotonic).remaining, 3);
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
