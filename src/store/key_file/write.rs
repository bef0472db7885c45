//! Creating the key file, and replacing it atomically.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Gid, Uid};

use crate::policy::key::Key;
use crate::store::key_file::open::{create_private, folder_of, open_regular};
use crate::store::key_file::stamp::Stamp;
use crate::store::key_json;
use crate::store::lock_file::LockFile;

/// How long a write waits for a lock that another process holds.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Creates an empty key file with mode 0600, whatever the umask.
///
/// # Errors
/// If the file exists already or cannot be created.
pub fn create(path: &Path) -> io::Result<()> {
    let file = create_private(path)?;
    file.sync_all()?;
    File::open(folder_of(path))?.sync_all()
}

/// The right to replace the file. Other keygate processes wait until this is dropped.
#[derive(Debug)]
pub struct LockedKeyFile {
    target: PathBuf,
    folder: File,
    temporary: PathBuf,
    _lock: LockFile,
}

/// Waits up to `timeout` for the right to replace the file. If the path is a symbolic link, its target is replaced.
///
/// # Errors
/// If no file can be created in the folder, or another process holds the lock ([`ErrorKind::ResourceBusy`]).
pub fn lock(path: &Path, timeout: Duration) -> io::Result<LockedKeyFile> {
    // Reading reports a missing file.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = File::open(folder_of(&target))?;
    let found = fs::metadata(&target).ok();
    let lock = LockFile::take(&target, found.as_ref(), timeout)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Under the lock a fixed name is safe, and a file that a killed process left behind is found and replaced. On a
    // file system without locks, the name has to be unique.
    let ending = match lock.is_exclusive() {
        true => String::new(),
        false => format!(".{:016x}", RandomState::new().hash_one(std::process::id())),
    };
    let temporary = folder_of(&target).join(format!(".{name}.new{ending}"));
    Ok(LockedKeyFile {
        target,
        folder,
        temporary,
        _lock: lock,
    })
}

impl LockedKeyFile {
    /// Replaces the file with these keys. When this returns, the new text is on disk, or the old one still is.
    ///
    /// # Errors
    /// That of the step that failed. The temporary file is removed. If only the fsync of the folder failed, the old text is written back.
    pub fn replace<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> io::Result<Option<Stamp>> {
        let old = open_regular(&self.target)?;
        let new = self.replace_with(&old, |out| write_keys(keys, out))?;
        if let Err(error) = self.folder.sync_all() {
            // If this fails too, nothing more can be done. The next write reads the file first.
            let undone = self.replace_with(&old, |out| io::copy(&mut &old, out).map(drop));
            let _ = undone.and_then(|_| self.folder.sync_all());
            return Err(error);
        }
        let stamp = new.metadata().ok().map(|found| Stamp::of_new_file(&found));
        Ok(stamp)
    }

    /// Writes a new text beside the file, with the owner and mode of `like`, and renames it over the file.
    fn replace_with(
        &self,
        like: &File,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<File> {
        let like = like.metadata()?;
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_private(&self.temporary)?;
        let moved = write(&mut file)
            .and_then(|()| keep_owner(&file, &like))
            .and_then(|()| file.set_permissions(like.permissions()))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.target));
        match moved {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = fs::remove_file(&self.temporary);
                Err(error)
            }
        }
    }
}

fn write_keys<'k>(keys: impl Iterator<Item = &'k Key>, file: &mut File) -> io::Result<()> {
    const ENOUGH: usize = 256 << 10;
    let mut text = Vec::with_capacity(ENOUGH + (16 << 10));
    for key in keys {
        key_json::write_line(key, &mut text);
        if text.len() >= ENOUGH {
            file.write_all(&text)?;
            text.clear();
        }
    }
    file.write_all(&text)
}

fn keep_owner(file: &File, like: &fs::Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    let owner = Some(Uid::from_raw(like.uid()));
    let group = Some(Gid::from_raw(like.gid()));
    rustix::fs::fchown(file, owner, group).map_err(|error| {
        let (uid, gid) = (like.uid(), like.gid());
        let what = format!(
            "the file's owner {uid}:{gid} cannot be kept ({error}); make it the gateway's own file"
        );
        io::Error::new(ErrorKind::PermissionDenied, what)
    })
}

#[cfg(test)]
mod tests;
