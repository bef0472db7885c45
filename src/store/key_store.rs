//! The key store: one worker thread changes the key table and the key file, so that the two always agree.
//!
//! Commands that wait together run as one batch: one read answers all reloads; one rewrite of the file commits all
//! creates, changes, rotations and deletes, each validated on its own. The order of steps is fixed: write, fsync, rename, fsync of
//! the folder, then the table, then the reply. The one exception revokes access: a delete, a disable or the end of a
//! previous token changes the table first. Until a write has brought it to disk it is *pending*, and every load applies it again.
//!
//! The audit row of a change is on disk before the key file is written, in the order of the changes. Where it cannot be
//! written, a create, a rotation, an enable, or another change that may give access is refused; a reload that may give access is
//! refused whole. What takes access away is done, and its row waits.
//!
//! | the file | create, rotate, other changes | delete, disable, end of a previous token | reload |
//! | --- | --- | --- | --- |
//! | unchanged since the last load or write | write, table, reply | table, write, reply | changes nothing |
//! | changed by others | load the file first, then as above | likewise | loads it |
//! | faulty or missing | [`StoreError::Faulty`], changes nothing | in force, [`WriteError::NotWritten`] | [`StoreError::Faulty`], the table stays |
//! | would drop too many keys | [`StoreError::DropLimit`], changes nothing | in force, not written | refused unless forced |
//! | cannot be written | [`StoreError::Io`], file and table stay | in force, not written | loads it if it can be read |
//! | its audit row cannot be written | refused, unless it takes access away | table, write, reply | refused, unless it takes access away |
//! | pending changes exist | the write includes them | likewise; deleting such a key again writes again | loads it and applies them |
//! | a reload finds a pending change in the file | it is no longer pending | | |
//!
//! If a change that disables a key also changes other fields and cannot be written, only the disable is in force. A
//! rotation gives access too, so that nothing of it is in force before it is on disk, whatever its grace. Two
//! changes of one key in a batch apply in the order in which they came, except that what takes access away comes first
//! while another process holds the lock.
//!
//! Pending changes are written with the next write, and at the latest after [`RETRY_INTERVAL`].
//!
//! The source may also be a database that several gateways share. Then "the file" above is the database: the lock keeps other
//! gateways from changing keys, what they have changed is loaded first, and a commit writes only what changes. Where the
//! database is away or lacks what was seen here, nothing is loaded, deletes and the like are in force and pending, and other
//! changes are refused. The last good copy on disk is written before a change is answered.
//!
//! The files here use each other in one direction: handle, worker, commit, reload and follow, state. The source of the keys
//! is known by its operations alone: load, revision, lock, commit.

mod command;
mod commit;
mod error;
mod event;
mod follow;
mod handle;
mod prepared_write;
mod reload;
mod state;
mod worker;

pub use crate::store::key_source::SourceError;
pub use crate::store::key_source::database::StartKeysError;
pub(crate) use crate::store::key_source::last_good_copy::exists as has_copy;
pub use crate::store::key_store::command::{CreatedKey, DropLimit, RotatedKey};
pub use crate::store::key_store::error::{
    DropLimitError, ReloadResult, StoreError, WorkerStoppedError, WriteError,
};
pub use crate::store::key_store::event::{
    FollowState, FollowStatus, KeyStoreEvent, KeyStoreStatus, LastReload, Reloaded,
    format_key_count,
};
pub use crate::store::key_store::handle::{KeyStore, ReplyFuture};
pub use crate::store::key_store::worker::RETRY_INTERVAL;
