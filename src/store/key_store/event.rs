//! What the key store reports: the result of a reload, its status, and events for the log and the metrics.

use std::sync::Arc;

use crate::policy::audit::{AuditEntry, AuditMark};
use crate::policy::time::UnixTime;
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
