//! Loading the source into the table: on request, when the source changes, and before each write.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::audit::{AuditMark, ChangeOrigin};
use crate::policy::key::KeyId;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock;
use crate::store::audit::{reload_entry, reload_widens};
use crate::store::database::IfNotWritten;
use crate::store::key_source::database::UnreadableKey;
use crate::store::key_source::{KeySource, LockedSource, Revision};
use crate::store::key_store::command::{DropLimit, ReloadCommand};
use crate::store::key_store::error::{DropLimitError, ReloadResult, StoreError};
use crate::store::key_store::event::{KeyStoreEvent, LastReload, Reloaded, format_key_count};
use crate::store::key_store::state::{KeyStoreState, PendingChange, PendingRevocation};
use crate::table::{Difference, Entry, drop_incrementally};

/// The source's keys with the pending changes applied, and what they would change in the table.
pub(crate) struct ReloadPlan {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    /// The pending changes that the source does not contain yet.
    pending: HashMap<KeyId, PendingRevocation>,
    pub(crate) difference: Arc<Difference>,
    drop_limit_error: Option<DropLimitError>,
}

impl KeyStoreState {
    /// Answers all these commands with one load. One command that ignores the drop limit does so for all of them.
    pub(crate) fn reload(&mut self, commands: Vec<ReloadCommand>) {
        let (dry_runs, reloads): (Vec<_>, Vec<_>) =
            commands.into_iter().partition(|command| command.dry_run);
        let plan = self.plan_reload();
        for command in dry_runs {
            let _ = command.reply.send(self.dry_run(&plan, command.drop_limit));
        }
        if reloads.is_empty() {
            return;
        }
        let ignores = |command: &ReloadCommand| command.drop_limit == DropLimit::Ignore;
        let drop_limit = match reloads.iter().any(ignores) {
            true => DropLimit::Ignore,
            false => DropLimit::Enforce,
        };
        // They are one reload, of the first who asked for it.
        let origin = reloads
            .first()
            .map_or_else(ChangeOrigin::key_file, |command| command.origin.clone());
        let outcome = plan.and_then(|plan| self.apply_plan(plan, drop_limit, origin));
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
        for command in reloads {
            let _ = command.reply.send(outcome.clone());
        }
    }

    fn dry_run(
        &self,
        plan: &Result<ReloadPlan, StoreError>,
        drop_limit: DropLimit,
    ) -> Result<Reloaded, StoreError> {
        let plan = plan.as_ref().map_err(StoreError::clone)?;
        plan.check_drop_limit(drop_limit)?;
        Ok(Reloaded {
            difference: Arc::clone(&plan.difference),
            generation: self.table.generation(),
            keys: plan.entries.len(),
            audit: None,
        })
    }

    pub(crate) fn plan_reload(&mut self) -> Result<ReloadPlan, StoreError> {
        let before = self.source.revision();
        let loaded = match &self.source {
            KeySource::Database(_) => return Ok(self.plan_followed()?),
            KeySource::File(file) => file.load(&self.table),
        };
        let (entries, revision) = loaded.map_err(|error| {
            let error = StoreError::from(error);
            self.remember_rejected(before, &error);
            error
        })?;
        Ok(self.plan(entries, revision, &[]))
    }

    /// What these keys of the source would change.
    pub(crate) fn plan(
        &self,
        mut entries: Vec<Arc<Entry>>,
        revision: Revision,
        unreadable: &[UnreadableKey],
    ) -> ReloadPlan {
        let pending = self.apply_pending(&mut entries, unreadable);
        let difference = Arc::new(self.table.compare(&entries, yield_if_due));
        let (dropped, total) = (difference.removed.len(), self.table.len());
        let too_many = dropped * 100 > total * usize::from(self.max_drop_percent);
        ReloadPlan {
            entries,
            revision,
            pending,
            difference,
            drop_limit_error: too_many.then_some(DropLimitError {
                dropped,
                total,
                max_drop_percent: self.max_drop_percent,
            }),
        }
    }

