//! How much a key may use: amounts by day, week, month or in all, in the calendar of a time zone.
//!
//! Pure: the caller passes the time and the zone, and holds the [`Spending`] of each budget. Like a rate limit, a budget is
//! reserved when a request starts and settled when it ends, so that a burst cannot overshoot by more than the error of the
//! estimates.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::policy::time::UnixTime;

/// Millionths of one, the unit in which costs and seconds are counted.
pub const MICRO: u64 = 1_000_000;

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetUnit {
    /// Tokens, of input and output.
    Tokens,
    /// Requests that an upstream answered or was asked.
    Requests,
    /// Millionths of the currency.
    Cost,
    /// Millionths of a second of audio.
    AudioSeconds,
}

impl BudgetUnit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::Requests, Self::Cost, Self::AudioSeconds];

    /// Whether amounts of it are decimals, counted in [`MICRO`].
    #[must_use]
    pub fn is_decimal(self) -> bool {
        match self {
            Self::Tokens | Self::Requests => false,
            Self::Cost | Self::AudioSeconds => true,
        }
    }

    /// The word in key file and API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Requests => "requests",
            Self::Cost => "cost",
            Self::AudioSeconds => "audio_seconds",
        }
    }
}

/// When a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetPeriod {
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the first of a month.
    Month,
    /// Never.
    Total,
}

impl BudgetPeriod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// The word in key file and API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The span of time that holds `now`. A day of daylight saving has 23 or 25 hours; where midnight does not exist, it
    /// begins at the first instant of the day.
    #[must_use]
    pub fn around(self, now: UnixTime, zone: &TimeZone) -> TimeSpan {
        let span = match self {
            Self::Day => Span::new().days(1),
            Self::Week => Span::new().weeks(1),
            Self::Month => Span::new().months(1),
            Self::Total => return TimeSpan::ALWAYS,
        };
        self.bounds(now, zone, span).unwrap_or(TimeSpan::ALWAYS)
    }

    fn bounds(self, now: UnixTime, zone: &TimeZone, span: Span) -> Option<TimeSpan> {
        let now = Timestamp::from_second(now.seconds()).ok()?;
        let today = now.to_zoned(zone.clone()).date();
        let first = match self {
            Self::Day | Self::Total => today,
            Self::Week => {
                let since_monday = today.weekday().since(Weekday::Monday);
                today.checked_sub(Span::new().days(since_monday)).ok()?
            }
            Self::Month => today.first_of_month(),
        };
        let begin = |date: jiff::civil::Date| {
            let midnight = date.to_zoned(zone.clone()).ok();
            midnight.map(|midnight: Zoned| UnixTime::from_seconds(midnight.timestamp().as_second()))
        };
        Some(TimeSpan {
            start: begin(first)?,
            end: Some(begin(first.checked_add(span).ok()?)?),
        })
    }
}

/// From `start` to before `end`; None: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSpan {
    /// Its first second.
    pub start: UnixTime,
    /// The first second behind it.
    pub end: Option<UnixTime>,
}

impl TimeSpan {
    const ALWAYS: Self = Self {
        start: UnixTime::from_seconds(i64::MIN),
        end: None,
    };

    /// Whether a time is in it.
    #[must_use]
    pub fn contains(&self, time: UnixTime) -> bool {
        self.start <= time && self.end.is_none_or(|end| time < end)
    }
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetMode {
    /// Requests are refused until it begins anew.
    Enforce,
    /// It is counted and warned of; nothing is refused.
    Observe,
}

impl BudgetMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Enforce, Self::Observe];

    /// The word in key file and API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// One budget of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// What is counted.
    pub unit: BudgetUnit,
    /// How much may be used in a period; costs and seconds in [`MICRO`].
    pub amount: u64,
    /// When it begins anew.
    pub period: BudgetPeriod,
    /// What happens at its end.
    pub mode: BudgetMode,
}

/// The parts of a budget at which its operator is told, in percent.
pub const MARKS: [u64; 2] = [80, 95];

/// A budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSpentError {
    /// When it begins anew; None: never.
    pub resets_at: Option<UnixTime>,
}

/// What is spent and reserved of one budget in its present period.
#[derive(Clone, Debug)]
pub struct Spending {
    span: TimeSpan,
    spent: u64,
    reserved: u64,
    /// How many of [`MARKS`] were reached in this period,
    marks_reached: usize,
    /// of this amount.
    marks_of: u64,
}

impl Spending {
    /// A budget of which so much was spent in its present period before.
    #[must_use]
    pub fn of(budget: &Budget, spent: u64, now: UnixTime, zone: &TimeZone) -> Self {
        Self {
            span: budget.period.around(now, zone),
            spent,
            reserved: 0,
            // Whether they were told before, nobody knows here.
            marks_reached: 0,
            marks_of: budget.amount,
        }
    }

