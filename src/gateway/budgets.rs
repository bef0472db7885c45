//! What was spent of a key's budgets before: read from the sums of the database when the key is used first after a start
//! or after a change of its budgets.

use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::observe::log::Event;
use crate::policy::budget::{Budget, BudgetPeriod, BudgetUnit};
use crate::policy::key_limiter::LimitClock;
use crate::policy::time::UnixTime;
use crate::runtime::monotonic::monotonic_now;
use crate::runtime::wall_clock::now;
use crate::store::database::{Bucket, Database, DatabaseError, GroupBy, SumsQuery, UsageSums};
use crate::table::Entry;

/// Loads what was spent of those budgets of a key of which it is not known.
///
/// # Errors
/// [`Refusal::LimitsUnavailable`]: there is no database, or it cannot be read.
pub(super) async fn load(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Result<(), Refusal> {
    let database = worker.database.as_ref().ok_or(Refusal::LimitsUnavailable)?;
    let (database, entry) = (Arc::clone(database), Arc::clone(entry));
    let turns = Arc::clone(&worker.usage_questions);
    let turn = turns.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    let zone = worker.settings.time_zone.clone();
    let table = Arc::clone(&worker.table);
    let loading = tokio::task::spawn_blocking(move || {
        // Held until the database has answered: so few threads wait for the disk at once.
        let _turn = turn;
        let budgets: Vec<Budget> = {
            let limiter = entry.limiter();
            limiter.unloaded(entry.key().budgets()).copied().collect()
        };
        for budget in budgets {
            let now = now();
            let span = budget.period.around(now, &zone);
            let spent = spent(&database, entry.key().id(), &budget, span.start, now)?;
            let clock = LimitClock {
                monotonic: monotonic_now(),
                now,
                zone: &zone,
            };
            entry.limiter().load(&budget, spent, &clock);
        }
        table.budgets_loaded(entry.key().id());
        Ok(())
    });
    let loaded = loading.await.map_err(|_| Refusal::Internal)?;
    loaded.map_err(|error: DatabaseError| {
        let event = Event::warn("database").with("message", "cannot be read");
        worker.log.event(event.with("reason", error.to_string()));
        Refusal::LimitsUnavailable
    })
}

/// What a key has spent of a budget since its period began.
fn spent(
    database: &Database,
    key_id: &str,
    budget: &Budget,
    start: UnixTime,
    now: UnixTime,
) -> Result<u64, DatabaseError> {
    let query = SumsQuery {
        from: start.seconds().max(0),
        to: now.seconds() + 1,
        bucket: match budget.period {
            BudgetPeriod::Total => Bucket::WholeDays,
            // Other zones have days that begin within a day of UTC.
            BudgetPeriod::Day | BudgetPeriod::Week | BudgetPeriod::Month => Bucket::WholeHours,
        },
        group_by: GroupBy::default(),
        keys: vec![key_id.to_owned()],
        account: None,
        model: None,
        upstream: None,
    };
    let rows = database.sums(&query)?;
    let spent = rows.iter().map(|row| amount(&row.sums, budget.unit));
    Ok(spent.fold(0, u64::saturating_add))
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
