//! What the key store reports: the result of a reload, its status, and events for the log and the metrics.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::audit::{AuditEntry, AuditMark};
use crate::policy::time::UnixTime;
use crate::store::key_source::SourceError;
use crate::store::key_store::error::{ReloadResult, StoreError};
use crate::table::Difference;

/// The result of a reload or of a dry run.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// What it changed, or would change.
    pub difference: Arc<Difference>,
    /// The table's generation now.
    pub generation: u64,
    /// How many keys the table holds after it, or would hold.
    pub keys: usize,
    /// The audit row of what it changed; None without one.
    pub audit: Option<AuditMark>,
}

/// The state of key file and key table, for status and metrics.
#[derive(Clone, Debug)]
pub struct KeyStoreStatus {
    /// The last load of the whole file, at start or later. Dry runs and merges are not counted.
    pub last_reload: LastReload,
    /// How many deletes, disables and ends of previous tokens are in force but not on disk.
    pub pending: usize,
    /// Why they are not on disk.
    pub pending_error: Option<StoreError>,
    /// How the keys follow the database; None where they come from a file.
    pub database: Option<FollowStatus>,
}

/// How the keys here follow those of a database that several gateways share.
#[derive(Clone, Debug)]
pub struct FollowStatus {
    /// Whether they are followed.
    pub state: FollowState,
    /// Since when.
    pub since: UnixTime,
    /// Why the last good copy is not on disk.
    pub copy_error: Option<String>,
}

/// Whether the keys of the database are followed.
#[derive(Clone, Debug)]
pub enum FollowState {
    /// What is in the database is in force here.
    InSync,
    /// The keys in force are those of before, or of the last good copy.
    NotFollowed(SourceError),
}

impl FollowStatus {
    /// Whether the database lacks what was seen here.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        matches!(
            self.state,
            FollowState::NotFollowed(SourceError::Behind { .. })
        )
    }
}

impl FollowState {
    /// As status shows it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::NotFollowed(SourceError::Behind { .. }) => "database_behind",
            Self::NotFollowed(
                SourceError::Failed(_)
                | SourceError::Unsure(_)
                | SourceError::NotBehind
                | SourceError::NotShared
                | SourceError::Busy,
            ) => "database_away",
        }
    }
}

/// How the last load of the file ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When it ended.
    pub at: UnixTime,
    /// Its result, for metrics.
    pub result: ReloadResult,
    /// Its result in a sentence.
    pub message: String,
}

/// What the worker did. The receiver logs and counts it.
#[derive(Debug)]
pub enum KeyStoreEvent<'a> {
    /// A reload loaded the file, changed or not.
    Reloaded(&'a Reloaded),
    /// A reload failed; the table is as before.
    ReloadFailed(&'a StoreError),
    /// A change that others made to the file was loaded before a write.
    Merged(&'a Reloaded),
    /// A create, change, rotation or delete is in force.
    Changed {
        /// What its audit row is made of.
        entry: &'a AuditEntry,
        /// Its row; None: nothing changed, or the row waits, or there is no database.
        mark: Option<&'a AuditMark>,
        /// Whether it is in the key file too.
        is_written: bool,
    },
    /// The file could not be written.
    WriteFailed {
        /// Why.
        error: &'a StoreError,
        /// How many deletes, disables and ends of previous tokens are in force but not on disk.
        pending: usize,
    },
    /// What other gateways have changed is in force here.
    Followed {
        /// Keys that are new or other ones now.
        changed: usize,
        /// Keys that are gone.
        removed: usize,
        /// The revision that is in force now.
        revision: u64,
        /// How long ago the newest change was committed, by the database's clock.
        lag: Duration,
    },
    /// The keys of the database are followed again, or not any more.
    FollowChanged(&'a FollowState),
    /// A key in the database cannot be read, so that nobody knows what it may do. It is refused.
    KeyUnreadable {
        /// The key.
        id: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Further keys in the database cannot be read, and are refused.
    KeysUnreadable {
        /// How many.
        more: usize,
    },
    /// A change that took access away while the database was away is not carried out: the key was changed there since.
    PendingDropped {
        /// The key.
        id: &'a str,
    },
    /// A change that takes access away is carried out although another gateway has changed the key too: before it, or it
    /// cannot be told which was first.
    PendingKept {
        /// The key.
        id: &'a str,
    },
    /// One of the two files of the last good copy is not there, although the other one is.
    CopyIncomplete {
        /// The file.
        missing: &'a Path,
    },
    /// The last good copy could not be written.
    CopyFailed {
        /// Why.
        error: &'a str,
    },
    /// Deletes, disables and ends of previous tokens that were in force but not on disk are now on disk.
    PendingWritten {
        /// How many.
        written: usize,
    },
}

/// `1 key`, `2 keys`
#[must_use]
pub fn format_key_count(keys: usize) -> String {
    match keys {
        1 => "1 key".to_owned(),
        keys => format!("{keys} keys"),
    }
}
