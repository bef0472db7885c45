//! The keeper: the one thread that changes the key table and the key file, so that they cannot drift apart.
//!
//! Requests that wait together are taken as one batch: one read answers all reloads, one rewrite of the file all
//! creates, changes and deletes, each prepared on its own. An order is never given up: text, fsync, rename, fsync of
//! the folder, then the table, then the answer. Only what takes access away comes to the table first: a delete or a
//! disable is in force before the disk is asked, remembered as *pending*, and laid on top of whatever is loaded
//! until a write has brought it to disk.
//!
//! | the file | create, other changes | delete, disable | reload |
//! | --- | --- | --- | --- |
//! | as the keeper left it | written, then in the table, then answered | in the table, written, answered | nothing changes |
//! | changed by others | merged into the table (a reload of its own), then as above | likewise | loaded |
//! | faulty or missing | [`StoreError::Faulty`], nothing changes | in force, [`WriteError::NotWritten`] | [`StoreError::Faulty`], the table stays |
//! | would drop too many keys | [`StoreError::DropLimit`], nothing changes | in force, not written | rejected unless forced |
//! | full, read-only, a failing disk | [`StoreError::Io`], file and table as before | in force, not written | loaded, where it can be read |
//! | pending changes exist | the next write writes them too | likewise; deleting such a key again tries again | loaded, with them on top |
//! | a reload finds an pending change done | it is forgotten | | |
//!
//! A change that both disables a key and changes more of it is taken apart where it can't be written: the disabling
//! is in force, the rest is not. Two changes of one key in a batch are prepared in the order they came.
//!
//! Pending changes are tried again with every write, and every [`RETRY_INTERVAL`].

mod command;
mod commit;
mod error;
mod event;
mod handle;
mod reload;
mod state;
mod worker;

pub use crate::store::key_store::command::{CreatedKey, DropLimit};
pub use crate::store::key_store::error::{
    DropLimitError, ReloadResult, StoreError, WorkerStoppedError, WriteError,
};
pub use crate::store::key_store::event::{
    KeyStoreEvent, KeyStoreStatus, LastReload, Reloaded, format_key_count,
};
pub use crate::store::key_store::handle::{KeyStore, ReplyFuture};
pub use crate::store::key_store::worker::RETRY_INTERVAL;
