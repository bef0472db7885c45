//! What the keeper's thread knows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::key::{Key, KeyId};
use crate::store::key_file::Stamp;
use crate::store::key_store::error::StoreError;
use crate::store::key_store::event::{KeyStoreEvent, KeyStoreStatus};
use crate::table::{Entry, Table};

/// Where the keeper's thread works: all it knows.
pub(crate) struct KeyStoreState {
    pub(crate) file: PathBuf,
    pub(crate) max_drop_percent: u8,
    pub(crate) watch: bool,
    pub(crate) table: Arc<Table>,
    /// The file that the table reflects, save for what is pending.
    pub(crate) loaded: Option<Stamp>,
    pub(crate) rejected: Option<RejectedFile>,
    pub(crate) pending: HashMap<KeyId, PendingChange>,
    pub(crate) status: Arc<ArcSwap<KeyStoreStatus>>,
    pub(crate) events: Box<dyn Fn(KeyStoreEvent<'_>) + Send>,
}

/// The last file that was not taken over, so that it is not read again and again.
pub(crate) struct RejectedFile {
    /// None: there was no file.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) error: StoreError,
    /// The table's generation then: whether a file drop_limit too many keys depends on the table too.
    pub(crate) generation: u64,
}

/// A change that is in force but not on disk.
#[derive(Clone, Debug)]
pub(crate) enum PendingChange {
    Deleted(Arc<Entry>),
    Disabled,
}

impl KeyStoreState {
    pub(crate) fn remember_rejected(&mut self, stamp: Option<Stamp>, error: &StoreError) {
        self.rejected = Some(RejectedFile {
            stamp,
            error: error.clone(),
            generation: self.table.generation(),
        });
    }

    pub(crate) fn update_status(&self, change: impl FnOnce(&mut KeyStoreStatus)) {
        let mut status = KeyStoreStatus::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}

impl RejectedFile {
    pub(crate) fn is(&self, now: Option<Stamp>) -> bool {
        match self.stamp {
            Some(stamp) => stamp.is_unchanged(now),
            None => now.is_none(),
        }
    }
}

pub(crate) fn disabled(key: &Key) -> Key {
    let mut fields = key.fields();
    fields.disabled = true;
    Key::from(fields)
}
