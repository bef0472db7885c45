//! What the keeper's thread can be asked for.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::policy::time::UnixTime;
use crate::policy::token::BearerToken;
use crate::runtime::cooperative_yield::PriorityGuard;
use crate::store::key_store::error::{Obstacle, WriteError};
use crate::store::key_store::event::Reloaded;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::Entry;

pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

pub(crate) enum Request {
    /// In guard until its turn comes: it may take access away, and must not wait for a reload that gives way.
    Write(Write, PriorityGuard),
    Reload(Reload),
}

pub(crate) enum Write {
    Create {
        new: NewKey,
        now: UnixTime,
        answer: Reply<Created, WriteError>,
    },
    Update {
        id: String,
        patch: KeyPatch,
        now: UnixTime,
        answer: Reply<Arc<Entry>, WriteError>,
    },
    Delete {
        id: String,
        answer: Reply<Arc<Entry>, WriteError>,
    },
}

pub(crate) struct Reload {
    pub(crate) drops: Drops,
    pub(crate) rehearsal: bool,
    pub(crate) answer: Reply<Reloaded, Obstacle>,
}

/// A key that was made, with its token, to be shown once.
#[derive(Debug)]
pub struct Created {
    /// The key.
    pub entry: Arc<Entry>,
    /// Its token, which is kept nowhere.
    pub token: BearerToken,
}

/// Whether a reload may drop more keys than `max_drop_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// Then it is refused.
    Guarded,
    /// It may.
    Forced,
}
