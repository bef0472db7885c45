//! Following the keys of a database that other gateways change too.
//!
//! What others have changed is in force here as soon as it was read.
//!
//! Invariant: what was taken away here stays so, unless the key was certainly changed after that: whoever changed it then
//! decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::audit::ChangeOrigin;
use crate::policy::key::{Key, KeyId};
use crate::runtime::cooperative_yield::yield_if_due;
use crate::runtime::wall_clock;
use crate::store::database::{KeyChanges, KeyPosition, KeyRow, KeyWrites};
use crate::store::key_file::LOCK_WAIT;
use crate::store::key_json::Interner;
use crate::store::key_source::database::{DatabaseKeys, TAKEN, UnreadableKey, parse};
use crate::store::key_source::follower::Look;
use crate::store::key_source::{KeySource, Revision, SourceError};
use crate::store::key_store::command::AcceptRollback;
use crate::store::key_store::error::StoreError;
use crate::store::key_store::event::{FollowState, FollowStatus, KeyStoreEvent, Reloaded};
use crate::store::key_store::reload::ReloadPlan;
use crate::store::key_store::state::{KeyStoreState, PendingChange};

/// More changed keys than this are put into force by reading all keys, in one swap.
const MANY: usize = 10_000;
/// So many keys that cannot be read are named, each with its reason.
const MOST_TOLD: usize = 100;

impl KeyStoreState {
    /// Puts into force what a look at the database has found.
    pub(crate) fn follow(&mut self, look: Look) {
        let Look { changes, began, .. } = &look;
        let followed = match changes {
            Err(error) => Err(SourceError::Failed(Arc::clone(error))),
            Ok(changes) => self.apply(changes, *began),
        };
        match followed {
            Ok(()) => {
                self.fresh.send_replace(Some(*began));
                self.table.keys_are_known();
                self.set_follow_state(FollowState::InSync);
                if let KeySource::Database(source) = &self.source {
                    source.copy.touch();
                }
                if !self.pending.is_empty() {
                    self.commit(Vec::new());
                }
            }
            Err(error) => self.set_follow_state(FollowState::NotFollowed(error)),
        }
    }

    /// The same, under the lock of the database.
    pub(crate) fn merge_database(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        loop {
            let seen = self.loaded_position();
            let KeySource::Database(source) = &mut self.source else {
                return Ok(());
            };
            let changes = source.changes(seen)?;
            if !self.needs_all_keys(&changes) {
                return self.apply(&changes, began).map_err(|error| {
                    self.set_follow_state(FollowState::NotFollowed(error.clone()));
                    error.into()
                });
            }
            // That takes long, and nobody else could change a key meanwhile.
            self.source.unlock();
            self.apply(&changes, began)?;
            self.source.lock(LOCK_WAIT)?;
        }
    }

    fn apply(&mut self, changes: &KeyChanges, began: Instant) -> Result<(), SourceError> {
        let seen = self.loaded_position();
        let is_newer = match changes {
            KeyChanges::Behind { found } => {
                return Err(SourceError::Behind {
                    seen: seen.n,
                    found: *found,
                });
            }
            KeyChanges::None => false,
            KeyChanges::Some { to, .. } => to.n > seen.n,
            KeyChanges::Unknown => true,
        };
        let needs_all = self.needs_all_keys(changes);
        if !is_newer && !needs_all {
            return Ok(());
        }
        let (mut lag, mut followed) = (Duration::ZERO, (0, 0));
        if let KeyChanges::Some { rows, to, age } = changes {
            lag = *age + began.elapsed();
            match needs_all {
                true => self.settle_all(rows, began),
                false => followed = self.apply_rows(rows, *to, began),
            }
        }
        if needs_all {
            followed = self.load_all()?;
        }
        if is_newer || followed != (0, 0) {
            self.tell_followed(followed.0, followed.1, lag);
        }
        self.write_copy();
        Ok(())
    }

    /// Whether all keys are to be read.
    fn needs_all_keys(&self, changes: &KeyChanges) -> bool {
        match changes {
            KeyChanges::Some { rows, .. } => self.is_unchecked || rows.len() > MANY,
            KeyChanges::None => self.is_unchecked,
            KeyChanges::Unknown => true,
            KeyChanges::Behind { .. } => false,
        }
    }

