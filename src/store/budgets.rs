//! What was spent of the budgets of a key or an account, and what is left of them: read from the database into the counts
//! when it is needed first after a start or after a change of the budgets.

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use crate::policy::budget::Budget;
use crate::policy::fleet_link::FleetLink;
use crate::policy::limit_terms::LimitClock;
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::allowance_json::amount_view;
use crate::store::database::{BudgetOwner, Database, DatabaseError};
use crate::table::{LimitHolder, Table};

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
    /// Whether it is the account's, which all of its keys share.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
}

/// Whether what was spent of a budget is not known yet.
pub(crate) fn is_unknown(holder: &LimitHolder) -> bool {
    let budgets = holder.budgets();
    !budgets.is_empty() && holder.limiter().unloaded(budgets).next().is_some()
}

/// Reads what was spent of those budgets of which it is not known.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn load(
    database: &Database,
    table: &Table,
    holder: &LimitHolder,
    zone: &TimeZone,
) -> Result<(), DatabaseError> {
    let budgets: Vec<Budget> = {
        let limiter = holder.limiter();
        limiter.unloaded(holder.budgets()).copied().collect()
    };
    for budget in budgets {
        let clock = clock(zone);
        let spent = database.budget_spent(owner(holder), &budget, clock.now, zone)?;
        holder.limiter().load(&budget, spent, &clock);
    }
    if let LimitHolder::Key(entry) = holder {
        table.budgets_loaded(entry.key().id());
    }
    Ok(())
}

/// The budgets, and what is left of them as far as it is known.
pub(crate) fn left(
    holder: &LimitHolder,
    zone: &TimeZone,
    fleet: Option<FleetLink>,
) -> Vec<BudgetLeftView> {
    let shared = matches!(holder, LimitHolder::Account(..));
    let clock = LimitClock {
        fleet,
        ..clock(zone)
    };
    let mut limiter = holder.limiter();
    let views = holder.budgets().iter().map(|budget| {
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
            shared,
        }
    });
    views.collect()
}

/// Whose budgets they are, as the database asks it.
pub(crate) fn owner(holder: &LimitHolder) -> BudgetOwner<'_> {
    match holder {
        LimitHolder::Key(entry) => BudgetOwner::Key(entry.key().id()),
        LimitHolder::Account(entry, _) => BudgetOwner::Account(entry.id()),
    }
}

fn clock(zone: &TimeZone) -> LimitClock<'_> {
    LimitClock {
        monotonic: monotonic_now(),
        now: now(),
        zone,
        fleet: None,
    }
}
