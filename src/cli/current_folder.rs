//! Files that commands find in the current folder without being told to: only where nobody else could have put them there.
//!
//! A config or a socket of another user's making would have this user's tokens. What an option or a variable names is the
//! user's own word and not looked at.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::fault::Fault;

/// Write permission for users that are neither the owner nor in the group.
const OTHERS_WRITE: u32 = 0o002;

/// Whether `file`, found at a path relative to the current folder, can be trusted. Any other path is; so is one that does
/// not exist in a folder that can be trusted.
///
/// # Errors
/// The folder or the file belongs to another user, or every user may write to the folder.
pub(super) fn check(file: &Path, option: &str) -> Result<(), Fault> {
    if file.is_absolute() {
        return Ok(());
    }
    let user = rustix::process::geteuid().as_raw();
    let fault = |what: &str| Fault {
        file: PathBuf::from(".").join(file),
        line: 0,
        field: String::new(),
        message: format!(
            "{what}, so another user could have put it there; go to a folder of your own, or name the file with {option}"
        ),
    };
    let is_foreign = |found: &Metadata| found.uid() != user && found.uid() != 0;
    if let Ok(folder) = fs::metadata(".") {
        if is_foreign(&folder) {
            return Err(fault("is in a folder of another user"));
        }
        if folder.mode() & OTHERS_WRITE != 0 {
            return Err(fault("is in a folder that every user may write to"));
        }
    }
    match fs::symlink_metadata(file) {
        Ok(found) if is_foreign(&found) => Err(fault("belongs to another user")),
        Ok(_) | Err(_) => Ok(()),
    }
}