    /// Whether a request that is expected to use so much would be let in. Nothing is reserved.
    ///
    /// # Errors
    /// The budget is enforced, and what is left of it is less.
    pub fn check(
        &mut self,
        budget: &Budget,
        expected: u64,
        now: UnixTime,
        zone: &TimeZone,
    ) -> Result<(), BudgetSpentError> {
        self.begin_anew(budget, now, zone);
        let used = self.spent.saturating_add(self.reserved);
        let is_over = used.saturating_add(expected) > budget.amount || used >= budget.amount;
        match budget.mode {
            BudgetMode::Enforce if is_over => Err(BudgetSpentError {
                resets_at: self.span.end,
            }),
            BudgetMode::Enforce | BudgetMode::Observe => Ok(()),
        }
    }

    /// Reserves what a request is expected to use. Call [`Self::check`] before.
    pub fn reserve(&mut self, expected: u64) {
        self.reserved = self.reserved.saturating_add(expected);
    }

    /// A request that reserved `expected` was never sent.
    pub fn give_back(&mut self, expected: u64) {
        self.reserved = self.reserved.saturating_sub(expected);
    }

    /// A request that reserved `expected` has used `used`. Returns the highest mark that this reaches first, in percent. It
    /// counts in the period in which it ends.
    pub fn settle(
        &mut self,
        budget: &Budget,
        expected: u64,
        used: u64,
        now: UnixTime,
        zone: &TimeZone,
    ) -> Option<u64> {
        self.begin_anew(budget, now, zone);
        self.reserved = self.reserved.saturating_sub(expected);
        self.spent = self.spent.saturating_add(used);
        match self.marks_of == budget.amount {
            true => self.reach_marks(budget),
            // The request began before the amount changed.
            false => None,
        }
    }

    /// The highest mark that is reached and was not told in this period, in percent: what was spent before, or an amount
    /// that changed, may have reached it. Other amounts have other marks.
    pub fn reach_mark(&mut self, budget: &Budget, now: UnixTime, zone: &TimeZone) -> Option<u64> {
        self.begin_anew(budget, now, zone);
        if self.marks_of != budget.amount {
            self.marks_of = budget.amount;
            self.marks_reached = 0;
        }
        self.reach_marks(budget)
    }

    /// All gateways have used so much in the present period, with what requests here have reserved.
    pub(crate) fn learn(&mut self, used: u64) {
        self.spent = used.saturating_sub(self.reserved);
    }

    /// Begins anew within a period.
    pub fn reset(&mut self) {
        self.spent = 0;
        self.marks_reached = 0;
    }

    /// What is spent by now.
    pub fn spent(&mut self, budget: &Budget, now: UnixTime, zone: &TimeZone) -> u64 {
        self.begin_anew(budget, now, zone);
        self.spent
    }

    /// What is left by now: neither spent nor reserved.
    pub fn remaining(&mut self, budget: &Budget, now: UnixTime, zone: &TimeZone) -> u64 {
        self.begin_anew(budget, now, zone);
        let used = self.spent.saturating_add(self.reserved);
        budget.amount.saturating_sub(used)
    }

    /// What is spent in the period of the last request.
    #[must_use]
    pub fn last_spent(&self) -> u64 {
        self.spent
    }

    /// When its present period began.
    #[must_use]
    pub fn period_start(&self) -> UnixTime {
        self.span.start
    }

    /// When it begins anew; None: never.
    #[must_use]
    pub fn resets_at(&self) -> Option<UnixTime> {
        self.span.end
    }

    /// What runs on stays reserved: it will be spent in the new period. A clock that goes back begins nothing anew.
    fn begin_anew(&mut self, budget: &Budget, now: UnixTime, zone: &TimeZone) {
        if self.span.end.is_some_and(|end| end <= now) {
            self.span = budget.period.around(now, zone);
            self.spent = 0;
            self.marks_reached = 0;
        }
    }

    fn reach_marks(&mut self, budget: &Budget) -> Option<u64> {
        let is_reached = |percent: &u64| {
            u128::from(self.spent) * 100 >= u128::from(budget.amount) * u128::from(*percent)
        };
        let reached = MARKS
            .iter()
            .take_while(|percent| is_reached(percent))
            .count();
        let is_new = reached > self.marks_reached;
        self.marks_reached = self.marks_reached.max(reached);
        is_new.then(|| MARKS[reached - 1])
    }
}

/// What was spent of one budget of a key, once that is known.
#[derive(Debug)]
pub(crate) struct LoadedSpending {
    pub(crate) unit: BudgetUnit,
    pub(crate) period: BudgetPeriod,
    pub(crate) spending: Spending,
}

impl LoadedSpending {
    pub(crate) fn is_of(&self, budget: &Budget) -> bool {
        self.unit == budget.unit && self.period == budget.period
    }
}

#[cfg(test)]
mod tests;
