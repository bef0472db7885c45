//! Making the key file, and replacing it as a whole or not at all.

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

/// How long another process may hold the lock before a write gives up.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Makes an empty key file, readable by its owner alone whatever the umask.
///
/// # Errors
/// Where there is such a file already, or it cannot be made.
pub fn create(path: &Path) -> io::Result<()> {
    let file = create_private(path)?;
    file.sync_all()?;
    File::open(folder_of(path))?.sync_all()
}

/// The right to replace the file, until dropped: other keygate processes wait for it.
#[derive(Debug)]
pub struct LockedKeyFile {
    target: PathBuf,
    folder: File,
    temporary: PathBuf,
    _lock: LockFile,
}

/// Waits for its turn to replace the file, up to `timeout`. A symbolic link is followed: its target is what will be
/// replaced.
///
/// # Errors
/// Where nothing can be made in the folder, or another process holds the lock ([`ErrorKind::ResourceBusy`]).
pub fn lock(path: &Path, timeout: Duration) -> io::Result<LockedKeyFile> {
    // A missing file is the reader's to complain of.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = File::open(folder_of(&target))?;
    let found = fs::metadata(&target).ok();
    let lock = LockFile::take(&target, found.as_ref(), timeout)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Under the lock one name does, and what a killed process left behind is found and replaced. Some network file systems
    // know no locks: then a name that nobody else has must do.
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
    /// Replaces the file with these keys. When this returns the new text is on disk, or the old one still is.
    ///
    /// # Errors
    /// Whatever step failed. The temporary file is gone, and where only the folder could not be brought to disk the
    /// old text is put back.
    pub fn replace<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> io::Result<Option<Stamp>> {
        let old = open_regular(&self.target)?;
        let new = self.replace_with(&old, |out| write_keys(keys, out))?;
        if let Err(error) = self.folder.sync_all() {
            // Nothing more can be done where this fails too; the next write reads what is there and goes on from it.
            let undone = self.replace_with(&old, |out| io::copy(&mut &old, out).map(drop));
            let _ = undone.and_then(|_| self.folder.sync_all());
            return Err(error);
        }
        // Nobody else has opened this file yet, so its times can be relied on.
        let stamp = new.metadata().ok().map(|found| Stamp::of_new_file(&found));
        Ok(stamp)
    }

    /// Brings a new text to disk beside the file, with the file's owner and mode, and moves it into its place.
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
