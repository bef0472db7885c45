//! What was spent of a key's budgets before: read from the sums of the database when the key is used first after a start
//! or after a change of its budgets.

use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Worker;
use crate::observe::log::Event;
use crate::store::budgets;
use crate::store::database::DatabaseError;
use crate::table::Entry;

/// Loads what was spent of those budgets of a key of which it is not known.
///
/// # Errors
/// [`Refusal::LimitsUnavailable`]: there is no database, or it cannot be read.
pub(super) async fn load(worker: &Rc<Worker>, entry: &Arc<Entry>) -> Result<(), Refusal> {
    if !budgets::is_unknown(entry) {
        return Ok(());
    }
    let database = worker.database.as_ref().ok_or(Refusal::LimitsUnavailable)?;
    let (database, entry) = (Arc::clone(database), Arc::clone(entry));
    let turns = Arc::clone(&worker.usage_questions);
    let turn = turns.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    let zone = worker.settings.time_zone.clone();
    let table = Arc::clone(&worker.table);
    let loading = tokio::task::spawn_blocking(move || {
        // Held until the database has answered: so few threads wait for the disk at once.
        let _turn = turn;
        budgets::load(&database, &table, &entry, &zone)
    });
    let loaded = loading.await.map_err(|_| Refusal::Internal)?;
    loaded.map_err(|error: DatabaseError| {
        let event = Event::warn("database").with("message", "cannot be read");
        worker.log.event(event.with("reason", error.to_string()));
        Refusal::LimitsUnavailable
    })
}
