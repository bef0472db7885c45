//! What was spent of a key's budgets, from the sums of the database, and the budgets that were begun anew by hand.

use jiff::tz::TimeZone;

use crate::policy::budget::{Budget, BudgetPeriod, BudgetUnit};
use crate::policy::time::UnixTime;
use crate::store::database::Database;
use crate::store::database::error::DatabaseError;
use crate::store::database::query::{Bucket, GroupBy, SumsQuery};
use crate::store::database::record::UsageSums;

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetOwner<'o> {
    /// That of the key of this id.
    Key(&'o str),
    /// That of all keys which name this account.
    Account(&'o str),
}

/// A budget that is begun anew within its period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BudgetReset {
    pub(crate) key_id: String,
    pub(crate) unit: &'static str,
    pub(crate) period: &'static str,
    /// In seconds since 1970.
    pub(crate) reset_at: i64,
    /// What was spent in the period by then.
    pub(crate) spent: i64,
}

/// What each kind of database can do for budgets.
pub(crate) trait BudgetDriver: Send {
    /// Notes that a budget is begun anew, in place of an earlier time.
    fn reset_budget(&mut self, reset: &BudgetReset) -> Result<(), DatabaseError>;

    /// When a budget was begun anew by hand, and what was spent by then; None: never.
    fn budget_reset(
        &mut self,
        key_id: &str,
        unit: &str,
        period: &str,
    ) -> Result<Option<(i64, i64)>, DatabaseError>;
}

impl Database {
    /// What a key or an account has spent of a budget since its period began, or since it was begun anew by hand. Waits
    /// for the disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn budget_spent(
        &self,
        owner: BudgetOwner<'_>,
        budget: &Budget,
        now: UnixTime,
        zone: &TimeZone,
    ) -> Result<u64, DatabaseError> {
        let start = budget.period.around(now, zone).start;
        let spent = self.spent_since(owner, budget, start, now)?;
        let BudgetOwner::Key(key_id) = owner else {
            // That of an account is not begun anew by hand.
            return Ok(spent);
        };
        let (unit, period) = (budget.unit.label(), budget.period.label());
        let reset = self.of_side(|driver| driver.budget_reset(key_id, unit, period))?;
        let before = reset.filter(|(at, _)| *at >= start.seconds());
        let before = before.map_or(0, |(_, spent)| u64::try_from(spent).unwrap_or(0));
        Ok(spent.saturating_sub(before))
    }

    /// Begins a budget of a key anew within its period. Waits for the disk.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub fn reset_budget(
        &self,
        key_id: &str,
        budget: &Budget,
        now: UnixTime,
        zone: &TimeZone,
    ) -> Result<(), DatabaseError> {
        let start = budget.period.around(now, zone).start;
        let spent = self.spent_since(BudgetOwner::Key(key_id), budget, start, now)?;
        let reset = BudgetReset {
            key_id: key_id.to_owned(),
            unit: budget.unit.label(),
            period: budget.period.label(),
            reset_at: now.seconds(),
            spent: i64::try_from(spent).unwrap_or(i64::MAX),
        };
        self.of_side(|driver| driver.reset_budget(&reset))
    }

    fn spent_since(
        &self,
        owner: BudgetOwner<'_>,
        budget: &Budget,
        start: UnixTime,
        now: UnixTime,
    ) -> Result<u64, DatabaseError> {
        let (keys, account) = match owner {
            BudgetOwner::Key(id) => (vec![id.to_owned()], None),
            BudgetOwner::Account(id) => (Vec::new(), Some(id.to_owned())),
        };
        let query = SumsQuery {
            from: start.seconds().max(0),
            to: now.seconds() + 1,
            bucket: match budget.period {
                BudgetPeriod::Total => Bucket::WholeDays,
                // Days of other zones begin within a day of UTC.
                BudgetPeriod::Day | BudgetPeriod::Week | BudgetPeriod::Month => Bucket::WholeHours,
            },
            group_by: GroupBy::default(),
            keys,
            account,
            model: None,
            upstream: None,
        };
        let rows = self.sums(&query)?;
        let spent = rows.iter().map(|row| amount(&row.sums, budget.unit));
        Ok(spent.fold(0, u64::saturating_add))
    }
}

fn amount(sums: &UsageSums, unit: BudgetUnit) -> u64 {
    let known = |count: Option<i64>| count.unwrap_or(0);
    let amount = match unit {
        BudgetUnit::Tokens => known(sums.input_tokens).saturating_add(known(sums.output_tokens)),
        // Requests that failed cost none.
        BudgetUnit::Requests => sums.requests.saturating_sub(sums.errors),
        BudgetUnit::Cost => known(sums.cost),
        BudgetUnit::AudioSeconds => known(sums.audio_microseconds),
    };
    u64::try_from(amount).unwrap_or(0)
}
