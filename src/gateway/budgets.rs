//! What was spent before of the budgets of a key or an account: read from the sums of the database when it is used first
//! after a start or after a change of its budgets.

use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::limit_refusal::LimitRefusal;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::observe::log::Event;
use crate::store::budgets;
use crate::store::database::DatabaseError;
use crate::table::LimitHolder;

/// Loads what was spent of those budgets of which it is not known.
///
/// # Errors
/// [`LimitRefusal`]: there is no database, or it cannot be read.
pub(super) async fn load(worker: &Rc<Worker>, holder: &LimitHolder) -> Result<(), Refusal> {
    if !budgets::is_unknown(holder) {
        return Ok(());
    }
    let unavailable = LimitRefusal::unavailable(holder);
    let database = worker.database.as_ref().ok_or(unavailable)?;
    let (database, holder) = (Arc::clone(database), holder.clone());
    let turns = Arc::clone(&worker.usage_questions);
    let turn = turns.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    let zone = worker.settings.time_zone.clone();
    let table = Arc::clone(&worker.table);
    let loading = tokio::task::spawn_blocking(move || {
        // Held until the database has answered: so few threads wait for the disk at once.
        let _turn = turn;
        budgets::load(&database, &table, &holder, &zone)
    });
    let loaded = loading.await.map_err(|_| Refusal::Internal)?;
    loaded.map_err(|error: DatabaseError| {
        let event = Event::warn("database").with("message", "cannot be read");
        worker.log.event(event.with("reason", error.to_string()));
        unavailable.into()
    })
}
