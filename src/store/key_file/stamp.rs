//! Which file stands at a path, and whether it is still the one that was read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file that changed this shortly before it was read may change again without a new time stamp.
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(50);

/// Which file, in which condition: changes with every replacement and every write.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether every later change must show in the times; else it has to be read again to be sure.
    reliable: bool,
}

impl Stamp {
    /// Whether the file is certainly the same, and unchanged.
    #[must_use]
    pub fn is_unchanged(&self, now: Option<Self>) -> bool {
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

    /// Of a file that nobody else has opened yet, so that its times can be relied on.
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

/// The file as it stands now, links followed; None where there is none.
#[must_use]
pub fn stamp_of(path: &Path) -> Option<Stamp> {
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
