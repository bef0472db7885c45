//! What was spent of the budgets of a key or an account before: read from the sums of the database when they are used first
//! after a start or after a change of the budgets.

use std::rc::Rc;
use std::sync::{Arc, MutexGuard};

use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::observe::log::Event;
use crate::policy::account::AccountRules;
use crate::policy::budget::Budget;
use crate::policy::key_limiter::{KeyLimiter, LimitClock};
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::database::{BudgetOwner, DatabaseError};
use crate::table::{AccountEntry, Entry};

/// What has budgets.
#[derive(Clone, Debug)]
pub(super) enum BudgetHolder {
    /// A key has them.
    Key(Arc<Entry>),
    /// An account has them, for all of its keys.
    Account(Arc<AccountEntry>, Arc<AccountRules>),
}

impl BudgetHolder {
    /// What its limits and budgets count. Nothing may wait while it is held.
    pub(super) fn limiter(&self) -> MutexGuard<'_, KeyLimiter> {
        match self {
            Self::Key(entry) => entry.limiter(),
            Self::Account(entry, _) => entry.limiter(),
        }
    }

    /// Its budgets.
    pub(super) fn budgets(&self) -> &[Budget] {
        match self {
            Self::Key(entry) => entry.key().budgets(),
            Self::Account(_, rules) => &rules.allowance.budgets,
        }
    }

    fn owner(&self) -> BudgetOwner<'_> {
        match self {
            Self::Key(entry) => BudgetOwner::Key(entry.key().id()),
            Self::Account(entry, _) => BudgetOwner::Account(entry.id()),
        }
    }
}

/// Loads what was spent of those budgets of which it is not known.
///
/// # Errors
/// [`Refusal::LimitsUnavailable`]: there is no database, or it cannot be read.
pub(super) async fn load(worker: &Rc<Worker>, holder: &BudgetHolder) -> Result<(), Refusal> {
    let is_known = holder.limiter().unloaded(holder.budgets()).next().is_none();
    if is_known {
        return Ok(());
    }
    // Boxed, so that it makes no other request larger.
    Box::pin(read(worker, holder.clone())).await
}

async fn read(worker: &Rc<Worker>, holder: BudgetHolder) -> Result<(), Refusal> {
    let database = worker.database.as_ref().ok_or(Refusal::LimitsUnavailable)?;
    let database = Arc::clone(database);
    let turns = Arc::clone(&worker.usage_questions);
    let turn = turns.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    let zone = worker.settings.time_zone.clone();
    let table = Arc::clone(&worker.table);
    let loading = tokio::task::spawn_blocking(move || {
        // Held until the database has answered: so few threads wait for the disk at once.
        let _turn = turn;
        let budgets: Vec<Budget> = {
            let limiter = holder.limiter();
            limiter.unloaded(holder.budgets()).copied().collect()
        };
        for budget in budgets {
            let now = now();
            let spent = database.budget_spent(holder.owner(), &budget, now, &zone)?;
            let clock = LimitClock {
                monotonic: monotonic_now(),
                now,
                zone: &zone,
            };
            holder.limiter().load(&budget, spent, &clock);
        }
        if let BudgetHolder::Key(entry) = &holder {
            table.budgets_loaded(entry.key().id());
        }
        Ok(())
    });
    let loaded = loading.await.map_err(|_| Refusal::Internal)?;
    loaded.map_err(|error: DatabaseError| {
        let event = Event::warn("database").with("message", "cannot be read");
        worker.log.event(event.with("reason", error.to_string()));
        Refusal::LimitsUnavailable
    })
}
