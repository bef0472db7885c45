//! What the keeper did, and how file and table stand.

use std::sync::Arc;

use crate::policy::time::UnixTime;
use crate::store::key_store::error::{ReloadResult, StoreError};
use crate::table::Difference;

/// What a reload did, or would do.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// What it changed.
    pub difference: Arc<Difference>,
    /// The table's generation now.
    pub generation: u64,
    /// How many keys there are now; after a dry_run: would be.
    pub keys: usize,
}

/// How the key file and the key table stand, for status and metrics.
#[derive(Clone, Debug)]
pub struct KeyStoreStatus {
    /// The last load of the whole file, at start or later; dry_runs and merges do not count.
    pub last_reload: LastReload,
    /// How many deletes and disables are in force but not on disk.
    pub pending: usize,
    /// Why they are not.
    pub pending_error: Option<StoreError>,
}

/// How a load of the file went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When.
    pub at: UnixTime,
    /// How it ended.
    pub result: ReloadResult,
    /// The same in a sentence.
    pub message: String,
}

/// What the keeper did, for whoever logs and counts.
#[derive(Debug)]
pub enum KeyStoreEvent<'a> {
    /// A reload took the file over, changed or not.
    Reloaded(&'a Reloaded),
    /// A reload did not.
    ReloadFailed(&'a StoreError),
    /// A change that others made to the file was merged in before a write.
    Merged(&'a Reloaded),
    /// The file could not be written.
    WriteFailed {
        /// What was in the way.
        error: &'a StoreError,
        /// How many deletes and disables are in force but not on disk.
        pending: usize,
    },
    /// Deletes and disables that were in force but not on disk now are.
    PendingWritten {
        /// How many.
        written: usize,
    },
}

/// So many keys, in words.
#[must_use]
pub fn format_key_count(keys: usize) -> String {
    match keys {
        1 => "1 key".to_owned(),
        keys => format!("{keys} keys"),
    }
}
