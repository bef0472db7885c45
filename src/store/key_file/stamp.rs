//! The state of a file by its metadata, to see whether it changed since it was read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// If a file changed less than this before it was read, a further change may leave its times as they are.
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(50);

/// The metadata of a file. It changes with every replacement and every write.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether every later change shows in the times. If not, only reading the file again can tell.
    reliable: bool,
}

impl Stamp {
    /// Whether the file is certainly the same and unchanged.
    #[must_use]
    pub(crate) fn is_unchanged(&self, now: Option<Self>) -> bool {
        self.reliable && now.is_some_and(|now| self.same_metadata(&now))
    }

    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(Duration::new(
                u64::try_from(changed.0).unwrap_or(0),
                u32::try_from(changed.1).unwrap_or(0),
            ));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
            reliable: age > CLOCK_TICK,
        }
    }

    /// For a file that no other process has opened yet, so its times are reliable.
    pub(crate) fn of_new_file(metadata: &fs::Metadata) -> Self {
        Self {
            reliable: true,
            ..Self::of(metadata)
        }
    }

    pub(crate) fn same_metadata(&self, other: &Self) -> bool {
        let parts = |stamp: &Self| {
            (
                (stamp.device, stamp.inode, stamp.size),
                (stamp.modified, stamp.changed),
            )
        };
        parts(self) == parts(other)
    }
}

/// The file's state now; links are followed. None if there is no file.
#[must_use]
pub(crate) fn stamp_of(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|found| Stamp::of(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_every_change_and_mistrusts_what_is_too_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.jsonl");
        fs::write(&file, "").unwrap();
        let fresh = stamp_of(&file).unwrap();
        assert!(!fresh.is_unchanged(stamp_of(&file)));
        let reliable = Stamp {
            reliable: true,
            ..fresh
        };
        assert!(reliable.is_unchanged(stamp_of(&file)));
        assert!(!reliable.is_unchanged(None));
        fs::write(&file, b"x").unwrap();
        assert!(!reliable.is_unchanged(stamp_of(&file)));
    }
}
