//! The writes of a batch between their check and their reply, and what they change together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::audit::{AuditAction, AuditEntry, AuditMark, ChangeOrigin};
use crate::policy::key::{Key, KeyId, PreviousToken};
use crate::policy::key_limits::KeyLimits;
use crate::policy::token::BearerToken;
use crate::policy::widening::widens;
use crate::store::audit::{AuditError, key_entry};
use crate::store::key_store::command::{CreatedKey, ReplySender, RotatedKey};
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::patch::{KeyPatch, Revocation};
use crate::table::{Entry, Table};

/// What a batch changes in the table once it is committed.
#[derive(Default)]
pub(crate) struct BatchChanges {
    pub(crate) replaced: HashMap<KeyId, Key>,
    pub(crate) created: Vec<Key>,
}

impl BatchChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.created.is_empty()
    }

    /// The key as it is after the batch.
    pub(crate) fn current<'k>(&'k self, key: &'k Key) -> &'k Key {
        match self.replaced.is_empty() {
            true => key,
            false => self.replaced.get(&key.key_id()).unwrap_or(key),
        }
    }

    /// Errors are ignored, since there are none: `prepare` found the ids and hashes unused, and only this thread adds
    /// and changes keys.
    pub(crate) fn apply_to(self, table: &Table) {
        for key in self.replaced.into_values() {
            let _ = table.replace(key);
        }
        for key in self.created {
            let _ = table.insert(key);
        }
    }
}

/// A write that is valid and waits for the commit.
pub(crate) struct PreparedWrite {
    pub(crate) origin: ChangeOrigin,
    /// The key before the write; None: there was none.
    pub(crate) before: Option<Key>,
    /// The audit row, once it is on disk.
    pub(crate) mark: Option<AuditMark>,
    pub(crate) kind: PreparedKind,
}