    /// Applies the pending changes to these keys of the source. Returns those that the source did not contain yet, and those of
    /// its keys that cannot be read.
    pub(crate) fn apply_pending(
        &self,
        entries: &mut Vec<Arc<Entry>>,
        unreadable: &[UnreadableKey],
    ) -> HashMap<KeyId, PendingRevocation> {
        if self.pending.is_empty() {
            return HashMap::new();
        }
        let of_unreadable = unreadable.iter().filter_map(|key| {
            let id = KeyId::parse(&key.id).ok()?;
            let pending = self.pending.get(&id)?.clone();
            Some((id, pending))
        });
        let mut still_pending: HashMap<KeyId, PendingRevocation> = of_unreadable.collect();
        entries.retain_mut(|entry| {
            yield_if_due();
            let id = entry.key().key_id();
            let Some(pending) = self.pending.get(&id) else {
                return true;
            };
            match &pending.change {
                PendingChange::Deleted(_) => {
                    still_pending.insert(id, pending.clone());
                    false
                }
                PendingChange::Restricted(restriction) => {
                    if let Some(restricted) = restriction.applied_to(entry.key()) {
                        *entry = self.table.adopt(restricted);
                        still_pending.insert(id, pending.clone());
                    }
                    true
                }
            }
        });
        still_pending
    }

    fn apply_plan(
        &mut self,
        plan: ReloadPlan,
        drop_limit: DropLimit,
        origin: ChangeOrigin,
    ) -> Result<Reloaded, StoreError> {
        if let Err(error) = plan.check_drop_limit(drop_limit) {
            self.remember_rejected(plan.revision, &error);
            return Err(error);
        }
        let audit = match self.audit_plan(&plan, origin) {
            Ok(mark) => mark,
            Err(error) => {
                self.remember_rejected(plan.revision, &error);
                return Err(error);
            }
        };
        Ok(self.install(plan, audit))
    }

    /// Puts the keys of a plan into force.
    pub(crate) fn install(&mut self, plan: ReloadPlan, audit: Option<AuditMark>) -> Reloaded {
        if plan.difference.changes_table() {
            self.table.swap(plan.entries, yield_if_due);
            self.table.forget_ended_tokens(&plan.difference);
        } else {
            drop_incrementally(plan.entries, yield_if_due);
        }
        self.set_loaded(plan.revision);
        self.rejected = None;
        self.is_unchecked = false;
        self.pending = plan.pending;
        let pending = self.pending.len();
        self.update_status(|status| {
            status.pending = pending;
            status.pending_error = status.pending_error.take().filter(|_| pending > 0);
        });
        self.table.keys_are_known();
        Reloaded {
            difference: plan.difference,
            generation: self.table.generation(),
            keys: self.table.len(),
            audit,
        }
    }

    /// Writes the audit row of what the plan changes.
    pub(crate) fn audit_plan(
        &self,
        plan: &ReloadPlan,
        origin: ChangeOrigin,
    ) -> Result<Option<AuditMark>, StoreError> {
        if plan.difference.is_empty() {
            return Ok(None);
        }
        let forced = plan.drop_limit_error.is_some();
        let entry = reload_entry(origin, &plan.difference, forced);
        let if_not_written = match reload_widens(&plan.difference, &self.default_limits) {
            true => IfNotWritten::Refuse,
            false => IfNotWritten::Wait,
        };
        let mut marks = self.audit.write(vec![entry], if_not_written)?;
        Ok(marks.pop().flatten())
    }

    /// Loads what others have changed in the source, so that a write does not undo it.
    pub(crate) fn merge(&mut self, lock: &LockedSource) -> Result<(), StoreError> {
        match lock {
            LockedSource::File(_) => self.merge_file(),
            LockedSource::Database => self.merge_database(),
        }
    }

    pub(crate) fn merge_file(&mut self) -> Result<(), StoreError> {
        let now = self.source.revision();
        if self.loaded.is_current(now) {
            return Ok(());
        }
        if let Some(rejected) = &self.rejected
            && rejected.revision.is_current(now)
        {
            let same_result = match rejected.error {
                StoreError::Faulty(_) => true,
                StoreError::DropLimit(_) => rejected.generation == self.table.generation(),
                StoreError::Audit(_) | StoreError::Io(_) | StoreError::Database(_) => false,
            };
            if same_result {
                return Err(rejected.error.clone());
            }
        }
        let plan = self.plan_reload()?;
        let merged = self.apply_plan(plan, DropLimit::Enforce, ChangeOrigin::key_file())?;
        if !merged.difference.is_empty() {
            (self.events)(KeyStoreEvent::Merged(&merged));
        }
        Ok(())
    }
}

impl ReloadPlan {
    fn check_drop_limit(&self, drop_limit: DropLimit) -> Result<(), StoreError> {
        match (drop_limit, self.drop_limit_error) {
            (DropLimit::Enforce, Some(error)) => Err(StoreError::DropLimit(error)),
            (DropLimit::Enforce, None) | (DropLimit::Ignore, _) => Ok(()),
        }
    }
}
