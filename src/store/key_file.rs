//! The key file. It is always read as a whole and replaced as a whole.
//!
//! Reading uses all cores and little memory: each thread parses the next chunk of the file, and a key that the table
//! holds already is not allocated again. Replacing writes a temporary file, then calls fsync, rename, and fsync of the
//! folder, under a lock file that other keygate processes respect. The key store decides when to read and write.
//!
//! Invariant: at any time, also after a power cut, the file is either the whole old text or the whole new text.

mod open;
mod read;
mod stamp;
mod write;

pub(crate) use crate::store::key_file::open::create_private;
pub(crate) use crate::store::key_file::read::readable_by_others;
pub use crate::store::key_file::read::{LoadedKeys, ReadError, read};
pub(crate) use crate::store::key_file::stamp::{Stamp, stamp_of};
pub(crate) use crate::store::key_file::write::LockedKeyFile;
pub use crate::store::key_file::write::{LOCK_WAIT, create, lock};
