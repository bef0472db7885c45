//! The commands that the handle sends to the worker.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::policy::audit::ChangeOrigin;
use crate::policy::key::{Key, PreviousToken};
use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::PriorityGuard;
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_source::follower::Look;
use crate::store::key_store::error::{StoreError, WriteError};
use crate::store::key_store::event::Reloaded;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::{Entry, Suspension};

pub(crate) type ReplySender<T, E> = oneshot::Sender<Result<T, E>>;

pub(crate) enum StoreCommand {
    /// The guard lives until the write runs: it may revoke access, so a running reload must not yield meanwhile.
    Write(Box<SubmittedWrite>, PriorityGuard),
    Reload(ReloadCommand),
    /// What was found in the database.
    Follow(Look),
    AcceptRollback(AcceptRollback),
    /// The accounts in the last good copy are of before.
    AccountsChanged,
    /// So many gateways share the database.
    GatewaysSeen(u64),
}

pub(crate) struct AcceptRollback {
    pub(crate) dry_run: bool,
    pub(crate) origin: ChangeOrigin,
    pub(crate) reply: ReplySender<Reloaded, StoreError>,
}

pub(crate) struct SubmittedWrite {
    /// Who asked for it, for its audit row.
    pub(crate) origin: ChangeOrigin,
    pub(crate) command: WriteCommand,
    /// The key as it was, where the write took access away before the lock of the key file was held.
    pub(crate) revoked_from: Option<Key>,
    /// What it takes away is suspended already. To be dropped once the table has the change.
    pub(crate) suspension: Option<Suspension>,
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
        expected: ExpectedRevision,
        now: UnixTime,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
    Rotate {
        id: String,
        grace_seconds: u32,
        expected: ExpectedRevision,
        now: UnixTime,
        reply: ReplySender<RotatedKey, WriteError>,
    },
    Delete {
        id: String,
        expected: ExpectedRevision,
        reply: ReplySender<Arc<Entry>, WriteError>,
    },
}

pub(crate) struct ReloadCommand {
    pub(crate) drop_limit: DropLimit,
    pub(crate) dry_run: bool,
    /// Who asked for it, for its audit row.
    pub(crate) origin: ChangeOrigin,
    pub(crate) reply: ReplySender<Reloaded, StoreError>,
}

/// A new key with its token. The token is stored nowhere, so it is shown this once.
#[derive(Debug)]
pub struct CreatedKey {
    /// The key.
    pub entry: Arc<Entry>,
    /// Its token.
    pub token: BearerToken,
}

/// A key with its new token, which is shown this once.
#[derive(Debug)]
pub struct RotatedKey {
    /// The key.
    pub entry: Arc<Entry>,
    /// Its new token.
    pub token: BearerToken,
    /// The previous token of before, if it would still have worked.
    pub ended: Option<PreviousToken>,
}

/// Whether a reload must keep to `max_drop_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropLimit {
    /// A reload that drops more is rejected.
    Enforce,
    /// Any number may be dropped.
    Ignore,
}
