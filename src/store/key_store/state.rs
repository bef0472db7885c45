//! What the key-store worker knows. Only the worker's thread holds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::policy::key::{Key, KeyId};
use crate::store::audit::AuditTrail;
use crate::store::key_file::{KeyFileSource, Revision};
use crate::store::key_store::error::StoreError;
use crate::store::key_store::event::{KeyStoreEvent, KeyStoreStatus};
use crate::table::{Entry, Table};

pub(crate) struct KeyStoreState {
    pub(crate) source: KeyFileSource,
    pub(crate) max_drop_percent: u8,
    pub(crate) watch: bool,
    pub(crate) table: Arc<Table>,
    pub(crate) audit: AuditTrail,
    /// The revision that the table reflects, apart from pending changes.
    pub(crate) loaded: Revision,
    pub(crate) rejected: Option<RejectedRevision>,
    /// Deletes and disables that are in force in the table but not yet written.
    pub(crate) pending: HashMap<KeyId, PendingChange>,
    pub(crate) status: Arc<ArcSwap<KeyStoreStatus>>,
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
    Disabled,
}

impl KeyStoreState {
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

pub(crate) fn disabled(key: &Key) -> Key {
    let mut fields = key.fields();
    fields.disabled = true;
    Key::from(fields)
}