    fn tell_followed(&self, changed: usize, removed: usize, lag: Duration) {
        (self.events)(KeyStoreEvent::Followed {
            changed,
            removed,
            revision: self.loaded_position().n,
            lag,
        });
    }

    /// Reads all keys and puts them into force in one swap. How many are other ones now, and how many are gone.
    fn load_all(&mut self) -> Result<(usize, usize), SourceError> {
        let plan = self.plan_all()?;
        let Reloaded { difference, .. } = self.install(plan, None);
        let changed = difference.added.len() + difference.changed.len();
        Ok((changed, difference.removed.len()))
    }

    /// All keys of the database, unless it lacks what was seen here.
    pub(crate) fn plan_followed(&mut self) -> Result<ReloadPlan, SourceError> {
        let seen = self.loaded_position();
        let KeySource::Database(source) = &mut self.source else {
            return Err(SourceError::NotShared);
        };
        match source.look(seen)? {
            KeyChanges::Behind { found } => Err(SourceError::Behind {
                seen: seen.n,
                found,
            }),
            KeyChanges::None | KeyChanges::Some { .. } | KeyChanges::Unknown => self.plan_all(),
        }
    }

    fn plan_all(&mut self) -> Result<ReloadPlan, SourceError> {
        let KeySource::Database(source) = &mut self.source else {
            return Err(SourceError::NotShared);
        };
        let DatabaseKeys {
            entries,
            position,
            unreadable,
        } = source.load(&self.table)?;
        self.tell_unreadable(&unreadable);
        Ok(self.plan(entries, Revision::Database(position), &unreadable))
    }

    /// Puts single keys into force.
    fn apply_rows(&mut self, rows: &[KeyRow], to: KeyPosition, looked: Instant) -> (usize, usize) {
        let seen = self.loaded_position();
        let mut interner = Interner::default();
        let (mut changed, mut removed) = (0, 0);
        let mut again = Vec::new();
        for row in rows.iter().filter(|row| row.revision > seen.n) {
            yield_if_due();
            let key = match parse(row, &mut interner) {
                Ok(key) => self.settle(row, key, looked),
                Err(reason) => {
                    self.refuse_unreadable(&row.id, &reason);
                    continue;
                }
            };
            let Some(key) = key else {
                removed += usize::from(self.table.remove(&row.id).is_some());
                continue;
            };
            changed += 1;
            if !self.put(key.clone()) {
                again.push(key);
            }
        }
        // A token may have moved from one key to another.
        for key in again {
            if !self.put(key.clone()) {
                self.refuse_unreadable(key.id(), TAKEN);
            }
        }
        self.set_loaded(Revision::Database(to));
        (changed, removed)
    }

    /// Decides about the pending changes of these keys, before all keys are read.
    pub(crate) fn settle_all(&mut self, rows: &[KeyRow], looked: Instant) {
        let mut interner = Interner::default();
        for row in rows {
            yield_if_due();
            // Of one that cannot be read, what was taken away stays so.
            if let Ok(key) = parse(row, &mut interner) {
                self.settle(row, key, looked);
            }
        }
    }

    /// The key of a row as it is in force here; None: it is not. `looked` is an instant before the row was read.
    fn settle(&mut self, row: &KeyRow, key: Option<Key>, looked: Instant) -> Option<Key> {
        let Ok(id) = KeyId::parse(&row.id) else {
            return key;
        };
        let Some(pending) = self.pending.get(&id) else {
            return key;
        };
        let Some(key) = key else {
            // Of a deleted key nothing can be taken away any more.
            self.drop_pending(&id);
            return None;
        };
        if pending.is_before(row.age, looked) {
            self.drop_pending(&id);
            (self.events)(KeyStoreEvent::PendingDropped { id: &row.id });
            return Some(key);
        }
        let restricted = match &pending.change {
            PendingChange::Deleted(_) => None,
            PendingChange::Restricted(restriction) => {
                let Some(restricted) = restriction.applied_to(&key) else {
                    self.drop_pending(&id);
                    return Some(key);
                };
                Some(restricted)
            }
        };
        (self.events)(KeyStoreEvent::PendingKept { id: &row.id });
        restricted
    }

