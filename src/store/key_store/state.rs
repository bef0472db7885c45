//! What the key-store worker knows. Only the worker's thread holds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::policy::key::{Key, KeyId, PreviousToken};
use crate::policy::key_limits::KeyLimits;
use crate::policy::token::TokenHash;
use crate::store::audit::AuditTrail;
use crate::store::database::KeyPosition;
use crate::store::key_json::{self, Interner};
use crate::store::key_source::last_good_copy::{CopyState, PendingNote, key_row};
use crate::store::key_source::{KeySource, Revision};
use crate::store::key_store::error::StoreError;
use crate::store::key_store::event::{FollowState, KeyStoreEvent, KeyStoreStatus};
use crate::store::patch::Revocation;
use crate::table::{Entry, KeysState, Table};

pub(crate) struct KeyStoreState {
    pub(crate) source: KeySource,
    pub(crate) max_drop_percent: u8,
    pub(crate) watch: bool,
    pub(crate) table: Arc<Table>,
    pub(crate) audit: AuditTrail,
    /// Whether a change of a key's limits gives more depends on them.
    pub(crate) default_limits: KeyLimits,
    /// The revision that the table reflects, apart from pending changes.
    pub(crate) loaded: Revision,
    pub(crate) rejected: Option<RejectedRevision>,
    /// Deletes, disables and ends of previous tokens that are in force in the table but not yet written.
    pub(crate) pending: HashMap<KeyId, PendingChange>,
    pub(crate) status: Arc<ArcSwap<KeyStoreStatus>>,
    /// Where the database was when the keys in force were read; None where they come from a file, or from nowhere yet.
    pub(crate) position: watch::Sender<Option<KeyPosition>>,
    /// Its revision.
    pub(crate) revision: watch::Sender<Option<u64>>,
    /// When the keys in force were certainly those of the database.
    pub(crate) fresh: watch::Sender<Option<Instant>>,
    pub(crate) events: Box<dyn Fn(KeyStoreEvent<'_>) + Send>,
}

/// The last revision that was not loaded. It is kept so that a faulty file is not read again every second.
pub(crate) struct RejectedRevision {
    pub(crate) revision: Revision,
    pub(crate) error: StoreError,
    pub(crate) at: Instant,
    /// The table's generation at that time: whether a file drops too many keys also depends on the table.
    pub(crate) generation: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum PendingChange {
    Deleted(Arc<Entry>),
    Restricted(Restriction),
}

/// What a key has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restriction {
    disabled: bool,
    /// The hash of the previous token that has ended. A token that becomes the previous one later has another.
    ended: Option<TokenHash>,
}

impl Restriction {
    pub(crate) fn of(revocation: Revocation, key: &Key) -> Self {
        let Revocation {
            disables,
            ends_previous,
        } = revocation;
        let previous = key.previous().filter(|_| ends_previous);
        Self {
            disabled: disables,
            ended: previous.map(PreviousToken::hash).copied(),
        }
    }

    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            disabled: self.disabled || other.disabled,
            ended: self.ended.or(other.ended),
        }
    }

    /// The key without what it has lost; None if it has lost that already.
    pub(crate) fn applied_to(self, key: &Key) -> Option<Key> {
        let mut fields = key.fields();
        fields.disabled |= self.disabled;
        let is_ended = |previous: &PreviousToken| self.ended.as_ref() == Some(previous.hash());
        fields.previous = fields.previous.filter(|previous| !is_ended(previous));
        Some(Key::from(fields)).filter(|restricted| restricted != key)
    }
}

impl Restriction {
    fn note(&self) -> PendingNote {
        PendingNote::Restricted {
            disables: self.disabled,
            ended: self.ended.map(|hash| hash.to_string()),
        }
    }
}

impl PendingChange {
    fn note(&self) -> PendingNote {
        match self {
            Self::Deleted(entry) => PendingNote::Deleted(key_row(entry.key()).1),
            Self::Restricted(restriction) => restriction.note(),
        }
    }

    /// What a note says; None: it says nothing that can be read.
    pub(crate) fn of_note(note: &PendingNote, table: &Table) -> Option<Self> {
        match note {
            PendingNote::Deleted(line) => {
                let key = key_json::parse_line(line.as_bytes(), &mut Interner::default()).ok()?;
                Some(Self::Deleted(table.adopt(key)))
            }
            PendingNote::Restricted { disables, ended } => Some(Self::Restricted(Restriction {
                disabled: *disables,
                ended: ended.as_deref().and_then(TokenHash::parse),
            })),
        }
    }
}

impl KeyStoreState {
    /// The content of the source that is in force from now on.
    pub(crate) fn set_loaded(&mut self, revision: Revision) {
        self.loaded = revision;
        if let Revision::Database(position) = revision {
            self.position.send_replace(Some(position));
            self.revision.send_replace(Some(position.n));
        }
    }

    /// The position of the keys in force in the database.
    pub(crate) fn loaded_position(&self) -> KeyPosition {
        match self.loaded {
            Revision::Database(position) => position,
            Revision::Unknown | Revision::Absent | Revision::File(_) => KeyPosition::default(),
        }
    }

    /// Writes the last good copy, where the keys come from a database. The number is for its `wait`.
    pub(crate) fn write_copy(&self) -> Option<u64> {
        let (KeySource::Database(source), Revision::Database(position)) =
            (&self.source, self.loaded)
        else {
            return None;
        };
        if self.table.keys_state() == KeysState::Awaited {
            // There are no keys yet.
            return None;
        }
        let pending = self.pending.iter();
        let pending = pending.map(|(id, change)| (id.as_str().to_owned(), change.note()));
        let status = self.status.load();
        let database = status.database.as_ref();
        let is_followed =
            database.is_some_and(|database| matches!(database.state, FollowState::InSync));
        let state = CopyState::of(&self.table, position, pending.collect(), is_followed);
        Some(source.copy.write(state))
    }

    pub(crate) fn remember_rejected(&mut self, revision: Revision, error: &StoreError) {
        self.rejected = Some(RejectedRevision {
            revision,
            error: error.clone(),
            at: Instant::now(),
            generation: self.table.generation(),
        });
    }

    pub(crate) fn update_status(&self, change: impl FnOnce(&mut KeyStoreStatus)) {
        let mut status = KeyStoreStatus::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}
