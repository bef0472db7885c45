//! What the key-store worker knows. Only the worker's thread holds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::policy::key::{Key, KeyId, PreviousToken};
use crate::policy::key_limits::KeyLimits;
use crate::policy::token::TokenHash;
use crate::runtime::wall_clock;
use crate::store::audit::AuditTrail;
use crate::store::database::KeyPosition;
use crate::store::key_json::{self, Interner};
use crate::store::key_source::last_good_copy::{CopyState, PendingNote, key_row};
use crate::store::key_source::{KeySource, Revision};
use crate::store::key_store::error::StoreError;
use crate::store::key_store::event::{FollowState, KeyStoreEvent, KeyStoreStatus};
use crate::store::patch::Revocation;
use crate::table::{Entry, KeysState, Table};

/// Two clocks that count the same time may differ by so much.
const CLOCK_MARGIN: Duration = Duration::from_secs(10);
/// Fewer gateways are believed after this.
const FEWER_AFTER: Duration = Duration::from_secs(600);

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
    pub(crate) pending: HashMap<KeyId, PendingRevocation>,
    /// The keys in force are those of a copy, and were never compared with the database: somebody may have put an older file in
    /// its place.
    pub(crate) is_unchecked: bool,
    /// How many gateways share the database, for the last good copy.
    pub(crate) gateways: KnownGateways,
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

/// A change that takes access away, and when it was made.
#[derive(Clone, Debug)]
pub(crate) struct PendingRevocation {
    pub(crate) change: PendingChange,
    /// None: that cannot be told.
    pub(crate) made: Option<Instant>,
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

impl PendingRevocation {
    pub(crate) fn now(change: PendingChange) -> Self {
        Self {
            change,
            made: Some(Instant::now()),
        }
    }

    /// What the copy says of one that was made at this time by this gateway's clock; None: it says nothing that can be read.
    pub(crate) fn restored(note: &PendingNote, at: Option<i64>, table: &Table) -> Option<Self> {
        let ago =
            at.and_then(|at| u64::try_from(wall_clock::now().seconds().checked_sub(at)?).ok());
        Some(Self {
            change: PendingChange::of_note(note, table)?,
            made: ago.and_then(|ago| Instant::now().checked_sub(Duration::from_secs(ago))),
        })
    }

    /// When it was made, by this gateway's clock.
    fn at(&self) -> Option<i64> {
        let ago = i64::try_from(self.made?.elapsed().as_secs()).ok()?;
        wall_clock::now().seconds().checked_sub(ago)
    }

    /// Whether a change of this age, by the database's clock, was certainly made after this one. `looked` is an instant before
    /// the database told the age. Ages are compared, so that it does not matter how far the two clocks are apart.
    pub(crate) fn is_before(&self, age: Option<Duration>, looked: Instant) -> bool {
        let (Some(made), Some(age)) = (self.made, age) else {
            return false;
        };
        looked
            .checked_sub(age)
            .is_some_and(|changed| changed > made + CLOCK_MARGIN)
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
    fn of_note(note: &PendingNote, table: &Table) -> Option<Self> {
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

/// How many gateways share a database. Where all of them are stopped one after the other, the last ones see fewer and fewer,
/// and would take too large a share of the limits after a start without the database: so fewer are believed after a while only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KnownGateways {
    /// 0: that is not known.
    pub(crate) known: u64,
    /// Since when fewer are seen.
    fewer_since: Option<Instant>,
}

impl KnownGateways {
    pub(crate) fn of(known: u64) -> Self {
        Self {
            known,
            fewer_since: None,
        }
    }

    /// So many are seen now. Returns whether another number is known.
    pub(crate) fn see(&mut self, seen: u64, now: Instant) -> bool {
        if seen < self.known {
            let since = *self.fewer_since.get_or_insert(now);
            if now.saturating_duration_since(since) < FEWER_AFTER {
                return false;
            }
        }
        let is_other = seen != self.known;
        *self = Self::of(seen);
        is_other
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
        let pending = pending.map(|(id, pending)| {
            let note = (pending.change.note(), pending.at());
            (id.as_str().to_owned(), note)
        });
        let status = self.status.load();
        let database = status.database.as_ref();
        let is_followed =
            database.is_some_and(|database| matches!(database.state, FollowState::InSync));
        let state = CopyState::of(
            &self.table,
            position,
            pending,
            self.gateways.known,
            is_followed,
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_that_was_certainly_made_after_it_undoes_what_was_taken_away() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let made = |ago| PendingRevocation {
            change: PendingChange::Restricted(Restriction::default()),
            made: now.checked_sub(seconds(ago)),
        };
        let is_undone = |made_ago, age| made(made_ago).is_before(age, now);
        assert!(is_undone(60, Some(seconds(49))));
        // The clocks may count differently by so much.
        assert!(!is_undone(60, Some(seconds(50))));
        assert!(!is_undone(60, Some(seconds(61))));
        assert!(!is_undone(60, None));
        let unknown = PendingRevocation {
            made: None,
            ..made(60)
        };
        assert!(!unknown.is_before(Some(seconds(0)), now));
    }

    #[test]
    fn fewer_gateways_are_known_once_they_were_fewer_for_ten_minutes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut gateways = KnownGateways::of(3);
        assert!(!gateways.see(2, after(0)));
        assert!(!gateways.see(1, after(599)));
        assert!(!gateways.see(3, after(599)), "they are back");
        assert!(!gateways.see(1, after(600)));
        assert_eq!(gateways.known, 3);
        assert!(gateways.see(1, after(1200)));
        assert!(gateways.see(4, after(1201)));
        assert_eq!(gateways.known, 4);
    }

    #[test]
    fn what_the_copy_says_was_made_in_a_time_to_come_was_made_at_no_known_time() {
        let note = PendingNote::Restricted {
            disables: true,
            ended: None,
        };
        let now = wall_clock::now().seconds();
        let restored = |at| PendingRevocation::restored(&note, at, &Table::default()).unwrap();
        let made = restored(Some(now - 60)).made.unwrap().elapsed();
        assert!((60..120).contains(&made.as_secs()), "{made:?}");
        assert!(restored(Some(now + 60)).made.is_none());
        assert!(restored(None).made.is_none());
    }
}