    fn drop_pending(&mut self, id: &KeyId) {
        self.pending.remove(id);
        let pending = self.pending.len();
        self.update_status(|status| status.pending = pending);
    }

    fn put(&self, key: Key) -> bool {
        match self.table.by_id(key.id()) {
            Some(entry) if *entry.key() == key => true,
            Some(_) => self.table.replace(key).is_ok(),
            None => self.table.insert(key).is_ok(),
        }
    }

    /// Says which keys are refused, although they are in the database.
    pub(crate) fn tell_unreadable(&self, keys: &[UnreadableKey]) {
        for UnreadableKey { id, reason } in keys.iter().take(MOST_TOLD) {
            (self.events)(KeyStoreEvent::KeyUnreadable { id, reason });
        }
        if let Some(more @ 1..) = keys.len().checked_sub(MOST_TOLD) {
            (self.events)(KeyStoreEvent::KeysUnreadable { more });
        }
    }

    fn refuse_unreadable(&self, id: &str, reason: &str) {
        self.table.remove(id);
        (self.events)(KeyStoreEvent::KeyUnreadable { id, reason });
    }

    /// Why the database cannot be written, as the last look at it has found. Then it is not tried: a server that stands still
    /// would hold up what takes access away.
    pub(crate) fn known_away(&self) -> Option<SourceError> {
        match &self.status.load().database.as_ref()?.state {
            FollowState::NotFollowed(error @ SourceError::Failed(_)) => Some(error.clone()),
            FollowState::NotFollowed(_) | FollowState::InSync => None,
        }
    }

    pub(crate) fn set_follow_state(&self, state: FollowState) {
        let KeySource::Database(source) = &self.source else {
            return;
        };
        let before = self.status.load();
        let before = before.database.as_ref();
        let is_same = before.is_some_and(|before| before.state.label() == state.label());
        if !is_same {
            (self.events)(KeyStoreEvent::FollowChanged(&state));
        }
        let since = before.filter(|_| is_same).map(|before| before.since);
        let status = FollowStatus {
            state,
            since: since.unwrap_or_else(wall_clock::now),
            copy_error: source.copy.error(),
        };
        self.update_status(|all| all.database = Some(status));
    }

    /// Takes the keys of a database that lacks what was seen here, and lets the other gateways do so too.
    pub(crate) fn accept_rollback(&mut self, accept: AcceptRollback) {
        let AcceptRollback {
            dry_run,
            origin,
            reply,
        } = accept;
        let accepted = self.try_accept_rollback(dry_run, origin);
        self.source.unlock();
        if accepted.is_ok() && !dry_run {
            self.set_follow_state(FollowState::InSync);
            self.write_copy();
        }
        let _ = reply.send(accepted);
    }

    fn try_accept_rollback(
        &mut self,
        dry_run: bool,
        origin: ChangeOrigin,
    ) -> Result<Reloaded, StoreError> {
        let seen = self.loaded_position();
        let KeySource::Database(source) = &mut self.source else {
            return Err(SourceError::NotBehind.into());
        };
        if !matches!(source.look(seen)?, KeyChanges::Behind { .. }) {
            return Err(SourceError::NotBehind.into());
        }
        let newest = source.newest_seen()?.unwrap_or(0).max(seen.n);
        let mut plan = self.plan_all()?;
        if dry_run {
            return Ok(Reloaded {
                difference: plan.difference,
                generation: self.table.generation(),
                keys: plan.entries.len(),
                audit: None,
            });
        }
        let (Revision::Database(found), KeySource::Database(source)) =
            (plan.revision, &mut self.source)
        else {
            return Err(SourceError::NotBehind.into());
        };
        source.lock(true)?;
        if !matches!(source.changes(found)?, KeyChanges::None) {
            // Another gateway was faster; this one follows it.
            return Err(SourceError::NotBehind.into());
        }
        source.copy.keep_before_rollback()?;
        let mark = self.audit_plan(&plan, origin)?;
        let KeySource::Database(source) = &mut self.source else {
            return Err(SourceError::NotBehind.into());
        };
        let accepted = source.commit(&KeyWrites::default(), found, Some(newest))?;
        plan.revision = Revision::Database(accepted);
        Ok(self.install(plan, mark))
    }
}
