//! What the keeper's thread can be asked for.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::PriorityGuard;
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::key_store::event::Reloaded;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::Entry;

pub(crate) type ReplySender<T, E> = oneshot::Sender<Result<T, E>>;

pub(crate) enum StoreCommand {
    /// In guard until its turn comes: it may take access away, and must not wait for a reload that gives way.
    Write(WriteCommand, PriorityGuard),
    Reload(ReloadCommand),
}

pub(crate) enum WriteCommand {
    Create {
        new: NewKey,
        now: UnixTime,
        reply: ReplySender<CreatedKey, WriteError>,
    },
    Update {
        id: String,
        patch: KeyPatch,
        now: UnixTime,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
    Delete {
        id: String,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
}

pub(crate) struct ReloadCommand {
    pub(crate) drop_limit: DropLimit,
    pub(crate) dry_run: bool,
    pub(crate) reply: ReplySender<Reloaded, StoreError>,
}

/// A key that was made, with its token, to be shown once.
#[derive(Debug)]
pub struct CreatedKey {
    /// The key.
    pub entry: Arc<Entry>,
    /// Its token, which is kept nowhere.
    pub token: BearerToken,
}

/// Whether a reload may drop more keys than `max_drop_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropLimit {
    /// Then it is rejected.
    Enforce,
    /// It may.
    Ignore,
}
