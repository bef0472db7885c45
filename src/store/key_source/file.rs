//! The key file as the key store's source: load it, see whether it changed, commit a new content.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::key::Key;
use crate::runtime::cooperative_yield::yield_if_due;
use crate::store::key_file::{LoadedKeys, LockedKeyFile, ReadError, lock, read, stamp_of};
use crate::store::key_source::Revision;
use crate::table::{Entry, Table};

#[derive(Debug)]
pub(crate) struct KeyFileSource {
    path: PathBuf,
}

impl KeyFileSource {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The revision now, without reading the content.
    pub(crate) fn revision(&self) -> Revision {
        stamp_of(&self.path).map_or(Revision::Absent, Revision::File)
    }

    /// All keys. Keys that `table` holds already are the table's own entries.
    pub(crate) fn load(&self, table: &Table) -> Result<(Vec<Arc<Entry>>, Revision), ReadError> {
        let LoadedKeys { entries, stamp } = read(&self.path, table, yield_if_due)?;
        Ok((entries, Revision::File(stamp)))
    }

    /// Waits for the right to write, up to `timeout`; other keygate processes wait until it is dropped.
    pub(crate) fn lock(&self, timeout: Duration) -> io::Result<LockedKeyFile> {
        lock(&self.path, timeout)
    }

    /// Replaces the content. When this returns, the new content is on disk, or the old one still is.
    pub(crate) fn commit<'k>(
        locked: &LockedKeyFile,
        keys: impl Iterator<Item = &'k Key>,
    ) -> io::Result<Revision> {
        let stamp = locked.replace(keys)?;
        Ok(stamp.map_or(Revision::Unknown, Revision::File))
    }
}
