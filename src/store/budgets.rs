//! What was spent of a key's budgets, and what is left of them: read from the database into the key's counts when it is
//! needed first after a start or after a change of the budgets.

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use crate::policy::budget::Budget;
use crate::policy::key_limiter::LimitClock;
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::allowance_json::amount_view;
use crate::store::database::{Database, DatabaseError};
use crate::table::{Entry, Table};

/// A budget, and what is left of it.
#[derive(Debug, Serialize)]
pub(crate) struct BudgetLeftView {
    unit: &'static str,
    per: &'static str,
    amount: Value,
    /// Null where it is not known yet.
    used: Option<Value>,
    remaining: Option<Value>,
    resets_at: Option<String>,
    mode: &'static str,
}

/// Whether what was spent of a budget of the key is not known yet.
pub(crate) fn is_unknown(entry: &Entry) -> bool {
    let budgets = entry.key().budgets();
    entry.limiter().unloaded(budgets).next().is_some()
}

/// Reads what was spent of those budgets of a key of which it is not known.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn load(
    database: &Database,
    table: &Table,
    entry: &Entry,
    zone: &TimeZone,
) -> Result<(), DatabaseError> {
    let budgets: Vec<Budget> = {
        let limiter = entry.limiter();
        limiter.unloaded(entry.key().budgets()).copied().collect()
    };
    for budget in budgets {
        let clock = clock(zone);
        let spent = database.budget_spent(entry.key().id(), &budget, clock.now, zone)?;
        entry.limiter().load(&budget, spent, &clock);
    }
    table.budgets_loaded(entry.key().id());
    Ok(())
}

/// The budgets of a key, and what is left of them as far as it is known.
pub(crate) fn left(entry: &Entry, zone: &TimeZone) -> Vec<BudgetLeftView> {
    let (mut limiter, clock) = (entry.limiter(), clock(zone));
    let views = entry.key().budgets().iter().map(|budget| {
        let left = limiter.left(budget, &clock);
        let amount = |amount| amount_view(budget.unit, amount);
        BudgetLeftView {
            unit: budget.unit.label(),
            per: budget.period.label(),
            amount: amount(budget.amount),
            used: left.map(|left| amount(left.spent)),
            remaining: left.map(|left| amount(left.remaining)),
            resets_at: left
                .and_then(|left| left.resets_at)
                .map(|time| time.to_string()),
            mode: budget.mode.label(),
        }
    });
    views.collect()
}

fn clock(zone: &TimeZone) -> LimitClock<'_> {
    LimitClock {
        monotonic: monotonic_now(),
        now: now(),
        zone,
    }
}
