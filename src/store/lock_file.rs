//! A lock that only the file's owner and root can take: a private file beside the file that it guards.
//!
//! Any user who may read a file can lock it for ever, so neither the guarded file nor its folder serves as the lock.
//! The lock file exists while a process holds the lock. If a process is killed, the next one reuses its lock file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, OFlags, Uid};

const RETRY_DELAY: Duration = Duration::from_millis(2);

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    /// None if the file system does not support locks.
    locked: Option<File>,
}

impl LockFile {
    /// The hidden lock file beside `path`.
    fn path_for(path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.lock"))
    }

    /// Waits up to `timeout` for the lock. If root takes it, the lock file gets the owner of `like`.
    ///
    /// # Errors
    /// [`ErrorKind::ResourceBusy`] if another process holds the lock; otherwise the error of creating the file.
    pub(crate) fn take(
        path: &Path,
        like: Option<&fs::Metadata>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let path = Self::path_for(path);
        let deadline = Instant::now() + timeout;
        loop {
            match open(&path, like) {
                Ok(file) => match file.try_lock() {
                    // The last holder may have removed the file after it was opened here; then the loop opens a new
                    // one.
                    Ok(()) if is_at(&file, &path) => {
                        let locked = Some(file);
                        return Ok(Self { path, locked });
                    }
                    Ok(()) => continue,
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(_)) => return Ok(Self { path, locked: None }),
                },
                // Root has created the file and not yet changed its owner, or another user has created it.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && path.exists() => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                let what = format!(
                    "another process holds {}; wait for it, or remove the file where there is none",
                    path.display()
                );
                return Err(io::Error::new(ErrorKind::ResourceBusy, what));
            }
            std::thread::sleep(RETRY_DELAY);
        }
    }

    /// Whether no other process can hold it. False if the file system does not support locks.
    #[must_use]
    pub(crate) fn is_exclusive(&self) -> bool {
        self.locked.is_some()
    }
}

impl Drop for LockFile {
    /// Removes the file before unlocking it: a process that waits sees that it is gone and creates a new one.
    fn drop(&mut self) {
        // If it cannot be removed, the next holder reuses it.
        let _ = fs::remove_file(&self.path);
        self.locked = None;
    }
}

fn open(path: &Path, like: Option<&fs::Metadata>) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)?;
    if let Some(like) = like
        && file.metadata()?.uid() != like.uid()
    {
        let (owner, group) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
        // Only root can change the owner, and only root needs to.
        let _ = rustix::fs::fchown(&file, Some(owner), Some(group));
    }
    Ok(file)
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |found: fs::Metadata| (found.dev(), found.ino());
    let there = fs::symlink_metadata(path).map(place).ok();
    there.is_some() && file.metadata().map(place).ok() == there
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_lock_is_private_keeps_others_out_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        let held = LockFile::take(&path, None, SHORT).unwrap();
        let file = folder.path().join(".keys.jsonl.lock");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let busy = LockFile::take(&path, None, SHORT).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        assert!(held.is_exclusive());
        drop(held);
        assert!(!file.exists());
        drop(LockFile::take(&path, None, SHORT).unwrap());
        assert!(!file.exists());
    }

    #[test]
    fn a_lock_that_a_killed_process_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        fs::write(folder.path().join(".keys.jsonl.lock"), "").unwrap();
        drop(LockFile::take(&path, None, SHORT).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_is_not_taken_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::os::unix::fs::symlink(&target, folder.path().join(".s.lock")).unwrap();
        LockFile::take(&folder.path().join("s"), None, SHORT).unwrap_err();
        assert!(!target.exists());
    }

    #[test]
    fn of_many_that_want_it_one_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let held = LockFile::take(&path, None, LONG).unwrap();
                        let before = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(before, 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }
}
