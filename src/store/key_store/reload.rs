//! Taking the file over into the table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::key::KeyId;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock;
use crate::store::key_file::{self, LoadedKeys, Stamp};
use crate::store::key_store::command::{DropLimit, ReloadCommand};
use crate::store::key_store::error::{DropLimitError, ReloadResult, StoreError};
use crate::store::key_store::event::{KeyStoreEvent, LastReload, Reloaded, format_key_count};
use crate::store::key_store::state::{KeyStoreState, PendingChange, disabled};
use crate::table::{Difference, Entry, drop_incrementally};

/// A file's content with what is pending on top.
struct ReloadPlan {
    entries: Vec<Arc<Entry>>,
    stamp: Stamp,
    /// What the file lacks of it.
    pending: HashMap<KeyId, PendingChange>,
    difference: Arc<Difference>,
    drop_limit_error: Option<DropLimitError>,
}

impl KeyStoreState {
    pub(crate) fn reload(&mut self, asked: Vec<ReloadCommand>) {
        let (dry_runs, reloads): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|reload| reload.dry_run);
        let plan = self.plan_reload();
        for dry_run in dry_runs {
            let _ = dry_run.reply.send(match &plan {
                Err(error) => Err(error.clone()),
                Ok(plan) => plan
                    .check_drop_limit(dry_run.drop_limit)
                    .map(|()| Reloaded {
                        difference: Arc::clone(&plan.difference),
                        generation: self.table.generation(),
                        keys: plan.entries.len(),
                    }),
            });
        }
        let Some(drop_limit) =
            reloads
                .iter()
                .map(|reload| reload.drop_limit)
                .max_by_key(|drop_limit| {
                    // One that is forced takes the others along.
                    *drop_limit == DropLimit::Ignore
                })
        else {
            return;
        };
        let outcome = plan.and_then(|plan| self.apply_plan(plan, drop_limit));
        match &outcome {
            Ok(reloaded) => (self.events)(KeyStoreEvent::Reloaded(reloaded)),
            Err(error) => (self.events)(KeyStoreEvent::ReloadFailed(error)),
        }
        let last_reload = LastReload {
            at: wall_clock::now(),
            result: outcome
                .as_ref()
                .map_or_else(StoreError::result, |_| ReloadResult::Ok),
            message: match &outcome {
                Ok(reloaded) => format_key_count(reloaded.keys),
                Err(error) => error.to_string(),
            },
        };
        self.update_status(|status| status.last_reload = last_reload);
        for reload in reloads {
            let _ = reload.reply.send(outcome.clone());
        }
    }

    /// Reads the file and lays on top what is pending.
    fn plan_reload(&mut self) -> Result<ReloadPlan, StoreError> {
        let before = key_file::stamp_of(&self.file);
        let LoadedKeys { mut entries, stamp } =
            key_file::read(&self.file, &self.table, yield_if_due).map_err(|error| {
                let error = StoreError::from(error);
                self.remember_rejected(before, &error);
                error
            })?;
        let mut pending = HashMap::new();
        if !self.pending.is_empty() {
            entries.retain_mut(|entry| {
                yield_if_due();
                let id = entry.key().key_id();
                match self.pending.get(&id) {
                    None => true,
                    Some(deleted @ PendingChange::Deleted(_)) => {
                        pending.insert(id, deleted.clone());
                        false
                    }
                    Some(PendingChange::Disabled) => {
                        if !entry.key().disabled() {
                            *entry = self.table.adopt(disabled(entry.key()));
                            pending.insert(id, PendingChange::Disabled);
                        }
                        true
                    }
                }
            });
        }
        let difference = Arc::new(self.table.compare(&entries, yield_if_due));
        let (dropped, of) = (difference.removed.len(), self.table.len());
        let too_many = dropped * 100 > of * usize::from(self.max_drop_percent);
        Ok(ReloadPlan {
            entries,
            stamp,
            pending,
            difference,
            drop_limit_error: too_many.then_some(DropLimitError {
                dropped,
                of,
                max_drop_percent: self.max_drop_percent,
            }),
        })
    }

    fn apply_plan(
        &mut self,
        plan: ReloadPlan,
        drop_limit: DropLimit,
    ) -> Result<Reloaded, StoreError> {
        if let Err(error) = plan.check_drop_limit(drop_limit) {
            self.remember_rejected(Some(plan.stamp), &error);
            return Err(error);
        }
        if plan.difference.changes_table() {
            self.table.swap(plan.entries, yield_if_due);
        } else {
            drop_incrementally(plan.entries, yield_if_due);
        }
        self.loaded = Some(plan.stamp);
        self.rejected = None;
        self.pending = plan.pending;
        let pending = self.pending.len();
        self.update_status(|status| {
            status.pending = pending;
            status.pending_error = status.pending_error.take().filter(|_| pending > 0);
        });
        Ok(Reloaded {
            difference: plan.difference,
            generation: self.table.generation(),
            keys: self.table.len(),
        })
    }

    /// Brings what others wrote into the table, where the file is not the one the table reflects.
    pub(crate) fn merge(&mut self) -> Result<(), StoreError> {
        let now = key_file::stamp_of(&self.file);
        if self.loaded.is_some_and(|stamp| stamp.is_unchanged(now)) {
            return Ok(());
        }
        if let Some(rejected) = self.rejected.as_ref().filter(|rejected| rejected.is(now)) {
            let still = match rejected.error {
                StoreError::Faulty(_) => true,
                StoreError::DropLimit(_) => rejected.generation == self.table.generation(),
                StoreError::Io(_) => false,
            };
            if still {
                return Err(rejected.error.clone());
            }
        }
        let plan = self.plan_reload()?;
        let merged = self.apply_plan(plan, DropLimit::Enforce)?;
        if !merged.difference.is_empty() {
            (self.events)(KeyStoreEvent::Merged(&merged));
        }
        Ok(())
    }
}

impl ReloadPlan {
    fn check_drop_limit(&self, drop_limit: DropLimit) -> Result<(), StoreError> {
        match (drop_limit, self.drop_limit_error) {
            (DropLimit::Enforce, Some(too_many)) => Err(StoreError::DropLimit(too_many)),
            (DropLimit::Enforce, None) | (DropLimit::Ignore, _) => Ok(()),
        }
    }
}
