//! Where the keys come from: the key file, or a database that several gateways share.
//!
//! The key store knows a source by its operations: load, lock, see what others changed, commit. `database` is the second
//! kind, `last_good_copy` the file that a gateway starts from while the database is away, `follower` tells the key store
//! what other gateways have changed, `transfer` brings keys from the one kind to the other.

pub(crate) mod database;
mod file;
pub(crate) mod follower;
pub(crate) mod last_good_copy;
pub mod transfer;

use std::io;
use std::time::Duration;

use crate::store::database::KeyPosition;
use crate::store::key_file::{LockedKeyFile, Stamp};
use crate::store::key_source::database::DatabaseKeySource;
pub use crate::store::key_source::database::SourceError;
pub(crate) use crate::store::key_source::file::KeyFileSource;

/// The source of the keys.
pub(crate) enum KeySource {
    File(KeyFileSource),
    Database(Box<DatabaseKeySource>),
}

/// The right to change the source, which nobody else has meanwhile.
pub(crate) enum LockedSource {
    File(LockedKeyFile),
    Database,
}

/// A content of the source that was seen at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Revision {
    /// It could not be determined, so it differs from every other one.
    Unknown,
    /// There was no file.
    Absent,
    File(Stamp),
    Database(KeyPosition),
}

/// Why the source may not be changed now.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody else changes it.
    Busy(io::Error),
    File(io::Error),
    Database(SourceError),
}

impl Revision {
    /// Whether the source certainly still has this content, where `now` is its revision now.
    pub(crate) fn is_current(self, now: Self) -> bool {
        match (self, now) {
            (Self::File(seen), Self::File(now)) => seen.is_unchanged(Some(now)),
            (Self::Database(seen), Self::Database(now)) => seen == now,
            (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

impl KeySource {
    /// The revision now, without reading the content. Of a database, [`DatabaseKeySource::changes`] tells it.
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::File(file) => file.revision(),
            Self::Database(_) => Revision::Unknown,
        }
    }

    /// Waits for the right to change the source, up to `timeout`.
    pub(crate) fn lock(&mut self, timeout: Duration) -> Result<LockedSource, LockError> {
        match self {
            Self::File(file) => match file.lock(timeout) {
                Ok(lock) => Ok(LockedSource::File(lock)),
                Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {
                    Err(LockError::Busy(busy))
                }
                Err(error) => Err(LockError::File(error)),
            },
            Self::Database(database) => match database.lock(!timeout.is_zero()) {
                Ok(()) => Ok(LockedSource::Database),
                Err(error) => Err(LockError::Database(error)),
            },
        }
    }

    /// Ends the right to change a database, without a change. That to a file ends with its lock.
    pub(crate) fn unlock(&mut self) {
        match self {
            Self::File(_) => {}
            Self::Database(database) => database.unlock(),
        }
    }
}