pub(crate) enum PreparedKind {
    Created {
        key: Key,
        token: BearerToken,
        reply: ReplySender<CreatedKey, WriteError>,
    },
    Updated {
        key: Key,
        patch: KeyPatch,
        /// The key as the table had it before this write took access away there.
        taken_from: Option<Box<Key>>,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
    Rotated {
        key: Key,
        token: BearerToken,
        ended: Option<PreviousToken>,
        reply: ReplySender<RotatedKey, WriteError>,
    },
    Deleted {
        entry: Arc<Entry>,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
}

impl PreparedWrite {
    pub(crate) fn after(&self) -> Option<&Key> {
        match &self.kind {
            PreparedKind::Created { key, .. }
            | PreparedKind::Updated { key, .. }
            | PreparedKind::Rotated { key, .. } => Some(key),
            PreparedKind::Deleted { .. } => None,
        }
    }

    /// False: the key was as it is wanted, and there is nothing to audit.
    pub(crate) fn changes_something(&self) -> bool {
        self.before.as_ref() != self.after()
    }

    pub(crate) fn widens(&self, defaults: &KeyLimits) -> bool {
        self.changes_something() && widens(self.before.as_ref(), self.after(), defaults)
    }

    /// Whether the access that it takes away is taken away in the table, also where the file cannot be written.
    pub(crate) fn is_in_force(&self) -> bool {
        match &self.kind {
            PreparedKind::Created { .. } | PreparedKind::Rotated { .. } => false,
            PreparedKind::Updated { patch, .. } => patch.revocation().is_any(),
            PreparedKind::Deleted { .. } => true,
        }
    }

    pub(crate) fn action(&self) -> AuditAction {
        match &self.kind {
            PreparedKind::Created { .. } => AuditAction::Create,
            PreparedKind::Updated { patch, .. } if patch.ends_previous => {
                AuditAction::ExpirePrevious
            }
            PreparedKind::Updated { .. } => AuditAction::Change,
            PreparedKind::Rotated { .. } => AuditAction::Rotate,
            PreparedKind::Deleted { .. } => AuditAction::Delete,
        }
    }

    pub(crate) fn entry(&self) -> AuditEntry {
        let origin = self.origin.clone();
        let entry = key_entry(self.action(), origin, self.before.as_ref(), self.after());
        match &self.kind {
            // It was deleted before, but is not written yet.
            PreparedKind::Deleted { entry: deleted, .. } => AuditEntry {
                target: Some(deleted.key().id().to_owned()),
                ..entry
            },
            PreparedKind::Created { .. }
            | PreparedKind::Updated { .. }
            | PreparedKind::Rotated { .. } => entry,
        }
    }

    pub(crate) fn not_written(&self) -> AuditEntry {
        let origin = self.origin.clone();
        let entry = key_entry(AuditAction::NotWritten, origin, None, None);
        let row = self
            .mark
            .as_ref()
            .map(|mark| format!("{{\"row\":{}}}", mark.n));
        AuditEntry {
            target: self.after().map(|key| key.id().to_owned()),
            after: row,
            ..entry
        }
    }

    /// Refuses the write if it may give access. Otherwise adds it to `changes`, which lack the writes that were refused
    /// before it.
    pub(crate) fn unless_widening(
        mut self,
        table: &Table,
        defaults: &KeyLimits,
        changes: &mut BatchChanges,
        error: &AuditError,
    ) -> Option<Self> {
        if let PreparedKind::Updated {
            key,
            patch,
            taken_from,
            ..
        } = &mut self.kind
            && let Some(entry) = table.by_id(key.id())
        {
            let current = changes.current(entry.key()).clone();
            *key = patch.applied_to(&current);
            self.before = Some(match taken_from {
                Some(taken_from) => unrevoked(current, patch.revocation(), taken_from),
                None => current,
            });
        }
        if !self.widens(defaults) {
            if let PreparedKind::Updated { key, .. } = &self.kind
                && let Some(entry) = table.by_id(key.id())
            {
                match *key == *entry.key() {
                    true => changes.replaced.remove(&key.key_id()),
                    false => changes.replaced.insert(key.key_id(), key.clone()),
                };
            }
            return Some(self);
        }
        let error = WriteError::NotWritten {
            in_force: false,
            error: error.clone().into(),
        };
        match self.kind {
            PreparedKind::Created { reply, .. } => reject(reply, error),
            PreparedKind::Rotated { reply, .. } => reject(reply, error),
            PreparedKind::Updated { reply, .. } | PreparedKind::Deleted { reply, .. } => {
                reject(reply, error)
            }
        }
    }

    pub(crate) fn reply(self, table: &Table, committed: &Result<(), StoreError>) {
        let entry_of = |key: Key| table.by_id(key.id()).unwrap_or_else(|| table.adopt(key));
        let outcome = |in_force| {
            committed
                .clone()
                .map_err(|error| WriteError::NotWritten { in_force, error })
        };
        // Sending fails only where the caller stopped waiting.
        let in_force = self.is_in_force();
        match self.kind {
            PreparedKind::Created { key, token, reply } => {
                let created = || CreatedKey {
                    entry: entry_of(key),
                    token,
                };
                let _ = reply.send(outcome(in_force).map(|()| created()));
            }
            PreparedKind::Updated { key, reply, .. } => {
                let _ = reply.send(outcome(in_force).map(|()| entry_of(key)));
            }
            PreparedKind::Rotated {
                key,
                token,
                ended,
                reply,
            } => {
                let rotated = || RotatedKey {
                    entry: entry_of(key),
                    token,
                    ended,
                };
                let _ = reply.send(outcome(in_force).map(|()| rotated()));
            }
            PreparedKind::Deleted { entry, reply } => {
                let _ = reply.send(outcome(in_force).map(|()| entry));
            }
        }
    }
}

/// The key with what `revocation` took from the table, where the table had `taken_from`: the table has it without by now.
pub(crate) fn unrevoked(key: Key, revocation: Revocation, taken_from: &Key) -> Key {
    let Revocation {
        disables,
        ends_previous,
    } = revocation;
    let mut fields = key.fields();
    if disables {
        fields.disabled &= taken_from.disabled();
    }
    if ends_previous && fields.previous.is_none() {
        fields.previous = taken_from.previous().cloned();
    }
    Key::from(fields)
}

pub(crate) fn reject<T>(
    reply: ReplySender<T, WriteError>,
    error: WriteError,
) -> Option<PreparedWrite> {
    let _ = reply.send(Err(error));
    None
}
