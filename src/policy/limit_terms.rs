//! What a request asks of the limits of its key, by which clocks they count, and why it is refused.

use jiff::tz::TimeZone;

use crate::policy::budget::{Budget, BudgetUnit};
use crate::policy::fleet_link::FleetLink;
use crate::policy::rate_limit::{Monotonic, RateLimitError, RateLimits};
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
    /// The way to the other gateways that share the limits; None: there are none.
    pub fleet: Option<FleetLink>,
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
