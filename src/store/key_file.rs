//! The key file: read as a whole or not at all, replaced as a whole or not at all.
//!
//! Reading takes many threads and little memory: the file is cut into chunks, each thread takes the next chunk, and a
//! key that the table holds already is not held twice. Replacing goes temporary file, write, fsync, rename, fsync of
//! the folder, under a lock file that keeps other keygate processes out. Knows nothing of requests and of when to read or
//! write: that is the keeper's.
//!
//! Invariant: whoever opens the file at any instant, after a power cut too, finds the old text or the new, whole.

mod open;
mod read;
mod source;
mod stamp;
mod write;

pub use crate::store::key_file::read::{
    LoadedKeys, MAX_FAULTS, ReadError, read, readable_by_others,
};
pub(crate) use crate::store::key_file::source::{KeyFileSource, Revision};
pub use crate::store::key_file::stamp::{Stamp, stamp_of};
pub use crate::store::key_file::write::{LOCK_WAIT, LockedKeyFile, create, lock};
