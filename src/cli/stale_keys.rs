//! `keys.max_stale`: keys that could not be compared with the database for too long are refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::table::Table;

/// Watches until the key store has ended. `fresh` is when the keys were certainly those of the database.
pub(super) async fn watch(
    table: Arc<Table>,
    mut fresh: watch::Receiver<Option<Instant>>,
    max_stale: Duration,
) {
    loop {
        let seen = *fresh.borrow_and_update();
        let left = seen.and_then(|at| (at + max_stale).checked_duration_since(Instant::now()));
        match left {
            Some(left) => {
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    changed = fresh.changed() => match changed {
                        Ok(()) => {}
                        Err(_) => return,
                    },
                }
            }
            None => {
                table.keys_are_stale();
                // The key store may have said just before that they are known again.
                if fresh.has_changed().unwrap_or(false) {
                    table.keys_are_known();
                } else if fresh.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
